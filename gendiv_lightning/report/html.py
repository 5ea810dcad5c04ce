"""A report as one HTML page that needs no network, and its figures as files. All text is escaped here.

Everything can be read without the script, which adds sorting, enlarging and browsing. The policy of the page allows
this one script and these styles, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import html
import math
import re
from collections.abc import Callable, Sequence
from importlib.resources import files

from gendiv_lightning.console.text import printable
from gendiv_lightning.report.document import (
    NARROW_SPACE,
    Answer,
    Cell,
    Figure,
    Number,
    Report,
    Row,
    Samples,
    Section,
    Table,
)

_LONG = 30  # rows of a table, above which it is folded
Source = Callable[[Samples, int, int], str]  # the address of a row's picture: block, group, row


def inline(block: Samples, group: int, row: int) -> str:
    """A row's picture inside the page."""
    return f"data:image/webp;base64,{base64.b64encode(block.groups[group][1][row].image).decode()}"


def to_html(report: Report, source: Source = inline) -> str:
    """The page."""
    style, script = _asset("figures.css") + _asset("page.css"), _asset("page.js")
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data: 'self'"
    warning = f'<p class="warning"><strong>Toy.</strong> {_text(report.warning)}</p>' if report.warning else ""
    links = "".join(f'<li><a href="#{s.anchor}">{_escape(s.title)}</a></li>' for s in report.sections)
    sections = "\n".join(_section(section, source) for section in report.sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="description" content="{_escape(report.answer)}">
<title>{"Toy models: " if report.warning else ""}{_escape(report.title)}</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the sections</a>
<header>
<p class="kicker">gendiv report{", embedded toy models" if report.warning else ""}</p>
<h1>{_escape(report.title)}</h1>
<div class="answers">{"".join(map(_answer, report.answers))}</div>
{warning}
{_table(report.numbers) if report.numbers else ""}
<p class="notes">{_text(report.rule)}</p>
</header>
<nav aria-label="Contents"><h2>Contents</h2><ul>{links}</ul></nav>
<main id="main" tabindex="-1">
{sections}
</main>
<footer>Written by gendiv from run folders alone. The same runs give the same page, byte for byte.</footer>
<script>{script}</script>
</body>
</html>
"""


def to_svg(figure: Figure) -> str:
    """All panels of a figure as one file, with its colours for light and dark."""
    sizes = [_size(panel) for panel in figure.panels]
    width, height = max(w for w, _ in sizes) + 16, max(h for _, h in sizes) + 16
    columns = min(figure.columns, len(sizes))
    key_width, key_height = _size(figure.key) if figure.key else (0, 0)
    whole_width, whole_height = max(columns * width, key_width + 16), -(-len(sizes) // columns) * height + key_height
    drawn = _at(figure.key, 8, 8) if figure.key else ""
    for number, panel in enumerate(figure.panels):
        drawn += _at(panel, 8 + width * (number % columns), 8 + key_height + height * (number // columns))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole_width} {whole_height}" '
        f'width="{whole_width}" height="{whole_height}"><style>{_asset("figures.css")}</style>'
        f'<rect width="100%" height="100%" style="fill:var(--paper)"/>{drawn}</svg>\n'
    )


def _size(svg: str) -> tuple[int, int]:
    width, height = (int(n) for n in re.findall(r'(?:width|height)="(\d+)"', svg)[:2])
    return width, height


def _at(svg: str, x: int, y: int) -> str:
    return svg.replace("<svg ", f'<svg x="{x}" y="{y}" ', 1)


def _asset(name: str) -> str:
    return (files("gendiv_lightning.report") / "assets" / name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _answer(answer: Answer) -> str:
    return f"<article><h2>{_escape(answer.name)}</h2><p>{_text(answer.words)}</p>{answer.chart}</article>"


def _section(section: Section, source: Source) -> str:
    paragraphs = "".join(
        f'<pre class="rule" tabindex="0">{_escape(words)}</pre>' if "\n" in words else f"<p>{_text(words)}</p>"
        for words in section.paragraphs
    )
    blocks = "\n".join(_block(block, source) for block in section.blocks)
    missing = "".join(f"<li>{_text(words)}</li>" for words in section.missing)
    missing = f'<ul class="missing">{missing}</ul>' if missing else ""
    return (
        f'<section id="{section.anchor}" aria-labelledby="{section.anchor}-title">'
        f'<h2 id="{section.anchor}-title">{_escape(section.title)}</h2>{paragraphs}{blocks}{missing}</section>'
    )


def _block(block: Table | Figure | Samples, source: Source) -> str:
    if isinstance(block, Table):
        return _table(block)
    caption = f"<figcaption>{_caption(block.caption)}</figcaption>"
    if isinstance(block, Figure):
        panels = "".join(f'<div class="panel">{panel}</div>' for panel in block.panels)
        narrow = " narrow" if max(_size(panel)[0] for panel in block.panels) < 300 else ""
        return f'<figure id="{block.name}">{block.key}<div class="panels{narrow}">{panels}</div>{caption}</figure>'
    if block.title:
        groups = "".join(
            f"<details><summary>{_escape(prompt)}</summary>{_rows(block, group, source)}</details>"
            for group, (prompt, _) in enumerate(block.groups)
        )
        return (
            f'<figure id="{block.name}" class="browse" data-title="{_escape(block.title)}">'
            f"<h3>{_escape(block.title)}</h3>{groups}{caption}</figure>"
        )
    groups = "".join(
        f'<div class="group"><blockquote>{_escape(prompt)}</blockquote>{_rows(block, group, source)}</div>'
        for group, (prompt, _) in enumerate(block.groups)
    )
    return f'<figure id="{block.name}"><div class="groups">{groups}</div>{caption}</figure>'


def _rows(block: Samples, group: int, source: Source) -> str:
    prompt, rows = block.groups[group]
    drawn = (_row(row, source(block, group, number), prompt) for number, row in enumerate(rows))
    return f'<div class="rows">{"".join(drawn)}</div>'


def _row(row: Row, address: str, prompt: str) -> str:
    lazy = "" if address.startswith("data:") else ' loading="lazy"'
    numbers = f' <span class="numbers">{_text(row.numbers)}</span>' if row.numbers else ""
    alt = f"{row.num_samples} samples, {row.setting}: {prompt}"
    return (
        f'<figure class="row" data-setting="{_escape(row.setting)}"><img src="{address}" width="{row.width}" '
        f'height="{row.height}"{lazy} alt="{_escape(alt)}"><figcaption><b>{_escape(row.setting)}</b>'
        f"{numbers}</figcaption></figure>"
    )


def _table(table: Table) -> str:
    columns = [[row[n] for row in table.rows] for n in range(len(table.header))]
    are_words = [number == 0 or _are_words(column) for number, column in enumerate(columns)]
    head = "".join(
        f'<th scope="col"{" class=words" if words else ""}>{_escape(name)}</th>'
        for name, words in zip(table.header, are_words, strict=True)
    )
    rows = "".join(
        f"<tr>{''.join(_cell(cell, words) for cell, words in zip(row, are_words, strict=True))}</tr>"
        for row in table.rows
    )
    num_long = sum(all(isinstance(cell, str) and len(cell) > 12 for cell in column) for column in columns)
    prose = ' class="prose"' if num_long > 1 else ""
    notes = f'<div class="notes">{_caption(table.notes)}</div>' if table.notes else ""
    whole = (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{_escape(table.title)}">'
        f'<table id="{table.name}"{prose}><caption><span>{_escape(table.title)}</span></caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{notes}"
    )
    if len(table.rows) <= _LONG:
        return whole
    words = f"{_escape(table.title)}, {len(table.rows)} rows"
    return f'<details class="long"><summary>{words}</summary>{whole}</details>'


def _are_words(column: Sequence[Cell]) -> bool:
    """Whether all cells that have anything begin with a letter."""
    words = [cell for cell in column if cell != ""]
    return bool(words) and all(isinstance(cell, str) and cell[0].isalpha() for cell in words)


def _cell(cell: Cell, words: bool) -> str:
    if isinstance(cell, Number):
        interval = f'<span class="interval">{cell.interval}</span>' if cell.interval else ""
        value = "" if math.isnan(cell.value) else f"{cell.value:.6g}"
        return f'<td class="number" data-value="{value}">{cell.text}{interval}</td>'
    kind = cell if cell in ("agrees", "contradicted") else "words" if words else ""
    return f"<td{f' class={kind}' if kind else ''}>{_text(cell)}</td>"


def _caption(words: str) -> str:
    """A caption; a long list of runs at its end is folded."""
    match = re.fullmatch(r"(.*) Runs ((?:[0-9a-f]{8}, ){4,}[0-9a-f]{8})\.", words, re.DOTALL)
    if match is None:
        return _text(words)
    ids = match[2].split(", ")
    return f"{_text(match[1])} <details><summary>{len(ids)} runs</summary>Runs {', '.join(ids)}.</details>"


def _escape(words: str) -> str:
    """Text that is neither markup nor control characters."""
    return html.escape(printable(words, keep="\n"))


def _text(words: str) -> str:
    """Escaped, with `code` as code, and a percent sign kept on the line of its number."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", _escape(words).replace(" %", f"{NARROW_SPACE}%"))
