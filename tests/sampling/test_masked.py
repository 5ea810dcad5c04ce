"""The masked sampler, against diffusers' `AmusedScheduler`: counts, temperatures and, on equal noise, every state.

Notation: B rows, L positions, K codebook entries; token K is the mask.
"""

import math

import pytest
import torch
from diffusers import AmusedScheduler
from diffusers.schedulers import scheduling_amused
from scipy.stats import chisquare

from gendiv_lightning.sampling import Noise, Observer, TokenSampler
from gendiv_lightning.sampling.masked import MaskSchedule, sample_masked
from gendiv_lightning.sampling.sampler import invert_cdf

K = 8
kinds = pytest.mark.parametrize("kind", ["cosine", "linear"])


def make_sampler(num_rows, codebook_size=K, **fields):
    names = [("p", 0, row) for row in range(num_rows)]
    return TokenSampler(Noise.of(0, "path", names), Noise.of(0, "exec", names), codebook_size, **fields)


def make_network(num_tokens):
    """Logits (B, L, K) as a function of all tokens (B, L)."""
    table = 2 * torch.randn(num_tokens, K + 1, num_tokens, K, generator=torch.Generator().manual_seed(0))
    return lambda tokens: table[torch.arange(num_tokens), tokens].sum(1) / num_tokens**0.5


# --- schedule ---


def reference_counts(num_tokens, num_steps, kind):
    scheduler = AmusedScheduler(mask_token_id=K, masking_schedule=kind)
    scheduler.set_timesteps(num_steps)
    tokens, generator = torch.full((1, num_tokens), K), torch.Generator().manual_seed(0)
    for time in scheduler.timesteps:
        logits = torch.randn(1, num_tokens, K, generator=generator)
        tokens = scheduler.step(logits, time, tokens, generator=generator).prev_sample
        yield (tokens == K).sum().item()


@kinds
@pytest.mark.parametrize("num_tokens", [2, 3, 16, 36, 100, 256, 576, 1024])
def test_the_number_of_masked_tokens_after_each_step_agrees_with_the_reference(num_tokens, kind):
    for num_steps in (1, 2, 3, 5, 8, 10, 12, 16, 18, 24, 40):
        counts = MaskSchedule(num_steps, kind).num_unknown(num_tokens)
        assert counts == list(reference_counts(num_tokens, num_steps, kind)), num_steps


@pytest.mark.parametrize(
    ("num_tokens", "num_steps", "kind", "expected"),
    [
        (36, 12, "cosine", [35, 34, 33, 31, 28, 25, 21, 17, 13, 9, 4, 0]),  # 36 cos(pi/3) in float32 is below 18
        (16, 4, "linear", [12, 8, 4, 0]),
        (4, 9, "linear", [3, 2, 1, 1, 1, 1, 1, 1, 0]),
        (1, 3, "cosine", [1, 1, 0]),  # the reference raises an IndexError here
        (7, 1, "cosine", [0]),
    ],
)
def test_counts_of_schedules_computed_by_hand(num_tokens, num_steps, kind, expected):
    assert MaskSchedule(num_steps, kind).num_unknown(num_tokens) == expected


@pytest.mark.parametrize("temperature", [(2.0, 0.0), (4.5, 4.5), (0.0, 0.0), (0.3, 1.7)])
@pytest.mark.parametrize("num_steps", [1, 2, 7, 12, 100])
def test_the_noise_scale_agrees_with_the_reference_at_each_step(num_steps, temperature):
    scheduler = AmusedScheduler(mask_token_id=K)
    scheduler.set_timesteps(num_steps, temperature)
    assert MaskSchedule(num_steps, temperature=temperature).noise_scales() == scheduler.temperatures.tolist()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"kind": "square"}, '"cosine" or "linear", got \'square\''),
        ({"temperature": (-1.0, 0.0)}, "two numbers of at least 0"),
        ({"temperature": (2.0, math.nan)}, "two numbers of at least 0"),
        ({"temperature": (math.inf, 0.0)}, "two numbers of at least 0"),
        ({"temperature": (2.0,)}, "two numbers of at least 0"),
        ({"temperature": (2.0, 1.0, 0.0)}, "two numbers of at least 0"),
    ],
)
def test_invalid_settings_are_an_error(settings, words):
    with pytest.raises(ValueError, match=words):
        MaskSchedule(**settings)


# --- loop ---


def our_states(network, sampler, schedule, num_tokens):
    """Tokens (B, L) before each step, and at the end."""
    states = []

    def predict(tokens):
        states.append(tokens.clone())
        return network(tokens)

    states.append(sample_masked(predict, sampler, schedule, num_tokens, mask=K).tokens)
    return states


