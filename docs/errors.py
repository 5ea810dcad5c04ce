"""Write the page of errors from the docstrings of their classes: python docs/errors.py > docs/errors.md"""

from __future__ import annotations

import inspect
import sys
import textwrap

from gendiv_lightning.errors import GendivError, kinds

INTRODUCTION = """\
# Errors

Every error that you can correct has a code, which the command line prints with a link to its
section here. In Python all of them are `ValueError`s with an attribute `code`, in
`gendiv_lightning.errors`.
"""
GROUPS = {
    "1": "Settings",
    "2": "Weights and services",
    "3": "Files and prompts",
    "4": "Images",
    "5": "Sampling",
    "6": "Metrics",
    "7": "Run folders",
}


def section(kind: type[GendivError]) -> str:
    """The docstring of a class as a section with an anchor."""
    summary, *explanations, example = inspect.cleandoc(kind.__doc__ or "").split("\n\n")
    label, _, message = " ".join(example.split()).partition(": ")
    assert label == "Example", f"{kind.__name__}: the docstring must end with an example"
    return "\n\n".join(
        [
            f'<a id="{kind.code.lower()}"></a>',
            f"### {kind.code}: {kind.__name__}",
            _wrapped(summary),
            *(_wrapped(f"**{text.replace(':', ':**', 1)}") for text in explanations),
            f"```text\ngendiv: error {kind.code}: {message}\n```",
        ]
    )


def _wrapped(paragraph: str) -> str:
    return textwrap.fill(" ".join(paragraph.split()), 100, break_long_words=False, break_on_hyphens=False)


def page() -> str:
    """The whole page, in the order of codes."""
    parts = [INTRODUCTION.rstrip()]
    group = ""
    for kind in kinds():
        if kind.code[2] != group:
            group = kind.code[2]
            parts.append(f"## {GROUPS[group]}")
        parts.append(section(kind))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
