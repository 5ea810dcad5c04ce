import math
from functools import reduce

import numpy as np
import pytest
import scipy.linalg
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from gendiv_lightning.functional.frechet import Statistics, frechet_distance, frechet_distances, merge, statistics
from gendiv_lightning.functional.jackknife import jackknife_limit


def rows(num, dimensions, seed=0, *, shift=0.0, rank=None):
    generator = torch.Generator().manual_seed(seed)
    rank = rank or dimensions
    mixing = torch.randn(rank, dimensions, dtype=torch.float64, generator=generator) / rank**0.5
    return torch.randn(num, rank, dtype=torch.float64, generator=generator) @ mixing + shift


def gaussian(mean, covariance):
    return Statistics(1001, torch.as_tensor(mean).double(), 1000 * torch.as_tensor(covariance).double())


def by_svd(a, b):
    """Compute the distance without covariances, from the singular values of the product of two sets of deviations."""
    x, y = a.numpy(), b.numpy()
    dx, dy = (x - x.mean(0)) / (len(x) - 1) ** 0.5, (y - y.mean(0)) / (len(y) - 1) ** 0.5
    cross = np.linalg.svd(dx @ dy.T, compute_uv=False).sum()
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + (dx**2).sum() + (dy**2).sum() - 2 * cross


def by_square_root(a, b):
    x, y = a.numpy(), b.numpy()
    s, t = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(s @ t).real
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * np.trace(root)


def test_gaussians_of_one_dimension():
    assert frechet_distance(gaussian([1.0], [[4.0]]), gaussian([3.0], [[9.0]])) == pytest.approx(4 + 1, rel=1e-12)


def test_gaussians_with_common_axes():
    rotation = torch.linalg.qr(rows(5, 5)).Q
    a, b = torch.tensor([1.0, 4.0, 9.0, 0.25, 2.0]).double(), torch.tensor([4.0, 4.0, 1.0, 0.0, 0.5]).double()
    first = gaussian(torch.zeros(5), rotation @ a.diag() @ rotation.T)
    second = gaussian(torch.full((5,), 2.0), rotation @ b.diag() @ rotation.T)
    expected = 5 * 4 + (a.sqrt() - b.sqrt()).square().sum().item()
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-7)
    assert frechet_distance(second, first) == pytest.approx(expected, rel=1e-7)


def test_full_rank_distances_agree_with_scipy_and_torch_fidelity():
    a, b = rows(200, 24), rows(150, 24, 1, shift=0.3)
    ours = frechet_distance(statistics(a), statistics(b))
    theirs = fid_statistics_to_metric(fid_features_to_statistics(a), fid_features_to_statistics(b), verbose=False)
    assert ours == pytest.approx(by_square_root(a, b), rel=1e-9)
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-9)


@pytest.mark.parametrize(("num_a", "num_b", "rank"), [(30, 40, None), (300, 20, None), (300, 200, 7), (20, 300, 7)])
def test_rank_deficient_covariances_are_as_exact(num_a, num_b, rank):
    a, b = rows(num_a, 64, rank=rank), rows(num_b, 64, 1, shift=0.1, rank=rank)
    expected = by_svd(a, b)
    assert frechet_distance(statistics(a), statistics(b)) == pytest.approx(expected, rel=1e-6)
    assert frechet_distances(statistics(a), b)[0].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("num", [12, 40])
def test_leave_one_block_out_is_the_distance_of_the_other_blocks(num):
    reference, features = statistics(rows(80, 16)), rows(num, 16, 1, shift=0.2)
    blocks = torch.arange(num) % 4
    distances = frechet_distances(reference, features, blocks)
    sets = [features, *(features[blocks != block] for block in range(4))]
    expected = [frechet_distance(reference, statistics(some)) for some in sets]
    assert distances.tolist() == pytest.approx(expected, rel=1e-7)


def test_merged_moments_equal_those_of_all_rows_in_any_order():
    features = rows(101, 8, shift=5.0)
    whole = statistics(features)
    for sizes in ([1, 100], [50, 1, 50], [1] * 101, [100, 1]):
        parts = [statistics(part) for part in features.split(sizes)]
        for order in (parts, parts[::-1]):
            merged = reduce(merge, order)
            assert merged.num_rows == 101
            torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-13, atol=0)
            torch.testing.assert_close(merged.scatter, whole.scatter, rtol=1e-11, atol=1e-11)


def test_statistics_agree_with_numpy():
    features = rows(50, 6, shift=3.0)
    ours = statistics(features.float())
    assert ours.mean.dtype == ours.scatter.dtype == torch.float64
    expected = np.cov(features.float().double().numpy(), rowvar=False)
    np.testing.assert_allclose(ours.covariance.numpy(), expected, rtol=1e-10)


def test_the_distance_of_a_set_to_itself_is_zero_and_never_negative():
    for num in (10, 100):
        features = rows(num, 32, num)
        assert 0 <= frechet_distance(statistics(features), statistics(features)) < 1e-6
        assert 0 <= frechet_distances(statistics(features), features)[0] < 1e-6
        assert 0 <= frechet_distance(statistics(features), statistics(features + 1e-9)) < 1e-6


def test_identical_rows_have_zero_covariance():
    point = statistics(torch.full((7, 5), 0.1))
    assert not point.scatter.any()
    other = gaussian(torch.full((5,), 0.1).double(), torch.eye(5))
    assert frechet_distance(point, other) == pytest.approx(5, rel=1e-12)
    assert frechet_distances(other, torch.full((7, 5), 0.1))[0].item() == pytest.approx(5, rel=1e-12)


def test_a_common_shift_does_not_matter():
    a, b = rows(90, 16), rows(60, 16, 1, shift=0.2)
    near, far = (frechet_distances(statistics(a + shift), b + shift)[0].item() for shift in (0.0, 1e6))
    assert far == pytest.approx(near, rel=1e-6)


def test_the_jackknife_limit_removes_the_bias_of_few_rows():
    reference = gaussian(torch.zeros(6), torch.eye(6))
    blocks = torch.arange(100) % 20
    generator = torch.Generator().manual_seed(0)
    sets = torch.randn(30, 100, 6, generator=generator)
    runs = [frechet_distances(reference, features, blocks) for features in sets]
    plain, limit = torch.stack(runs)[:, 0].mean(), sum(jackknife_limit(values)[0] for values in runs) / 30
    assert plain > 0.1
    assert abs(limit) < plain / 5


def test_a_single_row_gives_nan():
    assert math.isnan(frechet_distance(statistics(rows(1, 4)), statistics(rows(9, 4))))
    assert frechet_distances(statistics(rows(9, 4)), rows(1, 4)).isnan().all()


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_non_finite_values_are_an_error(number):
    features = rows(5, 4)
    features[3, 2] = number
    with pytest.raises(ValueError, match=r"1 rows, e\.g\. row 3"):
        statistics(features)
    with pytest.raises(ValueError, match="row 3"):
        frechet_distances(statistics(rows(5, 4)), features)
    with pytest.raises(ValueError, match="N >= 1"):
        statistics(features[:0])
