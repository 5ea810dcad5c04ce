"""`gendiv study`: generators x probes x seeds, each cell a plain run."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gendiv_lightning.cli.options import check_output_folder
from gendiv_lightning.errors import ConfigValueError, OptionConflictError, restated

if TYPE_CHECKING:
    from gendiv_lightning.study.folder import StudyFolder

HELP = "run many configs: generators x probes x settings x seeds"
DESCRIPTION = """
Expands a study, a short YAML file, into configs of `gendiv predict` and runs them. Finished cells are skipped and
unfinished ones resume: after a crash, run the same command again. A failed cell does not stop the others. Baseline and
probes of one generator and seed share their noise, so their differences are paired.

  generators:
    llamagen: {config: llamagen.yaml, usage: toy:llamagen_usage.safetensors}   # a config next to this file
  seeds: [0]
  settings: {data.limit: 32}              # any keys of the configs
  probes:
    baseline:
    argmax: {Argmax: }
    subset: {CodebookSubset: {ratio: [0.25, 0.5]}}                             # a list is swept: two cells
    both: {CodebookSubset: {ratio: 0.25}, Argmax: , settings: {data.limit: 16}}

The entry of a generator may list the `probes` and `metrics` that apply to it, if not all of them do.

examples:
  gendiv study --config configs/tiny/study.yaml --jobs 2
  gendiv study --config configs/study_paper.yaml --dry-run            # the commands, for any scheduler
  gendiv study --config configs/study_paper.yaml --launch slurm \\
    --slurm slurm_partition=gpu timeout_min=240 gpus_per_node=1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gendiv study`."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("--config", type=Path, required=True, metavar="YAML", help="the study file")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="folder for all runs (default: runs/NAME of the YAML)"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="cells in parallel on this machine (default: 1)"
    )
    parser.add_argument(
        "--launch",
        choices=("local", "slurm"),
        default="local",
        help="run cells here, or as cluster jobs (default: local)",
    )
    parser.add_argument(
        "--slurm",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="with --launch slurm: parameters of submitit's executor",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands of unfinished cells and run nothing")


def run(arguments: argparse.Namespace) -> int:
    """Check all cells, run the unfinished ones, print a table."""
    from gendiv_lightning.console.text import write
    from gendiv_lightning.storage.config_files import find_config
    from gendiv_lightning.study.folder import StudyFolder
    from gendiv_lightning.study.launch import run_as_jobs, run_here
    from gendiv_lightning.study.matrix import read_study

    config = find_config(arguments.config)
    if arguments.jobs < 1:
        raise ConfigValueError(f"--jobs must be at least 1, got {arguments.jobs}. Give the number of parallel cells")
    parameters = _parameters(arguments.slurm)
    if parameters and arguments.launch != "slurm":
        raise OptionConflictError("--slurm applies only to cells on a cluster. Add --launch slurm, or remove --slurm")
    if arguments.out:
        check_output_folder(arguments.out, "--out")
    where = "" if config.parent.name in ("", ".", "configs") else f"{config.parent.name}-"
    folder = StudyFolder(arguments.out or Path("runs") / f"{where}{config.stem}", read_study(config))
    with folder.lock():
        folder.write_configs()
        _check(folder)
        if arguments.dry_run:
            write("".join(f"{shlex.join(folder.command(cell))}\n" for cell in folder.unfinished()))
            return 0
        folder.write_index()
        num_there = len(folder.cells) - len(folder.unfinished())
        write(f"{len(folder.cells)} cells in {folder.path}, {num_there} already finished\n", sys.stderr)
        if arguments.launch == "slurm":
            run_as_jobs(folder, "slurm", parameters)
        else:
            run_here(folder, arguments.jobs)
    return _summarize(folder)


def _parameters(words: Sequence[str]) -> dict[str, Any]:
    import yaml

    wrong = [word for word in words if not word.partition("=")[0].strip() or "=" not in word]
    if wrong:
        raise ConfigValueError(f"--slurm must be KEY=VALUE, got {wrong[0]!r}. Give for example slurm_partition=gpu")
    return {key: yaml.safe_load(value) for key, _, value in (word.partition("=") for word in words)}


def _check(folder: StudyFolder) -> None:
    """Instantiate and check everything that the unfinished cells need, without loading weights."""
    from tqdm import tqdm

    from gendiv_lightning.cli.predict import read_config

    for cell in tqdm(folder.unfinished(), desc="Checking cells", unit="cell", delay=2):
        try:
            read_config(folder.config(cell))
        except ValueError as error:
            raise restated(error, f"cell {cell.name}: {error}") from error


def _summarize(folder: StudyFolder) -> int:
    from gendiv_lightning.console.tables import format_table
    from gendiv_lightning.console.text import printable, write
    from gendiv_lightning.study.folder import FAILED

    rows = [("cell", "status", "seconds", "log")]
    for cell in folder.cells:
        entry = folder.entries[cell.name]
        seconds = "" if entry["seconds"] is None else f"{entry['seconds']:.0f}"
        rows.append((cell.name, entry["status"], seconds, str(folder.log(cell))))
    write(f"{format_table(rows)}\n\n")
    failed = [cell for cell in folder.cells if folder.entries[cell.name]["status"] == FAILED]
    for cell in failed:
        write(f"{cell.name} failed: {printable(folder.last_words(cell))}\n")
    if failed:
        write(f"{len(failed)} of {len(folder.cells)} cells failed. Run the same command again to retry them.\n")
    for path in folder.leftovers():
        write(f"{path} is no longer a cell of this study. Reports ignore it; you can delete it.\n")
    write(f"Next: gendiv report {folder.path} --out {folder.path / 'report'}\n")
    return 1 if failed else 0
