"""`gendiv report`: one page about runs and where their diversity comes from."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gendiv_lightning.errors import ConfigValueError

if TYPE_CHECKING:
    from gendiv_lightning.report.document import Report

HELP = "write a report of runs as one HTML page, with Markdown, CSV and LaTeX"
DESCRIPTION = """
Writes index.html, a self-contained page: the answer in words, sample grids, the profile table with intervals and paired
differences, path and execution, the subset curve with its knee, the effects of argmax and paraphrases, diversity
against quality, the information bottleneck plane, codebook usage, and the paper's claims next to the measurements. Also
writes report.md, figures/*.svg, tables/*.csv and tables/*.tex. The same runs give the same bytes.

RUN is a run folder, or a folder that contains run folders, such as that of a study. A section without runs shows the
command that makes them.

Weights & Biases: --sync sends offline runs. --wandb makes a W&B Report with the text and tables of the page and W&B's
own panels. With --sync or --wandb the page is written only if you also pass --out.

examples:
  gendiv report runs/tiny-llamagen-1a2b3c4d runs/tiny-llamagen_argmax-5e6f7a8b
  gendiv report runs --out report
  gendiv report runs --sync --wandb my-team/gendiv
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gendiv report`."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder, or folder of run folders")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder for the page (default: report)")
    parser.add_argument("--sync", action="store_true", help="send offline runs to Weights & Biases")
    parser.add_argument("--wandb", metavar="ENTITY/PROJECT", help="make a W&B Report in this project")


def run(arguments: argparse.Namespace) -> int:
    """Read the runs, write the page, send what is requested."""
    from gendiv_lightning.console.text import write
    from gendiv_lightning.report.context import make_study
    from gendiv_lightning.report.summary import write_report
    from gendiv_lightning.runs.load import families_of, find_runs

    entity, project = _where(arguments.wandb)
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
    study = make_study(families_of(runs))
    report = write_report(study)
    write(f"{report.answer}\n")
    if arguments.out or not sends:
        page = _write(report, arguments.out or Path("report"))
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


def _write(report: Report, folder: Path) -> Path:
    """Write the page and its files, and remove stale files of an earlier report."""
    from gendiv_lightning.storage.atomic import write_atomically

    former = set(_files_of(folder / "index.html"))
    for name, text in _files(report):
        content = text.encode()
        former.discard(name)
        if name == "index.html":
            for stale in former:
                (folder / stale).unlink(missing_ok=True)
        write_atomically(folder / name, lambda path, content=content: path.write_bytes(content))  # type: ignore[misc]
    return folder / "index.html"


def _files_of(page: Path) -> Iterator[str]:
    """Files of an earlier report, according to its page."""
    import re

    text = page.read_text(encoding="utf-8") if page.exists() else ""
    if "<footer>Written by gendiv" in text:
        for kind, name in re.findall(r'<(table|figure) id="([\w-]+)"', text):
            yield from [f"tables/{name}.csv", f"tables/{name}.tex"] if kind == "table" else [f"figures/{name}.svg"]


def _files(report: Report) -> Iterator[tuple[str, str]]:
    from gendiv_lightning.report.document import Figure, Table
    from gendiv_lightning.report.html import to_html, to_svg
    from gendiv_lightning.report.markdown import to_csv, to_latex, to_markdown

    for section in report.sections:
        for block in section.blocks:
            if isinstance(block, Table):
                yield f"tables/{block.name}.csv", to_csv(block)
                yield f"tables/{block.name}.tex", to_latex(block)
            elif isinstance(block, Figure):
                yield f"figures/{block.name}.svg", to_svg(block)
    yield "report.md", to_markdown(report)
    yield "index.html", to_html(report)
