"""The tutorials: their code calls what exists, and all that need no GPU run. One needs real weights and pictures."""

import ast
import inspect
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from real_parts import part

import gendiv_lightning as gd
from gendiv_lightning.cli.main import build_parser, main
from gendiv_lightning.generators import DiffusersPipeline

NEEDS_MORE = {"stable_diffusion", "real_photos"}
TUTORIALS = Path(__file__).parents[1] / "docs" / "tutorials"
NOTEBOOKS = sorted(TUTORIALS.glob("*.ipynb"))
on_every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
    return ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def nodes(path):
    """Nodes of the Python code, without the lines for the shell."""
    for cell in code_cells(path):
        yield from ast.walk(ast.parse("\n".join(line for line in cell.splitlines() if not line.startswith("!"))))


def commands(path):
    """Words of each `gendiv` command, without `gendiv`."""
    lines = [line for cell in code_cells(path) for line in cell.splitlines() if line.startswith("!")]
    return [shlex.split(line.partition("gendiv ")[2]) for line in lines if "gendiv " in line]


def test_there_are_six_tutorials():
    assert len(NOTEBOOKS) == 6


@on_every_notebook
def test_names_of_the_package_exist(path):
    names = {node.attr for node in nodes(path) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "gd"}
    assert {name for name in names if not hasattr(gd, name)} == set()


@on_every_notebook
def test_commands_parse(path):
    for words in commands(path):
        if words[0] != "predict":
            assert build_parser().parse_args(words)


def test_the_settings_of_stable_diffusion_exist():
    (call,) = [
        node
        for node in nodes(TUTORIALS / "stable_diffusion.ipynb")
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "gd.load"
    ]
    settings = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
    assert inspect.signature(DiffusersPipeline).bind(checkpoint="", **settings)


def test_the_run_of_stable_diffusion_is_a_config(capsys):
    (words,) = [words for words in commands(TUTORIALS / "stable_diffusion.ipynb") if words[0] == "predict"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--print_config"])
    assert ended.value.code == 0
    assert "DDIMScheduler" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", [path.stem for path in NOTEBOOKS if path.stem not in NEEDS_MORE])
def test_a_tutorial_runs(name):
    run(name)


@pytest.mark.slow
@pytest.mark.real
def test_the_tutorial_of_real_photos_runs():
    for name in ("lpips", "inception", "photos", "emoji"):
        part(name)
    run("real_photos")


def test_the_tutorial_of_real_photos_contains_no_picture_and_no_path_of_a_machine():
    outputs = [
        output
        for cell in json.loads((TUTORIALS / "real_photos.ipynb").read_text())["cells"]
        for output in cell.get("outputs", [])
    ]
    assert {output["output_type"] for output in outputs} == {"stream"}
    assert "/" in "".join(map(str, outputs))
    assert not any(word in str(outputs) for word in ("/tmp", "/home", "/root", "/Users"))


def run(name):
    line = [sys.executable, str(TUTORIALS / "execute.py"), "--check", name]
    ended = subprocess.run(line, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
