"""`gendiv measure` and `gendiv reference`: the images of a run give its numbers, in any layout."""

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from pyarrow import csv
from running import metrics_of, predict, without_link

from gendiv_lightning.cli.main import main
from gendiv_lightning.metrics.reference import read_provenance, read_reference
from gendiv_lightning.records import PromptBatch, SampleBatch, TokenSamples
from gendiv_lightning.runs.folder import RunFolder
from gendiv_lightning.storage.codebook_counts import read_usage

DEVICE = "--device {} is not available to torch here. Leave it out, or use cpu"
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
        (["--metrics", "ssim", "--reference", "x"], "none of the metrics uses the reference"),
        (["--memory-limit", "nan"], "--memory-limit must be a finite number"),
        (["--out", __file__], "--out must be a folder"),
        (["--resize", "0"], "--resize"),
        (["--max-corrupt", "2"], "--max-corrupt"),
        (["--device", "nowhere"], DEVICE.format("nowhere")),
        (["--device", "meta"], DEVICE.format("meta")),
    ],
)
def test_impossible_arguments_are_one_line(words, message, tmp_path):
    assert message in gendiv("measure", tmp_path, *words)


def test_the_folder_of_a_run_is_no_output(run, tmp_path):
    before = metrics_of(run)
    for source in (run.path, tmp_path):
        assert "is a run folder" in gendiv("measure", source, "--metrics", "ssim", "--out", run.path)
    assert metrics_of(run) == before


@pytest.mark.parametrize(
    "option",
    [
        ("--column", "x"),
        ("--image-column", "x"),
        ("--split", "x"),
        ("--first-caption",),
        ("--max-corrupt", "0.01"),
        ("--memory-limit", "2"),
    ],
)
def test_options_for_other_images_are_errors_on_a_run(option, run):
    assert f"{option[0]} does not apply to a run" in gendiv("measure", run.path, "--metrics", "ssim", *option)


def test_a_reference_is_a_file_and_takes_no_option_that_does_not_apply(run, tmp_path):
    call = ("reference", run.path / "samples", "--backbone", "tiny-clip")
    assert "--out must be a file" in gendiv(*call, "--out", tmp_path)
    for option in ("--split", "--config", "--revision"):
        assert "Remove " in gendiv(*call, "--out", tmp_path / "x", option, "y")
    merged = ("reference", "1.safetensors", "2.safetensors", "--out", tmp_path / "x")
    for option in (("--backbone", "inception"), ("--device", "cpu"), ("--max-corrupt", "0"), ("--memory-limit", "1")):
        assert f"{option[0]} does not apply to parts of a reference" in gendiv(*merged, *option)
    assert "--max-corrupt does not apply to postcards" in gendiv(
        "reference", "postcards", "--out", tmp_path / "x", "--max-corrupt", "0"
    )


def test_ignored_files_are_reported_without_control_characters(tmp_path, capsys):
    for name in ("1.png", "2.png", ".hidden/\x1b[31m.png"):
        path = tmp_path / "a red ball" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(len(name)).integers(0, 256, (16, 16, 3), np.uint8)).save(path, "PNG")
    (tmp_path / "a red ball" / "\x1b[31m").write_text("x")
    assert gendiv("measure", tmp_path, "--metrics", "pixel_cosine") == 0
    error = capsys.readouterr().err
    assert "1 file was ignored, hidden: 1 .hidden\n" in error
    assert "\\x1b[31m" in error
    assert "\x1b" not in error


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("command", [("measure", "."), ("reference", ".", "--out", "file")])
def test_a_missing_gpu_is_one_line(command):
    assert without_link(gendiv(*command, "--device", "cuda")) == "gendiv: error GD101: " + DEVICE.format("cuda")


def test_one_image_per_prompt_has_quality_but_no_diversity(tmp_path, capsys):
    for word in ("hills", "sea"):
        (tmp_path / word).mkdir()
        Image.fromarray(np.full((32, 32, 3), len(word), np.uint8)).save(tmp_path / word / "0.png")
    message = gendiv("measure", tmp_path, "--metrics", "ssim,lpips[tiny]")
    assert "a distance needs at least two images per prompt" in message
    assert "\n" not in without_link(message)
    assert gendiv("measure", tmp_path, "--metrics", "ssim,vendi_set") == 0
    printed = capsys.readouterr()
    assert "diversity/vendi_set" in printed.out
    assert "Not defined for these samples, and left out: diversity/ssim\n" in printed.err


