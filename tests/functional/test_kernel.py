import math

import pytest
import torch
from torch_fidelity.metric_kid import kernel_poly, mmd2

from gendiv_lightning.functional import kernel
from gendiv_lightning.functional.kernel import kernel_distances


def rows(num, seed=0, shift=0.0, dimensions=6):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, dimensions, dtype=torch.float64, generator=generator) + shift


def by_loops(x, y):
    def k(a, b):
        return (a @ b / len(a) + 1).item() ** 3

    m, n = len(x), len(y)
    within_x = math.fsum(k(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    within_y = math.fsum(k(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return within_x + within_y - 2 * math.fsum(k(a, b) for a in x for b in y) / (m * n)


def test_the_distance_is_the_mean_over_pairs_of_rows():
    x, y = rows(9, shift=0.5), rows(13, 1)
    assert kernel_distances(y, x).tolist() == pytest.approx([by_loops(x, y)], rel=1e-10)


def test_the_distance_is_the_unbiased_one_of_torch_fidelity():
    x, y = rows(40, shift=0.2), rows(40, 1)
    settings = {"kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None, "kid_kernel_poly_coef0": 1}
    kernels = [kernel_poly(a.numpy(), b.numpy(), **settings) for a, b in ((x, x), (x, y), (y, y))]
    assert kernel_distances(y, x)[0].item() == pytest.approx(mmd2(*kernels), rel=1e-10)


def test_leave_one_block_out_is_the_distance_of_the_other_blocks(monkeypatch):
    x, y, blocks = rows(14, shift=0.3), rows(11, 1), torch.arange(14) % 4
    expected = [by_loops(some, y) for some in (x, *(x[blocks != block] for block in range(4)))]
    assert kernel_distances(y, x, blocks).tolist() == pytest.approx(expected, rel=1e-9)
    monkeypatch.setattr(kernel, "_CHUNK_PAIRS", 30)
    assert kernel_distances(y, x, blocks).tolist() == pytest.approx(expected, rel=1e-9)


def test_the_estimate_is_zero_on_average_and_sometimes_negative():
    y = rows(50, 1000)
    same = torch.stack([kernel_distances(rows(30, 2 * s), rows(20, 2 * s + 1))[0] for s in range(200)])
    assert same.mean().abs() < 3 * same.std() / 200**0.5
    assert 0.3 < (same < 0).double().mean() < 0.9
    assert kernel_distances(y, rows(30, shift=1.0))[0] > 10 * same.std()


def test_a_set_compared_with_itself_is_negative_by_its_self_pairs():
    x = rows(30)
    pairs = (x @ x.T / 6 + 1) ** 3
    own, others = pairs.diagonal().mean(), (pairs.sum() - pairs.trace()) / (30 * 29)
    assert kernel_distances(x, x)[0].item() == pytest.approx(-2 * (own - others).item() / 30, rel=1e-9)


def test_a_single_row_gives_nan_and_non_finite_values_are_an_error():
    assert kernel_distances(rows(5), rows(1)).isnan().all()
    broken = rows(5)
    broken[1, 1] = math.nan
    for pair in ((broken, rows(5)), (rows(5), broken)):
        with pytest.raises(ValueError, match="finite"):
            kernel_distances(*pair)
