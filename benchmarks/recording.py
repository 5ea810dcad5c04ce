"""Cost of recording for the token-marginal and sequence decompositions: sampling loops with and without, in one run.

    python benchmarks/recording.py toy                       # the toy token models, in the crossed design
    python benchmarks/recording.py real                      # K = 16384, L = 1024, random weights, reduced depth
    python benchmarks/recording.py real --pixels 256 --layers 36 --repeats 1      # L = 256 at full depth

There are two records: entropy and log-probability of each token (always on), and sums of token distributions per group
(recorded if a metric requests them), whose entropies are computed once per prompt, after its last sample. Loops without
any record and with both run in turn and must draw the same tokens, or the benchmark ends with an error. "on / off" is
the ratio of their processor times, the minimum of `--repeats` each. On a busy machine this ratio varies by several
percent, so the records are also timed inside the loop: "entropies" and "sums" are shares of the run with records.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from ar_sampling import MIB
from torch import Tensor

from gendiv_lightning.generators import LlamaGen
from gendiv_lightning.generators.base import Generator
from gendiv_lightning.generators.llamagen.transformer import GPT, rotary_table
from gendiv_lightning.recorders import TokenMarginals
from gendiv_lightning.records import NoiseKey, Prompt, PromptBatch
from gendiv_lightning.sampling import Draw, TokenGrid
from gendiv_lightning.toy.captions import prompts
from gendiv_lightning.toy.evaluate import FAMILIES


class Design(NamedTuple):
    """Samples per prompt: paraphrases x paths x executions per path."""

    paraphrases: int
    paths: int
    executions: int


CROSSED, PLAIN = Design(4, 4, 4), Design(1, 8, 1)


def make_batch(prompts: list[Prompt], design: Design) -> PromptBatch:
    """Whole prompts; as in runs, consecutive samples cycle through the paths."""
    rows, keys = [], []
    for index, prompt in enumerate(prompts):
        for paraphrase in range(design.paraphrases):
            for sample in range(design.paths * design.executions):
                rows.append(index)
                keys.append(NoiseKey(prompt.id, paraphrase, sample % design.paths, sample))
    return PromptBatch(0, tuple(prompts), tuple(range(len(prompts))), tuple(keys), tuple(rows))


@contextmanager
def without_records() -> Iterator[None]:
    """Context in which only tokens are recorded."""

    def write(grid: TokenGrid, draw: Draw) -> None:
        grid.tokens[draw.rows, draw.positions] = draw.tokens

    recorded = TokenGrid.write
    TokenGrid.write = write  # type: ignore[method-assign]
    try:
        yield
    finally:
        TokenGrid.write = recorded  # type: ignore[method-assign]


class Clock:
    """Context that measures the processor seconds spent in some methods."""

    def __init__(self, *methods: tuple[type, str]) -> None:
        self.methods, self.seconds = methods, 0.0

    def __enter__(self) -> Clock:
        self.originals = [getattr(owner, name) for owner, name in self.methods]
        for (owner, name), original in zip(self.methods, self.originals, strict=True):
            setattr(owner, name, self.timed(original))
        return self

    def __exit__(self, *_: object) -> None:
        for (owner, name), original in zip(self.methods, self.originals, strict=True):
            setattr(owner, name, original)

    def timed(self, original: Callable[..., object]) -> Callable[..., object]:
        """The method, with timing."""

        def run(*arguments: object) -> object:
            start = time.process_time()
            try:
                return original(*arguments)
            finally:
                self.seconds += time.process_time() - start

        return run


class Times(NamedTuple):
    """Processor seconds of sampling without and with records, and the time of each record in the latter."""

    off: float
    on: float
    entropies: float
    sums: float


def time_records(generator: Generator, batch: PromptBatch, repeats: int) -> Times:
    """Minimum times over the repetitions; exits with an error if recording changes a token."""
    off, on = float("inf"), Times(0, float("inf"), 0, 0)
    for _ in range(repeats):
        start = time.process_time()
        with without_records():
            expected = generator.sample(batch).samples.tokens
        off = min(off, time.process_time() - start)
        start = time.process_time()
        with (
            Clock((TokenMarginals, "begin"), (TokenMarginals, "observe"), (TokenMarginals, "end")) as sums,
            Clock((TokenGrid, "write"), (TokenMarginals, "begin"), (TokenMarginals, "end")) as everything,
        ):
            tokens = generator.sample(batch, recorders=(TokenMarginals,)).samples.tokens
        seconds = time.process_time() - start
        on = min(on, Times(0, seconds, everything.seconds - sums.seconds, sums.seconds), key=lambda times: times.on)
        if not torch.equal(tokens, expected):
            raise SystemExit("recording changed a token")
    return on._replace(off=off)


def memory_of_sums(generator: Generator, batch: PromptBatch) -> float:
    """MiB that the sums of one prompt take, float32."""
    num_tokens = generator.grid[0] * generator.grid[1]
    one = batch._replace(prompts=batch.prompts[:1], rows=tuple(r for r in batch.rows if r == 0))
    one = one._replace(keys=batch.keys[: len(one.rows)], indices=batch.indices[:1])
    sums = TokenMarginals(generator, one)
    return torch.Size(sums._shape).numel() * num_tokens * generator.codebook_size * 4 / MIB


class RandomLlamaGen(LlamaGen):
    """Class-to-image LlamaGen with random weights and without its image tokenizer.

    Args:
        image_size: 256 or 512 pixels, that is, L = 256 or 1024.
        layers: number of layers, of 36 in GPT-XL.
        batch_size: number of images sampled together.
    """

    def __init__(self, image_size: Literal[256, 512], layers: int, batch_size: int) -> None:
        files = {"gpt_checkpoint": "random", "vq_checkpoint": "random"}
        size = {"image_size": image_size, "batch_size": batch_size}
        super().__init__(**files, gpt="GPT-XL", model_type="c2i", dtype="float32", **size)
        config = replace(self.gpt_config, n_layer=layers)
        with torch.device("meta"):
            gpt = GPT(config)
        self.gpt = gpt.to_empty(device="cpu").eval()
        for parameter in self.gpt.parameters():
            parameter.fill_(1.0) if parameter.dim() == 1 else parameter.normal_(std=0.02)
        self.gpt.output.weight.mul_(4)  # logits of standard deviation about 3, as in trained networks
        self.gpt.rotary = rotary_table(self.grid[0], config.head_dim, config.rope_base)
        self._decode = self.gpt.decode

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        """Black pixels, because the tokenizer is not part of the loop."""
        return torch.zeros(len(tokens), 3, 1, 1, dtype=torch.uint8)


def settings(args: argparse.Namespace) -> Iterator[tuple[str, Generator, str, PromptBatch]]:
    """Name and generator of each model, and name and batch of each design."""
    if args.what == "toy":
        toy_prompts = prompts(args.prompts)
        for name, family in FAMILIES.items():
            generator = family.load()
            yield name, generator, "8 samples", make_batch(toy_prompts, PLAIN)
            yield name, generator, "4 x 4 x 4 samples", make_batch(toy_prompts, CROSSED)
        return
    label = [Prompt("label", "0")]
    for layers in args.layers:
        generator, name = RandomLlamaGen(args.pixels, layers, args.batch), f"GPT-XL, {layers} of 36 layers"
        yield name, generator, f"{args.batch} samples", make_batch(label, Design(1, args.batch, 1))


@torch.inference_mode()
def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("toy", "real"))
    parser.add_argument("--prompts", type=int, default=2, help="number of prompts of the toy models")
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 3], help="layers of the real transformer")
    parser.add_argument(
        "--pixels", type=int, choices=(256, 512), default=512, help="image size of the real transformer"
    )
    parser.add_argument("--batch", type=int, default=4, help="images sampled together by the real transformer")
    parser.add_argument("--repeats", type=int, default=3, help="interleaved repetitions; the fastest counts")
    args = parser.parse_args()
    torch.set_num_threads(1)
    columns = "off | on | on / off | entropies | sums | both | memory of the sums per prompt"
    print(f"| model | samples per prompt | K | L | {columns} |\n|" + "---|" * 11)
    for name, generator, samples, batch in settings(args):
        times = time_records(generator, batch, args.repeats)
        cells = (
            name,
            samples,
            str(generator.codebook_size),
            str(generator.grid[0] * generator.grid[1]),
            f"{times.off:.2f} s",
            f"{times.on:.2f} s",
            f"{times.on / times.off:.3f}",
            *(f"{100 * t / times.on:.2f} %" for t in (times.entropies, times.sums, times.entropies + times.sums)),
            f"{memory_of_sums(generator, batch):.1f} MiB",
        )
        print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
