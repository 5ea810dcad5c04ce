"""Every config parses, names its command in its first line, and makes its objects without any weights."""

import re
import shlex
from typing import NamedTuple

import pytest
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningCLI
from running import ROOT

from gendiv_lightning.callbacks import Argmax, CodebookSubset, Decompose, Measure, Paraphrase, WriteUsage
from gendiv_lightning.cli.predict import FitFreeCLI
from gendiv_lightning.datamodules import ImageData, PromptData
from gendiv_lightning.generators import VAR, Amused, LlamaGen, VQDiffusion
from gendiv_lightning.toy.evaluate import FAMILIES
from gendiv_lightning.toy.files import WEIGHTS
from gendiv_lightning.toy.images import PostcardImages

CONFIGS = ROOT / "configs"
EXPERIMENTS = [
    path
    for folder in (CONFIGS, CONFIGS / "tiny")
    for path in sorted(folder.glob("*.yaml"))
    if not path.stem.startswith(("study", "var"))  # many runs, see test_study.py; prompts that are class labels
]
FRAGMENTS = [path for path in sorted((CONFIGS / "generators").glob("*.yaml")) if path.stem != "var"]
LABELLED = sorted(CONFIGS.glob("var*.yaml"))


class Kind(NamedTuple):
    """What the configs of a family make: its class, and codebook and grid of the real model at 256 pixels."""

    generator: type
    codebook_size: int
    grid: tuple[int, int]


KINDS = {
    "llamagen": Kind(LlamaGen, 16384, (16, 16)),
    "amused": Kind(Amused, 8192, (16, 16)),
    "vq_diffusion": Kind(VQDiffusion, 4096, (32, 32)),
}
TINY = (256, (6, 6))
PROBES = {
    "": set(),
    "_argmax": {Argmax},
    "_subset": {CodebookSubset},
    "_paraphrase": {Paraphrase},
    "_decompose": {Decompose},
    "_enhance": {CodebookSubset, Paraphrase},
}


class Instantiated(FitFreeCLI):
    """Makes all objects of a config and stops there."""

    def instantiate_trainer(self, **kwargs) -> Trainer:
        return LightningCLI.instantiate_trainer(self, logger=False, accelerator="cpu", **kwargs)

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def name(path):
    return str(path.relative_to(CONFIGS).with_suffix(""))


def family(path):
    """Family of a config, and what follows it in the name: the experiment."""
    return re.fullmatch(rf"(?:tiny_)?({'|'.join(KINDS)})(.*)", path.stem).groups()


def first_line(path):
    return path.read_text().splitlines()[0]


def instantiate(path, *more) -> Instantiated:
    """What the command of the first line makes."""
    return Instantiated([*shlex.split(first_line(path).removeprefix("# gendiv fit-free ")), *more])


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch, tmp_path):
    """Relative paths are those of the repository; files that a user brings along are there and empty."""
    (tmp_path / "paraphrases.jsonl").touch()
    monkeypatch.chdir(ROOT)
    (tmp_path / "classes.txt").write_text("207\n3\n")
    for generator in (VAR, *(kind.generator for kind in KINDS.values())):
        monkeypatch.setattr(generator, "locate", None)
        monkeypatch.setattr(generator, "load", None)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name)
def test_the_command_of_a_config_makes_its_objects_without_weights(path, tmp_path):
    (kind_name, experiment), is_tiny = family(path), path.parent.name == "tiny"
    brings_prompts = experiment in ("_paraphrase", "_decompose", "_enhance") and not is_tiny
    made = instantiate(path, *(["--data.path", str(tmp_path / "paraphrases.jsonl")] if brings_prompts else []))
    callbacks = [type(callback) for callback in made.trainer.callbacks]
    if experiment == "_codebook":
        assert made.subcommand == "validate"
        assert isinstance(made.datamodule, PostcardImages if is_tiny else ImageData)
        assert WriteUsage in callbacks
    else:
        assert made.subcommand == "predict"
        assert isinstance(made.datamodule, PromptData)
        assert Measure in callbacks
        assert set().union(*PROBES.values()) & set(callbacks) == PROBES[experiment]
    kind, model = KINDS[kind_name], made.model
    assert type(model) is kind.generator
    unknown = 0, (0, 0)  # until the toy's checkpoint is read
    assert (model.codebook_size, model.grid) in ((TINY, unknown) if is_tiny else [(kind.codebook_size, kind.grid)])


