"""Runs from end to end: their folder, how they resume, and what they reject."""

import json
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import wandb
import yaml
from lightning.pytorch import Trainer
from PIL import Image
from running import (
    ROOT,
    TINY,
    arguments,
    contents,
    error_of,
    gendiv,
    metrics_of,
    predict,
    run,
    samples_of,
    tiny_weights,
)

from gendiv_lightning.callbacks import Measure, RunWriter
from gendiv_lightning.cli import predict as fit_free
from gendiv_lightning.datamodules import PromptData, UnfinishedPrompts
from gendiv_lightning.generators import LlamaGen
from gendiv_lightning.metrics import CLIPScore, PixelCosine
from gendiv_lightning.records import split_by_prompt
from gendiv_lightning.runs.assemble import Parts, assemble
from gendiv_lightning.runs.folder import FILES, RunFolder
from gendiv_lightning.storage.codebook_counts import read_usage, write_usage

SECRET = "f00dfacef00dfacef00dfacef00dfacef00dface"


@pytest.fixture(scope="module")
def finished(weights, tmp_path_factory) -> RunFolder:
    """A run of 3 prompts with W&B offline, which no test may change."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_API_KEY", SECRET)
        patch.setenv("HF_TOKEN", f"hf_{SECRET}")
        return predict(weights, tmp_path_factory.mktemp("runs") / "finished", "--wandb", "offline")


# --- the run folder ---


def test_a_run_writes_all_files_of_its_folder(finished):
    assert {path.name for path in finished.path.iterdir()} == {*FILES, "samples", "log", "wandb"}
    assert len(finished.shards()) == 3
    prompts = [json.loads(line) for line in (finished.path / "prompts.jsonl").read_text().splitlines()]
    fingerprint = json.loads((finished.path / "fingerprint.json").read_text())
    assert [len(prompts), len(fingerprint["fingerprint"])] == [3, 64]
    card = json.loads((finished.path / "prompts.card.json").read_text())
    assert card["text_encoder"]["prompts"]["texts"] == 3
    assert card["text_encoder"]["prompts"]["cut"] == 0
    assert {"python", "devices", "versions"} <= json.loads((finished.path / "environment.json").read_text()).keys()
    assert "diversity/ssim" in (finished.path / "log" / "metrics.csv").read_text()
    assert (finished.path / "grid.png").read_bytes().startswith(b"\x89PNG")


def test_the_shards_open_in_datasets_and_show_images(finished, tmp_path):
    from datasets import load_dataset

    files = [str(shard) for shard in finished.shards()]
    rows = load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
    assert len(rows) == 12
    assert rows[0]["image"].size == (48, 48)
    assert rows.features["tokens"].feature.dtype == "uint8"
    assert len({(row["prompt_id"], row["paraphrase"], row["path"], row["sample"]) for row in rows}) == 12
    tokens, entropy, log_prob = (np.array(rows[name]) for name in ("tokens", "entropy_bits", "log2_prob"))
    assert tokens.shape == entropy.shape == log_prob.shape == (12, 36)
    assert ((entropy >= 0) & (entropy <= 8)).all()
    assert (log_prob <= 0).all()


def test_metrics_are_estimates_and_nan_is_null(finished):
    metrics = metrics_of(finished)
    keys = {"value", "low", "high", "num_prompts", "num_paths", "num_samples", "method"}
    assert all(estimate.keys() == keys for estimate in metrics.values())
    lpips = metrics["diversity/lpips[tiny]"]
    assert [lpips["num_prompts"], lpips["num_paths"], lpips["num_samples"]] == [3, 12, 12]
    assert lpips["low"] <= lpips["value"] <= lpips["high"]
    assert metrics["diversity/ssim/between"]["value"] is None
    assert metrics["codebook/entropy_bits"]["num_samples"] == 12


def test_the_per_prompt_values_have_the_estimate_as_mean(finished):
    table = pq.read_table(finished.path / "per_prompt.parquet").to_pydict()
    prompts = [json.loads(line)["id"] for line in (finished.path / "prompts.jsonl").read_text().splitlines()]
    assert table["prompt_id"] == prompts
    for name in ("diversity/lpips[tiny]", "postcards/stated_right"):
        assert np.mean(table[name]) == pytest.approx(metrics_of(finished)[name]["value"], abs=1e-12)


def test_the_usage_of_a_run_counts_its_tokens(finished):
    counts, provenance = read_usage(finished.path / "usage.safetensors")
    tokens = torch.cat([sampled.samples.tokens.flatten() for sampled in finished.read_samples()])
    assert torch.equal(counts, tokens.bincount(minlength=256))
    assert provenance["generator"]["gpt"] == "tiny"


def test_no_secret_of_the_environment_is_written(finished):
    assert not [name for name, data in contents(finished.path).items() if SECRET.encode() in data]


def test_the_offline_wandb_run_holds_table_and_grid(finished):
    (run_file,) = (finished.path / "wandb").glob("offline-run-*/run-*.wandb")
    logged = run_file.read_bytes()
    assert all(name in logged for name in (b"diversity/lpips[tiny]", b"samples", b"grid", b"guidance_scale"))
    media = [path.suffix for path in run_file.parent.glob("files/media/**/*") if path.is_file()]
    assert ".png" in media
    assert ".json" in media


def test_the_config_in_a_run_folder_repeats_the_run(finished, tmp_path):
    config = str(finished.path / "config.yaml")
    fit_free.main(["predict", "--config", config, "--run_dir", str(tmp_path / "again"), "--wandb", "disabled"])
    again = RunFolder(tmp_path / "again")
    assert samples_of(again) == samples_of(finished)
    assert metrics_of(again) == metrics_of(finished)


def test_argmax_leaves_no_diversity(finished, weights, tmp_path):
    argmax = metrics_of(predict(weights, tmp_path / "run", config="llamagen_argmax"))
    assert [argmax[f"diversity/{name}"]["value"] for name in ("lpips[tiny]", "pixel_cosine")] == [0, 0]
    assert argmax["diversity/ssim"]["value"] == pytest.approx(0, abs=1e-12)
    assert metrics_of(finished)["diversity/lpips[tiny]"]["value"] > 0.01


def test_a_subset_run_uses_its_subset_only(weights, tmp_path):
    counts = torch.arange(256)
    write_usage(tmp_path / "usage.safetensors", counts, {})
    probe = f"--probes.usage={tmp_path / 'usage.safetensors'}"
    made = predict(weights, tmp_path / "run", probe, config="llamagen_subset")
    used, _ = read_usage(made.path / "usage.safetensors")
    assert used[:192].sum() == 0
    assert used.sum() == 12 * 36


def test_a_paraphrase_run_splits_diversity(weights, tmp_path):
    made = predict(weights, tmp_path / "run", "--data.num_samples", "8", config="llamagen_paraphrase")
    metrics = metrics_of(made)
    assert metrics["diversity/lpips[tiny]/between"]["value"] > 0
    base, own, drift = (metrics[f"quality/clip_score[tiny-clip]{part}"] for part in ("", "/wording", "/drift"))
    assert drift["value"] == pytest.approx(own["value"] - base["value"], abs=1e-9)
    assert drift["value"] != 0
    again = CLIPScore("tiny-clip")
    for sampled in made.read_samples():
        for samples in split_by_prompt(sampled):
            again.update(samples)
    assert again.compute()["quality/clip_score[tiny-clip]/wording"].value == pytest.approx(own["value"], abs=1e-4)
    assert {key.paraphrase for key in samples_of(made)} >= {1, 4, 7}


def test_a_run_folder_is_named_by_config_and_fingerprint(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit_free.main(["predict", *arguments(weights, tmp_path, "--run_dir", "null", limit=1)])
    (folder,) = (tmp_path / "runs").iterdir()
    fingerprint = json.loads((folder / "fingerprint.json").read_text())["fingerprint"]
    assert folder.name == f"tiny-llamagen-{fingerprint[:8]}"


# --- interrupted runs ---


def wait_for_shard(process, folder, seconds=120):
    for _ in range(int(seconds * 20)):
        if folder.shards():
            return
        assert process.poll() is None, "the run ended before it was killed"
        time.sleep(0.05)
    raise AssertionError(f"no shard after {seconds} s")


def test_a_killed_run_resumes_with_identical_results(weights, tmp_path):
    slow = ("--model.batch_size", "1")
    line = gendiv("fit-free", "predict", *arguments(weights, tmp_path / "killed", *slow, limit=6))
    killed = RunFolder(tmp_path / "killed")
    with subprocess.Popen(line, stderr=subprocess.DEVNULL) as process:
        wait_for_shard(process, killed)
        process.send_signal(signal.SIGKILL)
    assert 1 <= len(killed.shards()) < 6
    assert not killed.is_finished
    (killed.samples / ".0000005-half.parquet.4711").write_bytes(b"PAR1 and then the power went")
    ended = run(line)
    assert ended.returncode == 0, ended.stderr
    straight = predict(weights, tmp_path / "straight", *slow, limit=6)
    assert samples_of(killed) == samples_of(straight)
    assert metrics_of(killed) == metrics_of(straight)
    assert not list(killed.path.rglob(".*"))
    assert ended.stdout == ""
    lines = [line for line in ended.stderr.replace("\r", "\n").splitlines() if line.strip()]
    noise = [
        line for line in lines if any(word in line for word in ("Tip", "available", "deprecat", "Warn", "Loading"))
    ]
    assert not noise
    assert "samples/s" in ended.stderr


def test_a_run_without_its_results_measures_its_samples_and_samples_nothing(finished, weights, tmp_path, monkeypatch):
    again = predict(weights, tmp_path / "run")
    for name in ("metrics.json", "grid.png", "per_prompt.parquet"):
        (again.path / name).unlink()
    before = {shard: shard.read_bytes() for shard in again.shards()}
    monkeypatch.setattr(LlamaGen, "sample_tokens", None)
    predict(weights, tmp_path / "run")
    assert metrics_of(again) == metrics_of(finished)
    assert {shard: shard.read_bytes() for shard in again.shards()} == before


def test_a_run_shortened_by_the_trainer_is_not_finished(finished, weights, tmp_path):
    with pytest.warns(UserWarning, match="2 prompts"):
        part = predict(weights, tmp_path / "run", "--trainer.limit_predict_batches", "1")
    assert not part.is_finished
    predict(weights, tmp_path / "run", "--data.prompts_per_batch", "2")
    resumed, whole = metrics_of(part), metrics_of(finished)
    assert resumed.keys() == whole.keys()
    for name, estimate in resumed.items():
        expected = whole[name]
        if name.startswith("h_"):  # other batches: the last digits of logits, and so of entropies, may differ
            expected = {key: pytest.approx(x, rel=1e-6) if isinstance(x, float) else x for key, x in expected.items()}
        assert estimate == expected, name


def test_a_service_that_fails_at_the_end_loses_no_result(weights, tmp_path, monkeypatch):
    def fail(*_):
        raise wandb.Error("the service is down")

    monkeypatch.setattr(wandb, "Image", fail)
    with pytest.warns(UserWarning, match="Weights & Biases failed.*the service is down"):
        made = predict(weights, tmp_path / "run", "--wandb", "offline", limit=1)
    assert made.is_finished
    assert made.read_per_prompt().num_rows == 1


def test_a_finished_run_says_so_and_does_nothing(weights, tmp_path, capsys, monkeypatch):
    made = predict(weights, tmp_path / "run", limit=1)
    before = contents(made.path)
    with monkeypatch.context() as patch:
        patch.setattr(LlamaGen, "load", None)
        predict(weights, tmp_path / "run", limit=1)
    assert "is already finished" in capsys.readouterr().err
    assert contents(made.path) == before


def test_a_finished_run_that_lost_a_shard_is_not_called_finished(weights, tmp_path):
    made = predict(weights, tmp_path / "run", limit=1)
    made.shards()[0].unlink()
    assert "incomplete: samples/" in error_of("predict", *arguments(weights, made.path, limit=1))
    (made.path / "metrics.json").unlink()
    assert predict(weights, made.path, limit=1).read_metrics()


def test_overwrite_runs_again_and_leaves_other_files(weights, tmp_path):
    made = predict(weights, tmp_path / "run", limit=1)
    first = samples_of(made)
    (made.path / "my notes.txt").write_text("keep me")
    predict(weights, tmp_path / "run", "--overwrite", "true", "--data.seed", "1", limit=1)
    assert samples_of(made).keys() == first.keys()
    assert samples_of(made) != first
    assert (made.path / "my notes.txt").read_text() == "keep me"


def without_logs(folder):
    """All files below a folder but the logs of W&B's service, which ends when it likes."""
    return {name: data for name, data in contents(folder).items() if "/logs/" not in name}


