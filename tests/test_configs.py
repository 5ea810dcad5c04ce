"""Every shipped config parses, includes its fragments, and instantiates its objects without any weights."""

import json
import re
import shlex
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml
from running import ROOT

from gendiv_lightning.callbacks import CodebookSubset
from gendiv_lightning.cli.predict import Config
from gendiv_lightning.datamodules import ImageModule
from gendiv_lightning.runs.assemble import check
from gendiv_lightning.storage.codebook_counts import write_usage
from gendiv_lightning.storage.config_files import check_yaml, fragments_of, read_yaml
from gendiv_lightning.storage.named_files import named_file
from gendiv_lightning.weights.resolve import MissingWeightsError

CONFIGS = ROOT / "configs"
FRAGMENTS = ("models", "data", "measures")


def name(path):
    return str(path.relative_to(CONFIGS).with_suffix(""))


def first_line(path):
    return path.read_text().splitlines()[0]


FILES = sorted(path for path in CONFIGS.rglob("*.yaml"))
STUDIES = [path for path in FILES if path.stem.startswith("study")]  # many runs, see test_study.py
EXPERIMENTS = [path for path in FILES if path.parent.name not in FRAGMENTS and path not in STUDIES]
MODELS = [path for path in FILES if path.parent.name == "models"]
MEASURES = [path for path in FILES if path.parent.name == "measures"]


@pytest.fixture(autouse=True)
def _files_of_the_user(monkeypatch, tmp_path):
    """Files of a user in the working directory: prompts with paraphrases, and classes."""
    (tmp_path / "paraphrases.jsonl").write_text(json.dumps({"prompt": "a hill"}))
    (tmp_path / "classes.txt").write_text("207\n3\n")
    monkeypatch.chdir(tmp_path)


def _without_weights():
    """A pipeline of diffusers is only known by its folder, which does not exist here."""
    return suppress(MissingWeightsError)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name)
def test_the_command_of_a_config_builds_its_objects_without_weights(path):
    config = Config(shlex.split(first_line(path).removeprefix("# gendiv fit-free ")))
    if config.subcommand == "validate":
        assert isinstance(config.options.data, ImageModule)
        return
    generator = config.options.model
    for probe in config.parts.probes:  # counts as a codebook config would write them
        if isinstance(probe, CodebookSubset) and named_file(probe.usage) is None:
            Path(probe.usage).parent.mkdir(parents=True)
            write_usage(Path(probe.usage), torch.ones(generator.codebook_size), {})
    with _without_weights():
        assert check(config.parts).num_samples >= 8
    assert config.parts.metrics


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name)
def test_the_first_line_of_a_config_is_its_command(path):
    pattern = rf"# gendiv fit-free (predict|validate) --config {re.escape(str(path.relative_to(ROOT)))}( --\S+ \S+)*"
    assert re.fullmatch(pattern, first_line(path))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name)
def test_an_experiment_uses_fragments_for_its_large_parts(path):
    config = yaml.safe_load(path.read_text())
    parts = [config[part] for part in ("model", "data", "measure") if part in config]
    assert {(path.parent / part).resolve() for part in parts} <= {fragment for fragment in fragments_of(path)}


def test_a_toy_config_states_that_its_numbers_are_of_a_toy():
    silent = [path for path in (CONFIGS / "tiny").iterdir() if "# TOY MODEL" not in path.read_text()]
    assert not silent


@pytest.mark.parametrize("path", MODELS, ids=name)
def test_a_model_fragment_builds_a_generator(path):
    fragments = {"data": "data/postcards.yaml", "measure": "measures/tiny_images.yaml"}
    words = [word for part, file in fragments.items() for word in (f"--{part}", str(CONFIGS / file))]
    config = Config(["predict", "--model", str(path), *words])
    with _without_weights():
        assert check(config.parts)


@pytest.mark.parametrize("path", MEASURES, ids=name)
def test_a_measure_fragment_builds_metrics(path):
    fragments = {"model": "models/tiny_llamagen.yaml", "data": "data/postcards.yaml"}
    words = ["predict", *(word for part, file in fragments.items() for word in (f"--{part}", str(CONFIGS / file)))]
    words += ["--measure", str(path)]
    assert len(Config(words).measure.metrics) == len(yaml.safe_load(path.read_text())["metrics"])


def test_no_two_fragments_are_the_same():
    bodies = [json.dumps(yaml.safe_load(path.read_text())) for path in FILES if path.parent.name in FRAGMENTS]
    assert len(set(bodies)) == len(bodies)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_config_names_existing_files(path):
    text = path.read_text()
    configs = {word.rpartition("/")[2] for word in re.findall(r"[\w./]+\.yaml", text)}
    assert configs <= {other.name for other in FILES}
    assert all(named_file(file).exists() for file in re.findall(r"toy:[\w./-]*\w", text))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name)
def test_a_probe_reads_counts_that_a_codebook_config_writes(path):
    folders = [yaml.safe_load(other.read_text()).get("run_dir") for other in EXPERIMENTS]
    for read in re.findall(r"(runs/\S+)/usage.safetensors", path.read_text()):
        assert read in folders


YAML = {
    "cut": ("model: [", r"is not valid YAML \(line 1\)"),
    "a tag that calls": ("a: !!python/object/apply:os.getcwd []", "is not valid YAML"),
    "bytes": (b"\xff\xfe\x00", "is not UTF-8 text"),
    "deep": ("[" * 3000, "is nested too deeply"),
    "in itself": ("a: &a [*a]", "is nested too deeply"),
    "a billion values": (
        "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
        + "".join(f"{b}: &{b} [{','.join(['*' + a] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
        "expands to more than",
    ),
    "a key twice": ("run_dir: a\nmodel: {x: 1}\nrun_dir: b\n", r"\(line 3\): the key 'run_dir' occurs twice"),
}


@pytest.mark.parametrize(("text", "message"), YAML.values(), ids=YAML)
def test_a_yaml_file_that_cannot_be_a_config_is_one_line_with_its_name(text, message, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=rf"config\.yaml .*{message}") as error:
        read_yaml(path)
    assert "\n" not in str(error.value)
    (tmp_path / "whole.yaml").write_text("model: config.yaml\n")
    with pytest.raises(ValueError, match=message):
        check_yaml(["predict", f"--config={tmp_path / 'whole.yaml'}"])
