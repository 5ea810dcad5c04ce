"""Image tokens a second of our LlamaGen sampler and of a plain loop, side by side on the same random weights.

    python benchmarks/ar_sampling.py --tokens 64

The plain loop is the usual way to sample from this model (Sun et al. 2024, arXiv 2406.06525, the published code), in our
own words: captions keep their T positions in the cache, every step attends to all cache slots under a boolean mask in
the math kernel, keys and values go through `repeat_interleave(1)`, the probabilities of every step are cloned.
Before anything is timed both must give the same logits for the same tokens (1e-3) and the same greedy tokens.

B images, R = 2B rows under guidance, T condition positions, N image tokens, S cache slots, K codebook entries.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from gendiv_lightning.callbacks.probes import Argmax, CodebookSubset, FreezePath
from gendiv_lightning.generators.llamagen import DTYPES, pack_left, sample_image_tokens
from gendiv_lightning.models.llamagen_gpt import GPT, GPT_SIZES, Attention, Cache, GPTConfig, Prefill, rotary_table
from gendiv_lightning.sampling import Noise, TokenSampler, apply_probes
from gendiv_lightning.sampling.sampler import invert_cdf

TOLERANCE = 1e-3
TOP_K = 1000
NUM_CONDITIONS = 120
MIB = 2**20
PROBES = {
    "CodebookSubset + Argmax": [CodebookSubset("random", ratio=0.5), Argmax()],
    "CodebookSubset + FreezePath": [CodebookSubset("random", ratio=0.5), FreezePath()],
}


# --- weights and captions ---


def random_gpt(size: str, num_tokens: int, device: str) -> GPT:
    """A float32 text-to-image transformer of `num_tokens` image tokens with normal weights of standard deviation 0.02."""
    config = GPTConfig(
        **GPT_SIZES[size], model_type="t2i", block_size=num_tokens, cls_token_num=NUM_CONDITIONS, class_dropout_prob=0.1
    )
    with torch.device(device):
        gpt = GPT(config).eval()
    for parameter in gpt.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.02)
    nn.init.normal_(gpt.get_buffer("cls_embedding.uncond_embedding"), std=config.caption_dim**-0.5)
    return gpt


def cast(gpt: GPT, dtype: torch.dtype) -> GPT:
    """The same weights in another dtype; the rotary table stays float32."""
    config = gpt.config
    gpt = gpt.to(dtype)
    gpt.rotary = rotary_table(int(config.block_size**0.5), config.head_dim, config.rope_base).to(gpt.rotary.device)
    return gpt


def random_captions(gpt: GPT, batch: int, scale: float) -> list[Tensor]:
    """Features (n, caption_dim) of B captions with 8 to 40 tokens; under guidance then those of their null captions."""
    null = gpt.get_buffer("cls_embedding.uncond_embedding")
    lengths = torch.linspace(8, 40, batch).int().tolist()
    captions = [torch.randn(n, gpt.config.caption_dim).to(null) * 0.1 for n in lengths]
    return [*captions, *(null[-n:] for n in lengths)] if scale > 1 else captions


# --- the two loops ---


class Ours:
    """The package's own loop, with its sampler and its records of entropy and log-probability."""

    def __init__(self, gpt: GPT, captions: list[Tensor], batch: int, scale: float) -> None:
        self.gpt, self.captions = gpt, captions
        names = [("prompt", row) for row in range(batch)]
        path, execution = (Noise.of(0, role, names, captions[0].device) for role in ("path", "exec"))
        self.sampler = TokenSampler(path, execution, gpt.config.vocab_size, top_k=TOP_K, guidance=scale)

    def prefill(self) -> Prefill:
        """All captions at once, without the positions that none of them uses."""
        return self.gpt.prefill_captions(*pack_left(self.captions))

    def sample(self, greedy: bool = False) -> Tensor:
        """Tokens (B, N)."""
        sampler = apply_probes(self.sampler, [Argmax()] if greedy else [])
        return sample_image_tokens(self.gpt, self.prefill(), sampler).tokens

    def teacher_forced(self, tokens: Tensor) -> Tensor:
        """Logits (R, N, K) of each token given those before it, for tokens (R, N)."""
        prefill = self.prefill()
        cache, logits = Cache(prefill, tokens.shape[1]), [prefill.logits]
        for i in range(tokens.shape[1] - 1):
            logits.append(self.gpt.decode(tokens[:, i], torch.tensor([i], device=tokens.device), i + 2, cache))
        return torch.stack(logits, 1)

    def cache_bytes(self) -> int:
        """Keys and values of all layers."""
        cache = Cache(self.prefill(), self.gpt.config.block_size)
        return cache.keys.nbytes + cache.values.nbytes


