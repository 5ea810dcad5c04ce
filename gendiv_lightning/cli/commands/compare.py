"""`gendiv compare`: what a probe changes, prompt by prompt."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gendiv_lightning.errors import ConfigValueError, NotComparableError, OptionConflictError, UnknownNameError

if TYPE_CHECKING:
    from gendiv_lightning.analysis.compare import RunComparison, ShownEquivalence
    from gendiv_lightning.runs.load import Run

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
settings within one side. --anyway compares the prompts that both sides share, with a warning. If only the numbers of
samples differ, numbers that grow with it (Vendi scores, codebook coverage) are rarefied to the smaller one.

--metrics measures metrics on the stored images first, so that finished runs can be compared by numbers that they did
not measure: an autoregressive and a continuous model in bits of one codebook, for example.

--between compares models instead: the mean distance of samples of different models with that of samples of one model,
per prompt. Are different models more alike than they should be?

--at-equal QUALITY compares diversity at equal quality. A and B are sweeps: runs of several settings, such as guidance
scales, separated by commas. Their points, and mixtures of two, make a frontier. Printed is what each setting of B gains
over A's frontier at its own quality, and the mean gain over the qualities that both reach.

examples:
  gendiv compare runs/tiny-llamagen-1a2b3c4d runs/tiny-llamagen_argmax-5e6f7a8b
  gendiv compare runs/base-0,runs/base-1 runs/subset-0,runs/subset-1 --only diversity
  gendiv compare runs/base runs/frozen --only h_total/token --margin 5%
  gendiv compare runs/llamagen runs/latent_diffusion --metrics 'codebook[tiny],kernel_entropy[tiny,bandwidth=3.2]'
  gendiv compare --between runs/llamagen runs/amused runs/vq_diffusion --distance 'lpips[tiny]'
  gendiv compare runs/cfg-2,runs/cfg-4,runs/cfg-8 runs/enhanced --at-equal 'quality/clip_score[tiny-clip]'
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gendiv compare`."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("a", metavar="A", help="run folder, or several run folders separated by commas")
    parser.add_argument("b", metavar="B", help="run folder or folders to compare with A")
    parser.add_argument("more", nargs="*", metavar="C", help="more run folders, with --between")
    parser.add_argument(
        "--only",
        default="",
        metavar="PREFIX",
        help="only numbers whose name starts with PREFIX, such as diversity or h_",
    )
    parser.add_argument(
        "--metrics",
        metavar="METRICS",
        help="measure these metrics on the stored images of all runs, and compare them instead of the stored numbers; "
        "names as in gendiv measure, separated by commas",
    )
    parser.add_argument(
        "--margin",
        metavar="MARGIN",
        help="test equivalence: the largest difference that counts as none, such as 0.02, or 5%% of A's mean",
    )
    parser.add_argument("--between", action="store_true", help="compare models with each other: two or more runs")
    parser.add_argument("--at-equal", metavar="QUALITY", help="a number with values per prompt, such as a CLIP score")
    parser.add_argument(
        "--distance",
        metavar="NAME",
        help="of --between and --at-equal, as in configs (default: the first of lpips, lpips[tiny], pixel_cosine and "
        "ssim that all runs have)",
    )
    parser.add_argument("--resize", type=int, metavar="PIXELS", help="of --between: bring all images to this side")
    parser.add_argument("--anyway", action="store_true", help="compare runs that are not comparable, with a warning")


def run(arguments: argparse.Namespace) -> int:
    """Read and check both sides, compare them, print the tables."""
    from gendiv_lightning.analysis.compare import NUM_SAMPLES, compare_runs, find_obstacles, show_equivalences
    from gendiv_lightning.analysis.rarefy import why_not
    from gendiv_lightning.console.tables import few_prompts
    from gendiv_lightning.console.text import write
    from gendiv_lightning.runs.load import read_run

    _check(arguments)
    _check_sides(arguments.a, arguments.b, *arguments.more)
    if arguments.between:
        return _between([arguments.a, arguments.b, *arguments.more], arguments)
    margin = _margin(arguments.margin) if arguments.margin else None
    a, b = ([read_run(path) for path in side.split(",")] for side in (arguments.a, arguments.b))
    obstacles, reason = find_obstacles(a, b), ""
    names = _metrics(a + b, arguments.metrics) if arguments.metrics else None
    if names:
        obstacles = [obstacle for obstacle in obstacles if not obstacle.difference.is_below("metrics")]
    if arguments.at_equal:
        obstacles = [obstacle for obstacle in obstacles if not obstacle.side]
    elif names is None and obstacles and all(obstacle.difference.key in NUM_SAMPLES for obstacle in obstacles):
        reason = next(filter(None, map(why_not, (*a, *b))), "")
        if not reason:
            a, b, note = _rarefied(a, b)
            obstacles = []
            write(note, sys.stderr)
    if obstacles:
        message = f"these runs are not comparable, because they differ in {'; '.join(map(str, obstacles))}"
        message += f"; they cannot be rarefied, because {reason}" if reason else ""
        if not arguments.anyway:
            raise NotComparableError(f"{message}. Pass --anyway to compare them regardless")
        write(f"{message}\n", sys.stderr)
    write(f"A: {arguments.a}\nB: {arguments.b}\n\n")
    if arguments.at_equal:
        return _at_equal(a, b, arguments)
    if names:
        from gendiv_lightning.analysis.remeasure import remeasure

        a, b = ([remeasure(each, names) for each in side] for side in (a, b))
    comparison = compare_runs(a, b, arguments.only)
    write(f"{_table(comparison)}\n")
    if margin:
        write(f"\n{_equivalences(show_equivalences(comparison, margin[0], is_share=margin[1]))}\n")
    write(few_prompts(comparison.num_prompts))
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Reject options that exclude each other."""
    chosen = [option for option in ("between", "at_equal") if getattr(arguments, option)]
    if len(chosen) > 1:
        raise OptionConflictError("--between and --at-equal are different comparisons. Give one of them")
    if arguments.more and not arguments.between:
        raise ConfigValueError(
            f"expected two sides, got {2 + len(arguments.more)}. Separate the runs of one side by commas, or pass "
            "--between"
        )
    alone = [f"--{name}" for name in ("only", "margin", "metrics") if getattr(arguments, name)]
    if chosen and alone:
        raise OptionConflictError(f"{alone[0]} is for the comparison of two sides. Leave it out")
    if arguments.anyway and arguments.between:
        raise OptionConflictError("--anyway does not apply to --between, which compares any models. Leave it out")
    if arguments.distance and not chosen:
        raise OptionConflictError("--distance is for --between and --at-equal. Remove it, or use --only")
    if arguments.resize is not None and (not arguments.between or arguments.resize < 1):
        raise ConfigValueError(f"--resize must be at least 1, and is of --between, got {arguments.resize}. Correct it")


