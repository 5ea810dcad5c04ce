"""The recipes of the latent diffusion model: initial weights, training data and export."""

import shutil
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from gendiv_lightning.generators.vqgan import from_uint8
from gendiv_lightning.toy import captions, postcards
from gendiv_lightning.toy.recipes import latent_diffusion
from gendiv_lightning.toy.recipes.base import load_tokenizer
from gendiv_lightning.toy.recipes.diffusers_vq import diffusers_vq
from gendiv_lightning.toy.train import RECIPES


@pytest.fixture(scope="module")
def with_autoencoder(toy_weights, tmp_path_factory):
    """A folder with a random autoencoder, tokenizer and CLIP."""
    folder = tmp_path_factory.mktemp("autoencoder") / "weights"
    shutil.copytree(toy_weights, folder)
    latent_diffusion.LatentAutoencoderRecipe(1, 0, folder.parent, folder).export(folder)
    return folder


@pytest.fixture
def weights(with_autoencoder, tmp_path):
    """A copy of the folder, for tests that write into it."""
    return Path(shutil.copytree(with_autoencoder, tmp_path / "weights"))


@pytest.fixture
def recipe(weights, tmp_path, monkeypatch):
    latents = torch.randn(postcards.NUM_IMAGES, 8, 6, 6, generator=torch.Generator().manual_seed(0)).half()
    monkeypatch.setattr(latent_diffusion, "_all_latents", lambda path, folder: latents)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        recipe = RECIPES["latent-diffusion"][0](10, 0, tmp_path, weights)
    recipe.setup("fit")
    recipe.batch_size = 4
    return recipe


def test_the_autoencoder_starts_as_the_shared_tokenizer_without_its_codebook(toy_weights, tmp_path):
    model = latent_diffusion.LatentAutoencoderRecipe(1, 0, tmp_path, toy_weights).model.eval()
    tokenizer = load_tokenizer(toy_weights)
    images = from_uint8(postcards.render(torch.arange(3)))
    with torch.no_grad():
        mean = model.encode(images).latent_dist.mean
        torch.testing.assert_close(mean, tokenizer.latents(images), rtol=1e-3, atol=1e-4)
        codes = F.normalize(mean, dim=1)
        result, source = model.decoder.conv_in(codes), diffusers_vq(tokenizer)
        expected = source.decoder.conv_in(source.post_quant_conv(codes))
    # A bias before zero padding differs from one after it, so borders may differ.
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    torch.testing.assert_close(result[inner], expected[inner], rtol=1e-3, atol=1e-4)


def test_the_data_of_a_step_are_a_function_of_seed_and_step(recipe):
    def loss(seed, step):
        recipe.seed = seed
        with torch.no_grad():
            return recipe.loss(step)["loss"].item()

    state = torch.get_rng_state()
    assert loss(0, 7) == loss(0, 7)
    assert torch.equal(torch.get_rng_state(), state)
    assert len({loss(0, 7), loss(0, 8), loss(1, 7)}) == 3


def test_timesteps_are_stratified_in_every_batch_with_density_proportional_to_the_timestep(recipe, monkeypatch):
    seen = []
    add_noise = recipe.schedule.add_noise
    monkeypatch.setattr(recipe.schedule, "add_noise", lambda x, n, times: seen.append(times) or add_noise(x, n, times))
    for step in range(5):
        recipe.loss(step)
    for times in seen:
        # A quarter of the density lies below 500, a half below 707, three quarters below 866.
        assert torch.bucketize(times, torch.tensor([499, 706, 865])).tolist() == [0, 1, 2, 3]


def test_training_uses_no_held_out_image(recipe):
    assert not torch.isin(captions.held_out(), recipe.images).any()


def test_text_encoder_and_unet_learn(recipe):
    recipe.loss(0)["loss"].backward()
    for module in (recipe.model, recipe.text_encoder):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_the_end_of_the_schedule_is_pure_noise(recipe):
    assert float(recipe.schedule.alphas_cumprod[-1]) < 1e-6


@pytest.mark.filterwarnings("ignore")  # deprecations in diffusers
def test_the_exported_folder_is_a_stable_diffusion_pipeline(recipe, weights):
    from diffusers import StableDiffusionPipeline

    recipe.export(weights)
    folder = weights / "latent_diffusion"
    pipeline = StableDiffusionPipeline.from_pretrained(folder, use_safetensors=True, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline("red sky", num_inference_steps=2, output_type="np").images
    assert images.shape == (1, 48, 48, 3)
    assert sum(path.stat().st_size for path in folder.rglob("*.safetensors")) < 8_000_000
