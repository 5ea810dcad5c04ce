"""Helpers that start runs: the toy configs with random weights, in this process or in another one."""

import json
import os
import subprocess
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import pytest

from gendiv_lightning.cli import predict as fit_free
from gendiv_lightning.errors import LINK
from gendiv_lightning.runs.folder import RunFolder

ROOT = Path(__file__).parents[1]
TINY = ROOT / "configs" / "tiny"


def arguments(weights: Path, folder: Path, *more: str, config: str = "llamagen", limit: int = 3) -> list[str]:
    """The words after `gendiv fit-free predict`: a few prompts with 4 samples each, no W&B; `more` overrides."""
    words = [
        *("--config", str(TINY / f"{config}.yaml"), "--run_dir", str(folder), *tiny_weights(weights)),
        *("--data.path", "toy:postcards.jsonl", "--data.limit", str(limit)),
        *("--data.num_samples", "4", "--data.prompts_per_batch", "1", "--wandb", "disabled"),
    ]
    given = {word.partition("=")[0] for word in more}
    pairs = zip(words[::2], words[1::2], strict=True)
    return [*(word for option, value in pairs if option not in given for word in (option, value)), *more]


def tiny_weights(weights: Path) -> list[str]:
    """The options that replace the toy weights by random ones."""
    files = {"gpt_checkpoint": "gpt.pt", "vq_checkpoint": "vq.pt", "text_encoder": "t5"}
    return [word for key, file in files.items() for word in (f"--model.{key}", str(weights / file))]


def predict(weights: Path, folder: Path, *more: str, **settings) -> RunFolder:
    """A run in this process."""
    fit_free.main(["predict", *arguments(weights, folder, *more, **settings)])
    return RunFolder(folder)


def gendiv(*words: str) -> list[str]:
    """The installed command."""
    return [str(Path(sysconfig.get_path("scripts")) / "gendiv"), *words]


def run(
    line: list[str], timeout: float = 240, environment: Mapping[str, str] = os.environ
) -> subprocess.CompletedProcess[str]:
    """Run a command line to its end, with any number of threads."""
    environment = {name: value for name, value in environment.items() if name != "OMP_NUM_THREADS"}
    return subprocess.run(line, capture_output=True, text=True, timeout=timeout, env=environment, check=False)


def samples_of(folder: RunFolder) -> dict[tuple, tuple]:
    """Tokens and image bytes of each sample by its key; a repeated sample is an error."""
    found = {}
    for sampled in folder.read_samples():
        for key, tokens, image in zip(sampled.batch.keys, sampled.samples.tokens, sampled.images, strict=True):
            assert key not in found, f"{key} is there twice"
            found[key] = (tuple(tokens.tolist()), image.numpy().tobytes())
    return found


def metrics_of(folder: RunFolder) -> dict[str, dict]:
    """The content of `metrics.json`; NaN and infinity are not valid JSON."""
    return json.loads((folder.path / "metrics.json").read_text(), parse_constant=_not_json)


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def error_of(*words: str) -> str:
    """The message that `gendiv fit-free` ends with, without the link below it."""
    with pytest.raises(SystemExit) as stopped:
        fit_free.main(list(words))
    assert isinstance(stopped.value.code, str), "a message makes the exit status 1"
    return without_link(stopped.value.code)


def without_link(error: str) -> str:
    """The message of an error on the command line, whose last line is the link."""
    message, _, link = error.rpartition("\n")
    assert link.startswith(LINK), f"there is no link: {error}"
    return message


def _not_json(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")