def _metrics(runs: list[Run], given: str) -> list[str]:
    """Names of metrics that the stored samples of all runs suffice for."""
    from gendiv_lightning.analysis.remeasure import make_metrics_of
    from gendiv_lightning.metrics.registry import split_names

    names = split_names(given)
    for each in runs:
        make_metrics_of(each, names)
    return names


def _rarefied(a: list[Run], b: list[Run]) -> tuple[list[Run], list[Run], str]:
    """Both sides at the smaller number of samples, and a note."""
    from gendiv_lightning.analysis.rarefy import num_samples, rarefy

    runs, dropped = rarefy([*a, *b])
    left_out = f" Left out, since they depend on it: {', '.join(dropped)}." if dropped else ""
    note = (
        f"Numbers of samples differ. Vendi scores and codebook coverage are rarefied to {min(map(num_samples, runs))} "
        f"samples per prompt; unbiased and bias-corrected numbers are compared as they are.{left_out}\n"
    )
    return runs[: len(a)], runs[len(a) :], note


def _between(folders: list[str], arguments: argparse.Namespace) -> int:
    """Distances within and between models."""
    from gendiv_lightning.analysis.between import compare_models
    from gendiv_lightning.analysis.decompose import distance_metric
    from gendiv_lightning.console.comparison import format_models
    from gendiv_lightning.console.text import write
    from gendiv_lightning.runs.load import read_run

    runs = [read_run(path) for path in folders]
    name = _distance(runs, arguments.distance)
    found = compare_models(runs, distance_metric(name), arguments.resize)
    write(format_models(found, folders, name))
    return 0


