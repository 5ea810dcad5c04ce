"""Training data of the recipes: a function of (seed, step), with the conditions of sampling."""

import math
import random
import shutil

import pytest
import torch
from scipy.stats import chisquare
from torch import nn

from gendiv_lightning.generators import Amused, VQDiffusion
from gendiv_lightning.records import length_class
from gendiv_lightning.toy import captions, postcards
from gendiv_lightning.toy.files import TINY_VQ_DIFFUSION_SCHEDULE, seeded
from gendiv_lightning.toy.recipes import amused, base, clip, llamagen, vq_diffusion
from gendiv_lightning.toy.recipes.base import captioned, token_grids, training_images
from gendiv_lightning.toy.recipes.text_tower import text_tower
from gendiv_lightning.toy.train import RECIPES

NAMES = ["clip", "amused-tokenizer", "amused", "vq-diffusion"]
K = 256  # codebook; as a token: masked
L = 36
NUM_ROWS = 256


# --- data ---


@pytest.mark.parametrize("name", [*NAMES, "llamagen"])
def test_the_data_of_a_step_are_a_function_of_seed_and_step(make_recipe, name):
    recipe = make_recipe(name)

    def loss(seed, step):
        recipe.seed = seed
        return recipe.loss(step)["loss"].item()

    with torch.no_grad():
        expected = loss(0, 7)
        random.seed(1)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            state = torch.get_rng_state()
            assert loss(0, 7) == expected
            assert torch.get_rng_state().equal(state)
        assert len({expected, loss(0, 8), loss(1, 7)}) == 3


def name_of(module):
    return module.__name__.rpartition(".")[2].replace("_", "-")


@pytest.mark.parametrize("module", [clip, amused, vq_diffusion], ids=name_of)
def test_the_same_images_get_different_noise_in_other_steps_and_trainings(make_recipe, monkeypatch, module):
    same = captioned(training_images(), 4, 0, 0)
    monkeypatch.setattr(module, "captioned", lambda *_: same)
    recipe, losses = make_recipe(name_of(module)), set()
    for recipe.seed, step in ((0, 7), (0, 8), (1, 7)):
        with torch.no_grad():
            losses.add(recipe.loss(step)["loss"].item())
    assert len(losses) == 3


@pytest.mark.parametrize("module", [clip, llamagen, amused, vq_diffusion], ids=name_of)
def test_no_text_conditional_model_is_trained_on_a_held_out_image(make_recipe, monkeypatch, module):
    pools = []

    def watched(pool, *rest):
        pools.append(pool)
        return captioned(pool, *rest)

    monkeypatch.setattr(module, "captioned", watched)
    with torch.no_grad():
        make_recipe(name_of(module)).loss(0)
    (pool,) = pools
    assert len(pool.unique()) == len(pool) == postcards.NUM_IMAGES - captions.NUM_HELD_OUT
    assert not torch.isin(captions.held_out(), pool).any()


def test_captioned_images_come_from_the_training_set_and_fit_their_captions():
    pool = training_images()[:1000:7]
    for step in range(6):
        images, texts = captioned(pool, 32, 0, step)
        assert torch.isin(images, pool).all()
        values = postcards.values_of(images)
        for text, image in zip(texts, values.tolist(), strict=True):
            assert captions.parse(text).items() <= dict(zip(postcards.GROUPS, image, strict=True)).items()
        assert len({length_class(text) for text in texts}) == 1


def test_the_captions_of_a_step_are_reproducible():
    pool = training_images()
    images, texts = captioned(pool, 32, 0, 5)
    random.seed(1)
    again, same_texts = captioned(pool, 32, 0, 5)
    assert again.equal(images)
    assert same_texts == texts


@pytest.mark.parametrize(("seed", "step"), [(0, 6), (1, 5)])
def test_other_steps_and_trainings_have_other_images_and_other_captions(monkeypatch, seed, step):
    pool = training_images()
    assert not captioned(pool, 32, seed, step)[0].equal(captioned(pool, 32, 0, 5)[0])
    monkeypatch.setattr(base, "seeded", lambda *_: torch.Generator().manual_seed(0))
    (images, texts), (same_images, other_texts) = captioned(pool, 32, 0, 5), captioned(pool, 32, seed, step)
    assert same_images.equal(images)
    assert other_texts != texts


