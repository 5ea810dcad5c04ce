"""Parallel decoding gives the tokens of the sequential loop and detects where rounding could change one."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from gendiv_lightning.sampling import Noise, Observer, TokenSampler
from gendiv_lightning.sampling.autoregressive import sample_autoregressive
from gendiv_lightning.sampling.parallel import is_certain, sample_in_parallel

B, L, K = 3, 24, 40


class Chain:
    """A network whose logits depend on all earlier tokens and, to simulate rounding, on the number of positions."""

    def __init__(self, rounding=0.0, spread=3.0, scale=0.0):
        generator = torch.Generator().manual_seed(0)
        self.table = spread * torch.randn(L, K, K, generator=generator)
        self.first = spread * torch.randn(B, 1, K, generator=generator)
        self.noise = torch.randn(L, K, generator=generator).clamp(-1, 1)
        self.bias = scale * torch.randn(L, K, generator=generator)
        self.rounding, self.seen, self.passes = rounding, torch.zeros(B, L, dtype=torch.long), []

    def __call__(self, before, start):
        self.passes.append((start, before.shape[1]))
        if start == 0:
            assert before.shape[1] == 1
            return self.first.clone()
        stop = start + before.shape[1]
        self.seen[:, start - 1 : stop - 1] = before
        logits = []
        for position in range(start, stop):
            terms = [self.table[position - index - 1, self.seen[:, index]] for index in range(position)]
            total = torch.stack(terms, 1).sum(1) / len(terms) ** 0.5 + self.bias[position]
            off = self.rounding * total.abs().amax(-1, keepdim=True) * self.noise[position] * (before.shape[1] > 1)
            logits.append(total + off)
        return torch.stack(logits, 1)


def make_sampler(seed=0, **settings):
    noises = (Noise.of(seed, role, [("prompt", row) for row in range(B)]) for role in ("path", "exec"))
    return TokenSampler(*noises, K, **settings)


class Recorder(Observer):
    def __init__(self):
        self.draws = []

    def observe(self, draw):
        self.draws.append(draw)


SETTINGS = {
    "plain": {},
    "top-k": {"top_k": 5},
    "top-k of one": {"top_k": 1},
    "top-p": {"top_p": 0.7},
    "both": {"top_k": 9, "top_p": 0.8, "temperature": 0.7},
    "cold": {"temperature": 0.0},
    "hot": {"temperature": 2.0},
    "guided": {"guidance": 4.0},
    "subset": {"allowed": torch.arange(K) % 3 == 0},
    "one token": {"allowed": torch.arange(K) == 7, "top_k": 3},
}
every_setting = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())


@every_setting
@pytest.mark.parametrize("window", [1, 2, 7, L, 100])
def test_tokens_equal_those_of_the_sequential_loop(settings, window):
    for seed in range(5):
        sampler = make_sampler(seed, **settings)
        expected = sample_autoregressive(Chain(), sampler, L)
        samples = sample_in_parallel(Chain(rounding=5e-6), sampler, L, window)
        assert torch.equal(samples.tokens, expected.tokens)
        torch.testing.assert_close(samples.entropy, expected.entropy, atol=1e-2, rtol=0)


@pytest.mark.parametrize("window", [3, L])
def test_the_mode_of_every_draw_equals_that_of_the_sequential_loop(window):
    sampler = make_sampler()
    sampler = replace(sampler, exec=sampler.exec.off())
    expected = sample_autoregressive(Chain(), sampler, L)
    assert torch.equal(sample_in_parallel(Chain(rounding=5e-6), sampler, L, window).tokens, expected.tokens)


@every_setting
def test_coarse_rounding_changes_no_token(settings):
    """Without the check, tokens would differ, as the next test shows."""
    for seed in range(20):
        sampler = make_sampler(seed, **settings)
        expected = sample_autoregressive(Chain(), sampler, L).tokens
        assert torch.equal(sample_in_parallel(Chain(rounding=0.01), sampler, L, 8, tolerance=0.011).tokens, expected)


def test_without_the_check_coarse_rounding_would_change_tokens(monkeypatch):
    from gendiv_lightning.sampling import parallel

    monkeypatch.setattr(parallel, "is_certain", lambda *_: torch.ones(B, dtype=torch.bool))
    differ = 0
    for seed in range(20):
        sampler = make_sampler(seed)
        expected = sample_autoregressive(Chain(), sampler, L).tokens
        differ += not torch.equal(sample_in_parallel(Chain(rounding=0.01), sampler, L, 8).tokens, expected)
    assert differ > 2


def test_rounding_beyond_the_tolerance_is_an_error():
    with pytest.raises(ArithmeticError, match="decoding: sequential"):
        sample_in_parallel(Chain(rounding=0.05), make_sampler(), L, 8, tolerance=0.01)


@every_setting
@pytest.mark.parametrize("rounding", [0.0, 0.01])
def test_observers_receive_each_final_draw_once_and_in_order(settings, rounding):
    seen, expected = Recorder(), Recorder()
    sampler = make_sampler(3, **settings)
    sample_autoregressive(Chain(), replace(sampler, observers=(expected,)), L)
    sample_in_parallel(Chain(rounding), replace(sampler, observers=(seen,)), L, 6, tolerance=1.1 * rounding + 1e-5)
    assert [draw.step for draw in seen.draws] == list(range(L))
    for actual, desired in zip(seen.draws, expected.draws, strict=True):
        assert all(
            torch.equal(getattr(actual, name), getattr(desired, name)) for name in ("rows", "positions", "tokens")
        )


def test_one_position_per_pass_is_the_sequential_loop():
    network, sampler = Chain(), make_sampler()
    samples, expected = sample_in_parallel(network, sampler, L, 1), sample_autoregressive(Chain(), sampler, L)
    assert network.passes == [(position, 1) for position in range(L)]
    assert all(torch.equal(actual, desired) for actual, desired in zip(samples, expected, strict=True))


def test_independent_positions_take_two_passes():
    network = Chain(spread=0.0)
    sample_in_parallel(network, make_sampler(), L, L)
    assert network.passes == [(0, 1), (1, L - 1)]  # the guesses of the first pass are already correct


def test_weakly_dependent_positions_take_few_passes():
    network = Chain(spread=0.5, scale=3.0)
    sample_in_parallel(network, make_sampler(), L, L)
    assert len(network.passes) <= L // 2


def test_a_window_bounds_every_pass_and_the_prefix_is_not_run_again():
    network = Chain()
    sample_in_parallel(network, make_sampler(), L, 5)
    starts = [start for start, _ in network.passes]
    assert max(width for _, width in network.passes) == 5
    assert all(later > earlier for earlier, later in pairwise(starts))


# --- effects of rounding ---


def worst_cases(logits, slack, generator, num=100):
    """Perturb the logits by at most `slack`, mostly by exactly that."""
    signs = torch.randint(0, 3, (num, *logits.shape), generator=generator).float() - 1
    return logits + slack * signs


@every_setting
def test_a_certain_draw_is_not_changed_by_rounding(settings):
    generator = torch.Generator().manual_seed(1)
    rows, num_certain, num_moved = torch.arange(B), 0, 0
    for seed in range(40):
        sampler = make_sampler(seed, **settings)
        logits = 2 * torch.randn(B, K, generator=generator)
        draw = sampler.draw_tokens(logits, 0, rows, torch.zeros_like(rows))
        amplified = 2 * sampler.guidance - 1 if sampler.is_guided else 1
        slack = 0.01 * amplified * logits.abs().amax(-1, keepdim=True)
        certain = is_certain(sampler, logits, draw, 0.01)
        moved = torch.zeros(B, dtype=torch.bool)
        for other in worst_cases(logits, slack, generator):
            moved |= sampler.draw_tokens(other, 0, rows, torch.zeros_like(rows)).tokens != draw.tokens
        assert not (moved & certain).any()
        num_certain, num_moved = num_certain + int(certain.sum()), num_moved + int(moved.sum())
    assert num_certain > 0
    assert num_moved > 0 or settings is SETTINGS["one token"]


def test_ties_at_the_threshold_of_top_k_are_uncertain():
    logits = torch.tensor([[3.0, 2.0, 2.0, -5.0]])
    noise = Noise.of(0, "exec", [("a",)])
    sampler = TokenSampler(noise, noise, 4, top_k=2)
    draw = sampler.draw_tokens(logits, 0, torch.tensor([0]), torch.tensor([0]))
    assert draw.tokens.item() in (1, 2) or not is_certain(sampler, logits, draw).all()


def test_equal_logits_have_no_certain_mode():
    noise = Noise.of(0, "exec", [("a",), ("b",)])
    sampler = TokenSampler(noise, noise.off(), 4)
    logits = torch.tensor([[1.0, 1.0, 0.0, 0.0], [1.0, 0.9, 0.0, 0.0]])
    draw = sampler.draw_tokens(logits, 0, torch.arange(2), torch.zeros(2, dtype=torch.long))
    assert is_certain(sampler, logits, draw).tolist() == [False, True]
