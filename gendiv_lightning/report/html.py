"""A report as one HTML page that needs no network, and its figures as files. All text is escaped here."""

from __future__ import annotations

import html
import re
from importlib.resources import files

from gendiv_lightning.console.text import printable
from gendiv_lightning.report.document import NARROW_SPACE, Cell, Figure, Number, Report, Samples, Section, Strip, Table

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def to_html(report: Report) -> str:
    """The page."""
    warning = f'<p class="warning"><strong>Toy.</strong> {_text(report.warning)}</p>' if report.warning else ""
    links = " ".join(f'<a href="#{s.anchor}">{_escape(s.title)}</a>' for s in report.sections)
    summary = "".join(f"<p><strong>{_escape(name)}.</strong> {_text(words)}</p>" for name, words in report.summary)
    sections = "\n".join(map(_section, report.sections))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{"Toy models: " if report.warning else ""}{_escape(report.title)}</title>
<style>
{_style("figures.css")}{_style("page.css")}</style>
</head>
<body>
<header>
<p class="kicker">gendiv report{", embedded toy models" if report.warning else ""}</p>
<h1>{_escape(report.title)}</h1>
<p class="answer">{_text(report.answer)}</p>
{warning}
{summary}
<p class="notes">{_text(report.rule)}</p>
<nav aria-label="Sections">{links}</nav>
</header>
<main>
{sections}
</main>
<footer>Written by gendiv from run folders alone; the same runs give the same page, byte for byte.</footer>
</body>
</html>
"""


def to_svg(figure: Figure) -> str:
    """All panels of a figure as one file, with its colours for light and dark."""
    sizes = [tuple(int(n) for n in re.findall(r'(?:width|height)="(\d+)"', panel)[:2]) for panel in figure.panels]
    width, height = max(w for w, _ in sizes) + 16, max(h for _, h in sizes) + 16
    columns = min(figure.columns, len(sizes))
    rows = -(-len(sizes) // columns)
    placed = "".join(
        panel.replace("<svg ", f'<svg x="{8 + width * (n % columns)}" y="{8 + height * (n // columns)}" ', 1)
        for n, panel in enumerate(figure.panels)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {columns * width} {rows * height}" '
        f'width="{columns * width}" height="{rows * height}"><style>{_style("figures.css")}</style>'
        f'<rect width="100%" height="100%" style="fill:var(--paper)"/>{placed}</svg>\n'
    )


def _style(name: str) -> str:
    return (files("gendiv_lightning.report") / "style" / name).read_text(encoding="utf-8")


def _section(section: Section) -> str:
    paragraphs = "".join(
        f'<pre class="rule">{_escape(words)}</pre>' if "\n" in words else f"<p>{_text(words)}</p>"
        for words in section.paragraphs
    )
    blocks = "\n".join(map(_block, section.blocks))
    missing = "".join(f"<li>Not there yet. {_text(words)}</li>" for words in section.missing)
    missing = f'<ul class="missing">{missing}</ul>' if missing else ""
    return f'<section id="{section.anchor}"><h2>{_escape(section.title)}</h2>{paragraphs}{blocks}{missing}</section>'


def _block(block: Table | Figure | Samples) -> str:
    if isinstance(block, Table):
        return _table(block)
    caption = f"<figcaption>{_text(block.caption)}</figcaption>"
    if isinstance(block, Figure):
        return f'<figure id="{block.name}"><div class="panels">{"".join(block.panels)}</div>{caption}</figure>'
    groups = "".join(
        f'<div class="group"><blockquote>{_escape(prompt)}</blockquote>'
        f'<div class="strips">{"".join(map(_strip, strips))}</div></div>'
        for prompt, strips in block.groups
    )
    return f'<figure id="{block.name}"><div class="groups">{groups}</div>{caption}</figure>'


def _strip(strip: Strip) -> str:
    return (
        f'<figure class="strip"><img src="{strip.image}" width="{strip.width}" height="{strip.height}" '
        f'alt="{_escape(strip.alt)}"><figcaption>{_escape(strip.words)}</figcaption></figure>'
    )


def _table(table: Table) -> str:
    are_words = [
        all(not isinstance(row[n], Number) and len(str(row[n])) > 12 for row in table.rows)
        for n in range(len(table.header))
    ]
    are_words[0] = True
    head = "".join(
        f'<th scope="col"{" class=words" if words else ""}>{_escape(name)}</th>'
        for name, words in zip(table.header, are_words, strict=True)
    )
    rows = "".join(
        f"<tr>{''.join(_cell(cell, words) for cell, words in zip(row, are_words, strict=True))}</tr>"
        for row in table.rows
    )
    prose = ' class="prose"' if sum(are_words) > 2 else ""
    notes = f'<p class="notes">{_text(table.notes)}</p>' if table.notes else ""
    return (
        f'<div class="scroll" tabindex="0"><table id="{table.name}"{prose}><caption>{_escape(table.title)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{notes}"
    )


def _cell(cell: Cell, words: bool) -> str:
    if isinstance(cell, Number):
        interval = f'<span class="interval">{cell.interval}</span>' if cell.interval else ""
        return f'<td class="number">{cell.text}{interval}</td>'
    kind = cell if cell in ("agrees", "contradicted") else "words" if words else ""
    return f"<td{f' class={kind}' if kind else ''}>{_text(cell)}</td>"


def _escape(words: str) -> str:
    """Text that is neither markup nor control characters."""
    return html.escape(printable(words, keep="\n"))


def _text(words: str) -> str:
    """Escaped, with `code` as code, and a percent sign kept on the line of its number."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", _escape(words).replace(" %", f"{NARROW_SPACE}%"))
