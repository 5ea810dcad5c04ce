"""A report as files: the page, its figures and tables, and samples that would make the page too large."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from gendiv_lightning.report.document import Figure, Report, Samples, Table
from gendiv_lightning.report.html import inline, to_html, to_svg
from gendiv_lightning.report.markdown import to_csv, to_latex, to_markdown
from gendiv_lightning.storage.atomic import write_atomically

LARGEST_PAGE = 10_000_000  # bytes; above it, samples to browse lie in a folder beside the page


def write_files(report: Report, folder: Path, largest: int = LARGEST_PAGE) -> Path:
    """Write the page and its files; files of an earlier report that this one does not have are removed.

    Args:
        report: what to write.
        folder: it is made if it is missing.
        largest: bytes of the page with all pictures in it, above which those to browse become files.

    Returns:
        The path of the page.
    """
    page = folder / "index.html"
    former = set(_files_of(page))
    for name, content in files_of(report, largest):
        former.discard(name)
        if name == page.name:
            for stale in former:
                (folder / stale).unlink(missing_ok=True)
            if (folder / "samples").is_dir() and not any((folder / "samples").iterdir()):
                (folder / "samples").rmdir()
        write_atomically(folder / name, lambda path, content=content: path.write_bytes(content))  # type: ignore[misc]
    return page


def files_of(report: Report, largest: int = LARGEST_PAGE) -> Iterator[tuple[str, bytes]]:
    """Names and contents of all files, the page last."""
    for block in report.blocks:
        if isinstance(block, Table):
            yield f"tables/{block.name}.csv", to_csv(block).encode()
            yield f"tables/{block.name}.tex", to_latex(block).encode()
        elif isinstance(block, Figure):
            yield f"figures/{block.name}.svg", to_svg(block).encode()
    folded = [block for block in report.blocks if isinstance(block, Samples) and block.title]
    page = to_html(report).encode()
    if len(page) > largest:
        for block in folded:
            for group, (_, rows) in enumerate(block.groups):
                for number, row in enumerate(rows):
                    yield block.file(group, number), row.image
        page = to_html(report, _beside).encode()
    yield "report.md", to_markdown(report).encode()
    yield "index.html", page


def _beside(block: Samples, group: int, row: int) -> str:
    return block.file(group, row) if block.title else inline(block, group, row)


def _files_of(page: Path) -> Iterator[str]:
    """Files of an earlier report, by the names in its page."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    if "<footer>Written by gendiv" in text:
        for kind, name in re.findall(r'<(table|figure) id="([\w-]+)"', text):
            yield from [f"tables/{name}.csv", f"tables/{name}.tex"] if kind == "table" else [f"figures/{name}.svg"]
        yield from re.findall(r'src="(samples/[\w-]+\.webp)"', text)
