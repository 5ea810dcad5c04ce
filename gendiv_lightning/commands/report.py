"""`gendiv report`: runs as one page that tells where the diversity comes from."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gendiv_lightning.report.document import Report

HELP = "runs as one HTML page, with Markdown, CSV and LaTeX beside it"
DESCRIPTION = """
Writes index.html, one page that needs no network: the answer in words, sample grids, the profile table with intervals
and paired differences, path and execution, the subset curve with its knee, what argmax and paraphrases do, diversity
against quality, the information bottleneck plane, codebook use, and what the paper reported beside what was measured.
Beside it: report.md, figures/*.svg, tables/*.csv and tables/*.tex. The same runs give the same bytes.

RUN is a run folder, or a folder with run folders below it, such as a study's. What a section lacks is said there, with
the command that makes it.

examples:
  gendiv report runs/tiny-llamagen-1a2b3c4d runs/tiny-llamagen_argmax-5e6f7a8b
  gendiv report runs --out report
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gendiv report`."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder, or folder of run folders")
    parser.add_argument("--out", type=Path, default=Path("report"), metavar="FOLDER", help="default: report")


def run(arguments: argparse.Namespace) -> int:
    """Read, write, say where."""
    from gendiv_lightning.disk import write_atomically
    from gendiv_lightning.report.runs import families_of, find_runs
    from gendiv_lightning.report.study import make_study
    from gendiv_lightning.report.summary import write_report

    runs, unfinished = find_runs(arguments.runs)
    for folder in unfinished:
        sys.stderr.write(
            f"{folder} is not finished and is left out: the same `gendiv fit-free predict` goes on with it\n"
        )
    report = write_report(make_study(families_of(runs)))
    for name, text in _files(report):
        content = text.encode()
        write_atomically(arguments.out / name, lambda path, content=content: path.write_bytes(content))  # type: ignore[misc]
    sys.stdout.write(f"{report.answer}\n{len(runs)} runs: {arguments.out / 'index.html'}\n")
    return 0


def _files(report: Report) -> Iterator[tuple[str, str]]:
    from gendiv_lightning.report.document import Figure, Table
    from gendiv_lightning.report.page import to_html, to_svg
    from gendiv_lightning.report.text import to_csv, to_latex, to_markdown

    for section in report.sections:
        for block in section.blocks:
            if isinstance(block, Table):
                yield f"tables/{block.name}.csv", to_csv(block)
                yield f"tables/{block.name}.tex", to_latex(block)
            elif isinstance(block, Figure):
                yield f"figures/{block.name}.svg", to_svg(block)
    yield "report.md", to_markdown(report)
    yield "index.html", to_html(report)
