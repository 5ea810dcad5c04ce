"""`gendiv compare`: what a probe changes, prompt by prompt."""

from __future__ import annotations

import argparse
import math
import sys
from typing import TYPE_CHECKING

from gendiv_lightning.errors import ConfigValueError, NotComparableError

if TYPE_CHECKING:
    from gendiv_lightning.analysis.compare import RunComparison, ShownEquivalence

HELP = "paired differences between two runs, or two groups of runs, with intervals and p-values"
DESCRIPTION = """
Prints, for each number that both sides have, the paired difference B - A over prompts with its 95 % interval, p-value
(sign-flip test, Holm-corrected over the table) and effect size (d_z). Numbers of whole sets, such as FID, are listed
without a test. A side may be several runs that differ only in their seed, separated by commas: their numbers are
averaged per prompt.

"No significant difference" does not mean that there is none. --margin tests equivalence with two one-sided tests
(TOST): is the difference within +- MARGIN? MARGIN is a number in the metric's unit, or a share of A's mean, such as 5%.

Runs that are not comparable are rejected, and the keys in which they differ are listed: other prompts or sample counts,
another backbone, reference or resize rule of a metric, other package versions, toy and real models, or different
settings within one side. --anyway compares the prompts that both sides share, with a warning.

examples:
  gendiv compare runs/tiny-llamagen-1a2b3c4d runs/tiny-llamagen_argmax-5e6f7a8b
  gendiv compare runs/base-0,runs/base-1 runs/subset-0,runs/subset-1 --only diversity
  gendiv compare runs/base runs/frozen --only h_total/token --margin 5%
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gendiv compare`."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("a", metavar="A", help="run folder, or several run folders separated by commas")
    parser.add_argument("b", metavar="B", help="run folder or folders to compare with A")
    parser.add_argument(
        "--only",
        default="",
        metavar="PREFIX",
        help="only numbers whose name starts with PREFIX, such as diversity or h_",
    )
    parser.add_argument(
        "--margin",
        metavar="MARGIN",
        help="test equivalence: the largest difference that counts as none, such as 0.02, or 5%% of A's mean",
    )
    parser.add_argument("--anyway", action="store_true", help="compare runs that are not comparable, with a warning")


def run(arguments: argparse.Namespace) -> int:
    """Read and check both sides, compare them, print the tables."""
    from gendiv_lightning.analysis.compare import compare_runs, find_obstacles, show_equivalences
    from gendiv_lightning.console.tables import few_prompts
    from gendiv_lightning.console.text import write
    from gendiv_lightning.runs.load import read_run

    margin = _margin(arguments.margin) if arguments.margin else None
    a, b = ([read_run(path) for path in side.split(",")] for side in (arguments.a, arguments.b))
    obstacles = find_obstacles(a, b)
    if obstacles:
        message = f"these runs are not comparable, because they differ in {'; '.join(map(str, obstacles))}"
        if not arguments.anyway:
            raise NotComparableError(f"{message}. Pass --anyway to compare them regardless")
        write(f"{message}\n", sys.stderr)
    comparison = compare_runs(a, b, arguments.only)
    write(f"A: {arguments.a}\nB: {arguments.b}\n\n{_table(comparison)}\n")
    if margin:
        write(f"\n{_equivalences(show_equivalences(comparison, margin[0], is_share=margin[1]))}\n")
    write(few_prompts(comparison.num_prompts))
    return 0


def _margin(written: str) -> tuple[float, bool]:
    """Parse a margin: its value, and whether it is a share of A's mean."""
    is_share = written.endswith("%")
    try:
        margin = float(written.removesuffix("%")) / (100 if is_share else 1)
    except ValueError:
        margin = 0.0
    if not 0 < margin < math.inf:
        raise ConfigValueError(
            f"--margin must be positive, got {written}. Give a number such as 0.02, or a share of A's mean such as 5%"
        )
    return margin, is_share


def _table(comparison: RunComparison) -> str:
    from gendiv_lightning.console.tables import format_table

    rows: list[tuple[str, ...]] = [("metric", "A", "B", "B - A", "95 % interval", "p (Holm)", "d_z", "prompts")]
    for n in comparison.numbers:
        tested = [f"[{n.low:+.4f}, {n.high:+.4f}]", f"{n.p_value:.4f}", f"{n.effect_size:+.2f}"]
        cells = tested if n.name in comparison.pairs else ["", "", ""]
        rows.append((n.name, f"{n.a:.4f}", f"{n.b:.4f}", f"{n.difference:+.4f}", *cells, str(n.num_prompts)))
    return format_table(rows)


def _equivalences(tests: list[ShownEquivalence]) -> str:
    from gendiv_lightning.console.tables import format_table

    rows = [("metric", "margin", "90 % interval", "answer")]
    for name, margin, found in tests:
        if found is None:
            rows.append((name, "0", "", "undefined: a share of A, which is 0"))
            continue
        answers = {
            "equivalent": f"equivalent within {margin:.4g}",
            "different": f"different by more than {margin:.4g}",
            "undecided": "undecided; more prompts may decide it, see gendiv power",
        }
        rows.append((name, f"{margin:.4g}", f"[{found.low:+.4f}, {found.high:+.4f}]", answers[found.answer]))
    return f"Equivalence: two one-sided tests at 5 %, uncorrected:\n{format_table(rows)}"
