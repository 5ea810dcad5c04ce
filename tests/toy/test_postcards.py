"""The Postcards dataset: everything claimed to be exact is exact."""

import math
import random

import pytest
import torch
from torch.nn import functional as F

from gendiv_lightning.records import length_class
from gendiv_lightning.text.cleaning import clean_caption
from gendiv_lightning.toy import captions, postcards


@pytest.fixture(scope="module")
def images():
    return torch.randperm(postcards.NUM_IMAGES, generator=torch.Generator().manual_seed(0))[:512]


def test_the_52500_image_numbers_map_one_to_one_to_factor_values():
    everything = torch.arange(postcards.NUM_IMAGES)
    assert postcards.NUM_IMAGES == 6 * 5 * 10 * 7 * 25
    assert len(postcards.FACTORS) == 9
    assert postcards.index_of(postcards.values_of(everything)).equal(everything)


@pytest.mark.parametrize("damage", ["none", "noise", "blur"])
def test_factors_are_read_exactly_from_every_image(images, damage):
    pixels = postcards.render(images).float()
    if damage == "noise":
        pixels = pixels + 25.5 * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(1))
    if damage == "blur":
        pixels = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    read, distance = postcards.read(pixels.round().clamp(0, 255).to(torch.uint8))
    assert read.equal(images)
    if damage == "none":
        assert distance.max() < 1e-3


def test_noise_is_not_coherent():
    noise = torch.randint(0, 256, (64, 3, 48, 48), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert (postcards.read(noise)[1] > postcards.COHERENT_RMS).all()


def test_images_of_another_size_cannot_be_read():
    with pytest.raises(ValueError, match="48, 48"):
        postcards.read(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


@pytest.mark.parametrize("factor", list(postcards.FACTORS))
def test_the_entropy_of_a_factor_is_that_over_all_images(factor):
    counts = postcards.factors_of(torch.arange(postcards.NUM_IMAGES))[factor].bincount().double()
    shares = counts / counts.sum()
    assert math.isclose(-(shares * shares.log2()).sum().item(), postcards.factor_entropy(factor), rel_tol=1e-12)


def test_conditional_entropy_is_log2_of_the_number_of_consistent_images():
    values = postcards.values_of(torch.arange(postcards.NUM_IMAGES))
    consistent = ((values[:, 0] == 2) & (values[:, 3] == 5)).sum().item()
    assert math.isclose(postcards.conditional_entropy({"sky": 2, "light": 5}), math.log2(consistent), rel_tol=1e-12)
    assert postcards.conditional_entropy(dict.fromkeys(postcards.GROUPS, 0)) == 0
    assert math.isclose(postcards.conditional_entropy({}), math.log2(52500), rel_tol=1e-12)


@pytest.mark.parametrize("length", ["short", "medium", "long"])
@pytest.mark.parametrize("num_stated", [1, 2, 3, 4, 5])
def test_a_caption_has_its_length_class_and_keeps_its_meaning_when_cleaned(length, num_stated):
    rng = random.Random(num_stated)
    for _ in range(50):
        stated = captions.meaning(rng.randrange(postcards.NUM_IMAGES), num_stated, rng)
        text = captions.make_caption(stated, length, rng)
        assert length_class(text) == length
        assert captions.parse(text) == stated
        assert clean_caption(text) == text


def test_every_phrase_of_the_grammar_has_one_meaning():
    phrases = [
        phrase
        for group, values in postcards.GROUPS.items()
        for value in values
        for phrase in captions.phrases(group, value)
    ]
    assert len(phrases) == len(set(phrases))


def test_a_caption_outside_the_grammar_is_an_error():
    with pytest.raises(ValueError, match=r"no phrase|not a phrase"):
        captions.parse("a postcard of a zebra")


def test_paraphrases_of_a_prompt_mean_the_same_and_differ():
    for prompt in captions.prompts(12):
        texts = [prompt.text, *(p.text for p in prompt.paraphrases)]
        assert len(set(texts)) == len(texts)
        assert all(captions.parse(text) == captions.parse(prompt.text) for text in texts)
        assert all(p.length == length_class(p.text) for p in prompt.paraphrases)


def test_there_are_1024_held_out_images_and_they_never_change():
    held_out = captions.held_out()
    assert len(held_out.unique()) == 1024
    assert held_out[:3].tolist() == captions.held_out()[:3].tolist()
