"""Run folders and command lines of version 0.1 still work."""

from gendiv_lightning.runs.former import upgrade_config, upgrade_protocol, upgrade_words

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
    words = ["predict", "--config", str(tmp_path / "old.yaml"), "--trainer.callbacks.ratio=0.25"]
    assert upgrade_words(words) == words
    assert upgrade_words(["predict", "--config", "missing.yaml"]) == ["predict", "--config", "missing.yaml"]
