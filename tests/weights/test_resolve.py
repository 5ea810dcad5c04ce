"""Names are resolved to local files and folders or to the Hub, with clear errors."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from gendiv_lightning.generators import LlamaGen
from gendiv_lightning.generators.llamagen.generator import ADVICE
from gendiv_lightning.weights.resolve import MissingWeightsError, resolve

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor([1.5])}


def saved(content, folder, name="weights.pt", **settings):
    torch.save(content, folder / name, **settings)
    return folder / name


# --- names ---


def test_an_existing_path_is_returned_unchanged(tmp_path, monkeypatch):
    path = saved(STATE, tmp_path)
    assert resolve(str(path), "key") == path
    assert resolve(str(tmp_path), "key") == tmp_path
    monkeypatch.chdir(tmp_path)
    assert resolve("weights.pt", "key").resolve() == path
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/weights.pt", "key") == path


def test_toy_names_are_files_of_the_package():
    path = resolve("toy:t5/tokenizer.json", "key")
    assert path.is_file()
    assert path.parts[-4:] == ("toy", "data", "t5", "tokenizer.json")


@pytest.mark.parametrize(
    "name",
    [
        "nothing.pt",
        "runs/nothing.pt",
        "/no/such/file.pt",
        "runs/usage.safetensors",
        "toy:nothing",
        "toy:no/thing",
        "./a",
        "../a",
        "a/b/c",
    ],
)
def test_a_name_that_can_only_be_a_path_is_not_looked_up_on_the_hub(name, monkeypatch):
    monkeypatch.setattr("gendiv_lightning.weights.resolve._from_hub", lambda *_: pytest.fail("asked the Hub"))
    with pytest.raises(MissingWeightsError, match=r"^gpt_checkpoint: ") as error:
        resolve(name, "gpt_checkpoint", advice="take another")
    assert repr(name) in str(error.value)
    assert str(error.value).endswith("take another")


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty local cache of the Hub, and a way to put files into it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(repo, *files):
        folder = tmp_path / "hub" / f"models--{repo.replace('/', '--')}"
        for path, text in {
            folder / "refs/main": COMMIT,
            **{folder / "snapshots" / COMMIT / f: "{}" for f in files},
        }.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return folder / "snapshots" / COMMIT

    return put


def test_a_file_in_the_local_cache_of_the_hub_is_found(hub):
    folder = hub("owner/some-repo_1.5", "weights.pt", "deep/other.pt")
    assert resolve("owner/some-repo_1.5:weights.pt", "key") == folder / "weights.pt"
    assert resolve("owner/some-repo_1.5:deep/other.pt", "key") == folder / "deep/other.pt"


def test_a_repository_in_the_local_cache_of_the_hub_is_found(hub):
    folder = hub("owner/t5", "config.json", "model.safetensors")
    assert resolve("owner/t5", "key") == folder


def test_a_sharded_repository_is_found_if_complete(hub):
    folder = hub("owner/t5", "config.json", "model.safetensors.index.json", "one.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors", "c": "one.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(MissingWeightsError):
        resolve("owner/t5", "key")
    (folder / "two.safetensors").touch()
    assert resolve("owner/t5", "key") == folder


def test_a_cached_repository_without_weights_counts_as_missing(hub):
    hub("owner/t5", "config.json")
    with pytest.raises(MissingWeightsError, match="hf download"):
        resolve("owner/t5", "key")


PARTS = ("text_encoder", "transformer")


@pytest.mark.parametrize("weights", ["model.safetensors", "model.bin"])
def test_a_pipeline_in_the_local_cache_of_the_hub_is_found(hub, weights):
    folder = hub("owner/pipeline", "scheduler/scheduler_config.json", *(f"{part}/{weights}" for part in PARTS))
    assert resolve("owner/pipeline", "key", parts=PARTS) == folder


def test_parts_may_have_different_file_formats(hub):
    folder = hub("owner/pipeline", "text_encoder/model.safetensors", "transformer/model.bin")
    assert resolve("owner/pipeline", "key", parts=PARTS) == folder


@pytest.mark.parametrize("lacking", PARTS)
def test_a_cached_pipeline_without_weights_of_one_part_counts_as_missing(hub, lacking):
    files = [f"{part}/{'config.json' if part == lacking else 'model.safetensors'}" for part in PARTS]
    hub("owner/pipeline", "model.safetensors", *files)
    with pytest.raises(MissingWeightsError, match="hf download"):
        resolve("owner/pipeline", "key", parts=PARTS)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_pickled_weights_are_downloaded_only_if_there_are_no_others(tmp_path, monkeypatch, suffix):
    asked = []

    def download(repo, allow_patterns, ignore_patterns, local_files_only):
        if local_files_only:
            raise LocalEntryNotFoundError("not there")
        asked.append(f"*.{suffix}" in allow_patterns)
        if asked[-1]:
            for part in PARTS:
                (tmp_path / part).mkdir()
                (tmp_path / part / f"model.{suffix}").touch()
        return tmp_path

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("huggingface_hub.model_info", lambda repo, timeout: None)
    assert resolve("owner/pipeline", "key", parts=PARTS) == tmp_path
    assert asked == ([True] if suffix == "safetensors" else [False, True])


@pytest.mark.parametrize(
    ("name", "what", "command", "local"),
    [
        (
            "owner/repo:file.pt",
            "the file 'file.pt' of the Hub repository 'owner/repo'",
            "owner/repo file.pt",
            "file.pt",
        ),
        ("google/t5-v1.5", "the Hub repository 'google/t5-v1.5'", "google/t5-v1.5", "t5-v1.5"),
    ],
)
def test_the_error_for_missing_weights_says_how_to_get_them(hub, name, what, command, local):
    start = time.monotonic()
    with pytest.raises(MissingWeightsError) as error:
        resolve(name, "gpt_checkpoint", advice=ADVICE)
    assert time.monotonic() - start < 3
    first, to_get, with_copy, tiny = str(error.value).splitlines()
    assert first.startswith(f"gpt_checkpoint: {what} is neither in the Hub's local cache nor could it be downloaded (")
    assert to_get.split() == ["to", "get", "it:", "hf", "download", *command.split()]
    assert with_copy.endswith(f"--model.gpt_checkpoint /path/to/{local}")
    assert "configs/tiny/llamagen_argmax.yaml" in tiny


def test_without_a_network_the_error_comes_within_seconds(tmp_path):
    """The client of the Hub would retry for half a minute."""
    program = """
