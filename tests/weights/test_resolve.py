"""From a name to a file, from a file to tensors, from tensors into a module; and the errors on the way."""

import argparse
import json
import os
import subprocess
import sys
import time

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file
from torch import nn

from gendiv_lightning.generators import LlamaGen
from gendiv_lightning.generators.llamagen.generator import ADVICE
from gendiv_lightning.weights.resolve import MissingWeightsError, load_strictly, read_checkpoint, resolve, sha256

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor([1.5])}


def assert_same(state, expected=STATE):
    assert state.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(state[key], tensor)


def saved(content, folder, name="weights.pt", **settings):
    torch.save(content, folder / name, **settings)
    return folder / name


# --- files ---


@pytest.mark.parametrize("wrapper", ["model", "module", "state_dict"])
def test_wrappers_are_opened(tmp_path, wrapper):
    assert_same(read_checkpoint(saved({wrapper: STATE, "optimizer": {"step": 3}, "steps": 7}, tmp_path)))


def test_a_flat_file_is_the_state_dict(tmp_path):
    assert_same(read_checkpoint(saved(STATE, tmp_path)))


def test_safetensors_are_read_too(tmp_path):
    save_file(STATE, tmp_path / "weights.safetensors")
    assert_same(read_checkpoint(tmp_path / "weights.safetensors"))


def test_of_several_wrappers_the_official_order_decides(tmp_path):
    other = {"a.weight": torch.zeros(1)}
    assert_same(read_checkpoint(saved({"state_dict": other, "ema": other, "module": other, "model": STATE}, tmp_path)))


def test_a_parameter_may_be_called_like_a_wrapper(tmp_path):
    assert_same(
        read_checkpoint(saved({"model": torch.ones(1), "b": torch.ones(2)}, tmp_path)),
        {
            "model": torch.ones(1),
            "b": torch.ones(2),
        },
    )


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "_orig_mod.module.", "module._orig_mod."])
def test_prefixes_of_compile_and_ddp_are_stripped(tmp_path, prefix):
    assert_same(read_checkpoint(saved({"model": {prefix + key: value for key, value in STATE.items()}}, tmp_path)))


def test_a_prefix_inside_a_name_is_left(tmp_path):
    state = {"head.module.weight": torch.ones(1), "modules.b": torch.ones(1)}
    assert_same(read_checkpoint(saved(state, tmp_path)), state)


def test_leftovers_that_are_no_parameters_are_ignored(tmp_path):
    extras = [
        "freqs_cis",
        "causal_mask",
        "layers.0.attention.kv_cache.k_cache",
        "module.layers.11.attention.kv_cache.v_cache",
    ]
    assert_same(
        read_checkpoint(saved({"model": {**STATE, **{key: torch.ones(1) for key in extras}, "steps": 3}}, tmp_path))
    )


