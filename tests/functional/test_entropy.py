import math
from decimal import Decimal, getcontext
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats

from gendiv_lightning.functional.entropy import (
    chao_shen_entropy,
    chao_wang_jost_entropy,
    coverage,
    gini,
    grassberger_entropy,
    miller_madow_entropy,
    plugin_entropy,
    zipf,
)


def literal_chao_wang_jost(counts):
    """The published formula in bits, term by term with 200 digits."""
    getcontext().prec = 200
    counts = [count for count in counts if count]
    n, f1, f2 = sum(counts), counts.count(1), counts.count(2)
    seen = sum(Fraction(x, n) * sum((Fraction(1, k) for k in range(x, n)), Fraction(0)) for x in counts)
    total = Decimal(seen.numerator) / Decimal(seen.denominator)
    if f1:
        a = Decimal(2 * f2) / ((n - 1) * f1 + 2 * f2) if f2 else Decimal(2) / ((n - 1) * (f1 - 1) + 2)
        if a != 1:
            tail = -a.ln() - sum((1 - a) ** r / r for r in range(1, n))
            total += Decimal(f1) / n * (1 - a) ** (1 - n) * tail
    return float(total / Decimal(2).ln())


@pytest.mark.parametrize(
    "counts",
    [
        [1],
        [5],
        [1, 1],
        [2, 2],
        [1, 2],
        [1, 1, 1, 1, 1, 1, 1, 1],
        [10, 4, 1],
        [3, 3, 3, 0],
        [7, 5, 2, 2, 1, 1, 1, 0, 0],
        [40, 20, 9, 5, 2, 1, 1, 1, 1, 1],
        [1] * 60 + [2] + [30],
        [1] * 200,
    ],
)
def test_chao_wang_jost_agrees_with_the_published_formula(counts):
    estimate = chao_wang_jost_entropy(torch.tensor(counts)).item()
    assert estimate == pytest.approx(literal_chao_wang_jost(counts), rel=1e-12, abs=1e-14)


def test_two_singletons_give_the_value_computed_by_hand():
    # n = 2, f1 = 2, f2 = 0: A = 2 / 3; H = 1 + 3 (ln 1.5 - 1 / 3) nats
    assert chao_wang_jost_entropy(torch.tensor([1, 1])).item() == pytest.approx(3 * math.log2(1.5), rel=1e-13)


def test_large_counts_neither_overflow_nor_drift():
    counts = torch.full((1000,), 10**7)
    assert chao_wang_jost_entropy(counts).item() == pytest.approx(math.log2(1000), abs=1e-6)
    one_more = torch.cat([counts, torch.ones(3, dtype=torch.int64)])
    assert chao_wang_jost_entropy(one_more).item() == pytest.approx(math.log2(1000), abs=1e-6)


def test_chao_wang_jost_has_far_less_bias_than_the_plug_in():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(100))
    exact = stats.entropy(probabilities, base=2)
    counts = torch.from_numpy(np.random.default_rng(1).multinomial(100, probabilities, size=2000))
    plugin_bias = plugin_entropy(counts).mean().item() - exact
    assert plugin_bias < -0.4
    assert abs(chao_wang_jost_entropy(counts).mean().item() - exact) < 0.1 * abs(plugin_bias)


def test_the_plug_in_agrees_with_scipy():
    counts = torch.tensor([[3, 0, 5, 1], [1, 1, 1, 1]])
    torch.testing.assert_close(
        plugin_entropy(counts), torch.from_numpy(stats.entropy(counts.numpy(), base=2, axis=1)), rtol=1e-12, atol=0
    )


def test_leading_dimensions_are_batched():
    counts = torch.randint(0, 4, (2, 3, 20), generator=torch.Generator().manual_seed(0))
    for estimator in (plugin_entropy, chao_wang_jost_entropy, coverage, gini):
        batched = estimator(counts)
        assert batched.dtype == torch.float64
        assert batched.shape == (2, 3)
        assert batched[1, 2].item() == pytest.approx(estimator(counts[1, 2]).item(), rel=1e-13)


