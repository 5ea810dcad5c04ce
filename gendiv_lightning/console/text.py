"""Text for a terminal: whatever a prompt or a foreign file holds, it cannot move the cursor or forge a line."""

from __future__ import annotations

import sys
import unicodedata
from typing import TextIO

# Control characters, directions of writing, halves of characters, and the line ends that are no "\n".
_UNSAFE = ("Cc", "Cf", "Cs", "Zl", "Zp")
_JOINERS = "\u200c\u200d"  # parts of words and of emoji


def printable(text: str, *, keep: str = "") -> str:
    r"""Text in which control characters are escapes, such as `\x1b`.

    Args:
        text: from anywhere.
        keep: control characters that stay, such as a line break.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character in keep or character in _JOINERS else _escape(character) for character in text
    )


def one_line(text: str) -> str:
    """Text in one line: line breaks and tabs are spaces, other control characters are escapes."""
    return printable(" ".join(text.replace("\t", " ").splitlines()))


def _escape(character: str) -> str:
    if unicodedata.category(character) not in _UNSAFE:
        return character
    return character.encode("unicode_escape").decode("ascii")


def write(text: str, stream: TextIO | None = None) -> None:
    """Print text as it is, with line breaks, but that other control characters are escaped.

    Args:
        text: with its own line breaks; texts of others that go into it are one line by `printable`.
        stream: default: the standard output.
    """
    (stream or sys.stdout).write(printable(text, keep="\n"))
