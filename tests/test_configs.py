"""Every config parses, names its command in its first line, and makes its objects without any weights."""

import re

import pytest
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningCLI
from running import ROOT

from gendiv_lightning.callbacks import Measure, WriteUsage
from gendiv_lightning.datamodules import ImageFolderData, PostcardImages, PromptData
from gendiv_lightning.fit_free import FitFreeCLI
from gendiv_lightning.generators import LlamaGen
from gendiv_lightning.zoo.evaluate import TINY_LLAMAGEN

EXPERIMENTS = sorted((ROOT / "configs").glob("*.yaml")) + sorted((ROOT / "configs/tiny").glob("*.yaml"))
FRAGMENTS = sorted((ROOT / "configs/generators").glob("*.yaml"))


class Instantiated(FitFreeCLI):
    """Makes all objects of a config and stops there."""

    def instantiate_trainer(self, **kwargs) -> Trainer:
        return LightningCLI.instantiate_trainer(self, logger=False, accelerator="cpu", **kwargs)

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def first_line(path):
    return path.read_text().splitlines()[0]


def instantiate(path, *more) -> Instantiated:
    return Instantiated([re.search(r"predict|validate", first_line(path))[0], "--config", str(path), *more])


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch, tmp_path):
    """Relative paths are those of the repository; files that a user brings along are there and empty."""
    (tmp_path / "paraphrases.jsonl").touch()
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(LlamaGen, "locate", None)
    monkeypatch.setattr(LlamaGen, "load", None)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_config_makes_its_objects_without_weights(path, tmp_path):
    is_own = path == ROOT / "configs/llamagen_paraphrase.yaml"
    made = instantiate(path, *(["--data.path", str(tmp_path / "paraphrases.jsonl")] if is_own else []))
    callbacks = [type(callback) for callback in made.trainer.callbacks]
    if made.subcommand == "predict":
        assert isinstance(made.datamodule, PromptData)
        assert Measure in callbacks
    else:
        assert isinstance(made.datamodule, ImageFolderData | PostcardImages)
        assert WriteUsage in callbacks
    assert made.model.image_size == (48 if path.parent.name == "tiny" else 256)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_first_line_of_a_config_is_its_command(path):
    pattern = rf"# gendiv fit-free (predict|validate) --config {re.escape(str(path.relative_to(ROOT)))}( --\S+ \S+)*"
    assert re.fullmatch(pattern, first_line(path))


def test_an_embedded_config_says_that_its_numbers_are_a_toys():
    silent = [path for path in (ROOT / "configs/tiny").iterdir() if "# EMBEDDED MODEL" not in path.read_text()]
    assert not silent


@pytest.mark.parametrize("path", FRAGMENTS, ids=lambda path: path.stem)
def test_a_generator_fragment_fits_into_a_config(path):
    made = instantiate(ROOT / "configs/llamagen.yaml", "--model", str(path))
    assert made.config.predict.model.class_path == "gendiv_lightning.generators.LlamaGen"


def test_the_real_and_the_embedded_experiments_are_the_same_ones():
    real, tiny = ({path.name for path in EXPERIMENTS if path.parent.name == name} for name in ("configs", "tiny"))
    assert real == tiny


def test_the_gates_are_those_of_the_settings_that_the_embedded_configs_have():
    settings = yaml.safe_load((ROOT / "configs/generators/tiny_llamagen.yaml").read_text())["init_args"]
    assert {name: value for name, value in settings.items() if name != "batch_size"} == TINY_LLAMAGEN
