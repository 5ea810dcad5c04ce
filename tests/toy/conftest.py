"""Random weights for recipes: the shared tokenizer, CLIP, and the tokenizer of aMUSEd."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gendiv_lightning.generators.llamagen.tokenizer import VQModel
from gendiv_lightning.toy import postcards
from gendiv_lightning.toy.files import TINY_VQ, save_half
from gendiv_lightning.toy.recipes import amused, base
from gendiv_lightning.toy.recipes.base import Recipe
from gendiv_lightning.toy.recipes.clip import ClipRecipe
from gendiv_lightning.toy.train import RECIPES


def randomise(module: torch.nn.Module, seed: int) -> None:
    """Randomize all parameters: equal initial biases and norms would hide a mix-up."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        is_matrix = parameter.ndim > 1
        parameter.data = noise / noise[0].numel() ** 0.5 if is_matrix else parameter.data + 0.1 * noise


@pytest.fixture(scope="session")
def toy_weights(tmp_path_factory) -> Path:
    """A folder in the state of `gendiv toy train` before aMUSEd and VQ-Diffusion are trained."""
    folder = tmp_path_factory.mktemp("toy")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer, clip = VQModel(TINY_VQ), ClipRecipe(1, 0, folder / "work")
    randomise(tokenizer, 0)
    save_half(tokenizer.state_dict(), folder / "llamagen_vq.safetensors")
    randomise(clip.model, 1)
    clip.export(folder)
    amused.AmusedTokenizerRecipe(1, 0, folder / "work", folder).export(folder)
    return folder


@pytest.fixture
def random_grids(monkeypatch) -> torch.Tensor:
    """Random tokens instead of the 52,500 token grids, which take minutes to encode."""
    grids = torch.randint(TINY_VQ.codebook_size, (postcards.NUM_IMAGES, 36), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(base, "token_grids", lambda path, weights: grids)
    return grids


@pytest.fixture
def make_recipe(toy_weights, random_grids, tmp_path) -> Callable[..., Recipe]:
    """Build a recipe by its command-line name, ready for its first step, with small batches."""

    def make(name: str, batch_size: int = 4, seed: int = 0) -> Recipe:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            recipe = RECIPES[name][0](10, seed, tmp_path, toy_weights)
        recipe.setup("fit")
        recipe.batch_size = batch_size
        return recipe

    return make