def test_token_grids_equal_those_of_the_tokenizer_and_are_computed_once(tmp_path, monkeypatch, toy_weights):
    monkeypatch.setattr(postcards, "NUM_IMAGES", 5)
    grids = token_grids(tmp_path / "grids.safetensors", toy_weights)
    images = base.from_uint8(postcards.render(torch.arange(5)))
    with torch.no_grad():
        assert grids.equal(base.load_tokenizer(toy_weights).encode(images))
    monkeypatch.setattr(base, "load_tokenizer", lambda weights: pytest.fail("encoded again"))
    assert token_grids(tmp_path / "grids.safetensors", toy_weights).equal(grids)


# --- what is trained ---


TRAINED = {
    "clip": ("model.",),
    "amused-tokenizer": ("model.encoder.",),
    "amused": ("model.", "text_encoder."),
    "vq-diffusion": ("model.", "text_encoder.", "unconditional"),
}


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_only_the_trained_parameters(make_recipe, name):
    recipe = make_recipe(name)
    recipe.loss(0)["loss"].backward()
    reached = {key for key, parameter in recipe.named_parameters() if parameter.grad is not None}
    assert reached == {key for key, _ in recipe.named_parameters() if key.startswith(TRAINED[name])}


def test_the_amused_tokenizer_starts_near_the_shared_one(make_recipe):
    recipe = make_recipe("amused-tokenizer", batch_size=16)
    with torch.no_grad():
        start = recipe.loss(0)
        recipe.model.encoder.conv_in.weight /= 2  # as if its input range were still [-1, 1]
        unadapted = recipe.loss(0)
    assert 0 < start["loss"] < 0.5 * unadapted["loss"]
    assert 1 > start["agree"] > 1.5 * unadapted["agree"]


def test_refining_amused_starts_from_its_export_with_other_data(make_recipe, toy_weights, tmp_path):
    weights = tmp_path / "weights"
    shutil.copytree(toy_weights, weights)
    with pytest.raises(ValueError, match="gendiv toy train amused"):
        RECIPES["amused-refine"][0](10, 0, tmp_path, weights)
    first = make_recipe("amused")
    first.export(weights)
    refined = RECIPES["amused-refine"][0](10, 0, tmp_path, weights)
    exported = {key: tensor.half().float() for key, tensor in first.state_dict().items()}
    assert all(tensor.equal(exported[key]) for key, tensor in refined.state_dict().items())
    assert refined.learning_rate == first.learning_rate / 3
    assert refined.seed != first.seed
    assert all(parameter.requires_grad for parameter in refined.parameters())


def test_the_text_encoders_start_as_the_clip_text_tower(make_recipe, toy_weights):
    for name, projects in (("amused", True), ("vq-diffusion", False)):
        states = text_tower(toy_weights / "clip", projects=projects).state_dict()
        assert all(tensor.equal(states[key]) for key, tensor in make_recipe(name).text_encoder.state_dict().items())


# --- training and sampling agree ---


class Uniform(nn.Module):
    """Stands in for the network: predicts all tokens with equal probability and records its inputs."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.calls = kind, []

    def forward(self, tokens, *conditions):
        self.calls.append((tokens, *conditions))
        if self.kind == "amused":
            return torch.zeros(len(tokens), K, *tokens.shape[1:])
        log_probs = torch.full((len(tokens), K, L), -math.log(K))
        return type("Output", (), {"sample": log_probs})


@pytest.fixture
def spied(make_recipe, tmp_path):
    """Inputs that `Uniform` recorded in a recipe's step of many images, and the generator of its export."""

    def spy(name, generator_class):
        recipe = make_recipe(name, batch_size=NUM_ROWS)
        recipe.export(tmp_path)
        generator = generator_class(str(tmp_path / name.replace("-", "_")))
        generator.load()
        recipe.model = Uniform(name)
        with torch.inference_mode():
            assert recipe.loss(3)["loss"].item() == pytest.approx(math.log(K))
        return recipe, generator, recipe.model.calls

    return spy


