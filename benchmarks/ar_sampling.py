"""Image tokens per second of gendiv's LlamaGen sampler and of a plain loop, on the same random weights.

    python benchmarks/ar_sampling.py --tokens 64

The plain loop follows the steps of the published code (Sun et al. 2024, arXiv 2406.06525): captions keep their T
positions in the cache; every step attends to all slots under a boolean mask in the math kernel, after copying keys and
values by `repeat_interleave(1)`; the probabilities of every step are cloned; `multinomial` draws tokens. Before the
timing, both must give the same logits for the same tokens (1e-3) and the same greedy tokens.

Notation: B images, R = 2B rows under guidance, T condition positions, N image tokens, S cache slots, K entries.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from gendiv_lightning.callbacks.probes import Argmax, CodebookSubset, FreezePath
from gendiv_lightning.generators.llamagen.generator import DTYPES, TokenPredictor, pack_left
from gendiv_lightning.generators.llamagen.transformer import (
    GPT,
    GPT_SIZES,
    Attention,
    Cache,
    GPTConfig,
    Prefill,
    RMSNorm,
    join_prefills,
    rotary_table,
)
from gendiv_lightning.sampling import Draw, Noise, TokenSampler, apply_probes
from gendiv_lightning.sampling.autoregressive import sample_autoregressive

TOLERANCE = 1e-3
TOP_K = 1000
NUM_CONDITIONS = 120
MIB = 2**20
PROBES = {
    "CodebookSubset + Argmax": [CodebookSubset("random", ratio=0.5), Argmax()],
    "CodebookSubset + FreezePath": [CodebookSubset("random", ratio=0.5), FreezePath()],
}


# --- weights and captions ---


def random_gpt(size: str, num_tokens: int, dtype: torch.dtype, device: str) -> GPT:
    """A text-to-image transformer with normal weights of standard deviation 0.02 and a float32 rotary table."""
    config = GPTConfig(**GPT_SIZES[size], model_type="t2i", block_size=num_tokens, cls_token_num=NUM_CONDITIONS)
    with torch.device("meta"):
        gpt = GPT(config).to(dtype)
    gpt.to_empty(device=device)
    for parameter in gpt.parameters():
        parameter.fill_(1.0) if parameter.dim() == 1 else parameter.normal_(std=0.02)
    gpt.get_buffer("cls_embedding.uncond_embedding").normal_(std=config.caption_dim**-0.5)
    gpt.rotary = rotary_table(math.isqrt(num_tokens), config.head_dim, config.rope_base).to(device)
    return gpt.eval()


def random_captions(gpt: GPT, batch: int, scale: float) -> list[Tensor]:
    """Features (n, caption_dim) of B captions with 8 to 40 tokens, followed by their null captions under guidance."""
    null = gpt.get_buffer("cls_embedding.uncond_embedding")
    lengths = torch.linspace(8, 40, batch).int().tolist()
    captions = [torch.randn(n, gpt.config.caption_dim).to(null) * 0.1 for n in lengths]
    return [*captions, *(null[-n:] for n in lengths)] if scale > 1 else captions


# --- the two loops ---


class Ours:
    """gendiv's loop, with its sampler and its statistics of entropy and log-probability."""

    def __init__(self, gpt: GPT, captions: list[Tensor], batch: int, scale: float) -> None:
        self.gpt, self.captions = gpt, captions
        names = [("prompt", row) for row in range(batch)]
        path, execution = (Noise.of(0, role, names, captions[0].device) for role in ("path", "exec"))
        self.sampler = TokenSampler(path, execution, gpt.config.vocab_size, top_k=TOP_K, guidance=scale)

    def prefill(self) -> Prefill:
        """Run each caption separately, as the generator does, so that a condition does not depend on its batch."""
        return join_prefills([self.gpt.prefill_captions(*pack_left([caption])) for caption in self.captions])

    def sample(self, greedy: bool = False) -> Tensor:
        """Tokens (B, N)."""
        sampler = apply_probes(self.sampler, [Argmax()] if greedy else [])
        predict = TokenPredictor(self.gpt, self.prefill(), sampler)
        return sample_autoregressive(predict, sampler, self.gpt.config.block_size).tokens

    def teacher_forced(self, tokens: Tensor) -> Tensor:
        """Logits (R, N, K) of each token given those before it, for tokens (R, N)."""
        prefill = self.prefill()
        cache, logits = Cache(prefill, tokens.shape[1]), [prefill.logits]
        for i in range(tokens.shape[1] - 1):
            position = torch.tensor([i], device=tokens.device)
            logits.append(self.gpt.decode(tokens[:, i : i + 1], position, i + 2, cache)[:, 0])
        return torch.stack(logits, 1)

    def cache_bytes(self) -> int:
        """Keys and values of all layers."""
        cache = Cache(self.prefill(), self.gpt.config.block_size)
        return cache.keys.nbytes + cache.values.nbytes


