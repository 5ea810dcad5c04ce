"""A run with the Decompose design, and its analyses: the table, the comparison, the power analysis."""

import json
import math
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
from running import predict

from gendiv_lightning.analysis.lenses import find_lenses, residual
from gendiv_lightning.cli.main import main
from gendiv_lightning.console.decomposition import format_decomposition
from gendiv_lightning.metrics.registry import make_metric
from gendiv_lightning.runs.load import find_runs
from gendiv_lightning.runs.schema import UNSEEN
from gendiv_lightning.toy.ground_truth import compare_with_truth, format_truth

ARGMAX = "--probes+=Argmax"


def gendiv(*words):
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return stopped.value.code


@pytest.fixture(scope="module")
def runs(weights, tmp_path_factory):
    """Decomposed runs of random weights, plain and under Argmax: 3 prompts x 4 paraphrases, 4 x 4 samples."""
    folder = tmp_path_factory.mktemp("runs")
    plain = predict(weights, folder / "plain", config="llamagen_decompose")
    return plain, predict(weights, folder / "argmax", ARGMAX, config="llamagen_decompose")


def test_every_decomposition_adds_up(runs):
    for run in runs:
        estimates = run.read_metrics()
        lenses = find_lenses(estimates)
        assert {lens.title[0] for lens in lenses} == set("ABC")
        for lens in lenses:
            assert abs(residual(estimates, lens)) < 1e-12


def test_an_autoregressive_model_has_no_sampler_path(runs):
    plain, argmax = (run.read_metrics() for run in runs)
    assert argmax["h_exec/token"].value == pytest.approx(0, abs=1e-9)
    assert argmax["h_exec/sequence"].value == 0
    assert argmax["diversity/ssim/exec"].value == 0
    path = plain["h_sampler_path/token"]
    assert abs(path.value) < 0.1 * plain["h_exec/token"].value
    assert plain["h_sampler_path/token/plugin"].value > 3 * abs(path.value), "counting few samples finds a path"
    assert 0 < plain["h_prompt_path/sequence"].value <= math.log2(4)


@pytest.fixture
def subset(runs, tmp_path):
    """The plain run as one under a subset of the whole codebook."""
    plain, _ = runs
    folder = Path(shutil.copytree(plain.path, tmp_path / "subset"))
    there = json.loads((folder / "fingerprint.json").read_text())
    probe = {"probe": "CodebookSubset", "select": "random", "size": 256, "codebook_size": 256}
    there["protocol"]["probes"].append(probe)
    (folder / "fingerprint.json").write_text(json.dumps(there))
    for name in ("index.jsonl", "description.json"):
        (folder / name).unlink()
    return folder


def test_a_run_that_is_not_under_the_probe_of_its_option_is_refused(runs, subset):
    plain, argmax = runs
    assert "--argmax must be a run under Argmax" in gendiv("decompose", plain.path, "--argmax", plain.path)
    both = ("--argmax", argmax.path, "--subset", argmax.path)
    assert "--subset must be a run under CodebookSubset" in gendiv("decompose", plain.path, *both)
    assert "--subset needs --argmax" in gendiv("decompose", plain.path, "--subset", subset)


def test_the_table_is_printed_by_the_run_and_again_from_its_folder(runs, subset, capsys):
    plain, argmax = runs
    both = ("--argmax", argmax.path, "--subset", subset)
    assert gendiv("decompose", plain.path, *both, "--distance", "ssim", "--test") == 0
    printed = capsys.readouterr().out
    assert format_decomposition(plain.read_metrics()) in printed
    beside = {
        line.split()[0]: float(line.split()[1]) for line in printed.splitlines() if line[:6] in ("plugin", "chao-w")
    }
    assert beside["plugin"] < beside["chao-wang-jost"]
    assert beside["chao-wang-jost"] == pytest.approx(plain.read_metrics()["h_total/token/counts"].value, abs=6e-4)
    for words in ("grassberger", "paths of a paraphrase", "tokens drawn, not argmax", "Verdict by diversity/ssim"):
        assert words in printed


