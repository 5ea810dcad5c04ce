"""What recording costs: the sampling loops with the records of lens A and B, and without, in one run.

    python benchmarks/recording.py embedded                  # the three embedded models, in the crossed design
    python benchmarks/recording.py real                      # K = 16384, L = 1024, random weights, reduced depth

Three records are told apart: none at all; entropy and log-probability of each token (always on); and sums of token
distributions a group beside them (on by default, `data.record_marginals: false` switches them off). All three draw the
same tokens, or the benchmark ends with an error. Processor time, the least of interleaved repetitions.

Entropies of the sums are taken once a prompt, when its last sample is drawn; they are part of what is timed.
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

from gendiv_lightning.batch import NoiseKey, Prompt, PromptBatch
from gendiv_lightning.generators import LlamaGen
from gendiv_lightning.generators.base import Generator
from gendiv_lightning.models.llamagen_gpt import GPT, rotary_table
from gendiv_lightning.sampling import Draw, TokenGrid
from gendiv_lightning.sampling.marginals import MarginalSums
from gendiv_lightning.zoo.captions import prompts
from gendiv_lightning.zoo.evaluate import FAMILIES


class Design(NamedTuple):
    """Samples of a prompt: wordings x paths x executions of a path."""

    wordings: int
    paths: int
    executions: int


CROSSED, PLAIN = Design(4, 4, 4), Design(1, 8, 1)


def make_batch(made: list[Prompt], design: Design) -> PromptBatch:
    """Whole prompts, ordered as plans have it: path after path, round and round."""
    rows, keys = [], []
    for place, prompt in enumerate(made):
        for wording in range(design.wordings):
            for sample in range(design.paths * design.executions):
                rows.append(place)
                keys.append(NoiseKey(prompt.id, wording, sample % design.paths, sample))
    return PromptBatch(0, tuple(made), tuple(range(len(made))), tuple(keys), tuple(rows))


@contextmanager
def without_records() -> Iterator[None]:
    """Tokens alone are kept."""

    def write(grid: TokenGrid, draw: Draw) -> None:
        grid.tokens[draw.rows, draw.positions] = draw.tokens

    recorded = TokenGrid.write
    TokenGrid.write = write  # type: ignore[method-assign]
    try:
        yield
    finally:
        TokenGrid.write = recorded  # type: ignore[method-assign]


def time_records(generator: Generator, batch: PromptBatch, repeats: int) -> tuple[list[float], float]:
    """Least seconds without records, with entropies, with sums too; and MiB of the sums of a prompt."""
    seconds, tokens = [float("inf")] * 3, []

    def run(records_marginals: bool) -> Tensor:
        return generator.sample(batch._replace(records_marginals=records_marginals)).samples.tokens

    def bare() -> Tensor:
        with without_records():
            return run(False)

    kinds: list[Callable[[], Tensor]] = [bare, lambda: run(False), lambda: run(True)]
    for _ in range(repeats):
        for place, kind in enumerate(kinds):
            start = time.process_time()
            tokens.append(kind())
            seconds[place] = min(seconds[place], time.process_time() - start)
    if any(not torch.equal(found, tokens[0]) for found in tokens):
        raise SystemExit("recording changed a token")
    return seconds, num_sums(generator, batch) * generator.codebook_size * 4 / MIB


def num_sums(generator: Generator, batch: PromptBatch) -> int:
    """Distributions that are kept of one prompt, float32."""
    num_tokens = generator.grid[0] * generator.grid[1]
    one = batch._replace(prompts=batch.prompts[:1], rows=tuple(r for r in batch.rows if r == 0))
    one = one._replace(keys=batch.keys[: len(one.rows)], indices=batch.indices[:1])
    sums = MarginalSums(one, num_tokens, generator.codebook_size, rewrites=False)
    return torch.Size(sums._shape).numel() * num_tokens


class RandomLlamaGen(LlamaGen):
    """The 512-pixel LlamaGen with random weights, by class labels and without its tokenizer of images.

    Args:
        size: of the transformer.
        layers: how many of its layers there are.
        batch_size: images sampled together.
    """

    def __init__(self, size: Literal["GPT-B", "GPT-XL"], layers: int, batch_size: int) -> None:
        files = {"gpt_checkpoint": "random", "vq_checkpoint": "random"}
        super().__init__(**files, gpt=size, model_type="c2i", image_size=512, dtype="float32", batch_size=batch_size)
        config = replace(self.gpt_config, n_layer=layers)
        with torch.device("meta"):
            gpt = GPT(config)
        self.gpt = gpt.to_empty(device="cpu").eval()
        for parameter in self.gpt.parameters():
            parameter.fill_(1.0) if parameter.dim() == 1 else parameter.normal_(std=0.02)
        self.gpt.output.weight.mul_(4)  # logits of standard deviation about 3, as trained networks have them
        self.gpt.rotary = rotary_table(self.grid[0], config.head_dim, config.rope_base)
        self._decode = self.gpt.decode

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        """Black pixels: the tokenizer's time is none of the loop's."""
        return torch.zeros(len(tokens), 3, 1, 1, dtype=torch.uint8)


def settings(args: argparse.Namespace) -> Iterator[tuple[str, Generator, str, PromptBatch]]:
    """Generators with their batches, and what both are called."""
    if args.what == "embedded":
        made = prompts(args.prompts)
        for name, family in FAMILIES.items():
            generator = family.load()
            yield name, generator, "8 samples", make_batch(made, PLAIN)
            yield name, generator, "4 x 4 x 4 samples", make_batch(made, CROSSED)
        return
    made = [Prompt("label", "0")]
    for layers in args.layers:
        generator, name = RandomLlamaGen("GPT-XL", layers, args.batch), f"GPT-XL, {layers} of 36 layers"
        yield name, generator, f"{args.batch} samples", make_batch(made, Design(1, args.batch, 1))


@torch.inference_mode()
def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("embedded", "real"))
    parser.add_argument("--prompts", type=int, default=2, help="of the embedded world")
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 3], help="of the real transformer")
    parser.add_argument("--batch", type=int, default=4, help="images of the real transformer, sampled together")
    parser.add_argument("--repeats", type=int, default=3, help="interleaved repetitions; the fastest counts")
    args = parser.parse_args()
    torch.set_num_threads(1)
    columns = "sampling | + entropies | + sums of distributions | all records | sums a prompt"
    print(f"| model | samples a prompt | K | L | {columns} |\n|" + "---|" * 9)
    for name, generator, samples, batch in settings(args):
        (bare, entropies, sums), memory = time_records(generator, batch, args.repeats)
        cells = (
            name,
            samples,
            str(generator.codebook_size),
            str(generator.grid[0] * generator.grid[1]),
            f"{bare:.2f} s",
            f"{100 * (entropies / bare - 1):+.1f} %",
            f"{100 * (sums - entropies) / bare:+.1f} %",
            f"{100 * (sums / bare - 1):+.1f} %",
            f"{memory:.1f} MiB",
        )
        print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
