"""What every generator must satisfy. A new one adds one line to `GENERATORS`."""

import json
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from lightning import Trainer
from torch.utils.data import DataLoader

from gendiv_lightning.callbacks import (
    Argmax,
    Branch,
    CodebookSubset,
    FreezePath,
    Guidance,
    PosteriorArgmax,
    Temperature,
    TopK,
    TopP,
)
from gendiv_lightning.records import ImageBatch, NoiseKey
from gendiv_lightning.sampling import Observer


class Kind(NamedTuple):
    """A generator under test.

    Attributes:
        fixture: makes one.
        texts: prompts that it takes.
        has_path: whether its path has any chance.
        rewrites: whether a token may be decided more than once.
        top_p: what its own setting of top-p is called.
        networks: those that run in float64 here. In float32 the last digits of logits tell the size of a batch, and
            a uniform that falls on the edge between two tokens makes another sample of them: about 1 in 1,000 draws
            from 16,384 entries, and none of what is asked here.
    """

    fixture: str
    texts: tuple[str, ...]
    has_path: bool = True
    rewrites: bool = False
    top_p: str = "top_p"
    networks: tuple[str, ...] = ()


POSTCARDS = ("red sky", "a picture of a green hill and two red hills", "black tree left", "sun at the left")
SHAPES = ("a red circle", "a large blue square on a green ground", "a star", "a")
PIPELINE = {"networks": ("text_encoder", "transformer")}
GENERATORS = {
    "llamagen t2i": Kind("make_t2i", SHAPES, has_path=False),
    "llamagen c2i": Kind("make_c2i", ("3", "207", "999", "0"), has_path=False, networks=("gpt",)),
    "var": Kind("make_var", ("3", "207", "999", "0"), has_path=False, networks=("var",)),
    "amused": Kind("make_amused", POSTCARDS, **PIPELINE),
    "meissonic": Kind("make_meissonic", POSTCARDS, **PIPELINE),
    "vq_diffusion": Kind("make_vq_diffusion", POSTCARDS, rewrites=True, top_p="truncation_rate", **PIPELINE),
}


@pytest.fixture(params=GENERATORS.values(), ids=GENERATORS.keys(), scope="module")
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def make(kind, request):
    """A loaded generator, with some settings of its own."""
    factory = request.getfixturevalue(kind.fixture)

    def make(**settings):
        generator = factory(**settings)
        generator.load()
        for network in kind.networks:
            getattr(generator, network).double()
        return generator.eval()

    return make


@pytest.fixture(scope="module")
def generator(make):
    return make()


@pytest.fixture(scope="module")
def batch(kind, make_batch):
    return make_batch(*kind.texts[:3], num_samples=4)


@pytest.fixture(scope="module")
def one_prompt(kind, make_batch):
    """The first prompt of the batch alone."""
    return make_batch(kind.texts[0], num_samples=4)


@pytest.fixture(scope="module")
def baseline(generator, batch):
    return generator.sample(batch)


def tokens_by_prompt(result):
    rows = torch.tensor(result.batch.rows)
    return [result.samples.tokens[rows == prompt] for prompt in range(len(result.batch.prompts))]


def test_a_sample_has_tokens_images_and_statistics_of_its_draws(generator, baseline, batch):
    num_rows, (height, width) = len(batch.keys), generator.grid
    tokens, entropy, log_prob = baseline.samples
    assert baseline.batch is batch
    assert tokens.shape == entropy.shape == log_prob.shape == (num_rows, height * width)
    assert tokens.dtype == torch.int64
    assert ((tokens >= 0) & (tokens < generator.codebook_size)).all()
    assert entropy.dtype == log_prob.dtype == torch.float32
    assert (entropy >= 0).all()
    assert (log_prob <= 0).all()
    assert (log_prob > -torch.inf).all()
    assert baseline.images.shape[:2] == (num_rows, 3)
    assert baseline.images.dtype == torch.uint8
    assert baseline.images.float().std() > 1
    assert {x.device.type for x in (tokens, entropy, log_prob, baseline.images)} == {"cpu"}


def test_samples_of_a_prompt_differ(baseline):
    for tokens in tokens_by_prompt(baseline):
        assert len(tokens.unique(dim=0)) == len(tokens)


def test_sampling_again_gives_the_same_samples(generator, batch, baseline):
    again = generator.sample(batch)
    assert torch.equal(again.samples.tokens, baseline.samples.tokens)
    assert torch.equal(again.images, baseline.images)


def test_another_seed_gives_other_samples(generator, batch, baseline):
    other = generator.sample(batch._replace(seed=1)).samples.tokens
    assert (other != baseline.samples.tokens).any(1).all()


def assert_same_samples(result, expected):
    """Tokens exactly; statistics and pixels to rounding, since products of other shapes add in another order."""
    assert torch.equal(result.samples.tokens, expected.samples.tokens)
    torch.testing.assert_close(result.samples.entropy, expected.samples.entropy, atol=1e-4, rtol=0)
    torch.testing.assert_close(result.samples.log_prob, expected.samples.log_prob, atol=1e-4, rtol=0)
    assert (result.images.int() - expected.images.int()).abs().max() <= 1