import time
from gendiv_lightning.weights.resolve import MissingWeightsError, resolve
import huggingface_hub
start = time.monotonic()
for name in ("owner/repo:file.pt", "owner/repo"):
    try:
        resolve(name, "key")
    except MissingWeightsError as error:
        assert "could it be downloaded" in str(error)
    else:
        raise SystemExit("found")
assert time.monotonic() - start < 10, time.monotonic() - start
"""
    settings = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr


# --- official files ---

T2I = {"gpt_checkpoint": "peizesun/llamagen_t2i:t2i_XL_stage1_256.pt", "vq_checkpoint": "x/vq_ds16_t2i.pt"}
C2I = {"gpt_checkpoint": "c2i_B_384.pt", "vq_checkpoint": "vq_ds16_c2i.pt", "gpt": "GPT-B", "model_type": "c2i"}


@pytest.mark.parametrize(
    "settings",
    [
        T2I,
        {**T2I, "gpt_checkpoint": "t2i_XL_stage2_512.pt", "image_size": 512},
        {**C2I, "image_size": 384},
        {**C2I, "gpt_checkpoint": "/some/where/c2i_3B_384.pt", "gpt": "GPT-3B", "image_size": 384},
        {"gpt_checkpoint": "own.pt", "vq_checkpoint": "own.pt", "vq": "VQ-8", "image_size": 128},
    ],
)
def test_official_files_with_matching_settings_are_accepted(settings):
    LlamaGen(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**T2I, "image_size": 512}, "gpt_checkpoint: t2i_XL_stage1_256.pt is t2i, GPT-XL, for images of 256 pixels"),
        ({**T2I, "gpt_checkpoint": "t2i_XL_stage2_512.pt"}, "for images of 512 pixels"),
        ({**T2I, "gpt": "GPT-L"}, "GPT-XL, .* settings are t2i, GPT-L"),
        ({**T2I, "model_type": "c2i"}, "is t2i"),
        ({**T2I, "vq_checkpoint": "vq_ds16_c2i.pt"}, "vq_checkpoint: vq_ds16_c2i.pt is c2i"),
        (
            {**T2I, "vq": "VQ-8", "image_size": 256, "vq_checkpoint": "own.pt"},
            "gpt_checkpoint: .* settings are t2i, GPT-XL, VQ-8",
        ),
        ({**C2I, "image_size": 256}, "c2i_B_384.pt is c2i, GPT-B, for images of 384 pixels"),
        ({**C2I, "image_size": 384, "vq_checkpoint": "vq_ds16_t2i.pt"}, "vq_checkpoint: vq_ds16_t2i.pt is t2i"),
        ({**C2I, "image_size": 384, "vq_checkpoint": "vq_ds8_c2i.pt"}, "vq_checkpoint: vq_ds8_c2i.pt is c2i, VQ-8"),
    ],
)
def test_official_files_with_mismatched_settings_are_an_error(settings, message):
    with pytest.raises(ValueError, match=message):
        LlamaGen(**settings)