def test_command_line_arguments_in_a_file_are_no_obstacle(tmp_path):
    content = {"model": STATE, "args": argparse.Namespace(lr=1e-4, results_dir="x"), "steps": 3}
    assert_same(read_checkpoint(saved(content, tmp_path)))


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path):
    path = saved({"model": STATE, "args": Bomb(str(tmp_path / "boom"))}, tmp_path)
    with pytest.raises(ValueError, match=r"weights\.pt cannot be read as weights"):
        read_checkpoint(path)
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_damaged_file_is_named(tmp_path, name):
    if name.endswith(".pt"):
        saved(STATE, tmp_path)
    else:
        save_file(STATE, tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for part in (whole[: len(whole) // 2], b"", b"version https://git-lfs"):
        (tmp_path / "part").mkdir(exist_ok=True)
        (tmp_path / "part" / name).write_bytes(part)
        with pytest.raises(ValueError, match=f"{name} cannot be read as weights"):
            read_checkpoint(tmp_path / "part" / name)


def test_a_file_of_something_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must hold a dictionary of tensors, got a list"):
        read_checkpoint(saved([torch.ones(1)], tmp_path))


# --- modules ---


def make_module(device="cpu"):
    with torch.device(device):
        module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    return module


def make_state():
    return {key: torch.ones_like(value) for key, value in make_module().state_dict().items()}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_arrive_in_the_wanted_dtype_frozen_and_for_evaluation(tmp_path, device, dtype):
    module = make_module(device)
    load_strictly(
        module,
        {key: value.half() if value.is_floating_point() else value for key, value in make_state().items()},
        tmp_path,
        dtype,
    )
    assert module[0].weight.dtype == dtype
    assert module[1].num_batches_tracked.dtype == torch.int64
    assert torch.equal(module[0].weight, torch.ones(2, 3, dtype=dtype))
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_every_missing_unexpected_and_misshapen_key_is_listed(tmp_path):
    state = make_state()
    del state["0.bias"], state["1.weight"]
    state |= {"extra.one": torch.ones(1), "extra.two": torch.ones(1), "0.weight": torch.ones(3, 2)}
    with pytest.raises(ValueError, match="does not hold this model's weights") as error:
        load_strictly(make_module(), state, tmp_path / "file.pt", torch.float32)
    message = str(error.value)
    assert "file.pt" in message
    assert "missing (2): 0.bias, 1.weight" in message
    assert "unexpected (2): extra.one, extra.two" in message
    assert "of another shape (1): 0.weight (3, 2), not (2, 3)" in message


def test_a_long_list_of_keys_is_cut(tmp_path):
    with pytest.raises(ValueError, match=r"unexpected \(20\): .* and 12 more"):
        load_strictly(nn.Sequential(), {f"key{i}": torch.ones(1) for i in range(20)}, tmp_path, torch.float32)


def test_a_failed_load_changes_nothing(tmp_path):
    module = make_module()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(ValueError, match="missing"):
        load_strictly(module, {"0.weight": torch.zeros(2, 3)}, tmp_path, torch.float32)
    assert_same(module.state_dict(), before)


# --- names ---


def test_a_path_stands_for_itself(tmp_path, monkeypatch):
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
def test_what_can_only_be_a_path_is_not_looked_for_on_the_hub(name, monkeypatch):
    monkeypatch.setattr("gendiv_lightning.weights.resolve._from_hub", lambda *_: pytest.fail("asked the Hub"))
    with pytest.raises(MissingWeightsError, match="gpt_checkpoint: there is no file") as error:
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


def test_a_repository_in_shards_is_found_when_all_are_there(hub):
    folder = hub("owner/t5", "config.json", "model.safetensors.index.json", "one.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors", "c": "one.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(MissingWeightsError):
        resolve("owner/t5", "key")
    (folder / "two.safetensors").touch()
    assert resolve("owner/t5", "key") == folder


def test_a_repository_without_its_weights_is_not_taken_for_whole(hub):
    hub("owner/t5", "config.json")
    with pytest.raises(MissingWeightsError, match="neither in the Hub's local cache"):
        resolve("owner/t5", "key")


PARTS = ("text_encoder", "transformer")


@pytest.mark.parametrize("weights", ["model.safetensors", "model.bin"])
def test_a_pipeline_in_the_local_cache_of_the_hub_is_found(hub, weights):
    folder = hub("owner/pipeline", "scheduler/scheduler_config.json", *(f"{part}/{weights}" for part in PARTS))
    assert resolve("owner/pipeline", "key", parts=PARTS) == folder


def test_parts_may_differ_in_their_file_format(hub):
    folder = hub("owner/pipeline", "text_encoder/model.safetensors", "transformer/model.bin")
    assert resolve("owner/pipeline", "key", parts=PARTS) == folder


@pytest.mark.parametrize("lacking", PARTS)
def test_a_pipeline_without_weights_in_one_part_is_not_taken_for_whole(hub, lacking):
    files = [f"{part}/{'config.json' if part == lacking else 'model.safetensors'}" for part in PARTS]
    hub("owner/pipeline", "model.safetensors", *files)
    with pytest.raises(MissingWeightsError, match="neither in the Hub's local cache"):
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
def test_missing_weights_are_named_with_the_ways_to_get_them(hub, name, what, command, local):
    start = time.monotonic()
    with pytest.raises(MissingWeightsError) as error:
        resolve(name, "gpt_checkpoint", advice=ADVICE)
    assert time.monotonic() - start < 3
    first, to_get, with_copy, tiny = str(error.value).splitlines()
    assert first.startswith(f"gpt_checkpoint: {what} is neither in the Hub's local cache nor could it be downloaded (")
    assert to_get.split() == ["to", "get", "it:", "hf", "download", *command.split()]
    assert with_copy.endswith(f"--model.gpt_checkpoint /path/to/{local}")
    assert "configs/tiny/llamagen_argmax.yaml" in tiny


def test_without_a_network_the_answer_comes_in_seconds(tmp_path):
    """The Hub's client alone would try for half a minute."""
    program = """
import time
from gendiv_lightning.models.checkpoints import MissingWeightsError, resolve
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


# --- hashes ---


def test_the_hash_of_a_file_is_that_of_its_bytes_and_of_a_folder_that_of_its_weights(tmp_path):
    import hashlib

    (tmp_path / "a.safetensors").write_bytes(b"weights")
    assert sha256(tmp_path / "a.safetensors") == hashlib.sha256(b"weights").hexdigest()
    hashes = []
    for name, content in (("one", b"1"), ("two", b"2"), ("same", b"1")):
        for file in ("model.safetensors", "config.json"):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / file).write_bytes(content)
        hashes.append(sha256(tmp_path / name))
    assert hashes[0] == hashes[2] != hashes[1]


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
def test_official_files_with_their_own_settings_are_accepted(settings):
    LlamaGen(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**T2I, "image_size": 512}, "gpt_checkpoint: t2i_XL_stage1_256.pt is t2i, GPT-XL, for images of 256 pixels"),
        ({**T2I, "gpt_checkpoint": "t2i_XL_stage2_512.pt"}, "for images of 512 pixels"),
        ({**T2I, "gpt": "GPT-L"}, "GPT-XL, .* say t2i, GPT-L"),
        ({**T2I, "model_type": "c2i"}, "is t2i"),
        ({**T2I, "vq_checkpoint": "vq_ds16_c2i.pt"}, "vq_checkpoint: vq_ds16_c2i.pt is c2i"),
        (
            {**T2I, "vq": "VQ-8", "image_size": 256, "vq_checkpoint": "own.pt"},
            "gpt_checkpoint: .* say t2i, GPT-XL, VQ-8",
        ),
        ({**C2I, "image_size": 256}, "c2i_B_384.pt is c2i, GPT-B, for images of 384 pixels"),
        ({**C2I, "image_size": 384, "vq_checkpoint": "vq_ds16_t2i.pt"}, "vq_checkpoint: vq_ds16_t2i.pt is t2i"),
        ({**C2I, "image_size": 384, "vq_checkpoint": "vq_ds8_c2i.pt"}, "vq_checkpoint: vq_ds8_c2i.pt is c2i, VQ-8"),
    ],
)
def test_official_files_with_settings_that_would_sample_garbage_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LlamaGen(**settings)
