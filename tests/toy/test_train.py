"""`gendiv toy train`: a killed training resumes bit-exactly, learns, and exports usable weights."""

import csv
import shutil

import pytest
import torch
from safetensors.torch import load_file

from gendiv_lightning.cli import main as cli
from gendiv_lightning.generators import Amused, VQDiffusion
from gendiv_lightning.toy import train as toy_train
from gendiv_lightning.toy.recipes.amused import AmusedRecipe, AmusedTokenizerRecipe
from gendiv_lightning.toy.recipes.clip import ClipRecipe
from gendiv_lightning.toy.recipes.perceptual import PerceptualRecipe
from gendiv_lightning.toy.recipes.vq_diffusion import VQDiffusionRecipe
from gendiv_lightning.toy.train import RECIPES, train


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(PerceptualRecipe, "batch_size", 8)
    for recipe in (ClipRecipe, AmusedTokenizerRecipe, AmusedRecipe, VQDiffusionRecipe):
        monkeypatch.setattr(recipe, "batch_size", 4)


def _train(folder, name="perceptual", num_steps=20, seed=0):
    train(name, num_steps=num_steps, seed=seed, work=folder / "work", export=folder, precision="32-true")


def _weights(folder, name):
    """Weights of the last checkpoint; exported weights are rounded, which could hide a difference."""
    return torch.load(folder / "work" / f"{name}.ckpt", weights_only=True)["state_dict"]


def _losses(folder, name):
    with (folder / "logs" / f"{name}.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    ("name", "recipe", "num_steps"), [("perceptual", PerceptualRecipe, 20), ("vq-diffusion", VQDiffusionRecipe, 3)]
)
def test_a_killed_training_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path, monkeypatch, toy_weights, random_grids, name, recipe, num_steps
):
    for folder in ("whole", "killed"):
        shutil.copytree(toy_weights, tmp_path / folder)
    _train(tmp_path / "whole", name, num_steps)
    loss = recipe.loss

    def killed_on_the_way(self, step):
        if step == num_steps - 1:
            raise RuntimeError("killed")
        return loss(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(recipe, "loss", killed_on_the_way)
        with pytest.raises(RuntimeError, match="killed"):
            _train(tmp_path / "killed", name, num_steps)
    interrupted = _weights(tmp_path / "killed", name)
    _train(tmp_path / "killed", name, num_steps)
    whole, resumed = _weights(tmp_path / "whole", name), _weights(tmp_path / "killed", name)
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)
    assert any(not weight.equal(interrupted[key]) for key, weight in whole.items())


def test_a_finished_training_can_be_extended(tmp_path):
    _train(tmp_path, num_steps=3)
    before = _weights(tmp_path, "perceptual")
    _train(tmp_path, num_steps=5)
    after = torch.load(tmp_path / "work" / "perceptual.ckpt", weights_only=True)
    assert after["global_step"] == 5
    assert any(not weight.equal(before[name]) for name, weight in after["state_dict"].items())


def test_training_lowers_the_loss_and_keeps_its_log(tmp_path):
    _train(tmp_path, num_steps=60)
    losses = _losses(tmp_path, "perceptual")
    assert len(losses) == 3
    assert losses[-1] < 0.9 * losses[0]


def test_a_training_does_not_resume_from_the_checkpoint_of_another(tmp_path):
    _train(tmp_path)
    with pytest.raises(ValueError, match="--work"):
        _train(tmp_path, seed=1)


@pytest.mark.parametrize(
    ("asked", "is_fast", "expected"),
    [
        (None, True, "bf16-mixed"),
        (None, False, "32-true"),
        ("32-true", True, "32-true"),
        ("bf16-mixed", False, "bf16-mixed"),
    ],
)
def test_the_precision_is_the_requested_one_or_the_fastest_of_the_machine(
    tmp_path, monkeypatch, asked, is_fast, expected
):
    class Stopped(Exception):
        pass

    def trainer(precision, **settings):
        raise Stopped(precision)

    monkeypatch.setattr(toy_train, "_has_fast_bfloat16", lambda: is_fast)
    monkeypatch.setattr(toy_train, "Trainer", trainer)
    with pytest.raises(Stopped, match=f"^{expected}$"):
        train("perceptual", num_steps=1, seed=0, work=tmp_path, export=tmp_path, precision=asked)


def test_the_command_lists_every_recipe():
    for name in RECIPES:
        assert cli.build_parser().parse_args(["toy", "train", name]).name == name
    with pytest.raises(SystemExit):
        cli.build_parser().parse_args(["toy", "train", "another"])


def test_the_exports_of_the_recipes_are_loaded_by_the_generators(tmp_path, toy_weights, random_grids, make_batch):
    shutil.copy(toy_weights / "llamagen_vq.safetensors", tmp_path)
    for name in ("clip", "amused-tokenizer", "amused", "vq-diffusion"):
        _train(tmp_path, name, num_steps=2)
    clip = load_file(tmp_path / "clip" / "open_clip_model.safetensors")
    _assert_rounded(clip, _weights(tmp_path, "clip"), "model")
    for name, generator_class in (("amused", Amused), ("vq_diffusion", VQDiffusion)):
        generator = generator_class(str(tmp_path / name), num_steps=2, guidance_scale=2.0)
        generator.load()
        weights = _weights(tmp_path, name.replace("_", "-"))
        _assert_rounded(generator.transformer.state_dict(), weights, "model")
        _assert_rounded(generator.text_encoder.state_dict(), weights, "text_encoder")
        words = generator.text_encoder.get_input_embeddings().weight
        torch.testing.assert_close(words, clip["token_embedding.weight"].float(), atol=1e-3, rtol=1e-3)
        result = generator.sample(make_batch("a red house on the left", num_samples=2))
        assert result.images.shape == (2, 3, 48, 48)
        assert not result.samples.tokens[0].equal(result.samples.tokens[1])
        assert generator.encode_images(result.images).shape == (2, 36)


def _assert_rounded(exported, weights, part):
    """Assert that the exported tensors equal those of a part of the recipe, rounded to half precision."""
    trained = {name.removeprefix(f"{part}."): x for name, x in weights.items() if name.startswith(f"{part}.")}
    half = {name: x.half().float() if x.is_floating_point() else x for name, x in trained.items()}
    torch.testing.assert_close({name: x.to(half[name]) for name, x in exported.items()}, half, rtol=0, atol=0)
