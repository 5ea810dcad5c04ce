"""`gendiv compare`: two runs or groups, prompt by prompt; runs that are not comparable are rejected with the keys."""

import json
import shutil

import pytest
import torch
from running import metrics_of

from gendiv_lightning.cli.main import main
from gendiv_lightning.functional.comparison import compare
from gendiv_lightning.runs.folder import RunFolder

LPIPS = "diversity/lpips[tiny]"


def gendiv(*words):
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return stopped.value.code


def row_of(table, name):
    return next(line.split() for line in table.splitlines() if line.split()[:1] == [name])


@pytest.fixture
def changed(study, tmp_path):
    """A copy of the random subset's run with another protocol."""

    def changed(change):
        shutil.copytree(study / "random-0.5", tmp_path / "changed")
        (tmp_path / "changed" / "index.jsonl").unlink()  # of the checksums
        file = tmp_path / "changed" / "fingerprint.json"
        there = json.loads(file.read_text())
        change(there["protocol"])
        file.write_text(json.dumps(there))
        return tmp_path / "changed"

    return changed


def test_groups_of_seeds_are_compared_by_their_means_over_seeds(study, capsys):
    sides = [",".join(str(study / f"{name}{seed}") for seed in ("", "-1")) for name in ("baseline", "argmax")]
    assert gendiv("compare", *sides, "--only", LPIPS) == 0
    _, a, b, difference, low, high, *_ = row_of(capsys.readouterr().out, LPIPS)
    columns = [RunFolder(study / name).read_per_prompt()[LPIPS].to_pylist() for name in ("baseline", "baseline-1")]
    expected = compare(torch.tensor(columns, dtype=torch.float64).mean(0), torch.zeros(4, dtype=torch.float64))
    values = [float(word.strip("[],")) for word in (a, b, difference, low, high)]
    assert values == pytest.approx([columns_mean(columns), 0, *expected[:3]], abs=1e-4)


def columns_mean(columns):
    return torch.tensor(columns, dtype=torch.float64).mean().item()


def test_a_group_with_different_settings_is_rejected(study):
    message = gendiv("compare", f"{study / 'baseline'},{study / 'argmax'}", study / "random-0.5")
    assert "probes ([] and [{'probe': 'Argmax'}], within A)" in message


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda p: p["generator"].update(embedded=False), "generator.embedded (True and False)"),
        (lambda p: p["data"].update(prompts_sha256="x"), "data.prompts_sha256"),
        (lambda p: p["versions"].update(torch="0"), "versions.torch"),
        (lambda p: p["metrics"][0].update(weights="x"), f"metrics.{LPIPS}.weights"),
        (lambda p: p["metrics"][0].update(resize="area"), f"metrics.{LPIPS}.resize (None and 'area')"),
    ],
    ids=["embedded", "prompts", "versions", "backbone", "resize"],
)
def test_runs_that_are_not_comparable_are_rejected_with_the_key(study, changed, capsys, change, key):
    other = changed(change)
    message = gendiv("compare", study / "baseline", other)
    assert key in message
    assert "--anyway" in message
    assert gendiv("compare", study / "baseline", other, "--anyway") == 0
    output = capsys.readouterr()
    assert key in output.err
    assert row_of(output.out, LPIPS)


def test_a_metric_missing_from_one_run_is_not_an_obstacle(study, changed, capsys):
    other = changed(lambda protocol: protocol["metrics"].pop())
    assert gendiv("compare", study / "baseline", other, "--only", LPIPS) == 0
    value = metrics_of(RunFolder(other))[LPIPS]["value"]
    assert row_of(capsys.readouterr().out, LPIPS)[2] == f"{value:.4f}"


def test_anyway_compares_the_prompts_that_both_have(study, decomposed):
    assert "no prompt in common" in gendiv("compare", study / "baseline", decomposed / "plain", "--anyway")