@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_sample_does_not_depend_on_the_batch_size(make, batch, baseline, size):
    assert_same_samples(make(batch_size=size).sample(batch), baseline)


def take(result, rows):
    return result._replace(samples=type(result.samples)(*(x[rows] for x in result.samples)), images=result.images[rows])


def test_a_sample_does_not_depend_on_the_order_of_rows(generator, batch, baseline):
    order = torch.randperm(len(batch.keys), generator=torch.Generator().manual_seed(0)).tolist()
    permuted = batch._replace(keys=tuple(batch.keys[i] for i in order), rows=tuple(batch.rows[i] for i in order))
    assert_same_samples(generator.sample(permuted), take(baseline, order))


def test_a_sample_does_not_depend_on_the_other_prompts(generator, kind, make_batch, baseline):
    for place, text in enumerate(kind.texts[:3]):
        alone = generator.sample(make_batch(text, num_samples=4))
        assert_same_samples(alone, take(baseline, slice(4 * place, 4 * place + 4)))


def test_a_sample_does_not_depend_on_how_many_there_are(generator, kind, make_batch, baseline):
    more = generator.sample(make_batch(kind.texts[0], num_samples=6))
    assert_same_samples(take(more, slice(4)), take(baseline, slice(4)))


@pytest.mark.parametrize("probes", [[Argmax(), FreezePath()], [PosteriorArgmax()]], ids=["frozen", "posterior"])
def test_argmax_without_path_noise_gives_one_sample_a_prompt(generator, batch, probes):
    result = generator.sample(batch, probes)
    for tokens in tokens_by_prompt(result):
        assert (tokens == tokens[0]).all()
    first = [tokens[0] for tokens in tokens_by_prompt(result)]
    assert len(torch.stack(first).unique(dim=0)) == len(first)
    for images in result.images.split(4):
        assert (images == images[0]).all()


def test_argmax_alone_leaves_the_path(generator, batch, kind):
    num_distinct = [len(tokens.unique(dim=0)) for tokens in tokens_by_prompt(generator.sample(batch, [Argmax()]))]
    assert all((num > 1) == kind.has_path for num in num_distinct)


def test_a_frozen_path_leaves_execution(generator, batch):
    for tokens in tokens_by_prompt(generator.sample(batch, [FreezePath()])):
        assert len(tokens.unique(dim=0)) == len(tokens)


@pytest.mark.parametrize("size", [1, 2, 20])
@pytest.mark.parametrize("probes", [[], [TopK(1)], [TopP(0.0)], [TopK(5), TopP(0.5), Guidance(7.5), Temperature(0.0)]])
def test_no_token_falls_outside_a_subset_and_nothing_is_nan(generator, one_prompt, size, probes):
    generator_of_subset = torch.Generator().manual_seed(size)
    subset = torch.randperm(generator.codebook_size, generator=generator_of_subset)[:size]
    result = generator.sample(one_prompt, [CodebookSubset("list", tokens=subset.tolist()), *probes])
    assert set(result.samples.tokens.flatten().tolist()) <= set(subset.tolist())
    assert not torch.stack(result.samples[1:]).isnan().any()
    if size == 1:
        assert result.samples.entropy.abs().max() == result.samples.log_prob.abs().max() == 0


def test_two_subsets_are_intersected(generator, batch):
    subsets = [CodebookSubset("list", tokens=tokens) for tokens in ([1, 5, 9], [5, 9, 11])]
    assert set(generator.sample(batch, subsets).samples.tokens.flatten().tolist()) == {5, 9}


def test_probes_commute(generator, one_prompt):
    probes = [FreezePath(), CodebookSubset("random", size=50), TopK(20), Temperature(0.7), Guidance(3.0)]
    expected = generator.sample(one_prompt, probes)
    assert torch.equal(generator.sample(one_prompt, probes[::-1]).samples.tokens, expected.samples.tokens)


class Recorder(Observer):
    def __init__(self):
        self.draws = []

    def observe(self, draw):
        self.draws.append(draw)


def test_observers_change_nothing_and_see_what_the_statistics_say(generator, kind, one_prompt, baseline):
    recorder = Recorder()
    result = generator.sample(one_prompt, observers=(recorder,))
    assert_same_samples(result, take(baseline, slice(4)))
    seen = type(result.samples)(*(torch.full_like(x, -99) for x in result.samples))
    for draw in recorder.draws:  # a token that is decided again counts as it was decided last
        for x, drawn in zip(seen, (draw.tokens, draw.entropy, draw.log_prob), strict=True):
            x[draw.rows, draw.positions] = drawn
    assert all(map(torch.equal, seen, result.samples))
    num_draws, num_tokens = sum(len(draw.tokens) for draw in recorder.draws), result.samples.tokens.numel()
    assert num_draws > num_tokens if kind.rewrites else num_draws == num_tokens
    assert not any(draw.log_probs.isnan().any() for draw in recorder.draws)
    steps = [draw.step for draw in recorder.draws]
    assert steps == list(range(len(steps)))  # two draws of one step would share their uniforms


