"""`gendiv show`: a run in the terminal."""

import io

import pytest
from PIL import Image

from gendiv_lightning.cli.main import main
from gendiv_lightning.console.tables import format_estimates
from gendiv_lightning.console.terminal import half_blocks, has_colour
from gendiv_lightning.runs.folder import RunFolder


def gendiv(*words):
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return stopped.value.code


def test_a_run_is_shown_with_its_label_its_numbers_and_the_path_of_its_grid(study, capsys):
    folder = study / "argmax-1"
    assert gendiv("show", folder) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("LlamaGen (toy), argmax, seed 1\nrun ")
    assert "4 prompts of prompts, seed 1, on " in shown
    assert format_estimates(RunFolder(folder).read_metrics()) in shown
    assert f"Grid: {folder / 'grid.png'}" in shown
    assert "\x1b" not in shown


def test_a_decomposed_run_is_shown_with_its_decomposition(decomposed, capsys):
    assert gendiv("show", decomposed / "plain") == 0
    assert "= H_exec" in capsys.readouterr().out
    assert gendiv("show", decomposed / "plain", "--only", "diversity/ssim") == 0
    assert "= H_exec" not in capsys.readouterr().out


def test_runs_that_cannot_be_shown_are_errors(study, tmp_path):
    assert "not a run folder" in gendiv("show", tmp_path)
    assert "no number starts with 'nothing/'" in gendiv("show", study / "argmax", "--only", "nothing/")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TERM": "xterm-256color"}, True),
        ({"TERM": "xterm", "COLORTERM": "truecolor"}, True),
        ({"TERM": "xterm"}, False),
        ({"TERM": "dumb", "COLORTERM": "truecolor"}, False),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, False),
    ],
)
def test_colour_is_for_terminals_that_have_it(monkeypatch, environment, expected):
    for name in ("TERM", "COLORTERM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert has_colour(Terminal()) is expected
    assert not has_colour(io.StringIO())


def test_a_character_holds_two_pixels():
    picture = Image.new("RGB", (2, 2), "red")
    picture.paste("blue", (0, 1, 2, 2))
    block = "\x1b[38;2;255;0;0;48;2;0;0;255m\u2580"
    assert half_blocks(picture, 80) == block * 2 + "\x1b[0m"
    assert half_blocks(picture.resize((200, 120)), 10).count("\u2580") == 10 * 3
