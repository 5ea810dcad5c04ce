"""The perfect generator samples uniformly from the postcards that fit a caption."""

import math

import pytest
import torch

from gendiv_lightning.callbacks import CodebookSubset
from gendiv_lightning.records import NoiseKey
from gendiv_lightning.toy import postcards
from gendiv_lightning.toy.captions import parse
from gendiv_lightning.toy.metric import stated_right
from gendiv_lightning.toy.perfect import PerfectPostcards, fitting_grids

CAPTION, WORDING = "pink sky, white ground, flat land", "a picture of a flat land and the pink sky, a ground in white"
NUM_IMAGES = 7 * 25  # light and object are free


@pytest.fixture(scope="module")
def generator():
    generator = PerfectPostcards()
    generator.load()
    return generator


def sampler_of(generator, num, probes=()):
    return generator.sampler(0, [NoiseKey("prompt", 0, row, row) for row in range(num)], probes)


@torch.inference_mode()
def sample(generator, num, probes=()):
    return generator.sample_tokens(generator.encode_prompts([CAPTION] * num), sampler_of(generator, num, probes))


@torch.inference_mode()
def test_grids_equal_those_of_the_tokenizer_and_are_distinct(generator):
    grids, indices = fitting_grids({}), torch.arange(0, postcards.NUM_IMAGES, 5021)
    assert torch.equal(generator.encode_images(postcards.render(indices)), grids[indices])
    assert len(grids) == len(grids.unique(dim=0)) == postcards.NUM_IMAGES


def test_all_images_that_fit_the_caption_and_no_others_are_equally_likely(generator):
    grids = fitting_grids(parse(CAPTION))
    assert len(grids) == NUM_IMAGES
    other = fitting_grids(parse("blue sky"))[:1]
    tokens = torch.cat([grids, other])
    for caption in (CAPTION, WORDING):
        scores = generator.score_tokens(
            generator.encode_prompts([caption] * len(tokens)), tokens, sampler_of(generator, len(tokens))
        ).sum(1)
        assert scores[:-1].tolist() == pytest.approx([-math.log2(NUM_IMAGES)] * NUM_IMAGES, abs=1e-3)
        assert scores[-1] < -30


def test_samples_fit_their_captions_and_their_draws_have_the_exact_entropy(generator):
    samples = sample(generator, 256)
    with torch.inference_mode():
        images, distances = postcards.read(generator.decode_tokens(samples.tokens[:16]))
    assert stated_right(images, parse(CAPTION)).all()
    assert (distances < 0.05).all(), "what the tokenizer loses, and nothing else"
    bits = samples.entropy.double().sum(1)
    assert bits.mean().item() == pytest.approx(math.log2(NUM_IMAGES), abs=4 * bits.std().item() / 16)
    assert samples.log_prob.double().sum(1).tolist() == pytest.approx([-math.log2(NUM_IMAGES)] * 256, abs=1e-3)


def test_any_subset_of_the_codebook_works(generator):
    samples = sample(generator, 2, [CodebookSubset("list", tokens=[3])])
    assert (samples.tokens == 3).all()
    assert samples.entropy.isfinite().all()


def test_a_caption_outside_the_grammar_is_an_error_before_anything_is_loaded():
    with pytest.raises(ValueError, match="grammar"):
        PerfectPostcards().check_prompts(["a dog"])