def dropped(given, texts, generator):
    """Which rows have the null condition of guidance; all others must have the condition of their text."""
    null = [part[0] for part in generator.encode_null()]
    is_null = []
    for row, text in enumerate(texts):
        parts = [part[row] for part in given]
        is_null.append(all(torch.allclose(*pair, atol=1e-3) for pair in zip(parts, null, strict=True)))
        if not is_null[-1]:
            for ours, expected in zip(parts, generator.encode_text(text), strict=True):
                torch.testing.assert_close(ours, expected[0], atol=1e-5, rtol=1e-4)
    return torch.tensor(is_null)


def test_amused_is_trained_on_the_conditions_of_its_sampler(spied, random_grids):
    _, generator, ((inputs, states, pooled, micro),) = spied("amused", Amused)
    images, texts = captioned(training_images(), NUM_ROWS, 0, 3)
    with torch.inference_mode():
        assert 0.04 < dropped((states, pooled), texts, generator).float().mean() < 0.18
    assert micro.tolist() == [list(generator.micro_conditions)] * NUM_ROWS
    inputs, tokens = inputs.flatten(1), random_grids[images]
    masked = inputs == generator.mask
    assert inputs[~masked].equal(tokens[~masked])
    # The number masked is L cos(u pi / 2) rounded up, u uniform: at most c with probability 2 / pi asin(c / L).
    edges = torch.tensor([0, 12, 20, 28, 34, L])
    observed = torch.bucketize(masked.sum(1), edges).bincount()
    expected = NUM_ROWS * (2 / math.pi * (edges.double() / L).asin()).diff()
    assert chisquare(observed[1:].numpy(), expected.numpy()).pvalue > 1e-3
    by_place = masked.float().mean(0)
    assert 0.4 < by_place.min() < by_place.max() < 0.9


def test_vq_diffusion_is_trained_on_the_conditions_of_its_sampler(spied, random_grids):
    recipe, generator, calls = spied("vq-diffusion", VQDiffusion)
    images, texts = captioned(training_images(), NUM_ROWS, 0, 3)
    noised, features, times = zip(*calls, strict=True)
    with torch.inference_mode():
        assert 0.04 < dropped((torch.cat(features),), texts, generator).float().mean() < 0.18
    assert [time.ndim for time in times] == [0] * 4
    assert [time.item() // 25 for time in times] == [0, 1, 2, 3]
    schedule = generator.schedule
    for time, part, tokens in zip(times, noised, random_grids[images].chunk(4), strict=True):
        keep, replace, mask = schedule.cumulative(time.item())
        assert (part == K).float().mean().item() == pytest.approx(mask, abs=0.06)
        assert (part == tokens).float().mean().item() == pytest.approx(keep + replace, abs=0.06)
    assert len(recipe.keep) == len(recipe.mask) == schedule.num_times
    for time in range(schedule.num_times):
        keep, _, mask = schedule.cumulative(time)
        assert recipe.keep[time].item() == pytest.approx(keep, rel=1e-4)
        assert recipe.mask[time].item() == pytest.approx(mask, rel=1e-4)


@pytest.mark.parametrize("time", [0, 20, 50, 80, 99])
def test_tokens_are_kept_replaced_and_masked_by_the_schedule(make_recipe, time):
    recipe = make_recipe("vq-diffusion")
    settings = TINY_VQ_DIFFUSION_SCHEDULE
    at = time / (settings["num_train_timesteps"] - 1)
    keep, mask = (
        settings[f"{name}_cum_start"] + at * (settings[f"{name}_cum_end"] - settings[f"{name}_cum_start"])
        for name in ("alpha", "gamma")
    )
    tokens = torch.full((2000, L), 7)
    noised = recipe._noise(tokens, time, seeded(0, 0))
    kept, masked = noised == 7, noised == K
    for result, expected in ((masked, mask), (kept, keep + (1 - keep - mask) / K)):
        deviation = math.sqrt(expected * (1 - expected) / tokens.numel())
        assert result.double().mean().item() == pytest.approx(expected, abs=4 * deviation)
        # at each place alike
        assert (result.double().mean(0) - expected).abs().max() < 5 * deviation * math.sqrt(L)
    others = noised[~kept & ~masked].bincount(minlength=K + 1)
    assert others[K] == 0
    if time == 99:
        assert (others[:K] > 0).sum() == K - 1
    if time > 10:
        assert chisquare(others[:K][torch.arange(K) != 7].numpy()).pvalue > 1e-3