def reference_states(network, sampler, schedule, num_tokens, monkeypatch):
    """States of the reference, with its two random sources replaced by the noise of the sampler."""
    scheduler = AmusedScheduler(mask_token_id=K, masking_schedule=schedule.kind)
    scheduler.set_timesteps(schedule.num_steps, schedule.temperature)
    states = [torch.full((len(sampler.exec.keys), num_tokens), K)]
    for step, time in enumerate(scheduler.timesteps):
        uniforms = sampler.exec.uniform_grid(step, num_tokens).flatten()
        gumbel = -(-sampler.path.uniform_grid(step, num_tokens).log()).log()
        monkeypatch.setattr(torch, "multinomial", lambda p, num, generator, u=uniforms: invert_cdf(p, u)[:, None])
        monkeypatch.setattr(scheduling_amused, "gumbel_noise", lambda probs, generator, noise=gumbel: noise)
        states.append(scheduler.step(network(states[-1]), time, states[-1]).prev_sample)
    return states


@kinds
@pytest.mark.parametrize("temperature", [(2.0, 0.0), (0.0, 0.0), (1.0, 4.0)])
@pytest.mark.parametrize(("num_tokens", "num_steps"), [(12, 1), (12, 5), (36, 12), (12, 20)])
def test_on_equal_noise_every_state_agrees_with_the_reference(num_tokens, num_steps, temperature, kind, monkeypatch):
    network, sampler, schedule = make_network(num_tokens), make_sampler(16), MaskSchedule(num_steps, kind, temperature)
    ours = our_states(network, sampler, schedule, num_tokens)
    theirs = reference_states(network, sampler, schedule, num_tokens, monkeypatch)
    assert len(ours) == len(theirs) == num_steps + 1
    for before, after in zip(ours, theirs, strict=True):
        assert torch.equal(before, after)


def test_filters_apply_to_tokens_and_confidences(monkeypatch):
    """The reference has no filters, so it is given filtered logits."""
    network, schedule = make_network(12), MaskSchedule(5)
    sampler = make_sampler(16, temperature=1.3, top_k=5, top_p=0.8, allowed=torch.arange(K) != 3)
    theirs = reference_states(lambda x: sampler.filter_logits(network(x)), sampler, schedule, 12, monkeypatch)
    assert torch.equal(torch.stack(our_states(network, sampler, schedule, 12)), torch.stack(theirs))


def test_the_first_temperature_is_used_in_the_first_step():
    network, sampler = make_network(12), make_sampler(16)

    def first_choice(*temperature):
        return our_states(network, sampler, MaskSchedule(5, temperature=temperature), 12)[1] == K

    assert torch.equal(first_choice(0.0, 5.0), first_choice(0.0, 0.0))
    assert not torch.equal(first_choice(2.0, 0.0), first_choice(0.0, 0.0))


# --- frequencies ---


def test_twenty_thousand_tokens_follow_the_softmax():
    num, logits = 20_000, 1.5 * torch.randn(2, K, generator=torch.Generator().manual_seed(0))
    tokens = sample_masked(lambda x: logits.expand(num, 2, K), make_sampler(num), MaskSchedule(1), 2, K).tokens
    expected = num * torch.einsum("i,j->ij", *logits.double().softmax(-1)).flatten()
    counts = (K * tokens[:, 0] + tokens[:, 1]).bincount(minlength=K * K)
    assert chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("noise_scale", [1.0, 2.0])
def test_which_of_two_tokens_is_kept_follows_their_probabilities(noise_scale):
    """With Gumbel noise of scale s on log p, one of two tokens is kept with probability p^(1/s) over their sum."""

    class First(Observer):
        def observe(self, draw):
            if draw.step == 0:
                self.draw = draw

    num, size, first = 20_000, 3, First()
    logits = torch.randn(2, size, generator=torch.Generator().manual_seed(1))
    schedule = MaskSchedule(2, temperature=(noise_scale, 0.0))
    sampler = make_sampler(num, size, observers=(first,))
    sample_masked(lambda x: logits.expand(num, 2, size), sampler, schedule, 2, size)
    (a, b) = logits.double().softmax(-1)
    stays = a[:, None] ** (1 / noise_scale) / (a[:, None] ** (1 / noise_scale) + b ** (1 / noise_scale))
    both = a[:, None] * b
    expected = num * torch.cat([(both * stays).sum(1), (both * (1 - stays)).sum(0)])
    counts = (size * first.draw.positions + first.draw.tokens).bincount(minlength=2 * size)
    assert counts.sum() == num
    assert chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-3
