"""`gendiv compare`: what a probe changes, prompt by prompt."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from gendiv_lightning.runs.folder import RunFolder
    from gendiv_lightning.runs.protocol import Difference

HELP = "paired differences between two runs, or two groups of runs"
DESCRIPTION = """
Prints, for each number that both sides have, the paired difference B - A over prompts with its 95 % interval, p-value
(sign flips, Holm-corrected over the table) and effect size (d_z). Numbers of whole sets, such as FID, stand beside each
other without a test. A side may be several runs of one setting with other seeds, separated by commas: their numbers are
averaged prompt by prompt.

"No significant difference" does not show that there is none. --margin asks for that: by two one-sided tests (TOST), is
the difference shown to lie within +- MARGIN, a number in the metric's unit, or a share of A's mean, such as 5%?

It refuses to compare what is not comparable, and names the keys: other prompts or numbers of samples, a metric with
another backbone, reference or resize rule, other versions, embedded with real models; and a side whose runs are not of
one setting. With --anyway it warns, and compares the prompts that both sides have.

examples:
  gendiv compare runs/tiny-llamagen-1a2b3c4d runs/tiny-llamagen_argmax-5e6f7a8b
  gendiv compare runs/base-0,runs/base-1 runs/subset-0,runs/subset-1 --only diversity
  gendiv compare runs/base runs/frozen --only h_total/token --margin 5%
"""
# What may differ is what is compared: probes and generators.
MUST_AGREE = (
    "data.prompts_sha256",
    "data.num_prompts",
    "data.num_samples",
    "generator.embedded",
    "metrics",
    "versions",
)
MAY_DIFFER_IN_A_SIDE = ("data.seed", "metrics")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gendiv compare`."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("a", metavar="A", help="run folder, or several separated by commas")
    parser.add_argument("b", metavar="B", help="likewise")
    parser.add_argument("--only", default="", metavar="PREFIX", help="names that start so, such as diversity or h_")
    parser.add_argument(
        "--margin", metavar="MARGIN", help="what counts as no difference: 0.02, or 5%% of A's mean; tests equivalence"
    )
    parser.add_argument("--anyway", action="store_true", help="compare what is not comparable, with a warning")


def run(arguments: argparse.Namespace) -> int:
    """Check, compare, print."""
    import torch

    from gendiv_lightning.console.tables import few_prompts, format_table
    from gendiv_lightning.functional.comparison import compare, holm
    from gendiv_lightning.runs.folder import RunFolder

    margin, is_share = _margin(arguments.margin) if arguments.margin else (0.0, False)
    sides = [[RunFolder(Path(path)) for path in side.split(",")] for side in (arguments.a, arguments.b)]
    folders = [folder for side in sides for folder in side]
    refused = [*_not_comparable(folders), *_other_numbers(folders), *(line for side in sides for line in _mixed(side))]
    if refused:
        message = f"these runs do not compare, they differ in: {'; '.join(refused)}"
        if not arguments.anyway:
            raise ValueError(f"{message}. To do it all the same: --anyway")
        sys.stderr.write(f"{message}\n")
    a, b = _columns(sides)
    names = [name for name in a if name in b and name.startswith(arguments.only)]
    found = {name: compare(a[name], b[name]) for name in names}
    found = {name: c for name, c in found.items() if c.num_prompts > 1}
    corrected = holm(torch.tensor([c.p_value for c in found.values()])).tolist()
    rows: list[tuple[str, ...]] = [("metric", "A", "B", "B - A", "95 % interval", "p (Holm)", "d_z", "prompts")]
    for (name, c), p in zip(found.items(), corrected, strict=True):
        both = ~(a[name].isnan() | b[name].isnan())
        means = [f"{side[name][both].mean().item():.4f}" for side in (a, b)]
        interval = f"[{c.low:+.4f}, {c.high:+.4f}]"
        size = f"{c.effect_size:+.2f}"
        rows.append((name, *means, f"{c.difference:+.4f}", interval, f"{p:.4f}", size, str(c.num_prompts)))
    rows += _set_rows(sides, arguments.only, exclude=set(a))
    sys.stdout.write(f"A: {arguments.a}\nB: {arguments.b}\n\n{format_table(rows)}\n")
    if margin:
        sys.stdout.write(f"\n{_equivalences({n: (a[n], b[n]) for n in found}, margin, is_share=is_share)}\n")
    sys.stdout.write(few_prompts(min((c.num_prompts for c in found.values()), default=0)))
    return 0


def _margin(written: str) -> tuple[float, bool]:
    """A number, and whether it is a share."""
    is_share = written.endswith("%")
    try:
        margin = float(written.removesuffix("%")) / (100 if is_share else 1)
    except ValueError:
        margin = 0.0
    if not 0 < margin < math.inf:
        raise ValueError(
            f"--margin is a positive number, such as 0.02, or a share of A's mean, such as 5%; got {written}"
        )
    return margin, is_share


def _equivalences(columns: dict[str, tuple[Tensor, Tensor]], margin: float, *, is_share: bool) -> str:
    """A row a number: is the difference shown to be none?"""
    from gendiv_lightning.console.tables import format_table
    from gendiv_lightning.functional.comparison import equivalence

    rows = [("metric", "margin", "90 % interval", "answer")]
    for name, (a, b) in columns.items():
        own = margin * abs(a[~(a.isnan() | b.isnan())].mean().item()) if is_share else margin
        if own == 0:
            rows.append((name, "0", "", "A is 0: a share of it is no margin"))
            continue
        found = equivalence(a, b, own)
        words = {
            "equivalent": f"equivalent within {own:.4g}",
            "different": f"different by more than {own:.4g}",
            "undecided": "not shown, more prompts may: see gendiv plan",
        }
        rows.append((name, f"{own:.4g}", f"[{found.low:+.4f}, {found.high:+.4f}]", words[found.answer]))
    return f"Is there no difference? Two one-sided tests at 5 %, each number by itself:\n{format_table(rows)}"


def _not_comparable(folders: list[RunFolder]) -> list[str]:
    """Keys in which some run differs from the first, among those that must agree."""
    return [str(d) for d in _differing(folders) if d.is_below(*MUST_AGREE)]


def _mixed(side: list[RunFolder]) -> list[str]:
    """Keys in which the runs of a side differ, seeds aside: they are no repetitions of one setting."""
    found = [d for d in _differing(side) if not d.is_below(*MAY_DIFFER_IN_A_SIDE, *MUST_AGREE)]
    return [f"{d}, within {','.join(str(folder.path) for folder in side)}" for d in found]


def _differing(folders: list[RunFolder]) -> list[Difference]:
    from gendiv_lightning.runs.protocol import differences

    first, *others = (_by_metric(folder.read_protocol()) for folder in folders)
    found: dict[str, Difference] = {}
    for other in others:
        shared = first["metrics"].keys() & other["metrics"].keys()  # one that a run lacks is not compared
        before, now = ({**p, "metrics": {name: p["metrics"][name] for name in shared}} for p in (first, other))
        found |= {str(difference): difference for difference in differences(before, now)}
    return [found[words] for words in sorted(found)]


def _by_metric(protocol: dict[str, Any]) -> dict[str, Any]:
    """A protocol whose metrics have their first number's name as key."""
    return {**protocol, "metrics": {str(metric.get("names", [metric])[0]): metric for metric in protocol["metrics"]}}