def test_rows_of_a_run_belong_to_their_prompts_in_any_order_of_shards(run, tmp_path):
    """Prompts that were sharded over two ranks are in shards of every second prompt."""
    batches = list(run.read_samples())
    copy = RunFolder(tmp_path / "run")
    copy.path.mkdir()
    for some in (batches[::2], batches[1::2]):
        copy.write_samples(_joined(some), 256)
    assert gendiv("measure", copy.path, "--metrics", "pixel_cosine", "--out", tmp_path) == 0
    there, expected = (pq.read_table(path / "per_prompt.parquet").to_pylist() for path in (tmp_path, run.path))
    by_prompt = {row["prompt"]: row["diversity/pixel_cosine"] for row in expected}
    assert {row["prompt"]: row["diversity/pixel_cosine"] for row in there} == by_prompt
    assert len(set(by_prompt.values())) == len(batches) == 3


def test_a_reference_is_the_same_file_each_time_with_its_provenance(tmp_path):
    for name in ("a", "b"):
        call = ("reference", "postcards", "--backbone", "tiny-clip", "--num", "64", "--out", tmp_path / name)
        assert gendiv(*call) == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    provenance = read_provenance(tmp_path / "a")
    assert provenance["dataset"] == "64 postcards, seed 0"
    assert provenance["num_images"] == 64