def test_the_ground_truth_separates_errors_of_model_and_estimator(runs, capsys, monkeypatch):
    plain, _ = runs
    (run,), _ = find_runs([plain.path])
    metric = make_metric("ssim")
    found = compare_with_truth(plain.read_samples(), run.columns, metric)
    totals = {c.lens[0]: c for c in found if c.part == "H_total"}
    assert totals["B"].truth.tolist() == run.columns["postcards/h_total_true_bits"].tolist()
    for number in found:
        assert number.part == "H_total" or not number.truth.any()
        if not number.truth.isnan().any():
            # With three prompts x 64 samples the decomposition is accurate to a few percent.
            error = (number.perfect - number.truth).nanmean().abs()
            assert error < 0.1 * max(1.0, totals[number.lens[0]].truth.mean())
    monkeypatch.setattr("gendiv_lightning.toy.ground_truth.compare_with_truth", lambda *_: found)  # not all over again
    assert gendiv("decompose", plain.path, "--truth", "--distance", "ssim") == 0
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if line.startswith("B sequences, H_total"))
    assert f"{totals['B'].truth.mean():.3f}" in row
    assert f"{totals['B'].run.mean():.3f}" in row
    assert format_truth(found) in printed


def test_the_plane_is_drawn_by_command(runs, tmp_path, capsys):
    plain, argmax = runs
    file = tmp_path / "new" / "plane.svg"
    assert gendiv("decompose", plain.path, "--argmax", argmax.path, "--distance", "ssim", "--plot", file) == 0
    assert str(file) in capsys.readouterr().out
    texts = {element.text for element in ElementTree.parse(file).iter() if element.text}
    assert {"H(C), bits per token", "H(C|X), bits per token", "share of H_total"} <= texts
    assert "must end in .svg" in gendiv("decompose", plain.path, "--distance", "ssim", "--plot", "plane.png")


def test_a_resumed_run_has_the_same_numbers(runs, weights):
    plain, _ = runs
    before = plain.read_metrics()
    plain.shards()[1].unlink()
    (plain.path / "metrics.json").unlink()
    predict(weights, plain.path, config="llamagen_decompose")
    after = plain.read_metrics()
    assert after.keys() == before.keys()
    for name, estimate in after.items():
        assert estimate[:3] == pytest.approx(before[name][:3], rel=1e-6, abs=1e-9, nan_ok=True)


def test_too_few_prompts_and_samples_give_warnings(runs):
    estimates = runs[0].read_metrics()
    text = format_decomposition({**estimates, UNSEEN: estimates[UNSEEN]._replace(value=0.3)})
    assert "TOO FEW PROMPTS (3)" in text
    assert "TOO FEW SAMPLES for counts" in text
    assert 0 < estimates[UNSEEN].value < 1
    assert "Paths that may be 0: A tokens (sampler" in text
    many = {name: e._replace(low=1.0, high=2.0, num_prompts=e.num_prompts and 8) for name, e in estimates.items()}
    many[UNSEEN] = many[UNSEEN]._replace(value=0.01)
    assert not re.search("TOO FEW|may be 0", format_decomposition(many))


def test_runs_are_compared_prompt_by_prompt(runs, capsys):
    plain, argmax = runs
    assert gendiv("compare", plain.path, argmax.path, "--only", "diversity/ssim") == 0
    table = capsys.readouterr().out
    row = next(line for line in table.splitlines() if line.startswith("diversity/ssim "))
    difference = argmax.read_metrics()["diversity/ssim"].value - plain.read_metrics()["diversity/ssim"].value
    assert f"{difference:+.4f}" in row


