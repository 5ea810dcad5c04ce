"""`gendiv check-generator`: the contract tests on anybody's generator."""

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

HELP = "check that a generator keeps the contract that probes and measures rely on"
DESCRIPTION = """
Samples three prompts a few times and checks what probes, resumed runs and metrics rely on: a sample depends on its
seed, prompt and number alone, argmax leaves no execution noise, no token falls outside a subset, and so on. Prints a
table; the exit status is 1 if a check fails. The same checks run in tests, by gendiv_lightning.testing.

GENERATOR is a registered name (`gendiv list generators`), a config file of a generator or of a run, or the path of a
class that can be imported from here, such as my_model.MyModel.

examples:
  gendiv check-generator toy/llamagen
  gendiv check-generator my_model.yaml --prompts captions.txt
"""
EDGE_NOTE = """
An edge draw: the number of rows in a batch changes the last digits of a float32 logit, and a uniform that falls on the
boundary between two tokens then gives the other one. The checks do not need float64: where a sample first differs they
compare both distributions, and only a difference that rounding explains is excused. In half precision batches are
filled up to batch_size, and nothing differs.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gendiv check-generator`."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("generator", metavar="GENERATOR", help="name, config file or class, see above")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="prompt file; its first three prompts are used")
    parser.add_argument("--device", default="cpu", help="where it runs: cpu, cuda (default: cpu)")


def run(arguments: argparse.Namespace) -> int:
    """Check, print."""
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
            f"--prompts {arguments.prompts} must hold 3 different prompts, got {len(texts)}. Add some"
        )
    make = partial(make_generator, arguments.generator)
    generator = make()
    generator.locate()
    try:
        generator.check_prompts(texts)
    except ValueError as error:
        raise restated(error, f"{error}. Give prompts that the generator takes: --prompts FILE") from error
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
    num_open = sum(outcome.status == "not applicable" for outcome in outcomes)
    if any("edge draw" in outcome.detail for outcome in outcomes):
        write(EDGE_NOTE)
    write(f"\n{len(outcomes) - num_failed - num_open} checks passed, {num_failed} failed, {num_open} do not apply\n")
    return int(num_failed > 0)


def _lines(outcome: Outcome) -> str:
    """A row of the table, wrapped: status, name, meaning, and below it the reason."""
    indent = " " * 46
    text = textwrap.wrap(" ".join(outcome.meaning.split()), 72)
    detail = textwrap.wrap(outcome.detail, 72, initial_indent="-> ") if outcome.detail else []
    first = f"{outcome.status:14}  {outcome.name:28}  {text[0]}"
    return "\n".join([first, *(f"{indent}{line}" for line in (*text[1:], *detail))]) + "\n"
