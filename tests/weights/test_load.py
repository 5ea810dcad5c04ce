"""Loading of tensors from files and into modules, and the errors for files that do not fit."""

import argparse
import os
import shutil
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from gendiv_lightning.weights.load import load_pretrained, load_strictly, read_checkpoint, reading

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


def test_several_wrappers_are_searched_in_the_official_order(tmp_path):
    other = {"a.weight": torch.zeros(1)}
    assert_same(read_checkpoint(saved({"state_dict": other, "ema": other, "module": other, "model": STATE}, tmp_path)))


def test_a_parameter_may_have_the_name_of_a_wrapper(tmp_path):
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


def test_a_prefix_inside_a_name_is_kept(tmp_path):
    state = {"head.module.weight": torch.ones(1), "modules.b": torch.ones(1)}
    assert_same(read_checkpoint(saved(state, tmp_path)), state)


def test_entries_that_are_not_parameters_are_ignored(tmp_path):
    extras = [
        "freqs_cis",
        "causal_mask",
        "layers.0.attention.kv_cache.k_cache",
        "module.layers.11.attention.kv_cache.v_cache",
    ]
    assert_same(
        read_checkpoint(saved({"model": {**STATE, **{key: torch.ones(1) for key in extras}, "steps": 3}}, tmp_path))
    )


def test_files_with_command_line_arguments_are_loaded(tmp_path):
    content = {"model": STATE, "args": argparse.Namespace(lr=1e-4, results_dir="x"), "steps": 3}
    assert_same(read_checkpoint(saved(content, tmp_path)))


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_with_code_is_rejected_without_running_it(tmp_path):
    path = saved({"model": STATE, "args": Bomb(str(tmp_path / "boom"))}, tmp_path)
    with pytest.raises(ValueError, match=r"weights\.pt cannot be read as weights"):
        read_checkpoint(path)
    assert not (tmp_path / "boom").exists()


def test_an_intact_file_with_other_objects_is_not_reported_as_damaged(tmp_path):
    with pytest.raises(ValueError, match=r"contains posix\.mkdir besides tensors") as error:
        read_checkpoint(saved({"model": STATE, "args": Bomb(str(tmp_path / "boom"))}, tmp_path))
    assert "damaged" not in str(error.value)
    assert "again" not in str(error.value)


