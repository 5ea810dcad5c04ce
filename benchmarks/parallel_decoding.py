"""Passes and seconds of exact parallel decoding, compared with the sequential loop on the same weights and noise.

    python benchmarks/parallel_decoding.py --tokens 256
    python benchmarks/parallel_decoding.py --toy

Random weights of a real size, or the trained toy model; one image per row of the table, processor seconds. A run ends
with an error if one token differs. "per pass" is the mean number of tokens that a pass made final; "again" counts the
tokens that were fed one at a time, in the shapes of the sequential loop, because rounding could have changed a draw.

Notation: B images, R = 2B rows under guidance, N image tokens.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gendiv_lightning.generators import LlamaGen
from gendiv_lightning.generators.llamagen.generator import TokenPredictor
from gendiv_lightning.generators.llamagen.transformer import GPT, GPT_SIZES, GPTConfig, Prefill
from gendiv_lightning.records import TokenSamples
from gendiv_lightning.sampling import Noise, TokenSampler
from gendiv_lightning.sampling.autoregressive import sample_autoregressive
from gendiv_lightning.sampling.parallel import sample_in_parallel

HEADER = (
    "| top-k | temperature | guidance | entropy, bits | window | passes | per pass | again | sequential | parallel "
    "| ratio |"
)


def random_gpt(size: str, num_tokens: int, spread: float) -> GPT:
    """A class-to-image transformer of unit gain with logits of standard deviation `spread`."""
    gpt = GPT(GPTConfig(**GPT_SIZES[size], block_size=num_tokens)).eval()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in gpt.named_parameters():
        if parameter.dim() == 1:
            parameter.fill_(1.0)
        else:
            scale = spread if name == "output.weight" else 1.0
            parameter.normal_(std=scale / math.sqrt(parameter.shape[1]), generator=generator)
    return gpt


class Counted:
    """A step function that records the number of positions of each call."""

    def __init__(self, predict: TokenPredictor) -> None:
        self.predict = predict
        self.calls: list[tuple[int, int]] = []

    def __call__(self, before: Tensor, start: int) -> Tensor:
        """Run the step."""
        self.calls.append((start, before.shape[1]))
        return self.predict(before, start)

    def num_passes(self) -> int:
        """Calls without those that fed a token again; a pass of one position is the first or the last."""
        return 1 + sum(width > 1 for _, width in self.calls) + (self.calls[-1][1] == 1)


def clocked(sample: Callable[[], TokenSamples]) -> tuple[TokenSamples, float]:
    """The samples, and the processor seconds."""
    start = time.process_time()
    samples = sample()
    return samples, time.process_time() - start


def compare(
    gpt: GPT, make_prefill: Callable[[bool], Prefill], sampler: TokenSampler, windows: Sequence[int]
) -> list[str]:
    """One line of the table per window; ValueError if a token differs."""
    num_tokens, lines = gpt.config.block_size, []
    prefill = make_prefill(sampler.is_guided)
    expected, sequential = clocked(
        lambda: sample_autoregressive(TokenPredictor(gpt, prefill, sampler), sampler, num_tokens)
    )
    for window in windows:
        predict = Counted(TokenPredictor(gpt, prefill, sampler))
        samples, parallel = clocked(lambda: sample_in_parallel(predict, sampler, num_tokens, window))  # noqa: B023
        if not torch.equal(samples.tokens, expected.tokens):
            raise ValueError(f"{int((samples.tokens != expected.tokens).sum())} tokens differ at window {window}")
        num_passes = predict.num_passes()
        lines.append(
            f"| {sampler.top_k or 'all'} | {sampler.temperature:g} | {sampler.guidance:g} "
            f"| {expected.entropy.mean():.2f} | {window} | {num_passes} | {num_tokens / num_passes:.2f} "
            f"| {len(predict.calls) - num_passes} | {sequential:.1f} s | {parallel:.1f} s "
            f"| {sequential / parallel:.2f} |"
        )
    return lines


def settings(args: argparse.Namespace, codebook_size: int) -> list[dict[str, float]]:
    """Settings of top-k at temperature 1, and of temperature without top-k."""
    ks = [k for k in args.top_k if k < codebook_size]
    return [
        *({"top_k": k, "temperature": 1.0} for k in ks),
        *({"top_k": codebook_size, "temperature": t} for t in args.temperature),
    ]


@torch.inference_mode()
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="GPT-B", choices=GPT_SIZES)
    parser.add_argument("--tokens", type=int, default=256, help="number of image tokens, a square number")
    parser.add_argument("--spread", type=float, default=1.0, help="standard deviation of the random logits")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--window", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--top-k", type=int, nargs="*", default=[1, 10, 100, 1000])
    parser.add_argument("--temperature", type=float, nargs="*", default=[0.0, 0.25, 0.5, 1.0])
    parser.add_argument("--toy", action="store_true", help="use the trained toy model instead of random weights")
    args = parser.parse_args()
    names = [("benchmark", row) for row in range(args.batch)]
    path, execution = (Noise.of(0, role, names) for role in ("path", "exec"))
    if args.toy:
        gpt, make_prefill = toy_model(args.batch)
    else:
        gpt = random_gpt(args.size, args.tokens, args.spread)

        def make_prefill(guided: bool) -> Prefill:
            prefill = gpt.prefill_labels(torch.arange(args.batch))
            return prefill if guided else prefill.take(torch.arange(args.batch))

    sys.stdout.write(f"{HEADER}\n{'|---' * 11}|\n")
    for setting in settings(args, gpt.config.vocab_size):
        sampler = TokenSampler(path, execution, gpt.config.vocab_size, guidance=args.guidance, **setting)  # type: ignore[arg-type]
        for line in compare(gpt, make_prefill, sampler, args.window):
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()


def toy_model(batch: int) -> tuple[GPT, Callable[[bool], Prefill]]:
    """The transformer of the toy LlamaGen, and the conditions of some captions."""
    files = {
        "gpt_checkpoint": "llamagen_gpt.safetensors",
        "vq_checkpoint": "llamagen_vq.safetensors",
        "text_encoder": "t5",
        "gpt": "llamagen_gpt.json",
        "vq": "llamagen_vq.json",
    }
    files = {key: f"toy:{file}" for key, file in files.items()}
    generator = LlamaGen(**files, image_size=48, dtype="float32")  # type: ignore[arg-type]
    generator.load()
    captions = ["a red hill under the moon", "a boat on a lake", "a house in the snow", "two trees on a green hill"]
    conditions = generator.encode_prompts([captions[row % len(captions)] for row in range(batch)])
    return generator.gpt, lambda guided: generator.prefill(conditions, guided)


if __name__ == "__main__":
    main()
