"""One rank and two ranks give the same samples and numbers; processes communicate with gloo, on the CPU."""

import pytest
import torch
from PIL import Image
from running import TINY, arguments, gendiv, metrics_of, predict, run, samples_of, tiny_weights

from gendiv_lightning.cli import predict as fit_free
from gendiv_lightning.runs.folder import RunFolder
from gendiv_lightning.storage.codebook_counts import read_usage
from gendiv_lightning.toy.postcards import render

RANKS = ("--trainer.devices", "2", "--trainer.strategy", "ddp")


def predict_on_two_ranks(weights, folder, *more, **settings):
    ended = run(gendiv("fit-free", "predict", *arguments(weights, folder, *RANKS, *more, **settings)))
    assert ended.returncode == 0, ended.stderr
    assert "2 processes" in ended.stderr
    return RunFolder(folder)


def assert_same_run(two, one):
    assert samples_of(two) == samples_of(one)
    two_ranks, one_rank = metrics_of(two), metrics_of(one)
    assert two_ranks.keys() == one_rank.keys()
    for name, estimate in one_rank.items():
        assert two_ranks[name] == pytest.approx(estimate, abs=1e-6), name
    usage = [read_usage(folder.path / "usage.safetensors")[0] for folder in (two, one)]
    assert torch.equal(*usage)


def test_two_ranks_finish_the_run_of_one_with_the_same_results(weights, tmp_path):
    """One prompt of four is done, so that the ranks have two and one left."""
    with pytest.warns(UserWarning, match="3 prompts"):
        predict(weights, tmp_path / "two", "--trainer.limit_predict_batches", "1", limit=4)
    two = predict_on_two_ranks(weights, tmp_path / "two", limit=4)
    assert_same_run(two, predict(weights, tmp_path / "one", limit=4))
    assert len(two.shards()) == 4


def test_a_rank_without_a_prompt_does_not_hang(weights, tmp_path):
    two = predict_on_two_ranks(weights, tmp_path / "two", limit=1)
    assert_same_run(two, predict(weights, tmp_path / "one", limit=1))


@pytest.mark.slow
def test_batches_of_two_ranks_contain_the_same_samples(weights, tmp_path):
    """Prompts are sharded in turn, so no batch of the two ranks equals one of the single rank."""
    more = ("--data.prompts_per_batch", "3", "--data.num_samples", "3")
    two = predict_on_two_ranks(weights, tmp_path / "two", *more, "--wandb", "offline", limit=9)
    assert len(list(two.path.glob("wandb/offline-run-*"))) == 1
    assert_same_run(two, predict(weights, tmp_path / "one", *more, limit=9))
    assert len(samples_of(two)) == 27


def test_codebook_usage_of_images_is_the_same_on_two_ranks(weights, tmp_path):
    """One file of each rank is unreadable, a share of 2 of 35."""
    (tmp_path / "images").mkdir()
    for place, image in enumerate(render(torch.arange(0, 35_000, 1_000))):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "images" / f"{place:02}.png")
    for place in (3, 20):
        (tmp_path / "images" / f"{place:02}.png").write_bytes(b"no image")
    line = ["validate", "--config", str(TINY / "llamagen_codebook.yaml"), *tiny_weights(weights)]
    line += ["--data", "gendiv_lightning.datamodules.ImageData", "--data.source", str(tmp_path / "images")]
    line += ["--data.image_size", "48", "--data.batch_size", "8", "--data.num_workers", "0", "--data.max_corrupt"]
    ended = run(gendiv("fit-free", *line, "0.06", *RANKS, "--run_dir", str(tmp_path / "two")))
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("2 unreadable images were skipped: 03.png") == 1
    with pytest.warns(match="2 unreadable images"):
        fit_free.main([*line, "0.06", "--run_dir", str(tmp_path / "one")])
    with pytest.raises(SystemExit, match="2 of 35 "):
        fit_free.main([*line, "0.05", "--run_dir", str(tmp_path / "none")])
    two, one = (read_usage(tmp_path / name / "usage.safetensors") for name in ("two", "one"))
    assert two[0].equal(one[0])
    assert two[1] == one[1]
    assert one[1]["corrupt"] == ["03.png", "20.png"]
    assert metrics_of(RunFolder(tmp_path / "two")) == metrics_of(RunFolder(tmp_path / "one"))


@pytest.mark.slow
def test_an_error_on_all_ranks_ends_the_run(weights, tmp_path):
    (tmp_path / "gpt.pt").write_text("no weights at all")
    more = (*RANKS, "--model.gpt_checkpoint", str(tmp_path / "gpt.pt"))
    ended = run(gendiv("fit-free", "predict", *arguments(weights, tmp_path / "run", *more)), timeout=120)
    assert ended.returncode != 0
    assert "gpt.pt cannot be read as weights" in ended.stderr
    assert "Traceback" not in ended.stderr
