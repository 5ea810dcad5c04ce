import math
from decimal import Decimal, getcontext
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats

from gendiv_lightning.functional.entropy import chao_wang_jost_entropy, coverage, gini, plugin_entropy, zipf


def literal_chao_wang_jost(counts):
    """The published formula term by term with 200 digits, in bits."""
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
def test_chao_wang_jost_is_the_published_formula(counts):
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
    truth = stats.entropy(probabilities, base=2)
    counts = torch.from_numpy(np.random.default_rng(1).multinomial(100, probabilities, size=2000))
    plugin_bias = plugin_entropy(counts).mean().item() - truth
    assert plugin_bias < -0.4
    assert abs(chao_wang_jost_entropy(counts).mean().item() - truth) < 0.1 * abs(plugin_bias)


def test_the_plug_in_agrees_with_scipy():
    counts = torch.tensor([[3, 0, 5, 1], [1, 1, 1, 1]])
    torch.testing.assert_close(
        plugin_entropy(counts), torch.from_numpy(stats.entropy(counts.numpy(), base=2, axis=1)), rtol=1e-12, atol=0
    )


def test_leading_axes_are_a_batch():
    counts = torch.randint(0, 4, (2, 3, 20), generator=torch.Generator().manual_seed(0))
    for estimator in (plugin_entropy, chao_wang_jost_entropy, coverage, gini):
        batched = estimator(counts)
        assert batched.dtype == torch.float64
        assert batched.shape == (2, 3)
        assert batched[1, 2].item() == pytest.approx(estimator(counts[1, 2]).item(), rel=1e-13)


def test_nothing_counted_is_nan_and_leaves_its_neighbours_alone():
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


def test_gini_is_half_the_mean_difference_of_two_entries_over_the_mean():
    counts = torch.tensor([0, 7, 2, 2, 0, 31, 1], dtype=torch.float64)
    differences = (counts[:, None] - counts).abs().mean().item()
    assert gini(counts).item() == pytest.approx(differences / 2 / counts.mean().item(), rel=1e-12)
    assert gini(torch.full((9,), 5)).item() == pytest.approx(0, abs=1e-12)
    assert gini(torch.tensor([0, 0, 8, 0])).item() == pytest.approx(3 / 4, rel=1e-12)


def test_zipf_ranks_the_frequencies_of_what_was_counted():
    ranks, frequencies = zipf(torch.tensor([2, 0, 12, 4, 0, 2]))
    assert ranks.tolist() == [1, 2, 3, 4]
    assert frequencies.tolist() == pytest.approx([0.6, 0.2, 0.1, 0.1], rel=1e-12)
    assert [len(part) for part in zipf(torch.zeros(5))] == [0, 0]