def _at_equal(a: list[Run], b: list[Run], arguments: argparse.Namespace) -> int:
    """Gains of B over A's frontier."""
    from gendiv_lightning.analysis.equal_quality import area_between, gain_of, sweep_of_runs
    from gendiv_lightning.console.comparison import format_gains
    from gendiv_lightning.console.tables import few_prompts
    from gendiv_lightning.console.text import write

    runs, quality = [*a, *b], arguments.at_equal
    name = _distance(runs, arguments.distance)
    missing = [run.folder.path for run in runs if not {name, quality} <= run.columns.keys()]
    directions = {
        column: words.higher_is_better
        for column, words in runs[0].description.metrics.items()
        if column in runs[0].columns and words.higher_is_better is not None
    }
    known = ", ".join(sorted(directions)) or "none"
    if missing:
        raise UnknownNameError(
            f"{missing[0]} has no {name if quality in runs[0].columns else quality} of each prompt. Choose a quality "
            f"among {known}, and a distance that all runs have"
        )
    if quality not in directions:
        raise UnknownNameError(
            f"--at-equal {quality}: whether higher or lower is better is not known. Choose a quality among {known}"
        )
    shared = set.intersection(*(set(run.prompts) for run in runs))
    prompts = [prompt for prompt in runs[0].prompts if prompt in shared]
    first, second = (sweep_of_runs(side, of_side, prompts) for side, of_side in (("A", a), ("B", b)))
    falls = {"lower_is_better": not directions[quality]}
    gains = [
        (run.folder.path.name, gain_of(setting, first, name, quality, **falls))
        for run, setting in zip(b, second.settings, strict=True)
    ]
    mean = area_between(second, first, name, quality, **falls) if len(b) > 1 else None
    write(f"{format_gains(gains, name, quality, mean)}\n{len(prompts)} prompts\n{few_prompts(len(prompts))}")
    return 0


def _distance(runs: list[Run], given: str | None) -> str:
    """The distance that all runs have: by its name as in configs, or the first of the usual ones."""
    from gendiv_lightning.runs.load import DISTANCES

    names = [f"diversity/{given.removeprefix('diversity/')}"] if given else list(DISTANCES)
    shared = set.intersection(*(set(run.columns) for run in runs))
    found = next((name for name in names if name in shared), None)
    if found is None:
        known = ", ".join(sorted(name for name in shared if name.startswith("diversity/") and name.count("/") == 1))
        raise UnknownNameError(f"the runs do not all have {' or '.join(names)}. Choose from: {known or 'none'}")
    return found


def _check_sides(*sides: str) -> None:
    """Raise an error for a name that is empty, and for a run that is given twice."""
    names = [name for side in sides for name in side.split(",")]
    if not all(name.strip() for name in names):
        raise ConfigValueError(f"a run's name must not be empty, got {' and '.join(sides)}. Remove the comma")
    paths = [Path(name).resolve() for name in names]
    if twice := [name for name, path in zip(names, paths, strict=True) if paths.count(path) > 1]:
        raise OptionConflictError(f"the run {twice[0]} is given twice. Compare it with another run")


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
        effect = "" if math.isnan(n.effect_size) else f"{n.effect_size:+.2f}"
        tested = [f"[{n.low:+.4f}, {n.high:+.4f}]", f"{n.p_value:.4f}", effect]
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
