"""Weight files stored as pieces: joined, they have the same bytes, hashes and models."""

import json
import shutil

import pytest
import torch
from diffusers import VQModel
from safetensors.torch import load_file, save_file

from gendiv_lightning.toy import FILES
from gendiv_lightning.weights.diffusers_folder import PipelineFolder
from gendiv_lightning.weights.hash import sha256
from gendiv_lightning.weights.pieces import join, split, whole


def tensors(*seeds):
    return {f"layer {seed}": torch.randn(8, 9, generator=torch.Generator().manual_seed(seed)).half() for seed in seeds}


@pytest.fixture
def folder(tmp_path):
    """A part whose weights share two layers of five with another file, under other names and in another shape."""
    part = tmp_path / "model"
    part.mkdir()
    save_file(tensors(0, 1, 2), tmp_path / "other.safetensors")
    shared = {"z": tensors(1)["layer 1"].view(9, 8), "b": tensors(2)["layer 2"]}
    save_file({**tensors(3, 4), "a short one": torch.ones(3), **shared}, part / "model.safetensors")
    (part / "config.json").write_text("{}")
    return part


def test_the_joined_pieces_equal_the_bytes_of_the_file(folder):
    content, name = (folder / "model.safetensors").read_bytes(), sha256(folder)
    split(folder / "model.safetensors", [folder.parent / "other.safetensors"])
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors.pieces",
        "model.safetensors.rest",
    ]
    assert join(folder / "model.safetensors.pieces") == content
    assert len(content) - (folder / "model.safetensors.rest").stat().st_size == 2 * 8 * 9 * 2
    with whole(folder) as result:
        assert sha256(result) == name
        assert (result / "model.safetensors").read_bytes() == content
    assert not result.exists()


@pytest.mark.parametrize("position", ["first", "last"])
def test_a_shared_layer_may_come_first_or_last(tmp_path, position):
    save_file(tensors(0), tmp_path / "other.safetensors")
    layers = {"b": tensors(0)["layer 0"], ("c" if position == "first" else "a"): tensors(1)["layer 1"]}
    save_file(layers, tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    split(tmp_path / "model.safetensors", [tmp_path / "other.safetensors"])
    assert join(tmp_path / "model.safetensors.pieces") == content


def test_a_folder_without_pieces_is_used_unchanged(folder):
    with whole(folder) as result:
        assert result == folder


@pytest.mark.parametrize("damage", ["source is missing", "source is short", "list is damaged"])
def test_pieces_that_cannot_be_joined_are_one_clear_error(folder, damage):
    other, pieces = folder.parent / "other.safetensors", folder / "model.safetensors.pieces"
    split(folder / "model.safetensors", [other])
    if damage == "source is missing":
        other.unlink()
    elif damage == "source is short":
        other.write_bytes(other.read_bytes()[:200])
    else:
        pieces.write_text(json.dumps([["model.safetensors.rest", 0]]))
    with pytest.raises(ValueError, match=r"model\.safetensors\.pieces .*Install gendiv again"):
        join(pieces)


@pytest.mark.parametrize(
    ("family", "part"),
    [
        ("vq_diffusion", "f851494970fe218085cfc7f9e748be93695cb9964d3b53ebdea71d4b573b5678"),
        ("amused", "8ba9210e8e86d791b6923022dadce779d7bd22ab2ce1dcb886f2e65cea472ffa"),
    ],
)
def test_the_toy_families_share_one_tokenizer_without_changing_their_identity(family, part, tmp_path):
    folder = PipelineFolder(str(FILES / family), ["vqvae"], "checkpoint")
    assert folder.identity() == {"vqvae": part}
    copy = shutil.copytree(FILES / family / "vqvae", tmp_path / "a" / "b", ignore=shutil.ignore_patterns("*.pieces"))
    (path,) = (FILES / family / "vqvae").glob("*.pieces")
    (copy / path.stem).write_bytes(join(path))
    expected = load_file(copy / path.stem)
    model = folder.load(VQModel, "vqvae", torch.float32).state_dict()
    assert model.keys() == expected.keys()
    assert all(torch.equal(model[name], tensor.float()) for name, tensor in expected.items())