@pytest.mark.parametrize("content", [STATE, {"model": STATE, "args": argparse.Namespace(lr=1)}])
def test_legacy_files_are_read(tmp_path, content):
    """VGG16 of torchvision and the official Inception are such files: not zipped and not memory-mapped."""
    path = saved(content, tmp_path, _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(path)
    assert_same(read_checkpoint(path))


@pytest.mark.parametrize("harm", [lambda data: data[: len(data) // 2], lambda data: data[:1]])
def test_a_damaged_legacy_file_is_named_in_the_error(tmp_path, harm):
    path = saved(STATE, tmp_path, _use_new_zipfile_serialization=False)
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(ValueError, match=r"weights\.pt cannot be read as weights: it is damaged"):
        read_checkpoint(path)


def test_the_error_for_a_file_with_ema_weights_only_lists_its_content(tmp_path):
    content = {"ema": STATE, "optimizer": {"state": {}}, "steps": 7}
    with pytest.raises(ValueError, match=r"ema \(2 tensors\), optimizer, steps") as error:
        read_checkpoint(saved(content, tmp_path))
    assert "torch.load(FILE)['ema']" in str(error.value)
    assert "again" not in str(error.value)


@pytest.mark.parametrize("content", [{}, {"steps": 7}, {"model": {}}])
def test_a_file_without_tensors_is_an_error(tmp_path, content):
    with pytest.raises(ValueError, match=r"weights\.pt must contain the tensors of a model"):
        read_checkpoint(saved(content, tmp_path))


def test_a_git_lfs_pointer_is_reported_as_one(tmp_path):
    for name in ("weights.pt", "weights.safetensors"):
        (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
        with pytest.raises(ValueError, match="git lfs pull"):
            read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_damaged_file_is_named_in_the_error(tmp_path, name):
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


def test_a_file_in_another_format_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="must contain a dictionary of tensors, got a list"):
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
def test_weights_are_loaded_with_the_requested_dtype_frozen_and_in_eval_mode(tmp_path, device, dtype):
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
    with pytest.raises(ValueError, match="does not contain the weights of this model") as error:
        load_strictly(make_module(), state, tmp_path / "file.pt", torch.float32)
    message = str(error.value)
    assert "file.pt" in message
    assert "missing (2): 0.bias, 1.weight" in message
    assert "unexpected (2): extra.one, extra.two" in message
    assert "of another shape (1): 0.weight (3, 2), not (2, 3)" in message


def test_a_long_list_of_keys_is_truncated(tmp_path):
    with pytest.raises(ValueError, match=r"unexpected \(20\): .* and 12 more"):
        load_strictly(nn.Sequential(), {f"key{i}": torch.ones(1) for i in range(20)}, tmp_path, torch.float32)


def test_a_failed_load_changes_nothing(tmp_path):
    module = make_module()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(ValueError, match="missing"):
        load_strictly(module, {"0.weight": torch.zeros(2, 3)}, tmp_path, torch.float32)
    assert_same(module.state_dict(), before)


# --- models of transformers and diffusers ---


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    from transformers import T5Config, T5EncoderModel

    config = T5Config(vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    folder = tmp_path_factory.mktemp("encoder")
    T5EncoderModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def spoil(encoder, tmp_path):
    """Copy the folder of the encoder with changed tensors."""

    def change(edit):
        folder = shutil.copytree(encoder, tmp_path / "copy")
        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return change


def load_encoder(folder, **settings):
    from transformers import T5EncoderModel

    return load_pretrained(T5EncoderModel, folder, **settings)


def test_a_pretrained_model_is_frozen_and_loading_does_not_touch_the_global_generator(encoder):
    state = torch.random.get_rng_state()
    model = load_encoder(encoder, dtype=torch.bfloat16)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not model.training
    assert {(p.dtype, p.requires_grad) for p in model.parameters()} == {(torch.bfloat16, False)}


def test_missing_tensors_are_listed_with_the_unexpected_ones(spoil):
    name = "encoder.final_layer_norm.weight"
    folder = spoil(lambda tensors: tensors.update({f"ema.{name}": tensors.pop(name)}))
    with pytest.raises(ValueError, match=rf"missing \(1\): {name}; not used \(1\): ema\.{name}"):
        load_encoder(folder)
    assert load_encoder(folder, optional=("final_layer_norm",))


def test_tensors_of_another_shape_are_listed(spoil):
    folder = spoil(lambda tensors: tensors.update({"encoder.final_layer_norm.weight": torch.ones(3)}))
    with pytest.raises(ValueError, match=r"of another shape \(1\): encoder\.final_layer_norm\.weight"):
        load_encoder(folder)


def test_unused_tensors_are_ignored(spoil):
    assert load_encoder(spoil(lambda tensors: tensors.update({"decoder.weight": torch.ones(3)})))


def test_a_folder_without_weights_is_named_in_the_error(encoder, tmp_path):
    folder = shutil.copytree(encoder, tmp_path / "empty", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(ValueError, match=r"empty does not contain a T5EncoderModel"):
        load_encoder(folder)


@pytest.mark.parametrize(
    ("error", "kind"),
    [(OSError("gone\nfor good"), FileNotFoundError), (KeyError("size"), ValueError), (ValueError("odd"), ValueError)],
)
def test_a_read_error_is_reported_in_one_line(error, kind):
    with pytest.raises(kind, match="'mine'") as raised, reading("network", "mine", "Take another"):
        raise error
    assert "\n" not in str(raised.value)
    assert ("Take another" in str(raised.value)) == (kind is FileNotFoundError)
