"""Parts of a report, before it is HTML, Markdown, CSV or LaTeX. Text is plain, with `code` in backticks."""

from __future__ import annotations

import math
from typing import NamedTuple

from gendiv_lightning.records.estimate import Estimate

MINUS, NARROW_SPACE = "\u2212", "\u202f"


class Number(NamedTuple):
    """A number of a table with its interval, and how it is written.

    Attributes:
        value: NaN where it was not measured.
        low: lower end of the 95 % interval; NaN where there is none.
        high: upper end.
        digits: after the point.
        is_change: written with its sign.
        percent: written as percent.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    digits: int = 3
    is_change: bool = False
    percent: bool = False

    @property
    def text(self) -> str:
        """The value alone."""
        return self._write(self.value)

    @property
    def interval(self) -> str:
        """[low, high]; empty where there is none."""
        if math.isnan(self.low):
            return ""
        unit = f"{NARROW_SPACE}%" if self.percent else ""
        return f"[{self._write(self.low).removesuffix(unit)}, {self._write(self.high)}]"

    def __str__(self) -> str:
        return f"{self.text} {self.interval}".rstrip()

    def _write(self, value: float) -> str:
        if math.isnan(value):
            return "n/a"
        scaled = round(100 * value if self.percent else value, self.digits) + 0.0  # no sign on a zero
        written = f"{scaled:{'+' if self.is_change and scaled else ''}.{self.digits}f}"
        return written.replace("-", MINUS) + (f"{NARROW_SPACE}%" if self.percent else "")


Cell = str | Number


class Table(NamedTuple):
    """A table; its name is that of its files."""

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: str = ""

    def without_empty_columns(self) -> Table:
        """The table without columns in which all cells are empty."""
        kept = [number for number in range(len(self.header)) if any(row[number] != "" for row in self.rows)]
        rows = tuple(tuple(row[number] for number in kept) for row in self.rows)
        return self._replace(header=tuple(self.header[number] for number in kept), rows=rows)


class Figure(NamedTuple):
    """Panels, each an SVG; the name is that of its files.

    Attributes:
        name: of its files.
        panels: SVG texts.
        caption: below them.
        columns: panels per row in the file, at most.
        key: what the marks mean, as an SVG above the panels; empty for none.
    """

    name: str
    panels: tuple[str, ...]
    caption: str
    columns: int = 4
    key: str = ""


class Row(NamedTuple):
    """Samples of one prompt under one setting, side by side in one picture.

    Attributes:
        setting: in a word or two.
        image: a WebP file.
        width: pixels.
        height: pixels.
        num_samples: how many samples it shows.
        numbers: of this prompt under this setting, in words; empty for none.
    """

    setting: str
    image: bytes
    width: int
    height: int
    num_samples: int
    numbers: str = ""


class Samples(NamedTuple):
    """Rows of samples, one group per prompt.

    Attributes:
        name: of the block and its files.
        groups: prompts, each with a row per setting.
        caption: below them.
        title: of a block that is folded, such as the generator's name; empty for one that is open.
    """

    name: str
    groups: tuple[tuple[str, tuple[Row, ...]], ...]
    caption: str
    title: str = ""

    def file(self, group: int, row: int) -> str:
        """Path of a row's picture, where it is a file beside the page."""
        return f"samples/{self.name}-{group + 1}-{row + 1}.webp"


class Answer(NamedTuple):
    """The answer for one generator: its name, two sentences, and a chart of the two sources."""

    name: str
    words: str
    chart: str = ""


class Section(NamedTuple):
    """A part of a report: words, then blocks; `missing` names in a line each what to run for what is missing."""

    anchor: str
    title: str
    paragraphs: tuple[str, ...] = ()
    blocks: tuple[Table | Figure | Samples, ...] = ()
    missing: tuple[str, ...] = ()


class Report(NamedTuple):
    """All of a report.

    Attributes:
        title: the question.
        answer: one sentence over all generators.
        answers: one per generator.
        numbers: the numbers behind the answers; None where nothing was measured.
        rule: how the answers follow from the numbers.
        warning: that these are toys; empty for real models.
        sections: the rest.
    """

    title: str
    answer: str
    answers: tuple[Answer, ...]
    numbers: Table | None
    rule: str
    warning: str
    sections: tuple[Section, ...]

    @property
    def blocks(self) -> tuple[Table | Figure | Samples, ...]:
        """All blocks, those of the answer first."""
        first = () if self.numbers is None else (self.numbers,)
        return (*first, *(block for section in self.sections for block in section.blocks))


def number(estimate: Estimate | None, digits: int = 3) -> Number:
    """An estimate as a number of a table; NaN for none, or for one without a prompt."""
    if estimate is None or not estimate.num_prompts:
        return Number(math.nan)
    return Number(estimate.value, estimate.low, estimate.high, digits)
