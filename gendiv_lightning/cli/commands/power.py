"""`gendiv power`: how many prompts, samples and images a question needs. `gendiv plan` is its old name."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from gendiv_lightning.errors import MetricInputError, OptionConflictError

if TYPE_CHECKING:
    from gendiv_lightning.analysis.power import Variances

HELP = "power analysis: how many prompts and samples an interval or an effect needs"
DESCRIPTION = """
Computes how many prompts, with 2, 4, 8, ... samples each, are needed for a 95 % interval of mean +- WIDTH, or to detect
a difference of EFFECT with 80 % power, and the total number of images. The variances are estimated from one pilot run,
or from two for their difference, or given on the command line. The variance within a prompt is estimated from the two
halves of its samples.

examples:
  gendiv power --pilot runs/tiny-llamagen-1a2b3c4d --metric pixel_cosine --width 0.01
  gendiv power --pilot runs/base --pilot runs/argmax --metric lpips[tiny] --effect 0.05
  gendiv power --pilot runs/decomposed --metric lpips[tiny] --number sampler_path --width 0.005
  gendiv power --between 0.02 --within 0.03 --effect 0.1 --power 0.9
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gendiv power`."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--pilot",
        type=Path,
        action="append",
        metavar="RUN",
        help="folder of a pilot run; give it twice for the difference of two runs",
    )
    parser.add_argument("--metric", metavar="NAME", help="metric to measure on the pilot, named as in configs")
    parser.add_argument(
        "--number",
        metavar="PART",
        help="which number of the metric, by the end of its name, such as sampler_path (default: the first)",
    )
    parser.add_argument("--between", type=float, help="variance between prompts, if there is no pilot")
    parser.add_argument(
        "--within", type=float, help="variance of the estimate of a prompt, times its number of samples"
    )
    parser.add_argument("--width", type=float, help="half-width of the 95 %% interval to reach")
    parser.add_argument("--effect", type=float, help="difference to detect")
    parser.add_argument("--power", type=float, help="probability of detecting --effect (default: 0.8)")


def run(arguments: argparse.Namespace) -> int:
    """Measure the pilots, compute the sizes, print the table."""
    from gendiv_lightning.analysis.power import find_needs
    from gendiv_lightning.console.tables import format_table
    from gendiv_lightning.console.text import write

    width, effect, power = arguments.width, arguments.effect, 0.8 if arguments.power is None else arguments.power
    if (width is None) == (effect is None):
        raise OptionConflictError(
            "exactly one goal is needed. Give either --width (of an interval) or --effect (a difference to detect)"
        )
    if width is not None and arguments.power is not None:
        raise OptionConflictError("--power is the probability of detecting --effect, not used by --width. Remove it")
    variances = _variances(arguments)
    needs = find_needs(variances, width=width, effect=effect, power=power)
    rows = [(str(need.num_samples), str(need.num_prompts), str(need.num_images)) for need in needs]
    goal = (
        f"a 95 % interval of +- {width:g}" if width is not None else f"a difference of {effect:g} with power {power:g}"
    )
    known = f"variance {variances.between:.4g} between prompts and {variances.within:.4g} within"
    write(f"For {goal}, with {known}:\n\n{format_table([('samples per prompt', 'prompts', 'images'), *rows])}\n")
    return 0


def _variances(arguments: argparse.Namespace) -> Variances:
    from gendiv_lightning.analysis.power import Variances, measure_pilot, variances_of

    given, pilots = (arguments.between, arguments.within), arguments.pilot or []
    if not pilots:
        if None in given:
            raise OptionConflictError(
                "the variances are missing. Give --pilot with --metric, or --between and --within"
            )
        if arguments.metric or arguments.number:
            raise OptionConflictError("--metric and --number need a pilot. Add --pilot, or remove them")
        return Variances(*given)
    if len(pilots) > 2 or arguments.metric is None or given != (None, None):
        raise OptionConflictError(
            "--pilot needs a --metric, takes at most two runs, and excludes --between and --within. Correct the options"
        )
    if len({path.resolve() for path in pilots}) < len(pilots):
        raise OptionConflictError(
            f"--pilot {pilots[0]} is given twice, and a run does not differ from itself. Give another run"
        )
    from gendiv_lightning.metrics.base import PromptMetric
    from gendiv_lightning.metrics.registry import make_metric
    from gendiv_lightning.runs.folder import RunFolder
    from gendiv_lightning.runs.load import read_header

    metric, folders = make_metric(arguments.metric), [RunFolder(path) for path in pilots]
    for folder in folders:
        read_header(folder)
    if not isinstance(metric, PromptMetric):
        raise MetricInputError(
            f"--metric {arguments.metric} is a number of a whole set and has no values per prompt. Choose another "
            "metric"
        )
    return variances_of([measure_pilot(folder, metric, arguments.number) for folder in folders])