class PlainLoop:
    """The usual loop. It shares only weights, caption projection and feed-forward layers with gendiv's."""

    def __init__(self, gpt: GPT, captions: list[Tensor], batch: int, scale: float) -> None:
        self.gpt, self.batch, self.scale = gpt, batch, scale
        self.features, self.mask = pack_left(captions, NUM_CONDITIONS)

    def allocate(self) -> None:
        """Create caches, mask and rotary table for a batch."""
        config, (rows, num_conditions) = self.gpt.config, self.mask.shape
        num_slots = -(-(num_conditions + config.block_size) // 8) * 8
        shape = (config.n_layer, rows, config.n_head, num_slots, config.head_dim)
        self.keys, self.values = self.features.new_zeros(shape), self.features.new_zeros(shape)
        self.visible = torch.ones(rows, num_slots, num_slots, dtype=torch.bool, device=self.mask.device).tril()
        self.visible[:, :, :num_conditions] &= self.mask[:, None]
        self.visible |= torch.eye(num_slots, dtype=torch.bool, device=self.mask.device)
        table = self.gpt.rotary
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
        """Run the captions and return the logits (R, K) of image token 0."""
        self.allocate()
        positions = torch.arange(NUM_CONDITIONS, device=self.mask.device)
        return self.logits(self.gpt.cls_embedding(self.features), positions)[:, -1]

    def step(self, tokens: Tensor, i: int) -> Tensor:
        """Feed image token i of each row and return the logits (R, K) of the next one."""
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


def plain_norm(norm: RMSNorm, x: Tensor) -> Tensor:
    """Root-mean-square norm, operation by operation."""
    scaled = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + norm.eps)
    return scaled.to(x.dtype) * norm.weight


