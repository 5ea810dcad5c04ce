"""Every decision of the sampler, against its definition, on tiny cases and edge cases."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from gendiv_lightning.sampling import Draw, Noise, Observer, TokenGrid, TokenSampler
from gendiv_lightning.sampling.sampler import invert_cdf

INF = math.inf


def make_sampler(num_rows=1, codebook_size=8, **fields):
    names = [("p", 0, row) for row in range(num_rows)]
    return TokenSampler(Noise.of(0, "path", names), Noise.of(0, "exec", names), codebook_size, **fields)


def subset(*tokens, codebook_size=8):
    return torch.zeros(codebook_size, dtype=torch.bool).index_fill(0, torch.tensor(tokens), True)


def random_logits(*shape, seed=0, scale=3.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def kept(logits):
    return logits.isfinite().nonzero()[:, 0].tolist()


def grid_indices(num_rows, num_positions):
    """Rows and positions of a whole grid, in the order of `flatten(0, 1)`."""
    return torch.ones(num_rows, num_positions).nonzero(as_tuple=True)


def draw_grid(sampler, logits, step=0):
    """Sample all positions of logits (B, P, K)."""
    return sampler.draw_tokens(logits.flatten(0, 1), step, *grid_indices(*logits.shape[:2]))


# --- guidance ---


@pytest.mark.parametrize("scale", [0.0, 1.0, 1.5, 7.5])
def test_guidance_extrapolates_from_unconditional_to_conditional_logits(scale):
    conditional, unconditional = random_logits(3, 8, seed=1), random_logits(3, 8, seed=2)
    guided = make_sampler(guidance=scale).guide(conditional, unconditional)
    expected = (1 - scale) * unconditional.double() + scale * conditional.double()
    torch.testing.assert_close(guided.double(), expected, atol=1e-5, rtol=0)


def test_guidance_is_computed_in_float32():
    conditional, unconditional = random_logits(1, 64, seed=1).bfloat16(), random_logits(1, 64, seed=2).bfloat16()
    guided = make_sampler(guidance=7.5).guide(conditional, unconditional)
    assert guided.dtype == torch.float32
    expected = unconditional.double() + 7.5 * (conditional.double() - unconditional.double())
    torch.testing.assert_close(guided.double(), expected, atol=1e-5, rtol=0)  # bfloat16 would be off by 0.1


def test_guidance_is_only_on_above_1():
    assert [make_sampler(guidance=s).is_guided for s in (-1.0, 0.0, 1.0, 1.0001, 7.5)] == [False] * 3 + [True] * 2


# --- filters ---


def filter_reference(logits, allowed, temperature, top_k, top_p):
    """Apply the rules of the class docstring in Python floats; returns the kept entries and the margin of the cut."""
    values = {i: x / max(temperature, 1e-5) for i, x in enumerate(logits) if allowed is None or i in allowed}
    if top_k and top_k < len(values):
        threshold = sorted(values.values(), reverse=True)[top_k - 1]
        values = {i: x for i, x in values.items() if x >= threshold}
    weights = {i: math.exp(x - max(values.values())) for i, x in values.items()}
    total = sum(weights.values())
    above = {i: sum(v for v in weights.values() if v > w) / total for i, w in weights.items()}
    chosen = {i for i in values if top_p >= 1 or above[i] <= top_p}
    return chosen, min(abs(a - top_p) for a in above.values())


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=12, unique=True),
    st.sets(st.integers(0, 11)),
    st.sampled_from([0.0, 0.3, 1.0, 4.0]),
    st.sampled_from([None, 0, 1, 2, 5, 100]),
    st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
)
def test_filters_agree_with_their_definition(logits, allowed, temperature, top_k, top_p):
    allowed = {i for i in allowed if i < len(logits)} or None
    scaled = sorted(x / max(temperature, 1e-5) for x in logits)
    assume(all(b - a > 1e-4 for a, b in itertools.pairwise(scaled)))  # so that float32 creates no ties
    expected, clearance = filter_reference(logits, allowed, temperature, top_k, top_p)
    assume(top_p in (0, 1) or clearance > 1e-5)
    mask = subset(*allowed, codebook_size=len(logits)) if allowed else None
    sampler = make_sampler(codebook_size=len(logits), allowed=mask, temperature=temperature, top_k=top_k, top_p=top_p)
    filtered = sampler.filter_logits(torch.tensor(logits))
    assert set(kept(filtered)) == expected
    for i in expected:
        assert filtered[i].item() == pytest.approx(logits[i] / max(temperature, 1e-5), rel=1e-6)


def test_the_subset_is_applied_before_top_k():
    logits = torch.tensor([9.0, 8.0, 1.0, 0.0])
    assert kept(
        make_sampler(codebook_size=4, allowed=subset(2, 3, codebook_size=4), top_k=1).filter_logits(logits)
    ) == [2]


def test_the_subset_is_applied_before_top_p():
    logits = torch.tensor([9.0, 1.0, 1.5, 0.0])
    sampler = make_sampler(codebook_size=4, allowed=subset(1, 2, codebook_size=4), top_p=0.9)
    assert kept(sampler.filter_logits(logits)) == [1, 2]


def test_temperature_is_applied_before_top_p():
    logits = torch.tensor([0.6, 0.3, 0.1]).log()
    assert kept(make_sampler(codebook_size=3, top_p=0.75).filter_logits(logits)) == [0, 1]
    # At temperature 4 the probabilities are 0.40, 0.34, 0.26; at 1/4 the first has 0.94.
    assert kept(make_sampler(codebook_size=3, top_p=0.75, temperature=4.0).filter_logits(logits)) == [0, 1, 2]
    assert kept(make_sampler(codebook_size=3, top_p=0.75, temperature=0.25).filter_logits(logits)) == [0]


def test_top_k_is_applied_before_top_p():
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    assert kept(make_sampler(codebook_size=4, top_p=0.5).filter_logits(logits)) == [0, 1]
    # Of the two remaining entries, the first has probability 4/7.
    assert kept(make_sampler(codebook_size=4, top_k=2, top_p=0.5).filter_logits(logits)) == [0]


@pytest.mark.parametrize(("top_k", "expected"), [(1, [1]), (2, [0, 1, 3]), (3, [0, 1, 3]), (4, [0, 1, 2, 3])])
def test_top_k_keeps_ties_with_the_last_one(top_k, expected):
    assert (
        kept(make_sampler(codebook_size=4, top_k=top_k).filter_logits(torch.tensor([1.0, 2.0, 0.0, 1.0]))) == expected
    )


@pytest.mark.parametrize(
    ("top_p", "num_kept"), [(0.0, 1), (0.39, 1), (0.41, 2), (0.69, 2), (0.71, 3), (0.89, 3), (0.91, 4), (1.0, 4)]
)
def test_top_p_keeps_the_token_that_crosses_it(top_p, num_kept):
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    assert kept(make_sampler(codebook_size=4, top_p=top_p).filter_logits(logits)) == list(range(num_kept))


def test_filters_treat_each_row_and_position_separately():
    sampler = make_sampler(codebook_size=8, allowed=subset(0, 1, 2, 5, 7), temperature=0.7, top_k=3, top_p=0.8)
    logits = random_logits(4, 5, 8)
    expected = torch.stack([sampler.filter_logits(row) for row in logits.flatten(0, 1)]).view(4, 5, 8)
    assert torch.equal(sampler.filter_logits(logits), expected)


def test_filters_do_not_modify_their_input():
    logits = random_logits(2, 8)
    before = logits.clone()
    make_sampler(allowed=subset(1), temperature=0.5, top_k=2, top_p=0.5, guidance=3.0).filter_logits(logits)
    assert torch.equal(logits, before)


KNOBS = list(itertools.product([None, 1, 3, 32, 99], [0.0, 1e-6, 0.5, 1.0], [0.0, 1e-3, 1.0, 50.0], [1.0, 7.5, 100.0]))


@pytest.mark.parametrize("size", [1, 2, 5, 32])
@pytest.mark.parametrize("peak", [0.0, 1.0, 1000.0])
def test_no_combination_of_settings_and_subsets_gives_nan(size, peak):
    num_rows, codebook_size = 6, 32
    logits = random_logits(2, num_rows, 2, codebook_size, scale=peak)  # peak 0: all tie
    tokens = torch.randperm(codebook_size, generator=torch.Generator().manual_seed(size))[:size]
    allowed = subset(*tokens.tolist(), codebook_size=codebook_size)
    for top_k, top_p, temperature, guidance in KNOBS:
        sampler = make_sampler(
            num_rows,
            codebook_size,
            allowed=allowed,
            top_k=top_k,
            top_p=top_p,
            temperature=temperature,
            guidance=guidance,
        )
        guided = sampler.guide(*logits) if sampler.is_guided else logits[0]
        for one in (sampler, replace(sampler, exec=sampler.exec.off())):
            draw = draw_grid(one, guided)
            assert allowed[draw.tokens].all()
            assert not draw.log_probs.isnan().any()
            torch.testing.assert_close(draw.log_probs.exp().sum(-1), torch.ones(2 * num_rows), atol=1e-4, rtol=0)
            assert (draw.log_prob > -INF).all()
            assert (draw.log_prob <= 0).all()
            assert (draw.entropy >= -1e-6).all()
            assert (draw.entropy <= math.log2(size) + 1e-4).all()


# --- inverse CDF ---


def invert_by_hand(probs, uniform):
    total, running = math.fsum(probs), 0.0
    for token, p in enumerate(probs):
        running += p
        if running > uniform * total:
            return token
    return max(token for token, p in enumerate(probs) if p > 0)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from([0.0, 0.0, 1e-30, 1e-7, 0.1, 0.25, 0.5]), min_size=1, max_size=20),
    st.floats(2.0**-53, 1 - 2.0**-53),
)
def test_the_inverse_cdf_returns_the_first_token_whose_cumulative_sum_exceeds_the_uniform(probs, uniform):
    assume(max(probs) > 1e-20)
    probs = torch.tensor(probs, dtype=torch.float64)
    assume(((probs.cumsum(0) - uniform * probs.sum()).abs() > 1e-12).all())
    token = invert_cdf(probs, torch.tensor(uniform, dtype=torch.float64)).item()
    assert token == invert_by_hand(probs.tolist(), uniform)


def adversarial_uniforms(probs, num_edges=60):
    """Both ends of (0, 1) and the cumulative sums with their float64 neighbours, in particular at zeros."""
    cdf = probs.double().cumsum(0)
    tokens = torch.cat([(probs == 0).nonzero()[:num_edges, 0], (probs > 0).nonzero()[-num_edges:, 0]])
    edges = cdf[tokens] / cdf[-1]
    below, above = torch.nextafter(edges, torch.zeros_like(edges)), torch.nextafter(edges, torch.ones_like(edges))
    ends = torch.tensor([2.0**-53, 2.0**-52, 1 - 2.0**-52, 1 - 2.0**-53], dtype=torch.float64)
    return torch.cat([edges, below, above, ends]).clamp(2.0**-53, 1 - 2.0**-53)


@pytest.mark.parametrize("where", ["none", "first", "last", "both ends", "most", "all but one"])
@pytest.mark.parametrize("scale", [1.0, 1 - 1e-4, 1 + 1e-4, 1e-30])
def test_a_token_of_probability_zero_is_never_sampled(where, scale):
    size, entries = 16384, torch.arange(16384)
    zeros = {
        "none": entries < 0,
        "first": entries < 9000,
        "last": entries > 9000,
        "both ends": (entries - 8000).abs() > 50,
        "most": torch.rand(size, generator=torch.Generator().manual_seed(1)) < 0.999,
        "all but one": entries != 777,
    }[where]
    probs = scale * random_logits(size).softmax(0).masked_fill(zeros, 0.0)
    uniforms = adversarial_uniforms(probs)
    tokens = invert_cdf(probs.expand(len(uniforms), -1), uniforms)
    assert (tokens < size).all()
    assert (probs[tokens] > 0).all()
    assert tokens[-4] == (~zeros).nonzero()[0]


def test_a_uniform_on_a_cumulative_sum_selects_the_next_possible_token():
    probs, uniforms = torch.tensor([0.0, 0.25, 0.0, 0.0, 0.5, 0.25]), torch.tensor([0.25, 0.75], dtype=torch.float64)
    assert invert_cdf(probs.expand(2, -1), uniforms).tolist() == [4, 5]


def test_cumulative_sums_over_a_large_codebook_are_exact():
    """With float32 sums of 16384 terms, about twenty of these draws would select a neighbouring token."""
    probs, uniforms = random_logits(16384, scale=0.1).softmax(0), Noise.of(0, "exec", [()]).uniform_grid(0, 1000)[0]
    cdf = np.cumsum(probs.numpy().astype(np.float64))
    expected = np.searchsorted(cdf, uniforms.numpy() * cdf[-1], side="right")
    assert invert_cdf(probs.expand(1000, -1), uniforms).tolist() == expected.tolist()


def test_the_token_is_monotonic_in_the_uniform():
    probs = random_logits(50).softmax(0)
    tokens = invert_cdf(probs.expand(1000, -1), torch.linspace(1e-9, 1 - 1e-9, 1000, dtype=torch.float64))
    assert (tokens.diff() >= 0).all()
    assert (tokens[0], tokens[-1]) == (0, 49)


# --- drawing ---


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 2.0}, {"top_k": 5}, {"top_p": 0.8}, {"allowed": subset(0, 3, 4, 9, codebook_size=16)}],
)
def test_twenty_thousand_tokens_follow_the_softmax(options):
    num = 20_000
    sampler = make_sampler(num, 16, **options)
    logits = random_logits(16, scale=1.0)
    tokens = sampler.draw_tokens(logits.expand(num, 16), 3, *grid_indices(num, 1)).tokens
    expected = num * sampler.filter_logits(logits).double().softmax(0)
    counts = tokens.bincount(minlength=16)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    assert chisquare(counts[possible].numpy(), expected[possible].numpy()).pvalue > 1e-3


def test_tokens_of_two_positions_and_steps_are_independent():
    num = 20_000
    sampler = make_sampler(num, 2)
    logits = torch.zeros(num, 2, 2)
    tokens = [draw_grid(sampler, logits, step).tokens.view(num, 2) for step in (0, 1)]
    a, b, c = tokens[0][:, 0], tokens[0][:, 1], tokens[1][:, 0]
    for x, y in ((a, b), (a, c)):
        assert chisquare((2 * x + y).bincount(minlength=4).numpy()).pvalue > 1e-3


def test_without_noise_the_mode_is_taken_for_any_top_k_and_top_p():
    sampler = make_sampler(5)
    logits = random_logits(5, 3, 8)
    for options in ({}, {"top_k": 2}, {"top_p": 0.1}, {"temperature": 3.0}):
        draw = draw_grid(replace(sampler, exec=sampler.exec.off(), **options), logits)
        assert torch.equal(draw.tokens, logits.argmax(-1).flatten())


def test_without_noise_the_mode_of_the_subset_is_taken():
    sampler = make_sampler(1, 4, allowed=subset(1, 2, codebook_size=4))
    draw = draw_grid(replace(sampler, exec=sampler.exec.off()), torch.tensor([[[9.0, 1.0, 2.0, 8.0]]]))
    assert draw.tokens.item() == 2


def test_a_draw_does_not_depend_on_its_batch():
    logits = random_logits(24, 5, 8)
    names = [("p", 0, row) for row in range(24)]

    def draw(rows):
        sampler = TokenSampler(Noise.of(0, "path", names[rows]), Noise.of(0, "exec", names[rows]), 8, top_p=0.9)
        return draw_grid(sampler, logits[rows], 7).tokens

    whole = draw(slice(None))
    for size in (1, 3, 8):
        assert torch.equal(torch.cat([draw(slice(i, i + size)) for i in range(0, 24, size)]), whole)


def test_a_draw_does_not_depend_on_other_draws():
    sampler, logits = make_sampler(6), random_logits(6, 10, 8)
    whole = draw_grid(sampler, logits, 7).tokens.view(6, 10)
    rows, positions = (torch.randint(high, (25,), generator=torch.Generator().manual_seed(high)) for high in (6, 10))
    draw = sampler.draw_tokens(logits[rows, positions], 7, rows, positions)
    assert torch.equal(draw.tokens, whole[rows, positions])


def test_filtered_logits_are_not_filtered_again():
    sampler, logits = make_sampler(50, allowed=subset(1, 2, 5), temperature=0.5, top_k=2), random_logits(50, 8)
    draw = sampler.draw_filtered(logits, 3, *grid_indices(50, 1))
    assert draw.logits is logits
    assert torch.equal(draw.tokens, make_sampler(50).draw_tokens(logits, 3, *grid_indices(50, 1)).tokens)
    filtered = sampler.draw_filtered(sampler.filter_logits(logits), 3, *grid_indices(50, 1))
    assert torch.equal(filtered.tokens, sampler.draw_tokens(logits, 3, *grid_indices(50, 1)).tokens)
    assert not torch.equal(filtered.tokens, draw.tokens)
    assert torch.equal(
        replace(sampler, exec=sampler.exec.off()).draw_filtered(logits, 3, *grid_indices(50, 1)).tokens,
        logits.argmax(-1),
    )


@pytest.mark.parametrize("is_off", [False, True])
def test_an_empty_draw_is_allowed(is_off):
    sampler, nowhere = make_sampler(2, top_k=3, top_p=0.5), torch.empty(0, dtype=torch.int64)
    sampler = replace(sampler, exec=sampler.exec.off()) if is_off else sampler
    draw = sampler.draw_tokens(torch.empty(0, 8), 0, nowhere, nowhere)
    assert [x.shape for x in (draw.tokens, draw.entropy, draw.log_prob, draw.confidence)] == [(0,)] * 4


# --- the grid ---


class Recorder(Observer):
    def __init__(self):
        self.draws = []

    def observe(self, draw):
        self.draws.append(draw)


@pytest.mark.parametrize("blank", [-1, 8])
def test_a_new_grid_is_blank(blank):
    grid = TokenGrid(make_sampler(2), 3, blank)
    assert torch.equal(grid.tokens, torch.full((2, 3), blank))
    assert [x.tolist() for x in grid.samples()] == [[[blank] * 3] * 2, [[0.0] * 3] * 2, [[0.0] * 3] * 2]


def test_the_grid_keeps_the_last_draw_of_each_position():
    sampler, logits = make_sampler(2, top_p=0.9), random_logits(2, 4, 8)
    grid, expected = TokenGrid(sampler, 5, blank=8), {}
    for step, written in enumerate(([(0, 0), (0, 4), (1, 1), (1, 3)], [(0, 1), (0, 4), (1, 1), (1, 4)])):
        draw = sampler.draw_tokens(logits[step], step, *torch.tensor(written).T)
        grid.write(draw)
        expected |= zip(written, zip(draw.tokens, draw.entropy, draw.log_prob, strict=True), strict=True)
        for index in itertools.product(range(2), range(5)):
            assert tuple(x[index] for x in grid.samples()) == expected.get(index, (8, 0.0, 0.0))


def test_observers_receive_what_is_written_in_order_and_change_nothing():
    first, second, logits = Recorder(), Recorder(), random_logits(2, 3, 8)
    watched = make_sampler(2, observers=(first, second))
    grid, unwatched = TokenGrid(watched, 3), TokenGrid(make_sampler(2), 3)
    draws = [draw_grid(watched, logits, step) for step in range(3)]
    assert first.draws == []  # a draw is not a decision: a masked sampler writes only part of it
    for step, draw in enumerate(draws):
        grid.write(draw)
        unwatched.write(draw_grid(make_sampler(2), logits, step))
        assert draw.step == step
    assert first.draws == second.draws == draws
    for ours, theirs in zip(grid.samples(), unwatched.samples(), strict=True):
        assert torch.equal(ours, theirs)


# --- statistics of a draw ---


def test_entropy_and_log_probability_agree_with_their_formulas_in_bits():
    draw = draw_grid(make_sampler(3, temperature=0.8, top_k=6, top_p=0.95), random_logits(3, 4, 8))
    for index in range(12):
        probs = draw.log_probs[index].double().exp().tolist()
        assert sum(probs) == pytest.approx(1, abs=1e-6)
        entropy = -sum(p * math.log2(p) for p in probs if p > 0)
        assert draw.entropy[index].item() == pytest.approx(entropy, abs=1e-5)
        drawn = probs[draw.tokens[index]]
        assert draw.log_prob[index].item() == pytest.approx(math.log2(drawn), abs=1e-5)
        assert draw.confidence[index].item() == pytest.approx(math.log(drawn), abs=1e-5)


def test_entropies_of_known_distributions():
    probs = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25], [0.5, 0.25, 0.125, 0.125]])
    for shift in (0.0, 5.0):  # logits need not be normalised
        draw = Draw(0, *grid_indices(4, 1), torch.tensor([0, 0, 0, 2]), probs.log() + shift)
        assert draw.entropy.tolist() == pytest.approx([0, 1, 2, 1.75], abs=1e-6)
        assert draw.log_prob.tolist() == pytest.approx([0, -1, -2, -3], abs=1e-6)
        assert draw.confidence.tolist() == pytest.approx([-math.log(2) * bits for bits in (0, 1, 2, 3)], abs=1e-6)


def test_a_draw_is_indexed_by_mask_or_number():
    draw = draw_grid(make_sampler(2), random_logits(2, 4, 8), 5)
    numbers = [1, 2, 6]
    by_number, by_mask = draw.take(torch.tensor(numbers)), draw.take(subset(*numbers))
    assert by_number.step == by_mask.step == 5
    for name in ("rows", "positions", "tokens", "logits", "confidence", "log_prob", "entropy"):
        assert torch.equal(getattr(by_number, name), getattr(draw, name)[numbers]), name
        assert torch.equal(getattr(by_mask, name), getattr(by_number, name)), name


# --- positions ---


@pytest.mark.parametrize("count", [0, 1, 4, 10])
@pytest.mark.parametrize("noise_scale", [0.0, 1.0, 4.5])
def test_the_requested_number_of_positions_is_chosen(count, noise_scale):
    chosen = make_sampler(50).choose_positions(random_logits(50, 10), 2, count=count, noise_scale=noise_scale)
    assert chosen.dtype == torch.bool
    assert (chosen.sum(1) == count).all()


def test_the_count_may_differ_by_row():
    count = torch.arange(50) % 11
    chosen = make_sampler(50).choose_positions(random_logits(50, 10), 2, count=count)
    assert torch.equal(chosen.sum(1), count)


@pytest.mark.parametrize("noise_scale", [0.0, 1.0, 100.0])
@pytest.mark.parametrize("is_off", [False, True])
def test_certain_positions_are_chosen_first_and_impossible_ones_never(noise_scale, is_off):
    weights = random_logits(200, 10)
    weights[:, [1, 6]], weights[:, [0, 9]] = INF, -INF
    sampler = make_sampler(200)
    sampler = replace(sampler, path=sampler.path.off()) if is_off else sampler
    for count in range(11):
        chosen = sampler.choose_positions(weights, 0, count=count, noise_scale=noise_scale)
        assert (chosen.sum(1) == min(count, 8)).all()
        assert (chosen[:, [1, 6]].sum(1) == min(count, 2)).all()
        assert not chosen[:, [0, 9]].any()


@pytest.mark.parametrize("is_off", [False, True])
def test_events_of_probability_1_and_0_are_certain(is_off):
    sampler = make_sampler(10_000)
    sampler = replace(sampler, path=sampler.path.off()) if is_off else sampler
    chosen = sampler.choose_positions(torch.tensor([0.0, INF, -INF]).expand(10_000, -1), 0)
    assert torch.equal(chosen, torch.tensor([True, True, False]).expand(10_000, -1))


def test_each_position_is_chosen_with_its_probability():
    num, probs = 20_000, torch.tensor([0.01, 0.3, 0.5, 0.99], dtype=torch.float64)
    chosen = make_sampler(num).choose_positions(probs.log().expand(num, -1), 4).double()
    deviation = (probs * (1 - probs) / num).sqrt()
    assert ((chosen.mean(0) - probs).abs() < 4 * deviation).all()
    both = (chosen[:, 1] * chosen[:, 2]).mean().item()
    assert both == pytest.approx(0.15, abs=4 * (0.15 * 0.85 / num) ** 0.5)  # and independently


def probability_of_sets(weights, count):
    """Probability of each set of `count` positions, selected one by one without replacement and by weight."""
    sets = {}
    for order in itertools.permutations(range(len(weights)), count):
        probability, left = 1.0, sum(weights)
        for i in order:
            probability *= weights[i] / left
            left -= weights[i]
        key = frozenset(order)
        sets[key] = sets.get(key, 0.0) + probability
    return sets


@pytest.mark.parametrize("noise_scale", [1.0, 2.0])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_gumbel_noise_samples_without_replacement_by_weight(count, noise_scale):
    num, weights = 20_000, [0.5, 1.0, 2.0, 6.0]
    log_weights = torch.tensor(weights).log().expand(num, -1)
    chosen = make_sampler(num).choose_positions(log_weights, 1, count=count, noise_scale=noise_scale)
    exact = probability_of_sets([w ** (1 / noise_scale) for w in weights], count)
    assert sum(exact.values()) == pytest.approx(1)
    codes = (chosen.long() * 2 ** torch.arange(4)).sum(1).bincount(minlength=16)
    observed = [codes[sum(2**i for i in chosen_set)].item() for chosen_set in exact]
    assert sum(observed) == num
    assert chisquare(observed, [num * p for p in exact.values()]).pvalue > 1e-3


def test_without_path_noise_the_largest_weights_are_chosen():
    sampler, weights = make_sampler(20), random_logits(20, 10)
    expected = torch.zeros(20, 10, dtype=torch.bool).scatter(1, weights.topk(4).indices, True)
    off = replace(sampler, path=sampler.path.off())
    assert torch.equal(off.choose_positions(weights, 0, count=4), expected)
    assert torch.equal(sampler.choose_positions(weights, 0, count=4, noise_scale=0.0), expected)
    assert not torch.equal(sampler.choose_positions(weights, 0, count=4), expected)
    assert torch.equal(off.choose_positions(weights - 1, 0), weights - 1 > math.log(0.5))


def test_positions_are_chosen_by_path_noise_and_tokens_by_execution_noise():
    sampler = make_sampler(50)
    other = Noise.of(1, "other", sampler.path.names)
    weights, logits = random_logits(50, 10), random_logits(50, 10, 8)
    for change, moves_path in (({"path": other}, True), ({"exec": other}, False)):
        changed = replace(sampler, **change)
        for count in (None, 4):
            same = torch.equal(
                changed.choose_positions(weights, 0, count=count), sampler.choose_positions(weights, 0, count=count)
            )
            assert same != moves_path
        same = torch.equal(draw_grid(changed, logits).tokens, draw_grid(sampler, logits).tokens)
        assert same == moves_path