def _other_numbers(folders: list[RunFolder]) -> list[str]:
    """Numbers of samples that differ though the data ask for the same: a probe such as Decompose makes its own plan."""
    numbers = [folder.read_metrics()["codebook/entropy_bits"].num_samples for folder in folders]
    return [f"samples in all ({numbers[0]} there, {other} now)" for other in sorted({*numbers} - {numbers[0]})]


def _columns(sides: list[list[RunFolder]]) -> list[dict[str, Tensor]]:
    """Numbers (P,) by name of each side, of the prompts that all runs have; the mean over the runs of a side."""
    import torch

    tables = [[folder.read_per_prompt() for folder in side] for side in sides]
    places = [[{name: row for row, name in enumerate(t["prompt_id"].to_pylist())} for t in side] for side in tables]
    shared = [prompt for prompt in places[0][0] if all(prompt in rows for side in places for rows in side)]
    if not shared:
        raise ValueError("these runs do not compare, they have no prompt in common: give runs over one prompt set")
    found = []
    for side, known in zip(tables, places, strict=True):
        names = [name for name in side[0].column_names if name not in ("prompt_id", "prompt")]
        rows = [[place[prompt] for prompt in shared] for place in known]
        found.append(
            {
                name: torch.stack(
                    [
                        torch.tensor(table[name].take(row).to_pylist(), dtype=torch.float64)
                        for table, row in zip(side, rows, strict=True)
                    ]
                ).mean(0)
                for name in names
                if all(name in table.column_names for table in side)
            }
        )
    return found


def _set_rows(sides: list[list[RunFolder]], only: str, exclude: set[str]) -> list[tuple[str, ...]]:
    """Numbers of whole sets: beside each other, since there is nothing to pair."""
    first = [[folder.read_metrics() for folder in side] for side in sides]
    names = [n for n in first[0][0] if n.startswith(only) and n not in exclude]
    names = [n for n in names if all(n in metrics for side in first for metrics in side)]
    rows: list[tuple[str, ...]] = []
    for name in names:
        values = [sum(metrics[name].value for metrics in side) / len(side) for side in first]
        num_prompts = str(first[0][0][name].num_prompts)
        difference = f"{values[1] - values[0]:+.4f}"
        rows.append((name, f"{values[0]:.4f}", f"{values[1]:.4f}", difference, "", "", "", num_prompts))
    return rows
