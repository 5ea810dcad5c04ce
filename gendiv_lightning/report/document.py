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


class Figure(NamedTuple):
    """One or more panels, each an SVG, at most so many in a row; its name is that of its files."""

    name: str
    panels: tuple[str, ...]
    caption: str
    columns: int = 4


class Strip(NamedTuple):
    """Samples of one setting and prompt side by side: an image as a data URI, and its size in pixels."""

    words: str
    image: str
    width: int
    height: int
    alt: str


class Samples(NamedTuple):
    """Rows of samples of several settings, one group per prompt."""

    name: str
    groups: tuple[tuple[str, tuple[Strip, ...]], ...]
    caption: str


class Section(NamedTuple):
    """A part of a report: words, then blocks; `missing` says in a line each what to run for what is not there."""

    anchor: str
    title: str
    paragraphs: tuple[str, ...] = ()
    blocks: tuple[Table | Figure | Samples, ...] = ()
    missing: tuple[str, ...] = ()


class Report(NamedTuple):
    """All of it: the question, the answer in a sentence and its rule, a word a generator, the warning of a toy."""

    title: str
    answer: str
    rule: str
    summary: tuple[tuple[str, str], ...]
    warning: str
    sections: tuple[Section, ...]


def number(estimate: Estimate | None, digits: int = 3) -> Number:
    """An estimate as a number of a table; NaN for none, or for one without a prompt."""
    if estimate is None or not estimate.num_prompts:
        return Number(math.nan)
    return Number(estimate.value, estimate.low, estimate.high, digits)
