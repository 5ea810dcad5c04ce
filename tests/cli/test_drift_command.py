"""`gendiv drift` on runs of a model with random weights: the tables, the file, the control, and what it refuses."""

import json

import pytest
from running import predict
from study_runs import FEW_METRICS

from gendiv_lightning.analysis.drift_file import read_drift
from gendiv_lightning.cli.main import main
from gendiv_lightning.runs.load import read_run
from gendiv_lightning.toy import postcards
from gendiv_lightning.toy.scorer import PostcardScorer, postcard_attributes


def gendiv(*words):
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return stopped.value.code


@pytest.fixture(scope="module")
def runs(drifting, weights, tmp_path_factory):
    """Baseline, subset and temperature over the same prompts; and a run over fewer prompts."""
    folder = tmp_path_factory.mktemp("drift")
    for run in drifting.iterdir():
        (folder / run.name).symlink_to(run)
    predict(weights, folder / "fewer", *FEW_METRICS, limit=5)
    return folder


def test_the_matrices_are_those_of_the_stored_images(runs, tmp_path, capsys):
    assert gendiv("drift", runs / "plain", runs / "subset", "--json", tmp_path / "drift.json") == 0
    printed = capsys.readouterr().out
    found = read_drift(tmp_path / "drift.json")
    assert found.scorer == found.attributes == "postcards"
    assert found.runs == {name: read_run(runs / run).label.fingerprint for name, run in ROLES.items()}
    sky = next(each for each in found.drift.attributes if each.name == "sky")
    by_hand = {value: [] for value in postcards.SKY}
    for batch in read_run(runs / "subset").folder.read_samples():
        for prompt, images in zip(batch.batch.prompts, batch.images.split(4), strict=True):
            question, stated = postcard_attributes(prompt.text)[0]
            if stated:
                by_hand[stated].append(PostcardScorer().choose(images, question).mean(0))
    for row, (value, seen) in zip(sky.matrices["probe"], by_hand.items(), strict=True):
        if seen:
            assert row.tolist() == pytest.approx((sum(seen) / len(seen)).tolist()), value
        else:
            assert row.isnan().all()
    assert "all attributes" in printed
    assert "Token entropy, bits per token: baseline" in printed
    assert "TOO FEW PROMPTS (6)" in printed
    assert "beyond" not in printed.lower()


ROLES = {"baseline": "plain", "probe": "subset"}


def test_a_control_adds_the_drift_beyond_noise_and_must_match(runs, capsys):
    assert gendiv("drift", runs / "plain", runs / "subset", "--control", runs / "warm", "--attribute", "sky") == 0
    printed, warned = capsys.readouterr()
    assert "Beyond (noise)" in printed
    assert "control - probe: " in printed
    assert "probe - baseline, %" in printed
    assert "all attributes" not in printed
    assert "differ by more than 5 %" in warned
    assert "at a lower temperature" in warned


def test_a_zero_shot_classifier_reads_the_same_attributes(runs, capsys):
    words = ("--scorer", "tiny-clip", "--list", "postcards")
    assert gendiv("drift", runs / "plain", runs / "subset", *words) == 0
    assert "scorer: tiny-clip" in capsys.readouterr().out


def test_attributes_come_from_a_file(runs, tmp_path, capsys):
    texts = [json.loads(line)["text"] for line in (runs / "plain" / "prompts.jsonl").read_text().splitlines()]
    attribute = {"name": "light", "values": ["none", "sun", "moon"]}
    rows = [{"prompt": text, "attributes": [{**attribute, "stated": "sun"}]} for text in texts]
    (tmp_path / "list.json").write_text(json.dumps(rows))
    assert gendiv("drift", runs / "plain", runs / "subset", "--list", tmp_path / "list.json") == 0
    assert "light" in capsys.readouterr().out
    (tmp_path / "list.json").write_text(json.dumps([{**row, "attributes": [attribute]} for row in rows]))
    assert "no attribute has a stated value" in gendiv(
        "drift", runs / "plain", runs / "subset", "--list", tmp_path / "list.json"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("plain", "plain"), "is given twice"),
        (("plain", "fewer"), "they differ in data.num_prompts"),
        (("plain", "subset", "--attribute", "mood"), "--attribute mood is stated by fewer than two prompts"),
        (("plain", "subset", "--scorer", "x/y/z"), "neither a registered scorer nor a CLIP"),
        (("plain", "subset", "--list", "nothing"), "neither a file nor a registered name"),
        (("plain", "subset", "--json", "x.txt"), "--json must end in .json"),
    ],
)
def test_bad_input_fails_before_an_image_is_read(runs, words, message, monkeypatch):
    monkeypatch.setattr("gendiv_lightning.runs.folder.read_batch", lambda shard: pytest.fail("an image was read"))
    assert message in gendiv("drift", *(runs / word if (runs / word).exists() else word for word in words))


def test_prompts_without_a_list_of_their_name_need_one(weights, runs, tmp_path):
    (tmp_path / "own.txt").write_text("blue sky\nred house left\n")
    for name, probe in (("plain", ()), ("argmax", ("--probes+=Argmax",))):
        predict(weights, tmp_path / name, *FEW_METRICS, *probe, "--data.path", str(tmp_path / "own.txt"))
    assert "--scorer is required" in gendiv("drift", tmp_path / "plain", tmp_path / "argmax")
    words = ("--scorer", "tiny-clip")
    assert "--list is required" in gendiv("drift", tmp_path / "plain", tmp_path / "argmax", *words)
