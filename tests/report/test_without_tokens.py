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


def test_an_ode_sampler_is_reported_to_have_no_execution_noise_by_construction(latent, tmp_path, capsys):
    generator = {"family": "my_flow", "title": "My flow", "chance": {"path": "the initial noise", "execution": ""}}
    decompose = {"probe": "Decompose", "label": "decomposed", "short": "decomposed"}
    argmax = {"probe": "Argmax", "label": "argmax", "short": "argmax"}
    for name, probes in {"plain": [decompose], "argmax": [argmax, decompose]}.items():
        content = json.dumps({"generator": generator, "probes": probes})
        (latent / name / "description.json").write_text(content)
    assert gendiv("report", latent, "--out", tmp_path / "report") == 0
    assert "In My flow from the initial noise." in capsys.readouterr().out
    page = (tmp_path / "report" / "index.html").read_text()
    assert "Its diversity comes from the initial noise. Its sampler adds no noise" in page
    assert "My flow: path is the initial noise; no execution noise by construction." in page
    assert "No execution noise by construction: My flow." in page
    assert "none, by construction" in (tmp_path / "report" / "tables" / "answer.csv").read_text()
