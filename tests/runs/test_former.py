"""Run folders and command lines of version 0.1 still work."""

from pathlib import Path

import pytest
import yaml
from running import TINY

from gendiv_lightning.cli.predict import Config, read_config
from gendiv_lightning.runs.former import upgrade_config, upgrade_protocol, upgrade_words, upgraded_configs

CONFIG = {
    "model": {"class_path": "LlamaGen", "init_args": {"gpt": "tiny", "text_encoder": "zoo:t5"}},
    "data": {
        "class_path": "PromptData",
        "init_args": {"path": "gendiv_lightning/zoo/postcards.jsonl", "split": "train"},
    },
    "trainer": {"callbacks": [{"class_path": "Decompose", "init_args": {"num_paths": 4, "score_wordings": True}}]},
}


def test_only_removed_arguments_are_dropped_from_a_config():
    before = {**CONFIG, "run_dir": "x"}
    after = upgrade_config(before)
    assert after["model"]["init_args"] == {"gpt": "toy:llamagen_gpt.json", "text_encoder": "toy:t5"}
    assert after["data"]["init_args"] == {"path": "toy:postcards.jsonl"}
    assert after["trainer"]["callbacks"][0]["init_args"] == {"num_paths": 4}
    assert after["run_dir"] == "x"
    assert before["data"]["init_args"]["split"] == "train"
    dataset = {
        "model": {"init_args": {"size": "amused-256"}},
        "data": {"init_args": {"path": None, "dataset": "a/b", "split": "train"}},
        "trainer": {"callbacks": None},
    }
    assert upgrade_config(dataset) == dataset


@pytest.mark.parametrize(
    "malformed",
    [
        {"trainer": {"callbacks": ["Argmax"]}},
        {"trainer": {"callbacks": [{"class_path": "Decompose", "init_args": None}, None, {"init_args": [1]}]}},
        {"trainer": {"callbacks": "Argmax"}},
        {"model": {"class_path": "Amused", "init_args": {"size": {"a": 1}, "gpt": ["tiny"]}}},
        {"model": {"init_args": "x"}, "data": {"init_args": [1]}},
    ],
)
def test_malformed_parts_of_a_config_are_left_to_the_parser(malformed):
    config = {"model": {}, "data": {}, "trainer": {}, **malformed}
    assert upgrade_config(config) == config


def test_removed_arguments_are_dropped_from_a_protocol():
    probes = [{"probe": "Decompose", "num_paths": 4, "score_wordings": True}, {"probe": "Argmax"}]
    assert upgrade_protocol({"probes": probes, "seed": 1}) == {
        "probes": [{"probe": "Decompose", "num_paths": 4}, {"probe": "Argmax"}],
        "seed": 1,
    }
    assert upgrade_protocol({"what": "validation images"}) == {"what": "validation images"}


def test_arguments_of_callbacks_become_arguments_of_probes_and_measure(tmp_path):
    (tmp_path / "new.yaml").write_text("probes: [Argmax]\ntrainer: {accelerator: cpu}\n")
    words = ["predict", "--config", str(tmp_path / "new.yaml"), "--trainer.callbacks.ratio=0.25"]
    words += ["--trainer.callbacks.metrics=[ssim]", "--trainer.callbacks+=TopK", "--trainer.callbacks.top_k=3"]
    assert upgrade_words(words)[3:] == [
        "--probes.ratio=0.25",
        "--measure.metrics=[ssim]",
        "--trainer.callbacks+=TopK",
        "--trainer.callbacks.top_k=3",
    ]


def test_a_config_with_its_own_callbacks_is_unchanged(tmp_path):
    (tmp_path / "old.yaml").write_text("trainer: {callbacks: [{class_path: Argmax}]}\n")
    for config in (["--config", str(tmp_path / "old.yaml")], [f"--config={tmp_path / 'old.yaml'}"]):
        words = ["predict", *config, "--trainer.callbacks.ratio=0.25"]
        assert upgrade_words(words) == words
    assert upgrade_words(["predict", "--config", "missing.yaml"]) == ["predict", "--config", "missing.yaml"]


def test_the_config_of_a_run_is_upgraded_for_the_parser_alone(tmp_path):
    path = tmp_path / "run" / "config.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(CONFIG))
    for words in (["--config", str(path)], [f"--config={path}"]):
        with upgraded_configs(["predict", *words, "--data.seed", "1"]) as upgraded:
            copy = Path(upgraded[1].removeprefix("--config=") if "=" in upgraded[1] else upgraded[2])
            assert yaml.safe_load(copy.read_text()) == upgrade_config(CONFIG)
            assert (copy.parent.name, copy.name) == ("run", "config.yaml")  # the default run folder is named by it
            assert upgraded[-2:] == ["--data.seed", "1"]
        assert not copy.exists()
    assert yaml.safe_load(path.read_text()) == CONFIG


def test_configs_of_today_and_those_that_name_other_files_are_not_copied(tmp_path):
    (tmp_path / "new.yaml").write_text(yaml.safe_dump(upgrade_config(CONFIG)))
    (tmp_path / "parts.yaml").write_text(yaml.safe_dump({**CONFIG, "data": "data.yaml"}))
    (tmp_path / "broken.yaml").write_text("model: [")
    words = [word for name in ("new", "parts", "broken") for word in ("--config", str(tmp_path / f"{name}.yaml"))]
    with upgraded_configs(words) as upgraded:
        assert upgraded == words


def test_predict_takes_the_config_of_a_run_of_version_0_1(tmp_path):
    """Without weights: what is made of it has the settings that it had."""
    config = Config(["predict", "--config", str(TINY / "llamagen_decompose.yaml")]).resolved()
    del config["measure"], config["probes"]
    config["model"]["init_args"] |= {"gpt": "tiny", "vq": "tiny", "text_encoder": "zoo:t5"}
    config["data"]["init_args"] |= {
        "path": "gendiv_lightning/zoo/postcards.jsonl",
        "split": "train",
        "record_marginals": True,
    }
    config["trainer"]["callbacks"] = [
        {"class_path": "gendiv_lightning.callbacks.Decompose", "init_args": {"num_paths": 2, "score_wordings": False}},
        {"class_path": "gendiv_lightning.callbacks.Measure", "init_args": {"metrics": ["ssim"]}},
    ]
    path = tmp_path / "run" / "config.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(config))
    read = read_config(path)
    assert read.parts.generator.text_encoder == "toy:t5"
    assert [type(probe).__name__ for probe in read.parts.probes] == ["Decompose"]
    assert read.parts.data.path == "toy:postcards.jsonl"
    assert read.name == "run-config"
