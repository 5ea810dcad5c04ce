"""`gendiv verify`: an unchanged run passes; a manipulated run, or one with other weights, does not."""

import re
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from running import predict

from gendiv_lightning.cli import main as cli
from gendiv_lightning.generators import LlamaGen
from gendiv_lightning.runs.folder import RunFolder


@pytest.fixture(scope="module")
def sampled(weights, tmp_path_factory) -> RunFolder:
    """A run of 3 prompts with several paraphrases, which no test may change."""
    folder = tmp_path_factory.mktemp("verify") / "run"
    return predict(weights, folder, "--data.num_samples", "8", config="llamagen_paraphrase")


@pytest.fixture
def copied(sampled, tmp_path) -> RunFolder:
    """A copy without checksums, as a forger would make it."""
    shutil.copytree(sampled.path, tmp_path / "run")
    (tmp_path / "run" / "index.jsonl").unlink()
    return RunFolder(tmp_path / "run")


def verify(folder, *words):
    """The exit status of `gendiv verify` in this process, or its message."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(["verify", str(folder.path), *map(str, words)])
    return stopped.value.code


def tamper(folder, shard, column, change):
    """Change a column of a shard; returns the original rows."""
    path = folder.shards()[shard]
    table = pq.ParquetFile(path).read()
    place = table.schema.get_field_index(column)
    values = pa.array(change(table[column].to_pylist()), table.schema.field(place).type)
    pq.write_table(table.set_column(place, table.schema.field(place), values), path)
    return table.to_pylist()


def name_of(row):
    return f"prompt {row['prompt_id']}, paraphrase {row['paraphrase']}, path {row['path']}, sample {row['sample']}"


def test_a_genuine_run_is_verified_with_any_other_rows_in_the_batch(sampled, capsys):
    for num, seed in ((5, 1), (100, 0)):
        assert verify(sampled, "--num", num, "--seed", seed) == 0
        output = capsys.readouterr().out
        assert re.match(rf"LlamaGen \(toy\), .*: {min(num, 24)} of 24 samples, drawn with seed {seed}", output)
        assert f"VERIFIED: all {min(num, 24)} samples equal the stored ones" in output


def test_every_change_is_found_and_its_sample_listed(copied, capsys):
    rows = tamper(copied, 0, "prompt_id", lambda ids: ["f" * 16 for _ in ids])
    tamper(
        copied, 1, "tokens", lambda tokens: [[*tokens[0][:7], (tokens[0][7] + 1) % 256, *tokens[0][8:]], *tokens[1:]]
    )
    before = tamper(copied, 1, "image", lambda images: [*images[:5], images[0], *images[6:]])
    last = tamper(copied, 2, "text", lambda texts: [*texts[:-1], f"not {texts[-1]}"])
    assert verify(copied, "--num", 24) == 1
    output = capsys.readouterr().out
    for row in rows:
        assert f"{name_of(row | {'prompt_id': 'f' * 16})}: its prompt is not in the prompt set" in output
    assert f"{name_of(before[0])}: 1 of 36 tokens differ, the first at position 7" in output
    assert f"{name_of(before[5])}: same tokens, but pixels differ by up to " in output
    assert f"{name_of(last[-1])}: its text was 'not " in output
    assert re.search(r"DIFFERENT: 1[12] of 24", output)  # two samples share a paraphrase


def test_a_run_of_another_checkpoint_is_one_line_before_anything_loads(copied, weights, tmp_path, monkeypatch):
    state = torch.load(weights / "gpt.pt", weights_only=True)
    state["model"]["output.weight"] *= 1.01
    torch.save(state, tmp_path / "gpt.pt")
    config = copied.path / "config.yaml"
    config.write_text(config.read_text().replace(str(weights / "gpt.pt"), str(tmp_path / "gpt.pt")))
    monkeypatch.setattr(LlamaGen, "load", None)
    message = verify(copied)
    assert message.startswith(f"gendiv: error GD703: {copied.path} cannot be verified")
    assert "generator.gpt_checkpoint" in message


def test_other_versions_and_metrics_are_reported_but_not_a_failure(copied, capsys):
    file = copied.path / "fingerprint.json"
    file.write_text(re.sub(r'("torchvision": ")[^"]+', r"\g<1>0.1", file.read_text()))
    assert verify(copied, "--num", 1) == 0
    assert "Note (not a failure): versions.torchvision ('0.1' before" in capsys.readouterr().err


def test_runs_that_cannot_be_verified_are_one_line(copied, tmp_path):
    assert "not a run folder" in verify(RunFolder(tmp_path))
    assert "--num must be at least 1, got 0" in verify(copied, "--num", 0)
    (copied.path / "config.yaml").unlink()
    assert "config.yaml is missing" in verify(copied)
    shutil.rmtree(copied.samples)
    assert "contains no samples yet" in verify(copied)
