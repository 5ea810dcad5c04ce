"""`gendiv plan`: how many prompts and samples a question needs, and what they cost."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

HELP = "how many prompts and samples for an interval of a width, or an effect of a size"
DESCRIPTION = """
From a pilot run (or two, whose difference is the question) or from variances that you state: how many prompts, with 2,
4, 8, ... samples each, give a 95 % interval of mean +- WIDTH, or find a difference of EFFECT with 80 % power; and how
many images that is. The variance within a prompt is taken from the two halves of its samples.

examples:
  gendiv plan --pilot runs/tiny-llamagen-1a2b3c4d --metric pixel_cosine --width 0.01
  gendiv plan --pilot runs/base --pilot runs/argmax --metric lpips[tiny] --effect 0.05
  gendiv plan --pilot runs/decomposed --metric lpips[tiny] --number sampler_path --width 0.005
  gendiv plan --between 0.02 --within 0.03 --effect 0.1 --power 0.9
"""
NUMBERS_OF_SAMPLES = (2, 4, 8, 16, 32, 64)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gendiv plan`."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--pilot", type=Path, action="append", metavar="RUN", help="a run folder; twice: their difference"
    )
    parser.add_argument("--metric", help="of the pilot, by name as in configs")
    parser.add_argument(
        "--number",
        metavar="PART",
        help="which of the metric's numbers is planned for, by the end of its name, such as sampler_path (default: the "
        "first)",
    )
    parser.add_argument("--between", type=float, help="variance between prompts, instead of a pilot")
    parser.add_argument("--within", type=float, help="variance of a prompt's estimate times its number of samples")
    parser.add_argument("--width", type=float, help="wanted half-width of the 95 %% interval")
    parser.add_argument("--effect", type=float, help="difference that is to be found")
    parser.add_argument("--power", type=float, default=0.8, help="chance to find it (default: 0.8)")


def run(arguments: argparse.Namespace) -> int:
    """Plan, print."""
    from gendiv_lightning.console.tables import format_table
    from gendiv_lightning.functional.comparison import prompts_for_effect, prompts_for_width

    if (arguments.width is None) == (arguments.effect is None):
        raise ValueError("give either --width (of an interval) or --effect (a difference to be found)")
    between, within = _variances(arguments)
    rows = [("samples a prompt", "prompts", "images")]
    for num_samples in NUMBERS_OF_SAMPLES:
        if arguments.width is not None:
            num = prompts_for_width(between, within, num_samples, arguments.width)
        else:
            num = prompts_for_effect(between, within, num_samples, arguments.effect, arguments.power)
        rows.append((str(num_samples), str(num), str(num * num_samples)))
    goal = (
        f"a 95 % interval of +- {arguments.width:g}"
        if arguments.width is not None
        else f"a difference of {arguments.effect:g} with power {arguments.power:g}"
    )
    sys.stdout.write(f"For {goal}, with variance {between:.4g} between prompts and {within:.4g} within:\n\n")
    sys.stdout.write(f"{format_table(rows)}\n")
    return 0


def _variances(arguments: argparse.Namespace) -> tuple[float, float]:
    from gendiv_lightning.functional.comparison import variance_components

    stated = (arguments.between, arguments.within)
    if arguments.pilot is None:
        if None in stated:
            raise ValueError("give --pilot with --metric, or --between and --within")
        return stated
    if len(arguments.pilot) > 2 or arguments.metric is None:
        raise ValueError("give one --pilot, or two for their difference, and a --metric")
    whole, halves, num_samples = zip(
        *(_measure(path, arguments.metric, arguments.number) for path in arguments.pilot), strict=True
    )
    sign = -1 if len(whole) == 2 else 1
    values = whole[-1] + sign * whole[0] if len(whole) == 2 else whole[0]
    parts = halves[-1] + sign * halves[0] if len(whole) == 2 else halves[0]
    defined = ~(values.isnan() | parts.isnan().any(1))
    values, parts = values[defined], parts[defined]
    if len(values) < 3:
        raise ValueError(f"the pilot has {len(values)} prompts with this number and 4 samples or more, it takes 3")
    return variance_components(values, (parts[:, 0] - parts[:, 1]).square() / 4, min(num_samples))


def _measure(path: Path, name: str, part: str | None) -> tuple[Tensor, Tensor, int]:
    """A prompt's number from all its samples (P,) and from two halves of them (P, 2); samples a prompt."""
    import torch
    from tqdm import tqdm

    from gendiv_lightning.metrics.base import PromptMetric
    from gendiv_lightning.metrics.registry import make_metric
    from gendiv_lightning.records import PromptSamples, split_by_prompt
    from gendiv_lightning.runs.folder import RunFolder

    metric, folder = make_metric(name), RunFolder(path)
    folder.read_protocol()
    if not isinstance(metric, PromptMetric):
        raise ValueError(f"--metric {name} is a number of a whole set: a pilot tells nothing about its prompts")
    numbers = [place for place, number in enumerate(metric.names) if part is None or number.endswith(f"/{part}")]
    if not numbers:
        raise ValueError(f"--metric {name} has no number {part}: there are {', '.join(metric.names)}")
    metric.load()

    def take(samples: PromptSamples, start: int) -> PromptSamples:
        return samples.take(torch.arange(start, len(samples.images), 2))

    rows = []
    for batch in tqdm(folder.read_samples(), desc=f"Measuring {path.name}", delay=2):
        for samples in split_by_prompt(batch):
            halves = (samples, take(samples, 0), take(samples, 1))
            rows.append((samples.place, len(samples.images), *(metric.measure(half)[numbers[0]] for half in halves)))
    table = torch.tensor(sorted(rows), dtype=torch.float64)
    return table[:, 2], table[:, 3:], int(table[:, 1].min())