@pytest.mark.parametrize("scale", [-1.0, 0.0, 1.0])
def test_a_guidance_of_one_or_less_is_off(make, one_prompt, scale):
    off = make(guidance_scale=scale).sample(one_prompt).samples.tokens
    assert torch.equal(off, make(guidance_scale=1.0).sample(one_prompt).samples.tokens)
    assert not torch.equal(off, make(guidance_scale=4.0).sample(one_prompt).samples.tokens)


def test_tokens_become_images_and_images_tokens(generator, baseline):
    images = generator.decode_tokens(baseline.samples.tokens[:3])
    assert (images.int() - baseline.images[:3].int()).abs().max() <= 1
    tokens = generator.encode_images(images)
    assert tokens.shape == baseline.samples.tokens[:3].shape
    assert tokens.dtype == torch.int64
    assert ((tokens >= 0) & (tokens < generator.codebook_size)).all()
    validated = generator.validation_step(ImageBatch(images, torch.arange(3)))
    assert torch.equal(validated["tokens"], tokens)


def test_no_images_are_no_tokens(generator, baseline):
    assert generator.encode_images(baseline.images[:0]).shape == (0, generator.grid[0] * generator.grid[1])


def test_images_of_another_size_are_refused(generator, baseline):
    with pytest.raises(ValueError, match="images must be"):
        generator.encode_images(baseline.images[:1, :, :-8, :-8])


def test_the_identity_is_stable_and_tells_settings_apart(kind, request):
    factory = request.getfixturevalue(kind.fixture)
    identities = []
    for settings in (
        {},
        {},
        {"batch_size": 3},
        {"temperature": 0.5},
        {"top_k": 5},
        {kind.top_p: 0.5},
        {"guidance_scale": 9.0},
    ):
        generator = factory(**settings)
        generator.locate()
        identities.append(json.dumps(generator.identity(), sort_keys=True))
    assert identities[0] == identities[1] == identities[2]  # the batch size changes no sample
    assert len(set(identities)) == 5


def test_the_sampler_has_the_generators_settings_and_the_rows_noise(generator):
    keys = [NoiseKey("p", 0, path=0, sample=0), NoiseKey("p", 0, path=0, sample=1), NoiseKey("p", 1, path=0, sample=1)]
    sampler = generator.sampler(0, keys)
    assert {name: getattr(sampler, name) for name in generator.settings()} == generator.settings()
    assert sampler.codebook_size == generator.codebook_size
    assert [len(noise.keys.unique()) for noise in (sampler.path, sampler.exec)] == [2, 3]
    assert generator.sampler(0, keys, [TopK(7)]).top_k == 7
    assert replace(sampler, observers=()).observers == ()


def test_no_rows_have_a_sampler_too(generator):
    probes = [Argmax(), FreezePath(), CodebookSubset("list", tokens=[1])]
    assert generator.sampler(0, [], probes).allowed.sum() == 1


def predict(generator, batch, callbacks):
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
    )
    return trainer.predict(generator, DataLoader([batch], batch_size=None, collate_fn=lambda batch: batch))


class Watch(Recorder, FreezePath):
    """An observer among the trainer's callbacks, which must be callbacks."""


def test_predict_runs_under_the_trainers_probes_and_before_its_observers(generator, batch):
    recorder, watch = Recorder(), Watch()
    (result,) = predict(generator, batch, [Argmax(), watch])
    assert_same_samples(result, generator.sample(batch, [Argmax(), FreezePath()], observers=(recorder,)))
    assert len(watch.draws) == len(recorder.draws) > 0


@pytest.mark.parametrize(
    ("probes", "message"),
    [
        ([CodebookSubset("list", tokens=[1]), CodebookSubset("list", tokens=[2])], "no codebook entry in common"),
        ([Temperature(0.5), Temperature(0.6)], "both set 'temperature'"),
        ([CodebookSubset("list", tokens=[10**6])], r"tokens must be in 0\.\."),
    ],
)
def test_probes_that_cannot_be_are_refused_before_weights_are_loaded(kind, request, batch, probes, message):
    generator = request.getfixturevalue(kind.fixture)()
    generator.load = lambda: pytest.fail("loaded weights")
    with pytest.raises(ValueError, match=message):
        predict(generator, batch, probes)


def test_a_branch_shares_the_noise_before_its_step_and_not_after_it(generator, batch, baseline):
    shared = tokens_by_prompt(generator.sample(batch, [Branch(10_000)]))
    assert all(len(tokens.unique(dim=0)) == 1 for tokens in shared)
    apart = generator.sample(batch, [Branch(0)])
    assert torch.equal(apart.samples.tokens, baseline.samples.tokens)
    middle = tokens_by_prompt(generator.sample(batch, [Branch(2)]))
    assert any(len(tokens.unique(dim=0)) > 1 for tokens in middle)
