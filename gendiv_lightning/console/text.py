"""Make text safe for a terminal, so that prompts and untrusted files cannot move the cursor or forge lines."""

from __future__ import annotations

import sys
import unicodedata
from typing import TextIO

# Control characters, text directions, surrogates, and line ends other than "\n".
_UNSAFE = ("Cc", "Cf", "Cs", "Zl", "Zp")
_JOINERS = "\u200c\u200d"  # parts of words and of emoji


def printable(text: str, *, keep: str = "") -> str:
    r"""Replace control characters with escapes such as `\x1b`.

    Args:
        text: untrusted text.
        keep: control characters to keep, such as a line break.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character in keep or character in _JOINERS else _escape(character) for character in text
    )


def one_line(text: str) -> str:
    """Text in one line: line breaks and tabs become spaces, other control characters become escapes."""
    return printable(" ".join(text.replace("\t", " ").splitlines()))


def _escape(character: str) -> str:
    if unicodedata.category(character) not in _UNSAFE:
        return character
    return character.encode("unicode_escape").decode("ascii")


def write(text: str, stream: TextIO | None = None) -> None:
    """Print text with its line breaks, and with other control characters escaped.

    Args:
        text: text with line breaks; untrusted parts must be one line, see `printable`.
        stream: output stream (default: standard output).
    """
    (stream or sys.stdout).write(printable(text, keep="\n"))