def test_another_protocol_is_rejected_with_the_keys_that_differ(finished, weights):
    before = without_logs(finished.path)
    more = ("--data.seed", "7", "--model.guidance_scale", "3", "--wandb", "offline")
    message = error_of("predict", *arguments(weights, finished.path, *more))
    assert "data.seed (0 before, 7 now)" in message
    assert "generator.guidance (1.25 before, 3.0 now)" in message
    assert "--overwrite" in message
    assert without_logs(finished.path) == before


def test_a_bad_config_with_overwrite_deletes_nothing(finished, weights):
    before = without_logs(finished.path)
    more = ("--overwrite", "true", "--data.num_samples", "6")
    assert "num_samples" in error_of("predict", *arguments(weights, finished.path, *more, config="llamagen_paraphrase"))
    assert without_logs(finished.path) == before


def test_overwrite_deletes_nothing_without_a_run(weights, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert "nothing was deleted" in error_of("predict", *arguments(weights, tmp_path, "--overwrite", "true"))
    assert contents(tmp_path) == {"thesis.tex": b"years of work"}


def test_other_weights_are_another_run(finished, weights, tmp_path):
    state = torch.load(weights / "gpt.pt", weights_only=True)
    state["model"]["output.weight"] *= 1.01
    torch.save(state, tmp_path / "gpt.pt")
    message = error_of(
        "predict", *arguments(weights, finished.path, "--model.gpt_checkpoint", str(tmp_path / "gpt.pt"))
    )
    assert "generator.gpt_checkpoint" in message


def test_settings_that_change_no_number_give_the_same_run(finished, weights, capsys):
    more = ("--data.prompts_per_batch", "3", "--model.batch_size", "2", "--wandb", "disabled")
    predict(weights, finished.path, *more)
    assert "is already finished" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:Total length of `DataLoader` across ranks is zero")
def test_two_runs_of_one_trainer_count_nothing_twice(make_t2i, tmp_path):
    measure, folder = Measure([PixelCosine()]), RunFolder(tmp_path)
    data = PromptData(path="toy:postcards.jsonl", limit=2, num_samples=2)
    run = assemble(Parts(make_t2i(), data, [], measure.metrics))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = Trainer(callbacks=[measure, RunWriter(run, folder, measure)], use_distributed_sampler=False, **quiet)
    for _ in range(2):
        trainer.predict(run.parts.generator, datamodule=UnfinishedPrompts(run, folder), return_predictions=False)
        assert measure.usage.totals.tolist() == [2, 4, 4]


# --- codebook usage of images ---


def test_validate_writes_the_usage_file_that_a_subset_reads(weights, tmp_path):
    line = ["--config", str(TINY / "llamagen_codebook.yaml"), *tiny_weights(weights), "--data.num_images", "32"]
    fit_free.main(["validate", *line, "--run_dir", str(tmp_path / "usage")])
    counts, provenance = read_usage(tmp_path / "usage" / "usage.safetensors")
    assert counts.sum() == 32 * 36
    assert provenance["data"]["num_images"] == 32
    assert metrics_of(RunFolder(tmp_path / "usage"))["codebook/coverage"]["num_samples"] == 32
    probe = f"--probes.usage={tmp_path / 'usage' / 'usage.safetensors'}"
    predict(weights, tmp_path / "run", probe, config="llamagen_subset", limit=1)


# --- input that is rejected before any weights are loaded ---


@pytest.fixture
def _nothing_loads(monkeypatch):
    monkeypatch.setattr(LlamaGen, "load", None)


def add(name, **settings):
    """Options that add a callback, as in version 0.1."""
    options = [f"--trainer.callbacks.{key}={value}" for key, value in settings.items()]
    return [f"--trainer.callbacks+=gendiv_lightning.callbacks.{name}", *options]


BAD_INPUT = [
    (["--model.gpt_checkpoint", "/nowhere/gpt.pt"], ["gpt_checkpoint", "/nowhere/gpt.pt", "configs/tiny/"]),
    (["--model.text_encoder", "/nowhere/t5"], ["text_encoder", "/nowhere/t5"]),
    (["--model", "NoSuchModel"], ["model", "NoSuchModel"]),
    (["--model.dtype", "float8"], ["model.dtype", "bfloat16", "float8"]),
    (["--data.path", "/nowhere/prompts.jsonl"], ["/nowhere/prompts.jsonl is missing"]),
    (["--data.limit", "0"], ["limit must be at least 1, got 0"]),
    (["--data.num_samples", "null"], ["data.num_samples must not be null", "int"]),
    (["--data.seed", "null"], ["data.seed must not be null"]),
    (["--model.gpt_checkpoint", "null"], ["model.gpt_checkpoint must not be null"]),
    (["--model.batch_size", "null"], ["model.batch_size must not be null"]),
    (["--overwrite", "null"], ["overwrite", "bool"]),
    (["--wandb", "null"], ["wandb", "online"]),
    (["--data.split", "train"], ["split applies to a dataset", "'train'"]),
    (
        [
            "--trainer.callbacks+=lightning.pytorch.callbacks.LambdaCallback",
            "--trainer.callbacks.setup=os.system",
        ],
        ["callbacks[0].setup must not name a function"],
    ),
    (["--probes+=NoSuchProbe"], ["probes", "NoSuchProbe"]),
    (["--probes+=TopK", "--probes.top_k=0"], ["top_k must be at least 1, got 0"]),
    (["--probes+=Argmax", "--probes+=PosteriorArgmax"], ["Argmax and PosteriorArgmax both set 'exec'"]),
    (["--measure.metrics", "[no_such_metric]"], ["no_such_metric"]),
    (["--measure", "null"], ["one `measure`"]),
    (["--data.nonsense", "3"], ["data", "nonsense", "not accepted"]),
    (["--nonsense", "3"], ["--nonsense"]),
    (["--trainer.accelerator", "no-such-device"], ["no-such-device"]),
    (add("NoSuchProbe"), ["NoSuchProbe"]),
    (add("TopK", top_k=0), ["top_k must be at least 1, got 0"]),
    (2 * add("TopK", top_k=5), ["TopK and TopK both set 'top_k'"]),
    (add("Measure", metrics=[]), ["one Measure"]),
    (add("CodebookSubset", select="list", tokens=[3, 256]), ["0..255", "256"]),
    (add("CodebookSubset", select="list", tokens=[]), ["at least one entry"]),
    (add("CodebookSubset", select="random", size=257), ["at most 256"]),
    (
        add("CodebookSubset", size=9, usage="/nowhere/usage.safetensors"),
        ["CodebookSubset.usage", "/nowhere/usage.safetensors", "gendiv validate"],
    ),
    (add("Paraphrase", length="short"), ["num_samples", "4 paraphrases"]),
    (["--data.num_samples", "24", *add("Paraphrase", num_paraphrases=12)], ["has 9 paraphrases", "12 are required"]),
]


@pytest.mark.filterwarnings("ignore:(?s).*system' is not allowed")  # jsonargparse warns of it too
@pytest.mark.usefixtures("_nothing_loads")
@pytest.mark.parametrize(("more", "words"), BAD_INPUT, ids=lambda given: given[-1])
def test_bad_input_is_one_clear_line(weights, tmp_path, more, words):
    message = error_of("predict", *arguments(weights, tmp_path / "run", *more, limit=2))
    assert message.startswith("gendiv: error GD")
    assert all(word in message for word in words), message
    assert len(message) < 600
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("_nothing_loads")
def test_a_prompt_file_without_prompts_is_refused(weights, tmp_path):
    (tmp_path / "empty.txt").write_text("\n\n")
    message = error_of("predict", *arguments(weights, tmp_path / "run", "--data.path", str(tmp_path / "empty.txt")))
    assert "contains no prompts" in message
    assert "2 empty" in message


@pytest.mark.usefixtures("_nothing_loads")
def test_a_missing_backbone_stops_the_run_before_sampling(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("urllib.request.urlopen", _no_network)
    metrics = "--measure.metrics=[{class_path: gendiv_lightning.metrics.LPIPS}]"
    message = error_of("predict", *arguments(weights, tmp_path / "run", metrics, "--measure.reference=null"))
    assert "backbone 'alex' of lpips" in message
    assert not (tmp_path / "run").exists()


def _no_network(*arguments, **more):
    raise OSError("no network in tests")


@pytest.mark.usefixtures("_nothing_loads")
def test_validate_rejects_images_of_another_size_before_loading(weights, tmp_path):
    line = ["--config", str(TINY / "llamagen_codebook.yaml"), *tiny_weights(weights), "--run_dir", str(tmp_path)]
    data = ["--data", "gendiv_lightning.datamodules.ImageData", "--data.source", str(tmp_path)]
    Image.new("RGB", (64, 64)).save(tmp_path / "1.png")
    message = error_of("validate", *line, *data, "--data.image_size", "64")
    assert "data.image_size is 64, but the tokenizer of LlamaGen takes images of 48 pixels per side" in message


@pytest.mark.usefixtures("_nothing_loads")
def test_predict_requires_prompts_and_validate_requires_images(weights, tmp_path):
    folder = ["--run_dir", str(tmp_path / "run"), *tiny_weights(weights)]
    message = error_of("predict", "--config", str(TINY / "llamagen_codebook.yaml"), *folder)
    assert "data must be PromptData, got PostcardImages" in message
    path = "toy:postcards.jsonl"
    message = error_of("validate", "--config", str(TINY / "llamagen.yaml"), "--data.path", path, *folder)
    assert "ImageData, got PromptData" in message


@pytest.mark.usefixtures("_nothing_loads")
def test_a_missing_image_folder_is_named(weights, tmp_path):
    words = ["validate", "--config", str(TINY / "llamagen_codebook.yaml"), *tiny_weights(weights)]
    words += ["--data", "gendiv_lightning.datamodules.ImageData", "--data.source", "/nowhere/images"]
    assert "/nowhere/images is missing" in error_of(*words, "--run_dir", str(tmp_path / "run"))


def test_a_file_that_is_not_a_checkpoint_is_named(weights, tmp_path):
    (tmp_path / "gpt.pt").write_text("version https://git-lfs.github.com/spec/v1\n")
    more = ("--model.gpt_checkpoint", str(tmp_path / "gpt.pt"))
    message = error_of("predict", *arguments(weights, tmp_path / "run", *more))
    assert str(tmp_path / "gpt.pt") in message


REAL = [path for path in sorted((ROOT / "configs").glob("*.yaml")) if not path.stem.startswith("study")]


@pytest.mark.usefixtures("_nothing_loads")
@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_the_error_of_a_real_config_without_weights_explains_how_to_get_them(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load(path.read_text())
    model = yaml.safe_load((path.parent / config["model"]).read_text())
    words = ["--config", str(path), "--run_dir", str(tmp_path / "run")]
    if config["data"] in ("data/paraphrases.yaml", "data/classes.yaml"):  # the user's
        words += ["--data.path", "toy:postcards.jsonl"]
    for usage in re.findall(r"runs/\S+/usage.safetensors", path.read_text()):  # written by the codebook config
        Path(usage).parent.mkdir(parents=True)
        write_usage(Path(usage), torch.ones(fit_free.Config(["predict", *words]).options.model.codebook_size), {})
    started = time.monotonic()
    message = error_of("predict" if "measure" in config else "validate", *words)
    assert time.monotonic() - started < 20
    key, checkpoint = next((key, value) for key, value in model["init_args"].items() if "checkpoint" in key)
    assert f"--model.{key} /path/to/" in message
    assert f"hf download {' '.join(checkpoint.split(':'))}" in message
    assert not (tmp_path / "run").exists()
