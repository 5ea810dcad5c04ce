"""`gendiv report`: one page about runs and where their diversity comes from."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gendiv_lightning.cli.options import check_results_folder
from gendiv_lightning.errors import ConfigValueError

HELP = "write a report of runs as one HTML page, with Markdown, CSV and LaTeX"
DESCRIPTION = """
Writes index.html, a self-contained page: the answer in two sentences per generator, samples, all settings in
numbers with paired differences, path and execution, the effects of argmax and paraphrases, when the picture is decided,
the subset curve with its knee, diversity against quality, the information bottleneck plane, codebook usage, the claims
of the paper next to the measurements, and the samples of each prompt under each setting. Tables can be sorted, pictures
enlarged, and the page can be read without its script. Also writes report.md, figures/*.svg, tables/*.csv and
tables/*.tex. The same runs give the same bytes.

RUN is a run folder, or a folder that contains run folders, such as that of a study. The page lists the commands that
make missing runs. Semantic drift is shown if a folder has files drift*.json, written by `gendiv drift --json`. Samples
to browse are in samples/ next to the page if they would make it larger than 10 MB.

Weights & Biases: --sync sends offline runs. --wandb makes a W&B Report with the text and tables of the page and W&B's
own panels. With --sync or --wandb the page is written only if you also pass --out.

examples:
  gendiv report runs/tiny-llamagen-1a2b3c4d runs/tiny-llamagen_argmax-5e6f7a8b
  gendiv report runs --out report --browse 200
  gendiv report runs --sync --wandb my-team/gendiv
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gendiv report`."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder, or folder of run folders")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder for the page (default: report)")
    parser.add_argument(
        "--browse",
        type=int,
        default=50,
        metavar="N",
        help="prompts per generator whose samples can be browsed, evenly spaced by diversity; 0 for none (default: 50)",
    )
    parser.add_argument("--sync", action="store_true", help="send offline runs to Weights & Biases")
    parser.add_argument("--wandb", metavar="ENTITY/PROJECT", help="make a W&B Report in this project")


def run(arguments: argparse.Namespace) -> int:
    """Read the runs, write the page, send what is requested."""
    from gendiv_lightning.analysis.drift_file import find_drifts
    from gendiv_lightning.console.text import write
    from gendiv_lightning.report.context import make_study
    from gendiv_lightning.report.summary import write_report
    from gendiv_lightning.report.write import write_files
    from gendiv_lightning.runs.load import families_of, find_runs

    if arguments.browse < 0:
        raise ConfigValueError(
            f"--browse must be at least 0, got {arguments.browse}. Give the number of prompts per generator"
        )
    entity, project = _where(arguments.wandb)
    check_results_folder(arguments.out or Path("report"), "--out")
    sends = arguments.sync or project
    if sends:
        from gendiv_lightning.tracking.wandb import check_service

        check_service()
    if arguments.sync:
        _sync(arguments.runs, entity, project)
    if sends and not project and not arguments.out:
        return 0
    runs, left_out = find_runs(arguments.runs)
    write("".join(f"Left out: {why}\n" for why in left_out), sys.stderr)
    folders = [*arguments.runs, *(folder for run in runs for folder in (run.folder.path, run.folder.path.parent))]
    drifts = find_drifts(folders, [run.label.fingerprint for run in runs])
    study = make_study(families_of(runs), arguments.browse if arguments.out or not sends else 0, drifts)
    report = write_report(study)
    write(f"{report.answer}\n")
    if arguments.out or not sends:
        page = write_files(report, arguments.out or Path("report"))
        write(f"{len(runs)} runs: {page}\n")
    if entity and project:
        from gendiv_lightning.tracking.wandb_report import build_report, save

        write(f"{len(runs)} runs: {save(build_report(report, study, entity, project))}\n")
    return 0


def _where(words: str | None) -> tuple[str | None, str | None]:
    if words is None:
        return None, None
    entity, _, project = words.partition("/")
    if not entity or not project or "/" in project:
        raise ConfigValueError(f"--wandb must be ENTITY/PROJECT, got {words!r}. Give for example my-team/gendiv")
    return entity, project


def _sync(folders: list[Path], entity: str | None, project: str | None) -> None:
    from gendiv_lightning.console.text import write
    from gendiv_lightning.tracking.wandb import send, unsent

    files = unsent(folders)
    if files:
        send(files, entity, project)
    write(f"{len(files)} offline W&B runs were sent\n")
