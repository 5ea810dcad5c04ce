"""A report as Markdown, and its tables as CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import math
import re
import textwrap

from gendiv_lightning.console.text import one_line, printable
from gendiv_lightning.report.document import MINUS, NARROW_SPACE, Cell, Figure, Number, Report, Samples, Section, Table

_TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    MINUS: "$-$",
    NARROW_SPACE: r"\,",
    "\u2191": r"$\uparrow$",
    "\u2193": r"$\downarrow$",
}


_BLOCK = re.compile(r"([-+*=]|\d+[.)])+(\s|$)")


def to_markdown(report: Report) -> str:
    """The whole report as Markdown. Figures are linked from `figures/`; samples are only on the HTML page."""
    lines = [f"# {_safe(report.title)}", "", f"**{_safe(report.answer)}**", ""]
    if report.warning:
        lines += [f"> {_safe(report.warning)}", ""]
    lines += [line for answer in report.answers for line in (f"**{_safe(answer.name)}.** {_safe(answer.words)}", "")]
    lines += _block(report.numbers) if report.numbers else []
    lines += [_safe(report.rule), ""]
    for section in report.sections:
        lines += [f"## {_safe(section.title)}", "", section_to_markdown(section), ""]
    return _wrapped("\n".join(lines).rstrip()) + "\n"


def _wrapped(text: str, width: int = 100) -> str:
    """Markdown with its prose in lines of up to `width` characters, for diffs and editors; tables and code stay."""
    lines, is_code = [], False
    for line in text.split("\n"):
        is_code ^= line.startswith("```")
        if is_code or line.startswith(("|", "#", "!", "```")):
            lines.append(line)
            continue
        mark = line[:2] if line.startswith(("> ", "- ")) else ""
        indent = mark.replace("-", " ")
        words = textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        for number, part in enumerate(words or [""]):
            if number and _BLOCK.match(part.removeprefix(indent)):  # a list would begin here
                lines[-1] += f" {part.removeprefix(indent)}"
            else:
                lines.append(part)
    return "\n".join(lines)


def section_to_markdown(section: Section) -> str:
    """A section without its title."""
    lines = [line for words in section.paragraphs for line in (_paragraph(words), "")]
    for block in section.blocks:
        lines += _block(block)
    lines += [f"- Missing: {_safe(words)}" for words in section.missing]
    return "\n".join(lines).rstrip()


def block_to_markdown(block: Table | Figure | Samples) -> str:
    """One block."""
    return "\n".join(_block(block)).rstrip()


def _block(block: Table | Figure | Samples) -> list[str]:
    if isinstance(block, Table):
        rows = [block.header, *([str(cell) for cell in row] for row in block.rows)]
        cells = [[_safe(cell).replace("|", "\\|") for cell in row] for row in rows]
        rule = ["---", *["---:"] * (len(block.header) - 1)]
        drawn = [f"| {' | '.join(row)} |" for row in (cells[0], rule, *cells[1:])]
        return [f"**{_safe(block.title)}**", "", *drawn, "", _safe(block.notes), ""]
    if isinstance(block, Figure):
        drawn = [f"![{block.name}](figures/{block.name}.svg)"]
        return [*drawn, "", f"*{_safe(block.caption)}*", ""]
    return [f"Samples are on the page. *{_safe(block.caption)}*", ""]


def _paragraph(words: str) -> str:
    """A paragraph; a rule of several lines keeps its line breaks."""
    if "\n" not in words:
        return _safe(words)
    kept = printable(words, keep="\n").replace("```", "'''")
    return f"```\n{kept}\n```"


def _safe(words: str) -> str:
    """Escape untrusted text: outside of backticks no character is markup or begins a block."""
    parts = re.split(r"(`[^`]*`)", printable(words.replace("\n", " ")))
    is_code = [len(part) > 1 and part.startswith("`") for part in parts]
    return "".join(
        part if code else re.sub(r"([\\*_<>#\[\]`])", r"\\\1", part) for part, code in zip(parts, is_code, strict=True)
    )


def to_csv(table: Table) -> str:
    """One column per value, and two more for those with intervals; NaN is empty."""
    places = range(len(table.header))
    wide = [any(isinstance(row[place], Number) for row in table.rows) for place in places]
    names = _unique(table.header)
    header = [
        w for p in places for w in ((names[p], f"{names[p]} low", f"{names[p]} high") if wide[p] else (names[p],))
    ]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(map(_inert, header))
    for row in table.rows:
        writer.writerow([word for place in places for word in _columns(row[place], wide[place])])
    return buffer.getvalue()


def _unique(header: tuple[str, ...]) -> list[str]:
    """Name each difference after the column before it."""
    named, subject = [], ""
    for words in header:
        if words == "difference":
            named.append(f"{subject} difference")
        else:
            named.append(words)
            subject = words if words != "p" else subject
    return named


def _columns(cell: Cell, is_wide: bool) -> list[str]:
    if isinstance(cell, Number):
        return ["" if math.isnan(value) else f"{value:.6g}" for value in cell[:3]]
    return [_inert(cell), "", ""] if is_wide else [_inert(cell)]


def _inert(words: str) -> str:
    """Prevent spreadsheets from evaluating text: put an apostrophe before characters that would begin a formula."""
    words = printable(words, keep="\n")
    return f"'{words}" if words.startswith(("=", "+", "-", "@")) else words


def to_latex(table: Table) -> str:
    """A `table` with booktabs rules; value and interval in one cell."""
    columns = "l" + "r" * (len(table.header) - 1)
    rows = [" & ".join(_tex(str(cell)) for cell in row) + r" \\" for row in (table.header, *table.rows)]
    body = [rows[0], r"\midrule", *rows[1:]]
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            r"\begin{table}",
            r"\centering\small",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{_tex(table.title)}. {_tex(table.notes)}}}",
            r"\end{table}",
            "",
        ]
    )


def _tex(words: str) -> str:
    return "".join(_TEX.get(character, character) for character in one_line(words))