def plain_rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate the pairs of x (R, H, P, d) by the angles of table (P, d / 2, 2)."""
    pairs = x.float().unflatten(-1, (-1, 2))
    first = pairs[..., 0] * table[..., 0] - pairs[..., 1] * table[..., 1]
    second = pairs[..., 1] * table[..., 0] + pairs[..., 0] * table[..., 1]
    return torch.stack([first, second], dim=-1).flatten(-2).to(x.dtype)


def plain_filter(logits: Tensor) -> Tensor:
    """Apply temperature 1 and top-k, in place on a copy."""
    logits = logits / 1.0
    logits[logits < logits.topk(TOP_K, dim=-1).values[:, -1:]] = -torch.inf
    return logits


def make_loops(args: argparse.Namespace, num_tokens: int, dtype: torch.dtype) -> tuple[Ours, PlainLoop]:
    """Both loops on the same weights and captions, which depend only on the arguments."""
    torch.manual_seed(0)
    gpt = random_gpt(args.size, num_tokens, dtype, args.device)
    captions = random_captions(gpt, args.batch, args.scale)
    return Ours(gpt, captions, args.batch, args.scale), PlainLoop(gpt, captions, args.batch, args.scale)


# --- measurements ---


def check_agreement(args: argparse.Namespace, num_tokens: int = 16) -> None:
    """Exit unless both loops compute the same model: float32, teacher-forced logits and greedy tokens."""
    ours, plain = make_loops(args, num_tokens, torch.float32)
    tokens = ours.sample(greedy=True)
    rows = tokens.repeat(2, 1) if args.scale > 1 else tokens
    difference = (ours.teacher_forced(rows) - plain.teacher_forced(rows)).abs().max().item()
    num_same = int((tokens == plain.sample(greedy=True)).sum())
    print(f"float32: logits differ by {difference:.1e}, {num_same} of {tokens.numel()} greedy tokens are equal")
    if difference > TOLERANCE or num_same < tokens.numel():
        raise SystemExit(f"the loops are not the same model: at most {TOLERANCE} and all tokens were expected")


@torch.inference_mode()
def peak_memory(args: argparse.Namespace, index: int) -> float:
    """MiB that one call of a loop adds to weights and captions: allocated memory on a GPU, resident on the CPU."""
    loop = make_loops(args, args.tokens, DTYPES[args.dtype])[index]
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loop.sample()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loop.sample()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit / MIB


def peak_memories(args: argparse.Namespace) -> list[float]:
    """`peak_memory` of both loops, each in its own process, because the peak of a process cannot be reset.

    Must be called before this process has a model, because on Linux a new process inherits its parent's peak.
    """
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return [pool.apply(peak_memory, (args, index)) for index in range(2)]


def best_seconds(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Minimum seconds of each function over interleaved repetitions, so that other load affects all of them alike."""
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def step_parts(ours: Ours, batch: int, repeats: int = 20) -> dict[str, float]:
    """Seconds of the parts of gendiv's loop, for a half-filled cache and logits of standard deviation 3."""
    config, sampler, prefill = ours.gpt.config, ours.sampler, ours.prefill()
    device, half = prefill.logits.device, config.block_size // 2
    cache, position = Cache(prefill, config.block_size), torch.tensor([half], device=device)
    tokens = torch.randint(0, config.vocab_size, (len(prefill.logits), 1), device=device)
    logits = 3 * torch.randn(batch, config.vocab_size, device=device)
    rows, positions = torch.arange(batch, device=device), torch.full((batch,), half, device=device)

    def draw_by(sampler: TokenSampler) -> Draw:
        return sampler.draw_tokens(logits, half, rows, positions)

    def record() -> tuple[Tensor, Tensor]:
        draw = sampler.draw_filtered(filtered, half, rows, positions)  # a new one each time, because a draw caches
        return draw.entropy, draw.log_prob

    filtered = sampler.filter_logits(logits)
    probed = {name: apply_probes(sampler, probes) for name, probes in PROBES.items()}
    seconds = best_seconds(
        {
            "prefill (once)": ours.prefill,
            "forward": lambda: ours.gpt.decode(tokens, position, half + 2, cache),
            "guidance": lambda: sampler.guide(logits, logits),
            "filter": lambda: sampler.filter_logits(logits),
            "noise": lambda: sampler.exec.uniform(half, rows, positions),
            "draw": partial(draw_by, sampler),
            "draw and records": record,
            **{name: partial(draw_by, sampler) for name, sampler in probed.items()},
        },
        repeats,
    )
    extra = {name: seconds[name] - seconds["draw"] for name in PROBES}
    drawn = seconds["draw"] - seconds["filter"]
    recorded = {"recording of entropy and log_prob": seconds.pop("draw and records") - drawn}
    return {**seconds, "draw": drawn - seconds["noise"], **recorded, **extra}


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(GPT_SIZES), default="GPT-B")
    parser.add_argument("--batch", type=int, default=4, help="number of images; guidance doubles the rows")
    parser.add_argument("--tokens", type=int, default=256, help="number of image tokens, a square number")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32", help="dtype of weights and caches")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--scale", type=float, default=7.5, help="guidance scale; 1 turns guidance off")
    parser.add_argument("--repeats", type=int, default=3, help="interleaved repetitions; the fastest counts")
    args = parser.parse_args()
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    return args


@torch.inference_mode()
def main() -> None:
    """Check agreement, measure, and print the tables."""
    args = arguments()
    memory = peak_memories(args)
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{args.size}, {args.batch} captions, guidance {args.scale}, {args.tokens} tokens, {args.dtype}, {where}")
    check_agreement(args)
    ours, plain = make_loops(args, args.tokens, DTYPES[args.dtype])
    seconds = best_seconds({"gendiv": ours.sample, "plain loop": plain.sample}, args.repeats)
    cache = [ours.cache_bytes(), plain.cache_bytes()]
    print("\n| loop | image tokens/s | ratio | peak memory above the weights | of which keys and values |")
    print("|---|---|---|---|---|")
    for (name, best), peak, num_bytes in zip(seconds.items(), memory, cache, strict=True):
        speed, ratio = args.batch * args.tokens / best, seconds["plain loop"] / best
        print(f"| {name} | {speed:.1f} | {ratio:.2f} | {peak:.0f} MiB | {num_bytes / MIB:.0f} MiB |")
    print("\n| part of a gendiv step | ms |\n|---|---|")
    for name, value in step_parts(ours, args.batch).items():
        extra = "extra with " if name in PROBES else ""
        print(f"| {extra}{name} | {value * 1e3:{'+' if extra else ''}.2f} |")


if __name__ == "__main__":
    main()