def test_equivalence_is_decided_by_two_one_sided_tests(runs, tmp_path, capsys):
    plain, argmax = runs
    same, other = (plain.path, shutil.copytree(plain.path, tmp_path / "again")), (plain.path, argmax.path)
    answers = []
    for sides, margin in ((same, "0.01"), (same, "5%"), (other, "1%"), (other, "1000%")):
        assert gendiv("compare", *sides, "--only", "diversity/ssim/exec", "--margin", margin) == 0
        printed = capsys.readouterr().out
        assert "TOO FEW PROMPTS (3)" in printed
        answers.append(printed.split("Equivalence: two one-sided tests")[1].split("\n\n")[0].splitlines()[-1])
    for answer, words in zip(answers, ("within 0.01", "equivalent within", "different by more", "within"), strict=True):
        assert words in answer
    assert "--margin must be positive" in gendiv("compare", *same, "--margin", "-3")
    assert "is given twice" in gendiv("compare", plain.path, plain.path)
    assert "must not be empty" in gendiv("compare", f"{plain.path},", argmax.path)


def test_runs_that_are_not_comparable_are_rejected_with_the_reason(runs, weights, tmp_path):
    plain, _ = runs
    other = predict(weights, tmp_path / "other", limit=2)
    message = gendiv("compare", plain.path, other.path)
    assert "data.num_prompts (3 and 2)" in message
    assert "--anyway" in message
    assert "it has no fingerprint.json" in gendiv("compare", plain.path, other.path / "samples")
    assert "Make a run with `--probes+=Decompose`" in gendiv("decompose", other.path)


def test_runs_with_different_sample_counts_are_rejected_even_if_their_data_agree(weights, tmp_path):
    few = predict(weights, tmp_path / "few", "--data.num_samples", "8", config="llamagen_decompose")
    less = predict(weights, tmp_path / "less", "--data.num_samples", "8")
    assert few.read_protocol()["data"]["num_samples"] == less.read_protocol()["data"]["num_samples"]
    message = gendiv("compare", few.path, less.path)
    assert "total number of samples (192 and 24)" in message
    assert "--anyway" in message


def test_sample_sizes_from_a_pilot_equal_those_from_given_variances(runs, capsys):
    plain, argmax = runs
    assert gendiv("plan", "--pilot", plain.path, "--metric", "pixel_cosine", "--width", "0.01") == 0
    part = ["power", "--pilot", plain.path, "--metric", "pixel_cosine", "--width", "0.01", "--number"]
    assert gendiv(*part, "sampler_path") == 0
    assert "has no number path_sampler. Choose one of diversity/pixel_cosine, " in gendiv(*part, "path_sampler")
    assert gendiv("plan", "--pilot", plain.path, "--pilot", argmax.path, "--metric", "ssim", "--effect", "0.2") == 0
    assert gendiv("power", "--between", "1", "--within", "0", "--effect", "0.5") == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["64", "34", "2176"]


def test_a_distance_missing_from_the_run_is_an_error_that_lists_the_others(runs):
    message = gendiv("decompose", runs[0].path, "--distance", "lpips[vgg]")
    assert "--distance lpips[vgg]" in message
    assert "lpips[tiny], pixel_cosine, ssim" in message


def test_a_prompt_set_without_ground_truth_is_named(runs, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs[0].path, folder)
    (folder / "index.jsonl").unlink()  # of the checksums
    file = folder / "fingerprint.json"
    file.write_text(file.read_text().replace('"prompt_set": "postcards"', '"prompt_set": "mine"'))
    message = gendiv("decompose", folder, "--truth")
    assert "'mine'" in message
    assert "postcards" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--width", "1"], "--pilot"),
        (["--between", "1", "--within", "1"], "--width"),
        (["--between", "1", "--within", "1", "--width", "0"], "half_width"),
        (
            ["--between", "-1", "--within", "1", "--width", "1"],
            "--between is a variance",
        ),
        (
            ["--between", "1", "--within", "nan", "--width", "1"],
            "--within must be a finite number",
        ),
        (["--between", "inf", "--within", "1", "--width", "1"], "--between"),
        (["--between", "1", "--within", "1", "--width", "nan"], "--width must be a finite number, got nan"),
        (["--between", "1", "--within", "1", "--effect", "inf"], "--effect must be a finite number, got inf"),
        (
            ["--between", "1", "--within", "1", "--width", "1", "--metric", "ssim"],
            "--metric and --number",
        ),
    ],
)
def test_a_power_analysis_needs_a_goal_and_variances(words, message):
    assert message in gendiv("power", *words)