class PlainLoop:
    """The usual loop. It shares only weights, caption projection and feed-forward layers with ours."""

    def __init__(self, gpt: GPT, captions: list[Tensor], batch: int, scale: float) -> None:
        self.gpt, self.batch, self.scale = gpt, batch, scale
        self.features, self.mask = pack_left(captions, NUM_CONDITIONS)

    def allocate(self) -> None:
        """Caches, mask and rotary table, anew for each batch."""
        config, (rows, num_conditions) = self.gpt.config, self.mask.shape
        num_slots = -(-(num_conditions + config.block_size) // 8) * 8
        shape = (config.n_layer, rows, config.n_head, num_slots, config.head_dim)
        self.keys, self.values = self.features.new_zeros(shape), self.features.new_zeros(shape)
        self.visible = torch.ones(rows, num_slots, num_slots, dtype=torch.bool, device=self.mask.device).tril()
        self.visible[:, :, :num_conditions] &= self.mask[:, None]
        self.visible |= torch.eye(num_slots, dtype=torch.bool, device=self.mask.device)
        table = rotary_table(int(config.block_size**0.5), config.head_dim, config.rope_base).to(self.mask.device)
        self.table = torch.cat([table.new_zeros(num_conditions, *table.shape[1:]), table])

    def attend(self, attention: Attention, x: Tensor, positions: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention of x (R, P, dim) to all cache slots."""
        heads = attention.wqkv(x).unflatten(-1, (3, -1, attention.head_dim)).transpose(1, 3)
        q, k, v = heads.unbind(2)
        keys[:, :, positions] = plain_rotate(k, self.table[positions])
        values[:, :, positions] = v
        keys, values = keys.repeat_interleave(1, dim=1), values.repeat_interleave(1, dim=1)
        q, visible = plain_rotate(q, self.table[positions]), self.visible[:, None, positions]
        out = scaled_dot_product_attention(q, keys, values, attn_mask=visible)
        return attention.wo(out.transpose(1, 2).flatten(-2))

    def logits(self, x: Tensor, positions: Tensor) -> Tensor:
        """Logits (R, P, K) after states x (R, P, dim)."""
        for layer, keys, values in zip(self.gpt.layers, self.keys, self.values, strict=True):
            x = x + self.attend(layer.attention, plain_norm(layer.attention_norm, x), positions, keys, values)
            x = x + layer.feed_forward(plain_norm(layer.ffn_norm, x))
        return self.gpt.output(plain_norm(self.gpt.norm, x)).float()

    def start(self) -> Tensor:
        """Run the captions: logits (R, K) of image token 0."""
        self.allocate()
        positions = torch.arange(NUM_CONDITIONS, device=self.mask.device)
        return self.logits(self.gpt.cls_embedding(self.features), positions)[:, -1]

    def step(self, tokens: Tensor, i: int) -> Tensor:
        """Feed image token i of each row: logits (R, K) of the next one."""
        position = torch.tensor([NUM_CONDITIONS + i], device=tokens.device)
        with sdpa_kernel(SDPBackend.MATH):
            return self.logits(self.gpt.tok_embeddings(tokens)[:, None], position)[:, -1]

    def sample(self, greedy: bool = False) -> Tensor:
        """Tokens (B, N)."""
        logits, tokens, kept = self.start(), [], []
        for i in range(self.gpt.config.block_size):
            if self.scale > 1:
                conditional, null = logits.split(self.batch)
                logits = null + self.scale * (conditional - null)
            probs = plain_filter(logits).softmax(-1)
            drawn = probs.argmax(-1) if greedy else torch.multinomial(probs, 1)[:, 0]
            tokens.append(drawn)
            kept.append(probs.clone())
            if len(tokens) < self.gpt.config.block_size:
                logits = self.step(drawn.repeat(2) if self.scale > 1 else drawn, i)
        return torch.stack(tokens, 1)

    def teacher_forced(self, tokens: Tensor) -> Tensor:
        """Logits (R, N, K) of each token given those before it, for tokens (R, N)."""
        logits = [self.start()]
        for i in range(tokens.shape[1] - 1):
            logits.append(self.step(tokens[:, i], i))
        return torch.stack(logits, 1)

    def cache_bytes(self) -> int:
        """Keys and values of all layers."""
        self.allocate()
        return self.keys.nbytes + self.values.nbytes


def plain_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """Root-mean-square norm, operation by operation."""
    scaled = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + norm.eps)
    return scaled.to(x.dtype) * norm.weight


def plain_rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn the pairs of x (R, H, P, d) by the angles of table (P, d / 2, 2)."""
    pairs = x.float().unflatten(-1, (-1, 2))
    first = pairs[..., 0] * table[..., 0] - pairs[..., 1] * table[..., 1]
    second = pairs[..., 1] * table[..., 0] + pairs[..., 0] * table[..., 1]
    return torch.stack([first, second], dim=-1).flatten(-2).to(x.dtype)


def plain_filter(logits: Tensor) -> Tensor:
    """Temperature 1 and top-k, in place on a copy."""
    logits = logits / 1.0
    logits[logits < logits.topk(TOP_K, dim=-1).values[:, -1:]] = -torch.inf
    return logits


Loop = Ours | PlainLoop
LOOPS: dict[str, type[Loop]] = {"gendiv": Ours, "plain loop": PlainLoop}


def make_loops(args: argparse.Namespace, num_tokens: int, dtype: torch.dtype) -> dict[str, Loop]:
    """Both loops on weights and captions that depend on the arguments alone."""
    torch.manual_seed(0)
    gpt = cast(random_gpt(args.size, num_tokens, args.device), dtype)
    captions = random_captions(gpt, args.batch, args.scale)
    return {name: loop(gpt, captions, args.batch, args.scale) for name, loop in LOOPS.items()}


# --- what is measured ---


def check_agreement(args: argparse.Namespace, num_tokens: int = 16) -> None:
    """End with an error unless both loops compute the same model: float32, teacher-forced logits and greedy tokens."""
    ours, plain = make_loops(args, num_tokens, torch.float32).values()
    tokens = ours.sample(greedy=True)
    rows = tokens.repeat(2, 1) if args.scale > 1 else tokens
    difference = (ours.teacher_forced(rows) - plain.teacher_forced(rows)).abs().max().item()
    num_same = int((tokens == plain.sample(greedy=True)).sum())
    print(f"agreement in float32: logits differ by {difference:.1e}, {num_same} of {tokens.numel()} greedy tokens equal")
    if difference > TOLERANCE or num_same < tokens.numel():
        raise SystemExit(f"the loops are not the same model: at most {TOLERANCE} and all tokens were expected")


@torch.inference_mode()
def peak_memory(args: argparse.Namespace, name: str) -> float:
    """MiB that one call of a loop adds to what weights and captions take: allocated on a GPU, resident on the CPU."""
    loop = make_loops(args, args.tokens, DTYPES[args.dtype])[name]
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loop.sample()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loop.sample()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit / MIB


def peak_memories(args: argparse.Namespace) -> dict[str, float]:
    """`peak_memory` of each loop, each in a process of its own, since a process never forgets its peak."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return {name: pool.apply(peak_memory, (args, name)) for name in LOOPS}


def best_seconds(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Least seconds of each function over interleaved repetitions, so that a busy machine spoils neither alone."""
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def parts(ours: Ours, batch: int, repeats: int) -> dict[str, float]:
    """Seconds of each part of one step of our loop."""
    config, sampler, prefill = ours.gpt.config, ours.sampler, ours.prefill()
    rows = torch.randint(0, config.vocab_size, (len(prefill.logits), config.block_size), device=prefill.logits.device)
    forward = best_seconds({"forward": lambda: ours.teacher_forced(rows)}, 1)["forward"] / (config.block_size - 1)
    # Guided logits of rows that differ: the first B rows against themselves in reverse order.
    logits = sampler.guide(prefill.logits[:batch], prefill.logits[:batch].flip(0))[:, None]
    filtered, draw = sampler.filter_logits(logits), sampler.draw_tokens(logits, 0)
    probed = {name: apply_probes(sampler, probes) for name, probes in PROBES.items()}
    seconds = best_seconds(
        {
            "guidance": lambda: sampler.guide(prefill.logits[:batch], prefill.logits[:batch]),
            "filter": lambda: sampler.filter_logits(logits),
            "noise": lambda: sampler.exec.uniform(0, 1),
            "draw": lambda: invert_cdf(filtered.log_softmax(-1).exp(), sampler.exec.uniform(0, 1)),
            "recording": lambda: (draw.entropy, draw.log_prob),
            "all": lambda: sampler.draw_tokens(logits, 0),
            **{name: lambda s=s: s.draw_tokens(logits, 0) for name, s in probed.items()},
        },
        repeats,
    )
    seconds["draw"] -= seconds["noise"]
    whole = seconds.pop("all")
    return {"forward": forward, **seconds, **{name: seconds[name] - whole for name in PROBES}}


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(GPT_SIZES), default="GPT-B")
    parser.add_argument("--batch", type=int, default=4, help="images; guidance doubles the rows")
    parser.add_argument("--tokens", type=int, default=256, help="image tokens, a square number")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32", help="of weights and caches")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--scale", type=float, default=7.5, help="of guidance; 1 switches it off")
    parser.add_argument("--repeats", type=int, default=3, help="interleaved repetitions; the fastest counts")
    args = parser.parse_args()
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    return args


@torch.inference_mode()
def main() -> None:
    """Check, measure, print."""
    args = arguments()
    memory = peak_memories(args)
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{args.size}, {args.batch} captions, guidance {args.scale}, {args.tokens} tokens, {args.dtype}, {where}")
    check_agreement(args)
    loops = make_loops(args, args.tokens, DTYPES[args.dtype])
    seconds = best_seconds({name: loop.sample for name, loop in loops.items()}, args.repeats)
    print("\n| loop | image tokens/s | ratio | peak memory above the weights | of which keys and values |")
    print("|---|---|---|---|---|")
    for name, loop in loops.items():
        speed, ratio = args.batch * args.tokens / seconds[name], seconds["plain loop"] / seconds[name]
        print(f"| {name} | {speed:.1f} | {ratio:.2f} | {memory[name]:.0f} MiB | {loop.cache_bytes() / MIB:.0f} MiB |")
    print("\n| part of a step of ours | ms |\n|---|---|")
    for name, value in parts(loops["gendiv"], args.batch, 20).items():
        extra = "extra with " if name in PROBES else ""
        print(f"| {extra}{name} | {value * 1e3:{'+' if extra else ''}.2f} |")


if __name__ == "__main__":
    main()
