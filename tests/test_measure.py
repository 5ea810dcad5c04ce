"""`gendiv measure` and `gendiv reference`: a run's images give the run's numbers, in any layout."""

import json

import pytest
from running import metrics_of, predict

from gendiv_lightning.cli import main
from gendiv_lightning.metrics.reference import read_provenance

METRICS = "pixel_cosine,ssim,vendi[pixels],lpips[tiny],postcard_truth,token_entropy"


def gendiv(*words):
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return stopped.value.code


@pytest.fixture(scope="module")
def run(weights, tmp_path_factory):
    return predict(weights, tmp_path_factory.mktemp("run") / "run")


def test_the_samples_of_a_run_give_the_runs_numbers(run, tmp_path, capsys):
    assert gendiv("measure", run.path, "--metrics", METRICS, "--out", tmp_path / "out") == 0
    measured, expected = json.loads((tmp_path / "out" / "metrics.json").read_text()), metrics_of(run)
    shared = measured.keys() & expected.keys()
    assert {"diversity/ssim", "diversity/lpips[tiny]", "postcards/coherence", "h_total/token"} <= shared
    assert {name: measured[name] for name in shared} == {name: expected[name] for name in shared}
    assert "diversity/ssim" in capsys.readouterr().out
    assert (tmp_path / "out" / "per_prompt.parquet").exists()


def test_the_images_alone_give_the_same(run, tmp_path):
    assert gendiv("measure", run.path / "samples", "--metrics", "ssim,lpips[tiny]", "--out", tmp_path) == 0
    measured, expected = json.loads((tmp_path / "metrics.json").read_text()), metrics_of(run)
    for name in ("diversity/ssim", "diversity/lpips[tiny]"):
        assert measured[name]["value"] == pytest.approx(expected[name]["value"], rel=1e-6)
        assert measured[name]["num_samples"] == expected[name]["num_samples"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--metrics", "fancy"], "unknown"),
        (["--metrics", "fid"], "gendiv reference"),
        (["--resize", "0"], "--resize"),
        (["--max-corrupt", "2"], "--max-corrupt"),
    ],
)
def test_what_cannot_be_is_one_line(words, message, tmp_path):
    assert message in gendiv("measure", tmp_path, *words)


def test_a_reference_is_the_same_file_each_time_and_knows_where_it_comes_from(tmp_path):
    for name in ("a", "b"):
        call = ("reference", "postcards", "--backbone", "tiny-clip", "--num", "64", "--out", tmp_path / name)
        assert gendiv(*call) == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    provenance = read_provenance(tmp_path / "a")
    assert provenance["dataset"] == "64 postcards, seed 0"
    assert provenance["num_images"] == 64


def test_a_reference_of_a_folder_skips_what_is_corrupt(run, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for batch in run.read_samples():
        for number, image in enumerate(batch.images):
            from PIL import Image

            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{batch.batch.indices[0]}-{number}.png")
    (folder / "broken.png").write_bytes(b"")
    call = ("reference", folder, "--backbone", "tiny-clip", "--out", tmp_path / "file")
    assert "broken.png" in gendiv(*call)
    with pytest.warns(match="1 corrupt"):
        assert gendiv(*call, "--max-corrupt", "0.5") == 0
    assert read_provenance(tmp_path / "file")["num_images"] == 12