@pytest.mark.parametrize("path", LABELLED, ids=name)
def test_the_command_of_a_class_to_image_config_makes_its_objects_without_weights(path, tmp_path):
    counts = path.stem.endswith("_codebook")
    made = instantiate(path, *([] if counts else ["--data.path", str(tmp_path / "classes.txt")]))
    callbacks = {type(callback) for callback in made.trainer.callbacks}
    assert isinstance(made.datamodule, ImageData if counts else PromptData)
    assert ({WriteUsage} if counts else {Measure, *PROBES[path.stem.removeprefix("var")]}) <= callbacks
    assert type(made.model) is VAR
    assert (made.model.codebook_size, made.model.grid, made.model.size) == (4096, (1, 680), "d16")


@pytest.mark.parametrize("path", EXPERIMENTS + LABELLED, ids=name)
def test_the_first_line_of_a_config_is_its_command(path):
    pattern = rf"# gendiv fit-free (predict|validate) --config {re.escape(str(path.relative_to(ROOT)))}( --\S+ \S+)*"
    assert re.fullmatch(pattern, first_line(path))


def test_an_embedded_config_says_that_its_numbers_are_a_toys():
    silent = [path for path in (CONFIGS / "tiny").iterdir() if "# EMBEDDED MODEL" not in path.read_text()]
    assert not silent


@pytest.mark.parametrize("path", FRAGMENTS, ids=name)
def test_a_generator_fragment_fits_into_a_config(path):
    kind, variant = family(path)
    made = instantiate(CONFIGS / f"{kind}.yaml", "--model", str(path))
    assert type(made.model) is KINDS[kind].generator
    if path.stem.startswith("tiny"):
        assert (made.model.codebook_size, made.model.grid) in (TINY, (0, (0, 0)))
    elif variant == "_512":
        assert made.model.grid == (32, 32)


def test_the_families_and_the_real_and_embedded_models_have_the_same_experiments():
    there = {(path.parent.name, *family(path)) for path in EXPERIMENTS}
    assert there == {
        (folder, kind, experiment)
        for folder in ("configs", "tiny")
        for kind in KINDS
        for experiment in (*PROBES, "_codebook")
    }


def body(path):
    """A config without its comments, whichever family it is of."""
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE)
    return text.replace(family(path)[0], "FAMILY")


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name)
def test_an_experiment_is_the_same_one_in_every_family(path):
    assert body(path) == body(path.with_stem(path.stem.replace(family(path)[0], "llamagen")))


@pytest.mark.parametrize("path", EXPERIMENTS + LABELLED + FRAGMENTS, ids=name)
def test_a_config_names_configs_that_are_there(path):
    named = {word.rpartition("/")[2] for word in re.findall(r"[\w./]+\.yaml", path.read_text())}
    there = {
        other.name for folder in (path.parent, CONFIGS / "generators", CONFIGS / "data") for other in folder.iterdir()
    }
    assert named <= there


@pytest.mark.parametrize("path", EXPERIMENTS + LABELLED + FRAGMENTS, ids=name)
def test_an_embedded_file_that_a_config_names_is_in_the_package(path):
    missing = [file for file in re.findall(r"toy:([\w./-]*\w)", path.read_text()) if not (WEIGHTS / file).exists()]
    assert not missing


@pytest.mark.parametrize("kind", KINDS)
def test_the_counts_that_a_subset_reads_are_those_that_the_codebook_config_writes(kind):
    counted = yaml.safe_load((CONFIGS / f"{kind}_codebook.yaml").read_text())["run_dir"]
    callbacks = yaml.safe_load((CONFIGS / f"{kind}_subset.yaml").read_text())["trainer"]["callbacks"]
    (subset,) = [c["init_args"] for c in callbacks if c["class_path"].endswith("CodebookSubset")]
    assert subset["usage"] == f"{counted}/usage.safetensors"


def test_the_gates_are_those_of_the_settings_that_the_embedded_configs_have():
    assert {name.replace("-", "_") for name in FAMILIES} == set(KINDS)
    for name, gated in FAMILIES.items():
        config = yaml.safe_load((CONFIGS / f"generators/tiny_{name.replace('-', '_')}.yaml").read_text())
        del config["init_args"]["batch_size"]
        in_yaml = {key: list(value) if isinstance(value, tuple) else value for key, value in gated.settings.items()}
        assert config == {"class_path": gated.class_path, "init_args": in_yaml}