def test_empty_counts_give_nan_for_their_row_only():
    counts = torch.tensor([[0, 0, 0], [4, 4, 0]])
    for estimator, value in ((plugin_entropy, 1.0), (coverage, 2 / 3), (gini, 1 / 3)):
        assert estimator(counts)[0].isnan()
        assert estimator(counts)[1].item() == pytest.approx(value, rel=1e-12)
    assert chao_wang_jost_entropy(counts)[0].isnan()
    assert not chao_wang_jost_entropy(counts)[1].isnan()


def test_one_entry_has_no_entropy():
    counts = torch.tensor([0, 9, 0])
    assert plugin_entropy(counts) == 0
    assert chao_wang_jost_entropy(counts) == 0


def test_gini_is_half_the_relative_mean_difference():
    counts = torch.tensor([0, 7, 2, 2, 0, 31, 1], dtype=torch.float64)
    differences = (counts[:, None] - counts).abs().mean().item()
    assert gini(counts).item() == pytest.approx(differences / 2 / counts.mean().item(), rel=1e-12)
    assert gini(torch.full((9,), 5)).item() == pytest.approx(0, abs=1e-12)
    assert gini(torch.tensor([0, 0, 8, 0])).item() == pytest.approx(3 / 4, rel=1e-12)


def test_the_zipf_slope_uses_entries_with_counts_only():
    ranks, frequencies = zipf(torch.tensor([2, 0, 12, 4, 0, 2]))
    assert ranks.tolist() == [1, 2, 3, 4]
    assert frequencies.tolist() == pytest.approx([0.6, 0.2, 0.1, 0.1], rel=1e-12)
    assert [len(part) for part in zipf(torch.zeros(5))] == [0, 0]


# --- other corrections ---

CORRECTED = [miller_madow_entropy, chao_shen_entropy, grassberger_entropy, chao_wang_jost_entropy]


def test_miller_madow_by_hand():
    # Three entries in four tokens: 1.5 bits, and 2 / 8 nats.
    assert miller_madow_entropy(torch.tensor([2, 1, 1, 0])).item() == pytest.approx(1.5 + 0.25 / math.log(2))


def test_chao_shen_by_hand():
    # n = 4, one singleton: C = 3 / 4, frequencies 9 / 16 and 3 / 16.
    terms = [-p * math.log2(p) / (1 - (1 - p) ** 4) for p in (9 / 16, 3 / 16)]
    assert chao_shen_entropy(torch.tensor([3, 1, 0])).item() == pytest.approx(sum(terms))
    all_once = [-p * math.log2(p) / (1 - (1 - p) ** 3) for p in [1 / 9] * 3]
    assert chao_shen_entropy(torch.tensor([1, 1, 1])).item() == pytest.approx(sum(all_once))


def test_grassberger_by_hand():
    # G(1) = -gamma - ln 2, G(2) = 2 - gamma - ln 2, G(3) = G(2), as published.
    base = -0.5772156649015329 - math.log(2)
    expected = math.log(6) - (1 * base + 2 * (base + 2) + 3 * (base + 2)) / 6
    assert grassberger_entropy(torch.tensor([1, 2, 3, 0])).item() == pytest.approx(expected / math.log(2))


@pytest.mark.parametrize("estimator", CORRECTED)
def test_a_corrected_estimate_has_less_bias_than_the_plug_in(estimator):
    generator = torch.Generator().manual_seed(0)
    probs = torch.distributions.Dirichlet(torch.ones(64, dtype=torch.float64))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        p = probs.sample()
    tokens = torch.multinomial(p.expand(300, -1), 64, replacement=True, generator=generator)
    counts = torch.nn.functional.one_hot(tokens, 64).sum(1)
    exact = torch.special.entr(p).sum().item() / math.log(2)
    plugin, result = plugin_entropy(counts).mean().item(), estimator(counts).mean().item()
    assert abs(result - exact) < 0.5 * abs(plugin - exact)


@pytest.mark.parametrize("estimator", CORRECTED)
def test_corrected_estimates_of_zero_one_and_many_tokens(estimator):
    assert math.isnan(estimator(torch.zeros(4, dtype=torch.int64)).item())
    assert estimator(torch.tensor([9, 0])).item() == pytest.approx(0, abs=0.2)
    many = torch.full((8,), 10**6)
    assert estimator(many).item() == pytest.approx(3, abs=1e-5)
    assert estimator(torch.stack([many, many])).shape == (2,)
