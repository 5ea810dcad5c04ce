"""`gendiv branch`: when is the picture decided?"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gendiv_lightning.cli.options import check_output_folder
from gendiv_lightning.console.text import write
from gendiv_lightning.errors import ConfigValueError, UnknownNameError, listed, restated

if TYPE_CHECKING:
    from gendiv_lightning.analysis.branch import Decided
    from gendiv_lightning.study.folder import StudyFolder

HELP = "when is the picture decided? the share of diversity that is fixed by each step"
DESCRIPTION = """
Samples each prompt several times with the noise shared before step t and independent from step t on, for several t.
Let D be the mean distance of independent samples, and E_t that of samples that share their noise until step t. Then

  share(t) = 1 - E_t / D          0 at t = 0, 1 at the end

is the share of the diversity that is decided by step t. Steps count decisions: image tokens in raster order
(autoregressive models), steps of the loop (masked models and discrete diffusion), scales (next-scale models), or the
initial noise followed by the scheduler's steps (diffusers). An ODE sampler decides everything with its initial noise.

Each step is a run in FOLDER. Finished runs are skipped. The curves are written to branch.json and branch.svg. Samples
that share their noise until a step run the network once until there, so a curve of T steps takes little more than half
the time of T runs.

examples:
  gendiv branch configs/tiny/latent_diffusion.yaml
  gendiv branch configs/tiny/amused.yaml configs/tiny/vq_diffusion.yaml --steps 0,1,2,4,8,16 --prompts 16
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gendiv branch`."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("configs", type=Path, nargs="+", metavar="CONFIG", help="configs of runs without probes")
    parser.add_argument(
        "--steps",
        type=_steps,
        default="0,1,2,4,8,16",
        metavar="T,T,...",
        help="steps to branch at; 0 is always included (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder for the runs (default: runs/branch-NAME)")
    parser.add_argument("--prompts", type=int, metavar="P", help="number of prompts (default: from the config)")
    parser.add_argument("--samples", type=int, metavar="N", help="samples per prompt (default: from the config)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all noise (default: 0)")
    parser.add_argument(
        "--distance", metavar="NAME", help="distance, such as lpips[tiny] (default: the first one in all runs)"
    )
    parser.add_argument(
        "--wandb",
        choices=("online", "offline", "disabled"),
        default="disabled",
        help="log the runs to Weights & Biases, where `gendiv report FOLDER --wandb` draws them (default: disabled)",
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs in parallel (default: 1)")


def run(arguments: argparse.Namespace) -> int:
    """Run the unfinished cells, print the curves and write them next to the runs."""
    from gendiv_lightning.cli.predict import read_config
    from gendiv_lightning.storage.atomic import write_atomically
    from gendiv_lightning.study.folder import StudyFolder
    from gendiv_lightning.study.launch import run_here
    from gendiv_lightning.study.matrix import read_study

    if arguments.jobs < 1:
        raise ConfigValueError(f"--jobs must be at least 1, got {arguments.jobs}. Give the number of runs in parallel")
    names = [config.stem for config in arguments.configs]
    if len(set(names)) < len(names):
        raise ConfigValueError(f"configs must have different names, got {', '.join(names)}. Rename one of them")
    for option, count, least in (("--prompts", arguments.prompts, 1), ("--samples", arguments.samples, 2)):
        if count is not None and count < least:
            raise ConfigValueError(f"{option} must be at least {least}, got {count}. Give a larger number")
    _check_configs(arguments.configs, arguments.distance)
    out = arguments.out or Path("runs") / f"branch-{'-'.join(names)}"
    check_output_folder(out, "--out")
    text = json.dumps(_study(arguments), indent=2)
    write_atomically(out / "branch.yaml", lambda path: path.write_text(f"{text}\n"))
    folder = StudyFolder(out, read_study(out / "branch.yaml"))
    with folder.lock():
        folder.write_configs()
        for cell in folder.unfinished():
            read_config(folder.config(cell))
        folder.write_index()
        run_here(folder, arguments.jobs)
    if missing := folder.unfinished():
        write(f"gendiv: {missing[0].name} failed: {folder.last_words(missing[0])}\n", sys.stderr)
        return 1
    _report(folder, out, arguments.distance)
    return 0


def _check_configs(configs: Sequence[Path], distance: str | None) -> None:
    """Check all configs, and that their runs will have the distance, before anything is written."""
    from gendiv_lightning.cli.predict import read_config
    from gendiv_lightning.storage.config_files import find_config

    for path in configs:
        try:
            numbers = [name for metric in read_config(find_config(path)).parts.metrics for name in metric.names]
        except ValueError as error:
            raise restated(error, f"{path}: {error}") from error
        if distance and f"diversity/{distance.removeprefix('diversity/')}" not in numbers:
            raise UnknownNameError(
                f"--distance {distance} is not among the numbers of {path}: {listed(numbers)}. Choose one"
            )


def _steps(words: str) -> list[int]:
    try:
        steps = sorted({0, *(int(word) for word in words.split(","))})
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected integers separated by commas, got {words!r}") from error
    if steps[0] < 0:
        raise argparse.ArgumentTypeError(f"steps must be at least 0, got {steps[0]}")
    return steps


def _study(arguments: argparse.Namespace) -> dict[str, object]:
    from gendiv_lightning.storage.config_files import find_config

    settings = {"data.limit": arguments.prompts, "data.num_samples": arguments.samples, "wandb": arguments.wandb}
    return {
        "generators": {path.stem: {"config": str(find_config(path).resolve())} for path in arguments.configs},
        "seeds": [arguments.seed],
        "settings": {key: value for key, value in settings.items() if value is not None},
        "probes": {"branch": {"Branch": {"step": arguments.steps}}},
    }


def _report(folder: StudyFolder, out: Path, distance: str | None) -> None:
    from gendiv_lightning.analysis.branch import branch_curve, decided_at
    from gendiv_lightning.console.tables import format_table
    from gendiv_lightning.report.charts import branch_curves
    from gendiv_lightning.report.document import Figure
    from gendiv_lightning.report.html import to_svg
    from gendiv_lightning.runs.load import DISTANCES, read_run
    from gendiv_lightning.storage.atomic import write_atomically

    columns: dict[str, dict[int, dict]] = {}
    for cell in folder.cells:
        step = cell.probes["Branch"]["step"]
        columns.setdefault(cell.generator, {})[step] = read_run(folder.path / cell.name).columns
    known = set.intersection(*(set(run) for runs in columns.values() for run in runs.values()))
    candidates = [f"diversity/{distance.removeprefix('diversity/')}"] if distance else list(DISTANCES)
    name = next((name for name in candidates if name in known), None)
    if name is None:
        raise UnknownNameError(
            f"the runs in {out} have no distance {candidates[0]}. Choose one of {', '.join(sorted(known))}"
        )
    curves = {
        generator: branch_curve({step: run[name] for step, run in runs.items()}) for generator, runs in columns.items()
    }
    rows: list[tuple[str, ...]] = [("generator", "step", "decided", "95 % interval")]
    rows += [(generator, *_row(point)) for generator, points in curves.items() for point in points]
    write(f"{format_table(rows)}\n")
    for generator, points in curves.items():
        half = decided_at(points)
        words = "not within these steps" if half != half else f"by step {half:.1f}"
        write(f"{generator}: half of the diversity ({name}) is decided {words}\n")
    stored = {generator: [point._asdict() for point in points] for generator, points in curves.items()}
    content = json.dumps({"distance": name, "curves": stored}, indent=2)
    write_atomically(out / "branch.json", lambda path: path.write_text(f"{content}\n"))
    figure = to_svg(Figure("branch", (branch_curves(curves),), ""))
    write_atomically(out / "branch.svg", lambda path: path.write_text(figure))
    write(f"Curves: {out / 'branch.json'}, {out / 'branch.svg'}\n")


def _row(point: Decided) -> Sequence[str]:
    return str(point.step), f"{100 * point.share:.1f} %", f"[{100 * point.low:.1f}, {100 * point.high:.1f}]"
