"""`gendiv check-generator`: run the contract tests on any generator."""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from gendiv_lightning.console.text import write
from gendiv_lightning.errors import TooLittleDataError, restated

if TYPE_CHECKING:
    from gendiv_lightning.testing.generator_checks import Outcome

HELP = "run the contract tests, which probes and metrics rely on, on any generator"
DESCRIPTION = """
Samples three prompts a few times and checks the properties that probes, resumed runs and metrics rely on: a sample
depends only on its seed, prompt and sample number, argmax removes all token noise, no token falls outside a codebook
subset, and so on. Prints a table; the exit status is 1 if a check fails. `gendiv_lightning.testing` runs the same
checks in your tests.

GENERATOR is a registered name (`gendiv list generators`), a config file of a generator or of a run, or the import path
of a class, such as my_model.MyModel.

examples:
  gendiv check-generator toy/llamagen
  gendiv check-generator my_model.yaml --prompts captions.txt
"""
EDGE_NOTE = """
An edge draw: the batch size can change the last digits of a float32 logit, and a uniform draw exactly on the
boundary between two tokens then selects the other one. Where a sample first differs, the checks compare both
distributions and excuse only a difference that rounding explains. In half precision batches are padded to batch_size,
so nothing differs.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gendiv check-generator`."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("generator", metavar="GENERATOR", help="name, config file or class, see above")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="prompt file; its first three prompts are used")
    parser.add_argument("--device", default="cpu", help="device: cpu, cuda (default: cpu)")


def run(arguments: argparse.Namespace) -> int:
    """Run the checks and print their outcomes."""
    from functools import partial

    from gendiv_lightning.api import read_prompts
    from gendiv_lightning.features.base import check_device
    from gendiv_lightning.generators.generate import threads_of
    from gendiv_lightning.generators.registry import make_generator
    from gendiv_lightning.testing.generator_checks import PROMPTS, Subject, run_checks

    check_device(arguments.device)
    texts = [prompt.text for prompt in read_prompts(arguments.prompts, limit=3)] if arguments.prompts else PROMPTS
    if len(texts) < 3:
        raise TooLittleDataError(
            f"--prompts {arguments.prompts} must contain at least 3 different prompts, got {len(texts)}. Add some"
        )
    make = partial(make_generator, arguments.generator)
    generator = make()
    generator.locate()
    generator.check_probes([])  # settings beyond the codebook, whose size `locate` may have read
    try:
        generator.check_prompts(texts)
    except ValueError as error:
        raise restated(error, f"{error}. Pass prompts that the generator accepts with --prompts FILE") from error
    generator.load()
    generator.eval().to(arguments.device)
    write(f"{type(generator).__name__} ({generator.title}), on {arguments.device}\n\n")
    outcomes = []
    with threads_of(generator):
        for outcome in run_checks(Subject(generator, texts, make)):
            outcomes.append(outcome)
            write(_lines(outcome))
            sys.stdout.flush()
    num_failed = sum(outcome.status == "fail" for outcome in outcomes)
    num_skipped = sum(outcome.status == "not applicable" for outcome in outcomes)
    if any("edge draw" in outcome.detail for outcome in outcomes):
        write(EDGE_NOTE)
    write(
        f"\n{len(outcomes) - num_failed - num_skipped} checks passed, {num_failed} failed, {num_skipped} do not apply\n"
    )
    return int(num_failed > 0)


def _lines(outcome: Outcome) -> str:
    """A wrapped row of the table: status, name and meaning, with the reason below."""
    indent = " " * 46
    text = textwrap.wrap(" ".join(outcome.meaning.split()), 72)
    detail = textwrap.wrap(outcome.detail, 72, initial_indent="-> ") if outcome.detail else []
    first = f"{outcome.status:14}  {outcome.name:28}  {text[0]}"
    return "\n".join([first, *(f"{indent}{line}" for line in (*text[1:], *detail))]) + "\n"
