"""Commands that only read results start quickly, because they do not load what sampling and measuring need."""

import os
import shutil
import subprocess
import sys

import pytest

HEAVY = {"lightning", "torchmetrics", "transformers", "diffusers", "datasets", "torchvision", "wandb"}
CODE = """
import sys
from gendiv_lightning.cli.main import main
try:
    main(sys.argv[1:])
finally:
    sys.stderr.write("loaded: " + " ".join(sys.modules))
"""


def loaded_by(*words):
    """Names of the modules that a command has loaded when it ends."""
    line = [sys.executable, "-c", CODE, *map(str, words)]
    ended = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr.split("loaded: ")[0]
    return set(ended.stderr.split("loaded: ")[1].split())


@pytest.mark.parametrize(
    "words",
    [
        ("show", "{plain}"),
        ("compare", "{plain}", "{argmax}", "--margin", "5%"),
        ("decompose", "{plain}", "--argmax", "{argmax}", "--subset", "{subset}", "--plot", "{out}/plane.svg"),
        ("report", "{plain}", "{argmax}", "--out", "{out}"),
        ("power", "--between", "1", "--within", "1", "--width", "0.1"),
        ("list", "generators"),
    ],
    ids=lambda words: words[0],
)
def test_a_command_that_reads_results_loads_no_library_of_models(words, decomposed, tmp_path):
    folders = {name: decomposed / name for name in ("plain", "argmax", "subset")}
    loaded = loaded_by(*(word.format(**folders, out=tmp_path) for word in words))
    assert "gendiv_lightning" in loaded
    assert not HEAVY & loaded


def test_results_are_printed_where_the_terminal_knows_ascii_only(decomposed, tmp_path):
    """In the C locale, with a folder whose name it cannot write."""
    folder = shutil.copytree(decomposed / "plain", tmp_path / "gr\u00fcn")
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    line = [sys.executable, "-c", CODE, "show", str(folder)]
    ended = subprocess.run(line, capture_output=True, timeout=120, check=False, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.isascii()
    assert b"grid.png" in ended.stdout
    assert b"diversity/ssim" in ended.stdout
