"""Runs of a generator of continuous latents, which have no tokens and no codebook, are read by the same commands."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gendiv_lightning.cli.main import main

OF_TOKENS = ("codebook/", "h_")


@pytest.fixture
def latent(decomposed, tmp_path):
    """The plain and the argmax run, without anything that is of tokens, and described as another family's."""
    for name in ("plain", "argmax"):
        folder = tmp_path / "runs" / name
        shutil.copytree(decomposed / name, folder)
        for file in ("index.jsonl", "usage.safetensors", "description.json"):
            (folder / file).unlink()
        metrics = json.loads((folder / "metrics.json").read_text())
        kept = {name: values for name, values in metrics.items() if not name.startswith(OF_TOKENS)}
        (folder / "metrics.json").write_text(json.dumps(kept))
        for file in [folder / "per_prompt.parquet", *(folder / "samples").glob("*.parquet")]:
            table = pq.ParquetFile(file).read()
            gone = ("tokens", "entropy_bits", "log2_prob", *OF_TOKENS, "per_prompt.", "per_sample.")
            table = table.drop_columns([c for c in table.column_names if c.startswith(gone)])
            if file.parent.name == "samples":
                table = table.append_column("latents", pa.array([[0.5, 0.25]] * len(table), pa.list_(pa.float16())))
                table = table.append_column("latent_shape", pa.array([[1, 2]] * len(table), pa.list_(pa.int32())))
            pq.write_table(table, file)
        file = folder / "fingerprint.json"
        there = json.loads(file.read_text())
        there["protocol"]["generator"]["generator"] = "my_flow"
        file.write_text(json.dumps(there))
    return tmp_path / "runs"


def gendiv(*words):
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return stopped.value.code


def test_every_command_that_reads_runs_reads_them(latent, tmp_path, capsys):
    plain, argmax = latent / "plain", latent / "argmax"
    assert gendiv("show", plain) == 0
    assert gendiv("compare", plain, argmax) == 0
    assert gendiv("decompose", plain, "--argmax", argmax, "--plot", tmp_path / "shares.svg") == 0
    assert "H_total from counts" not in capsys.readouterr().out
    assert gendiv("report", latent, "--out", tmp_path / "report") == 0
    page = (tmp_path / "report" / "index.html").read_text()
    assert "my_flow" in page
    assert "information bottleneck" not in page
    assert "the same generator with" in page, "no config of it is known"
    assert "my_flow has continuous latents instead of tokens." in page
    assert "the same generator with decompose under subset" not in page
    assert "does not apply" in page, "the claim about codebook entries"
