"""Charts as SVG text: axes, marks, and labels that do not overlap.

Colours and fonts are classes (`assets/figures.css`), so one drawing serves light, dark and print.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from gendiv_lightning.console.text import printable

Point = tuple[float, float]
_LEFT, _RIGHT, _BOTTOM = 50, 20, 40
_CHARACTER = 6.6  # approximate width of a character of a label
_CELL = 38, 26  # width and height of a cell of a heat map
_DARK = 0.6  # shade of a cell from which on its text is light
SHAPES = {
    "circle": "M-4.5,0a4.5,4.5 0 1,0 9,0a4.5,4.5 0 1,0 -9,0z",
    "square": "M-4,-4h8v8h-8z",
    "triangle": "M0,-5L4.8,3.6H-4.8z",
    "diamond": "M0,-5.6L5.6,0L0,5.6L-5.6,0z",
    "star": "M0,-7L1.8,-2.2L6.7,-2.2L2.8,0.9L4.2,5.7L0,2.9L-4.2,5.7L-2.8,0.9L-6.7,-2.2L-1.8,-2.2z",
    "ring": "M-8.5,0a8.5,8.5 0 1,0 17,0a8.5,8.5 0 1,0 -17,0z",
    "plus": "M-1.7,-5h3.4v3.3h3.3v3.4h-3.3v3.3h-3.4v-3.3h-3.3v-3.4h3.3z",
}


class Axis(NamedTuple):
    """A range with its ticks.

    Attributes:
        label: name and unit.
        low: left or lower end.
        high: right or upper end; lower than `low` for an axis that runs backwards.
        ticks: values to mark.
        is_log: logarithmic.
        percent: ticks are written as percent.
    """

    label: str
    low: float
    high: float
    ticks: tuple[float, ...]
    is_log: bool = False
    percent: bool = False

    def place(self, value: float) -> float:
        """Position of a value on the axis, 0 at `low` and 1 at `high`; values outside are clipped."""
        low, high = (math.log(self.low), math.log(self.high)) if self.is_log else (self.low, self.high)
        at = math.log(max(value, 1e-300)) if self.is_log else value
        return min(1.0, max(0.0, (at - low) / (high - low)))

    def write(self, tick: float) -> str:
        """The label of a tick."""
        return f"{100 * tick:.3g} %" if self.percent else f"{tick:,.6g}".replace("-", "\u2212")


def linear(
    label: str, values: Iterable[float], *, around: Sequence[float] = (), backwards: bool = False, percent: bool = False
) -> Axis:
    """An axis over all finite values and those of `around`, with about four round ticks."""
    finite = [value for value in (*values, *around) if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    step = _round_step((high - low) / 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(number * step, 12) for number in range(first, last + 1))
    ends = (ticks[-1], ticks[0]) if backwards else (ticks[0], ticks[-1])
    return Axis(label, *ends, ticks, percent=percent)


def logarithmic(label: str, values: Iterable[float], *, percent: bool = False) -> Axis:
    """A logarithmic axis over all positive values, with ticks at 1, 2 and 5 times powers of ten, or only at powers."""
    positive = [value for value in values if value > 0 and math.isfinite(value)] or [0.1, 1.0]
    low, high = min(positive), max(positive)
    low, high = (low / 2, high * 2) if low == high else (low, high)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1,) if len(decades) > 3 else (1, 2, 5)
    ticks = [float(f"{step}e{decade}") for decade in decades for step in steps]
    inside = tuple(tick for tick in ticks if low * 0.999 <= tick <= high * 1.001)
    return Axis(label, low, high, inside, is_log=True, percent=percent)


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= step * 0.999)


class Chart:
    """One panel of a figure: marks in the units of its axes."""

    def __init__(self, title: str, x: Axis, y: Axis, *, width: int, height: int, left: int = _LEFT) -> None:
        self.title, self.x, self.y = title, x, y
        self.width, self.height, self.left = width, height, left
        self.top = 46 if y.label else 28
        self._marks: list[str] = []
        self._taken: list[tuple[float, float, float, float]] = []
        self._labels: list[tuple[Point, str, str, bool]] = []

    def at(self, x: float, y: float) -> Point:
        """The position of a point in pixels."""
        across = self.width - self.left - _RIGHT
        down = self.height - self.top - _BOTTOM
        return self.left + across * self.x.place(x), self.height - _BOTTOM - down * self.y.place(y)

    def path(self, points: Sequence[Point], style: str) -> None:
        """A line through points; NaN and infinite points are skipped."""
        drawn = [self.at(*point) for point in points if all(map(math.isfinite, point))]
        if not drawn:
            return
        self._marks.append(f'<path class="line {style}" d="M{"L".join(f"{x:.1f},{y:.1f}" for x, y in drawn)}"/>')

    def mark(self, x: float, y: float, shape: str, style: str, words: str = "") -> None:
        """A mark at a point, with a tooltip."""
        if not (math.isfinite(x) and math.isfinite(y)):
            return
        left, top = self.at(x, y)
        tip = f"<title>{_escape(words)}</title>" if words else ""
        self._marks.append(
            f'<path class="mark {style}" transform="translate({left:.1f},{top:.1f})" d="{SHAPES[shape]}">{tip}</path>'
        )
        self._taken.append((left - 6, top - 6, left + 6, top + 6))

    def interval(self, start: Point, end: Point, style: str) -> None:
        """A thin line between two points; nothing if an end is unknown."""
        if all(map(math.isfinite, (*start, *end))):
            (x1, y1), (x2, y2) = self.at(*start), self.at(*end)
            self._marks.append(
                f'<line class="interval {style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
            )

    def box(self, low: Point, high: Point, style: str, words: str = "") -> None:
        """A filled rectangle between two corners."""
        (x1, y1), (x2, y2) = self.at(*low), self.at(*high)
        tip = f"<title>{_escape(words)}</title>" if words else ""
        self._marks.append(
            f'<rect class="box {style}" x="{min(x1, x2):.1f}" y="{min(y1, y2):.1f}" width="{abs(x2 - x1):.1f}" '
            f'height="{abs(y2 - y1):.1f}">{tip}</rect>'
        )

    def text(self, x: float, y: float, words: str, style: str = "", *, anchor: str = "start", shift: int = 0) -> None:
        """Text at a point, `shift` pixels to the right."""
        left, top = self.at(x, y)
        self._marks.append(_text(left + shift, top + 4, words, style, anchor))

    def label(self, x: float, y: float, words: str, style: str = "", *, anywhere: bool = True) -> None:
        """Label a point, if there is room after all marks are drawn.

        Args:
            x: x of the point.
            y: y of the point.
            words: text of the label, omitted if there is no room.
            style: style of the label.
            anywhere: in a crowd, the label may be farther away, with a line to the point; placed first.
        """
        if math.isfinite(x) and math.isfinite(y):
            self._labels.append((self.at(x, y), words, style, anywhere))

    def svg(self) -> str:
        """The panel as SVG."""
        self._place_labels()
        content = f"{_text(2, 14, self.title, 'title')}{self._frame()}{''.join(self._marks)}"
        axes = " by ".join(filter(None, (self.y.label, self.x.label)))
        return _svg(f"{self.title}: {axes}" if axes else self.title, self.width, self.height, content)

    def _frame(self) -> str:
        parts = []
        bottom, right = self.height - _BOTTOM, self.width - _RIGHT
        for tick in self.y.ticks:
            _, top = self.at(self.x.low, tick)
            parts.append(f'<line class="grid" x1="{self.left}" y1="{top:.1f}" x2="{right}" y2="{top:.1f}"/>')
            parts.append(_text(self.left - 6, top + 4, self.y.write(tick), "tick", "end"))
        for tick in self.x.ticks:
            left, _ = self.at(tick, self.y.low)
            parts.append(f'<line class="axis" x1="{left:.1f}" y1="{bottom}" x2="{left:.1f}" y2="{bottom + 4}"/>')
            parts.append(_text(left, bottom + 16, self.x.write(tick), "tick", "middle"))
        parts.append(f'<line class="axis" x1="{self.left}" y1="{bottom}" x2="{right}" y2="{bottom}"/>')
        parts.append(_text((self.left + right) / 2, self.height - 6, self.x.label, "name", "middle"))
        if self.y.label:
            parts.append(_text(2, 31, self.y.label, "name"))
        return "".join(parts)

    def _place_labels(self) -> None:
        for (left, top), words, style, anywhere in sorted(self._labels, key=lambda label: not label[3]):
            places = (p for p in self._around(left, top, _CHARACTER * len(words)) if anywhere or not p.is_far)
            place = next((p for p in places if not any(_overlap(p.box, taken) for taken in self._taken)), None)
            if place is None:
                continue  # the text is also in the tooltip of the mark and in the table
            self._taken.append(place.box)
            if place.is_far:
                x, y = place.anchor[0], place.anchor[1] - 4
                self._marks.append(f'<path class="leader" d="M{left:.1f},{top:.1f}L{x:.1f},{y:.1f}"/>')
            self._marks.append(_text(*place.anchor, words, f"label {style}", place.align))

    def _around(self, left: float, top: float, width: float) -> Iterator[_Place]:
        """Possible positions of a label at a point, the best first, all within the panel."""
        for far in (9, 17, 27, 40, 56):
            for across, down in ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (1, 1), (-1, -1), (-1, 1)):
                x, y = left + far * across, top + (far + 3) * down
                start = x - (width / 2, 0, width)[across]
                box = start, y - 7, start + width, y + 7
                if (
                    self.left <= box[0]
                    and box[2] <= self.width
                    and self.top <= box[1]
                    and box[3] <= self.height - _BOTTOM
                ):
                    yield _Place(box, (x, y + 4), ("middle", "start", "end")[across], far > 17)


def bars(title: str, rows: Sequence[tuple[str, float, str, str]], *, width: int) -> str:
    """Shares as horizontal bars, each below its label.

    Args:
        title: title of the drawing.
        rows: label, share (clipped to 0..1, nothing for NaN), the share as text, style.
        width: width in pixels.
    """
    drawn = []
    for number, (label, share, words, style) in enumerate(rows):
        top, filled = 34 * number, width * min(1.0, max(0.0, share)) if math.isfinite(share) else 0.0
        drawn.append(_text(0, top + 12, label, "row"))
        drawn.append(_text(width, top + 12, words, "row strong", "end"))
        drawn.append(f'<rect class="track" x="0" y="{top + 18}" width="{width}" height="8"/>')
        drawn.append(f'<rect class="box {style}" x="0" y="{top + 18}" width="{filled:.1f}" height="8"/>')
    return _svg(title, width, 34 * len(rows) - 6, "".join(drawn))


def heat_map(title: str, names: Sequence[str], values: Sequence[Sequence[float]], *, is_change: bool = False) -> str:
    """A square table of shares, in percent and shaded by size, with a row per stated and a column per seen value.

    Args:
        title: title of the drawing.
        names: of rows and columns.
        values: shares in 0..1, or in -1..1 for changes; a row of NaN is left empty.
        is_change: gains and losses have different colours, and a sign.
    """
    longest = _CHARACTER * max(map(len, names))
    left, top = round(longest) + 20, round(0.75 * longest) + 36
    parts = [_text(2, 14, title, "title")]
    for column, name in enumerate(names):
        x, y = left + _CELL[0] * (column + 0.5), top - 6
        parts.append(f'<text class="tick" transform="translate({x:.1f},{y})rotate(-45)">{_escape(name)}</text>')
    for row, (name, shares) in enumerate(zip(names, values, strict=True)):
        y = top + _CELL[1] * row
        parts.append(_text(left - 8, y + 17, name, "row", "end"))
        for column, share in enumerate(shares):
            x = left + _CELL[0] * column
            parts.append(_heat_cell(x, y, share, f"stated {name}, seen {names[column]}", is_change=is_change))
    width = left + _CELL[0] * len(names) + round(0.75 * longest)
    return _svg(
        f"{title}, % by stated and seen value", max(width, 240), top + _CELL[1] * len(names) + 8, "".join(parts)
    )


def _heat_cell(x: float, y: float, share: float, words: str, *, is_change: bool) -> str:
    if not math.isfinite(share):
        return ""
    percent = f"{100 * share:{'+' if is_change else ''}.0f}".replace("-", "\u2212")
    percent = "0" if percent in ("+0", "\u22120") else percent
    shade, style = min(1.0, abs(share)), "sampler" if is_change and share > 0 else "exec"
    return (
        f'<rect class="track" x="{x}" y="{y}" width="{_CELL[0] - 1}" height="{_CELL[1] - 1}"/>'
        f'<rect class="box {style}" x="{x}" y="{y}" width="{_CELL[0] - 1}" height="{_CELL[1] - 1}" '
        f'fill-opacity="{shade:.2f}"><title>{_escape(words)}: {percent} %</title></rect>'
        f"{_text(x + (_CELL[0] - 1) / 2, y + 17, percent, 'inside' if shade > _DARK else 'row', 'middle')}"
    )


def key(entries: Sequence[tuple[str, str, str]]) -> str:
    """The key of the marks, in one line.

    Args:
        entries: shape, style and words of each mark.
    """
    drawn, left = [], 8.0
    for shape, style, words in entries:
        drawn.append(f'<path class="mark {style}" transform="translate({left:.1f},9)" d="{SHAPES[shape]}"/>')
        drawn.append(_text(left + 10, 13, words, "row"))
        left += 10 + _CHARACTER * len(words) + 24
    return _svg(f"Key: {', '.join(words for _, _, words in entries)}", round(left), 18, "".join(drawn), "chart key")


def _svg(title: str, width: int, height: int, content: str, style: str = "chart") -> str:
    return (
        f'<svg class="{style}" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="{_escape(title)}">{content}</svg>'
    )


class _Place(NamedTuple):
    """A position of a label: its box, the anchor of its text, and whether it needs a line to its mark."""

    box: tuple[float, float, float, float]
    anchor: Point
    align: str
    is_far: bool


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _text(left: float, top: float, words: str, style: str = "", anchor: str = "start") -> str:
    aligned = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text class="{style}" x="{left:.1f}" y="{top:.1f}"{aligned}>{_escape(words)}</text>'


def _escape(words: str) -> str:
    """Escape markup and control characters, which XML must not contain."""
    return html.escape(printable(words))