def test_the_merged_parts_of_a_reference_equal_the_whole(run, tmp_path):
    call = ("reference", run.path / "samples", "--backbone", "tiny-clip", "--keep-features")
    assert gendiv(*call, "--out", tmp_path / "whole.safetensors") == 0
    for part in (3, 1, 2):
        assert gendiv(*call, "--part", f"{part}/3", "--out", tmp_path / f"{part}.safetensors") == 0
    parts = [tmp_path / f"{part}.safetensors" for part in (2, 3, 1)]
    assert gendiv("reference", *parts, "--out", tmp_path / "merged.safetensors") == 0
    whole, merged = (read_reference(tmp_path / f"{name}.safetensors") for name in ("whole", "merged"))
    assert merged.provenance == whole.provenance
    assert torch.equal(merged.features, whole.features)
    assert merged.statistics.num_rows == whole.statistics.num_rows == 12
    torch.testing.assert_close(merged.statistics.mean, whole.statistics.mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(merged.statistics.scatter, whole.statistics.scatter, rtol=0, atol=1e-12)
    assert "parts of a reference must be 1/2, 2/2" in gendiv(
        "reference", *parts[:2], "--out", tmp_path / "x.safetensors"
    )
    words = ("--metrics", "fd[tiny-clip]", "--reference", parts[0])
    assert "is part 2/3 of a reference" in gendiv("measure", run.path, *words)
    assert "--part must be K/N" in gendiv(*call, "--part", "4/3", "--out", tmp_path / "x")


def test_a_reference_of_a_folder_skips_what_is_corrupt(run, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    for batch in run.read_samples():
        for number, image in enumerate(batch.images):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{batch.batch.indices[0]}-{number}.png")
    (folder / "broken.png").write_bytes(b"")
    call = ("reference", folder, "--backbone", "tiny-clip", "--out", tmp_path / "file")
    assert "broken.png" in gendiv(*call)
    assert gendiv(*call, "--max-corrupt", "0.5") == 0
    assert "1 unreadable images were skipped: broken.png (it is empty)" in capsys.readouterr().err
    provenance = read_provenance(tmp_path / "file")
    assert (provenance["num_images"], provenance["corrupt"]) == (12, ["broken.png"])


def _joined(batches):
    """Batches of one prompt each as one."""
    rows = tuple(row for row, batch in enumerate(batches) for _ in batch.images)
    of = [batch.batch for batch in batches]
    prompts, indices, keys = (sum((getattr(b, name) for b in of), ()) for name in ("prompts", "indices", "keys"))
    samples = TokenSamples(*(torch.cat(parts) for parts in zip(*(b.samples for b in batches), strict=True)))
    joined = PromptBatch(of[0].seed, prompts, indices, keys, rows)
    recorded = [
        {name: torch.cat([getattr(b, field)[name] for b in batches]) for name in getattr(batches[0], field)}
        for field in ("per_prompt", "per_sample")
    ]
    return SampleBatch(joined, samples, torch.cat([batch.images for batch in batches]), *recorded)


def test_pairs_have_names_distances_and_a_picture(tmp_path, capsys):
    levels = {"hills": (10, 10, 200, 90), "sea": (50, 60, 180)}
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 50, (16, 16, 3), dtype=np.uint8)
    for word, values in levels.items():
        (tmp_path / "in" / word).mkdir(parents=True)
        for number, value in enumerate(values):
            image = np.where(np.arange(16)[:, None, None] < 4, noise, np.uint8(value))
            Image.fromarray(image).save(tmp_path / "in" / word / f"{number}.png")
    words = ("--metrics", "pixel_cosine,vendi,ssim", "--pairs", "--out", tmp_path / "out")
    assert gendiv("measure", tmp_path / "in", *words) == 0
    out = capsys.readouterr().out
    assert "diversity/pixel_cosine: nearest and farthest pair of each prompt\n" in out
    assert re.search(r"^hills +0\.png 1\.png +0\.0000 +[01]\.png 2\.png", out, re.MULTILINE)
    rows = pq.read_table(tmp_path / "out" / "pairs.parquet").to_pylist()
    assert len(rows) == 2 * (6 + 3)
    mean = np.mean([row["distance"] for row in rows if row["metric"] == "diversity/ssim" and row["prompt"] == "hills"])
    columns = pq.read_table(tmp_path / "out" / "per_prompt.parquet").to_pylist()
    assert mean == pytest.approx(next(row["diversity/ssim"] for row in columns if row["prompt"] == "hills"))
    with Image.open(tmp_path / "out" / "pairs.png") as picture:
        assert picture.height > 200


@pytest.mark.parametrize(
    ("words", "message"),
    [(("--pairs",), "--out FOLDER"), (("--pairs", "--out", "x", "--metrics", "vendi"), "distance")],
)
def test_pairs_need_a_folder_and_a_distance(words, message, tmp_path):
    assert message in gendiv("measure", tmp_path, *words)


def test_the_codebook_of_a_run_is_counted_again_with_its_ranks(run, tmp_path):
    assert gendiv("measure", run.path, "--metrics", "codebook", "--out", tmp_path) == 0
    measured, expected = json.loads((tmp_path / "metrics.json").read_text()), metrics_of(run)
    assert measured == {name: expected[name] for name in measured}
    assert len(measured) == 11
    columns = pq.read_table(tmp_path / "per_prompt.parquet")
    assert columns["codebook/prompt_entropy_bits"].equals(
        pq.read_table(run.path / "per_prompt.parquet")["codebook/prompt_entropy_bits"]
    )
    ranks = csv.read_csv(tmp_path / "rank_frequency.csv")
    assert ranks["rank"].to_pylist() == list(range(1, len(ranks) + 1))
    assert sum(ranks["frequency"].to_pylist()) == pytest.approx(1)
    counts, _ = read_usage(run.path / "usage.safetensors")
    assert len(ranks) == (counts > 0).sum()


def test_the_method_of_a_number_is_printed_below_the_table(run, tmp_path, capsys):
    reference = tmp_path / "reference"
    assert gendiv("reference", "postcards", "--backbone", "tiny-clip", "--num", "64", "--out", reference) == 0
    names = "ssim,vendi[tiny,q=2],fd[tiny-clip]"
    assert gendiv("measure", run.path, "--metrics", names, "--reference", reference) == 0
    out = capsys.readouterr().out
    assert "\ndiversity/ssim: 1 - SSIM (Gaussian window" in out
    assert "\ndiversity/vendi[tiny,q=2]: Vendi score of order 2" in out
    assert "beside 64 of 64 postcards" in out
