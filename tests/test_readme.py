"""The commands of the README work as described."""

import re
import shlex
from pathlib import Path

import pytest
from running import ROOT

from gendiv_lightning.cli.predict import main
from gendiv_lightning.runs.folder import RunFolder

LINES = re.findall(r"^gendiv fit-free (.*configs/tiny/.*)$", (ROOT / "README.md").read_text(), flags=re.MULTILINE)


def test_the_readme_shows_a_command_for_each_probe():
    assert {Path(shlex.split(line)[2]).stem for line in LINES} >= {
        "llamagen",
        "llamagen_argmax",
        "llamagen_codebook",
        "llamagen_paraphrase",
        "llamagen_subset",
    }


@pytest.mark.parametrize("line", LINES)
def test_a_command_of_the_readme_runs(line, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = [*shlex.split(line, comments=True), "--run_dir", str(tmp_path / "run")]
    words += ["--data.num_images", "32"] if words[0] == "validate" else ["--data.limit", "2", "--wandb", "disabled"]
    main(words)
    found = RunFolder(tmp_path / "run").read_metrics()
    assert 0 < found["codebook/coverage"].value <= 1
    if "argmax" in line:
        assert found["diversity/lpips[tiny]"].value == 0
    elif words[0] == "predict":
        assert found["diversity/lpips[tiny]"].value > 0.01
