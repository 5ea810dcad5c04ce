"""Labels: names of runs in reports, studies and W&B, from the protocols that runs write."""

import json

import pytest

from gendiv_lightning.callbacks import Argmax, CodebookSubset, Decompose, Paraphrase, Temperature
from gendiv_lightning.runs.description import read_description
from gendiv_lightning.runs.labels import label_of
from gendiv_lightning.runs.protocol import fingerprint_of


def protocol(*probes, seed=0, **generator):
    return {
        "generator": {"generator": "llamagen", "embedded": True, "gpt": "tiny", **generator},
        "probes": [probe.identity(256) for probe in probes],
        "data": {"seed": seed, "num_samples": 8},
        "metrics": [],
    }


RANDOM_QUARTER = CodebookSubset(select="random", ratio=0.25)


@pytest.mark.parametrize(
    ("probes", "name", "title"),
    [
        ([], "baseline", "LlamaGen (toy), baseline"),
        ([Argmax()], "Argmax", "LlamaGen (toy), argmax"),
        ([Temperature(0.7)], "Temperature", "LlamaGen (toy), temperature 0.7"),
        ([RANDOM_QUARTER], "CodebookSubset", "LlamaGen (toy), random 25 %"),
        ([Paraphrase(4, "mixed")], "Paraphrase", "LlamaGen (toy), 4 mixed paraphrases"),
        ([Decompose(4)], "Decompose", "LlamaGen (toy), decomposed (4 paths x 4 executions)"),
        (
            [Decompose(4, 4), Argmax()],
            "Argmax + Decompose",
            "LlamaGen (toy), argmax, decomposed (4 paths x 4 executions x 4 wordings)",
        ),
    ],
)
def test_a_run_is_named_by_its_probes(probes, name, title):
    label = label_of(protocol(*probes))
    assert (label.generator, label.probe, label.title) == ("LlamaGen", name, title)
    assert label.fingerprint == fingerprint_of(protocol(*probes))[:8]


def test_the_settings_to_group_by_are_numbers():
    label = label_of(protocol(RANDOM_QUARTER, Paraphrase(2, "short"), seed=3))
    assert (label.select, label.ratio, label.paraphrase_length, label.seed) == ("random", 0.25, "short", 3)
    assert label.title.endswith(", seed 3")
    assert label_of(protocol()).ratio is None


def test_dropped_entries_are_named_and_the_ratio_is_the_rest(tmp_path):
    import torch

    from gendiv_lightning.storage.codebook_counts import write_usage

    write_usage(tmp_path / "usage.safetensors", torch.arange(256), {})
    probe = CodebookSubset(select="drop_most_frequent", ratio=0.0625, usage=str(tmp_path / "usage.safetensors"))
    label = label_of(protocol(probe))
    assert label.ratio == 1 - 0.0625
    assert label.title == "LlamaGen (toy), most frequent 6.25 % dropped"


def test_a_real_model_is_named_with_its_size_and_an_unknown_one_by_its_own_name():
    real = label_of(protocol(embedded=False, gpt="XL"))
    assert (real.generator, real.title, real.embedded) == ("LlamaGen XL", "LlamaGen XL, baseline", False)
    assert label_of(protocol(generator="mine")).generator == "mine"


def test_a_run_is_named_by_its_own_description(tmp_path):
    """A family and a probe that are unknown to the package."""
    run = protocol(generator="mine") | {"probes": [{"probe": "Shake", "strength": 3}]}
    file = tmp_path / "description.json"
    description = {
        "generator": {
            "family": "mine",
            "title": "MyModel",
            "size": "2B",
            "chance": {"path": "", "execution": "tokens"},
        },
        "probes": [{"probe": "Shake", "label": "shaken, not stirred", "short": "shaken", "isolates": "the ice"}],
        "metrics": {"mine/gloss": {"short": "gloss", "higher_is_better": False}},
    }
    file.write_text(json.dumps(description))
    read = read_description(file, run)
    label = label_of(run, read)
    assert (label.generator, label.probe) == ("MyModel 2B", "Shake")
    assert label.title == "MyModel 2B (toy), shaken, not stirred"
    assert (read.short, read.probes[0].isolates, read.generator.chance["execution"]) == ("shaken", "the ice", "tokens")
    assert (read.metrics["mine/gloss"].short, read.metrics["mine/gloss"].higher_is_better) == ("gloss", False)


def test_a_probe_without_a_description_is_named_by_its_settings(tmp_path):
    run = protocol() | {"probes": [{"probe": "Shake", "strength": 3}]}
    assert label_of(run, read_description(tmp_path / "description.json", run)).title == "LlamaGen (toy), shake 3"
