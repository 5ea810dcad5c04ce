"""Untrusted text is printed as text: it cannot move the cursor, forge a line or change the direction."""

import io
import re
from pathlib import Path

import pytest

from gendiv_lightning.console.tables import format_table
from gendiv_lightning.console.text import one_line, printable, write

ROOT = Path(__file__).parents[2] / "gendiv_lightning"


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("a red hill", "a red hill"),
        (
            "caf\u00e9, \u6c34, \U0001f468\u200d\U0001f680, 5\u202f%",
            "caf\u00e9, \u6c34, \U0001f468\u200d\U0001f680, 5\u202f%",
        ),
        ("\x1b[2J\x1b]0;owned\x07", r"\x1b[2J\x1b]0;owned\x07"),
        ("a\rVERIFIED", r"a\rVERIFIED"),
        ("\x9b31m\x00\x7f", r"\x9b31m\x00\x7f"),
        ("abc\u202egnp.exe\u2066", r"abc\u202egnp.exe\u2066"),
        ("\ufeff\u2028\ud800", r"\ufeff\u2028\ud800"),
    ],
)
def test_only_control_characters_are_escaped(text, printed):
    assert printable(text) == printed


def test_a_text_that_goes_into_a_line_is_one_line():
    assert one_line("a\tb\nVERIFIED\r\nc\u2028d") == "a b VERIFIED c d"
    table = format_table([("prompt", "value"), ("a\nprompt  9.99", "1"), ("\x1b[1A", "2")])
    assert len(table.splitlines()) == 3
    assert "\x1b" not in table


def test_only_our_own_line_breaks_reach_the_terminal():
    stream = io.StringIO()
    write("two\nlines \x1b[31m\x08\n", stream)
    assert stream.getvalue() == "two\nlines \\x1b[31m\\x08\n"


@pytest.mark.parametrize("path", sorted((ROOT / "cli" / "commands").glob("*.py")), ids=lambda path: path.stem)
def test_all_commands_print_with_one_function(path):
    assert not re.search(r"sys\.std(out|err)\.write|\bprint\(", path.read_text(encoding="utf-8"))
