"""Paired comparisons, against SciPy, enumeration, and their nominal error rates."""

import math
from itertools import product

import pytest
import torch
from scipy import stats

from gendiv_lightning.functional.comparison import (
    benjamini_hochberg,
    compare,
    compare_all,
    effect_size,
    equivalence,
    factorial_effects,
    holm,
    prompts_for_effect,
    prompts_for_width,
    sign_flip_test,
    variance_components,
)


def normal(*shape, seed=0, mean=0.0):
    return mean + torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_p_value_of_few_prompts_enumerates_all_sign_flips():
    differences = normal(6, mean=0.5)
    means = [
        abs(sum(s * d for s, d in zip(signs, differences.tolist(), strict=True)))
        for signs in product((1, -1), repeat=6)
    ]
    observed = abs(differences.sum().item())
    assert sign_flip_test(differences) == pytest.approx(sum(m >= observed * (1 - 1e-9) for m in means) / 64)


def test_the_p_value_of_many_prompts_agrees_with_a_t_test():
    for seed, mean in ((1, 0.0), (2, 0.2), (3, 0.4)):
        differences = normal(60, seed=seed, mean=mean)
        expected = stats.ttest_1samp(differences.numpy(), 0).pvalue
        assert sign_flip_test(differences) == pytest.approx(expected, abs=0.02)
    assert sign_flip_test(normal(100, mean=9)) == pytest.approx(1 / 10_001)


def test_the_false_positive_rate_at_five_percent_is_five_percent():
    result = [sign_flip_test(normal(12, seed=seed)) < 0.05 for seed in range(400)]
    assert 0.02 < sum(result) / 400 < 0.08


def test_a_comparison_uses_the_prompts_that_both_sides_have():
    a, b = normal(30), normal(30, seed=1, mean=1)
    a[3], b[5] = math.nan, math.nan
    result, rest = compare(a, b), [i for i in range(30) if i not in (3, 5)]
    assert result.num_prompts == 28
    assert result.difference == pytest.approx((b - a)[rest].mean().item())
    assert result.low < result.difference < result.high
    assert compare(a, a).p_value == 1
    assert compare(a, a).effect_size == 0


def test_the_effect_size_is_hedges_g():
    differences = normal(20, mean=1)
    expected = differences.mean() / differences.std() * (1 - 3 / (4 * 19 - 1))
    assert effect_size(differences) == pytest.approx(expected.item())
    assert effect_size(torch.ones(5)) == math.inf
    assert math.isnan(effect_size(torch.ones(1)))
    assert math.isnan(effect_size(torch.tensor([1.0, 2.0])))


def test_corrections_agree_with_scipy_and_keep_the_order():
    p = torch.tensor([0.04, 0.001, 0.3, 0.02, 0.012])
    assert benjamini_hochberg(p).tolist() == pytest.approx(stats.false_discovery_control(p.double().numpy()).tolist())
    assert holm(p).tolist() == pytest.approx([0.08, 0.005, 0.3, 0.06, 0.048], abs=1e-6)
    assert len(holm(torch.zeros(0))) == len(benjamini_hochberg(torch.zeros(0))) == 0


def test_corrections_never_swap_two_p_values():
    assert holm(torch.tensor([0.011, 0.01])).tolist() == pytest.approx([0.02, 0.02], abs=1e-9)
    assert holm(torch.tensor([0.03, 0.5, 0.02, 0.021])).tolist() == pytest.approx([0.08, 0.5, 0.08, 0.08], abs=1e-7)


def test_equivalence_is_shown_for_equal_settings_and_enough_prompts():
    assert equivalence(normal(400), normal(400), margin=0.2).answer == "equivalent"
    assert equivalence(normal(400), normal(400, seed=1, mean=0.2), margin=0.2).answer == "undecided"
    assert equivalence(normal(400), normal(400, mean=0.3), margin=0.2).answer == "different"
    assert equivalence(normal(5), normal(5, seed=1), margin=0.2).answer == "undecided"
    assert equivalence(normal(1), normal(1), margin=0.2).answer == "undecided", "one prompt shows nothing"
    with pytest.raises(ValueError, match="margin"):
        equivalence(normal(5), normal(5), 0)


def test_effects_agree_with_those_of_a_known_design():
    prompts = normal(7)
    cells = torch.empty(2, 2, 2, 7, dtype=torch.float64)
    for i, j, k in product((0, 1), repeat=3):
        cells[i, j, k] = prompts + 3 * i - 2 * k + 4 * i * j
    effects = factorial_effects(cells)
    means = {switches: values.mean().item() for switches, values in effects.items()}
    expected = {(0,): 5, (1,): 2, (2,): -2, (0, 1): 2, (0, 2): 0, (1, 2): 0, (0, 1, 2): 0}
    assert means == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ValueError, match="cells"):
        factorial_effects(torch.zeros(3, 2, 5))


def test_the_planned_number_of_prompts_gives_the_requested_width():
    num = prompts_for_width(between=1.0, within=4.0, num_samples=8, half_width=0.25)
    half = stats.t.ppf(0.975, num - 1) * math.sqrt(1.5 / num)
    larger = stats.t.ppf(0.975, num - 2) * math.sqrt(1.5 / (num - 1))
    assert half <= 0.25 < larger
    assert prompts_for_width(0, 0, 8, 0.1) == 2


def test_the_planned_number_of_prompts_has_the_requested_power():
    num = prompts_for_effect(between=1.0, within=0.0, num_samples=8, effect=0.5)
    assert num == pytest.approx(34, abs=1)  # the textbook's
    generator = torch.Generator().manual_seed(0)
    rows = 0.5 + torch.randn(4000, num, generator=generator, dtype=torch.float64)
    t = rows.mean(1) / rows.std(1) * math.sqrt(num)
    assert (t.abs() > stats.t.ppf(0.975, num - 1)).double().mean().item() == pytest.approx(0.8, abs=0.03)
    with pytest.raises(ValueError, match="effect"):
        prompts_for_effect(1, 1, 8, 0)


def test_variance_is_split_into_parts_between_and_within_prompts():
    true, noise = 2 * normal(4000), normal(4000, 2, 4, seed=1)
    halves = true[:, None] + 3 * noise.mean(2)
    errors = (halves[:, 0] - halves[:, 1]).square() / 4
    between, within = variance_components(halves.mean(1), errors, 8)
    assert between == pytest.approx(4, rel=0.1)
    assert within == pytest.approx(9, rel=0.1)


def test_comparing_many_metrics_at_once_is_bit_identical_to_comparing_each():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(40, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    b[:, 1], b[3, 2], a[5, 3], b[:, 4] = a[:, 1], math.nan, math.nan, a[:, 4] + 1
    pairs = [*zip(a.T, b.T, strict=True), (a[:5, 0], b[:5, 0]), (a[:1, 0], b[:1, 0]), (a[:0, 0], b[:0, 0])]
    for together, (first, second) in zip(compare_all(pairs), pairs, strict=True):
        assert repr(together) == repr(compare(first, second))
