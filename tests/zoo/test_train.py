"""The recipes: a training that was killed goes on as if it had not been, and learns."""

import pytest
import torch
from safetensors.torch import load_file

from gendiv_lightning.zoo import train as zoo_train
from gendiv_lightning.zoo.train import PerceptualRecipe, token_grids, train


def _train(folder, num_steps=20, seed=0):
    train("perceptual", num_steps=num_steps, seed=seed, work=folder / "work", export=folder, precision="32-true")
    return load_file(folder / "perceptual.safetensors")


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(PerceptualRecipe, "batch_size", 8)


def test_a_killed_training_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, monkeypatch):
    whole = _train(tmp_path / "whole")
    loss = PerceptualRecipe.loss

    def killed_at_13(self, step):
        if step == 13:
            raise RuntimeError("killed")
        return loss(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(PerceptualRecipe, "loss", killed_at_13)
        with pytest.raises(RuntimeError, match="killed"):
            _train(tmp_path / "killed")
    resumed = _train(tmp_path / "killed")
    for name, weight in whole.items():
        torch.testing.assert_close(resumed[name], weight, rtol=0, atol=0, msg=name)


def test_training_lowers_the_loss_and_keeps_its_log(tmp_path):
    _train(tmp_path, num_steps=60)
    lines = (tmp_path / "logs" / "perceptual.csv").read_text().splitlines()
    column = lines[0].split(",").index("loss")
    losses = [float(line.split(",")[column]) for line in lines[1:]]
    assert len(losses) == 3
    assert losses[-1] < 0.9 * losses[0]


def test_token_grids_are_read_back_from_where_they_were_written(tmp_path, monkeypatch):
    grids = torch.arange(6).reshape(2, 3)
    zoo_train.save_file({"tokens": grids.short()}, tmp_path / "grids.safetensors")
    monkeypatch.setattr(zoo_train, "load_tokenizer", lambda weights: pytest.fail("encoded again"))
    assert token_grids(tmp_path / "grids.safetensors", tmp_path).equal(grids)


def test_a_training_does_not_go_on_from_the_checkpoint_of_another(tmp_path):
    _train(tmp_path)
    with pytest.raises(ValueError, match="give another --work"):
        _train(tmp_path, seed=1)
