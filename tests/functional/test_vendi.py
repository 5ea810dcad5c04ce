import math

import numpy as np
import pytest
import torch
from scipy import linalg
from vendi_score import vendi as reference

from gendiv_lightning.functional.vendi import hill_number, vendi_score, vendi_score_of_kernel

ORDERS = [0.1, 0.5, 1.0, 2.0, 7.5, math.inf]


def features(num=9, size=5):
    return torch.randn(num, size, generator=torch.Generator().manual_seed(num), dtype=torch.float64)


def by_hand(kernel, q):
    """The definition: exponential of the Renyi entropy of the eigenvalues of kernel / N."""
    shares = linalg.eigvalsh(kernel / len(kernel))
    shares = shares[shares > 1e-10]
    if q == 1:
        return np.exp(-np.sum(shares * np.log(shares)))
    return 1 / shares.max() if q == math.inf else np.sum(shares**q) ** (1 / (1 - q))


def cosines(rows):
    unit = rows.numpy() / np.linalg.norm(rows.numpy(), axis=1, keepdims=True)
    return unit @ unit.T


@pytest.mark.parametrize("q", ORDERS)
@pytest.mark.parametrize(("num", "size"), [(9, 5), (5, 9), (6, 6), (1, 3)])
def test_the_score_agrees_with_its_definition_whichever_matrix_is_smaller(num, size, q):
    rows = features(num, size)
    expected = by_hand(cosines(rows), q)
    assert vendi_score(rows, q) == pytest.approx(expected, rel=1e-9)
    assert vendi_score_of_kernel(torch.from_numpy(cosines(rows)), q) == pytest.approx(expected, rel=1e-9)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("q", ORDERS)
def test_the_score_agrees_with_the_reference_package(q):
    rows = features(9, 12)
    theirs = reference.score_K(cosines(rows), q="inf" if q == math.inf else q)  # its score_X leaves q out
    assert vendi_score(rows, q) == pytest.approx(theirs, rel=1e-9)
    items = list(rows.numpy())
    similarity = lambda a, b: np.exp(-np.square(a - b).sum() / 20)  # noqa: E731
    kernel = torch.tensor([[similarity(a, b) for a in items] for b in items])
    theirs = reference.score(items, similarity, q="inf" if q == math.inf else q)
    assert vendi_score_of_kernel(kernel, q) == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("q", ORDERS)
def test_copies_of_k_orthogonal_items_score_k_and_copies_of_one_item_score_1(q):
    assert vendi_score(torch.eye(4).repeat(3, 1), q) == pytest.approx(4, rel=1e-12)
    assert vendi_score(features(1).repeat(7, 1), q) == pytest.approx(1, rel=1e-12)
    assert vendi_score(features(3, 50).repeat(5, 1), q) <= 3 + 1e-9


def test_unequal_shares_give_their_hill_numbers():
    rows = torch.eye(3)[[0, 0, 0, 0, 1, 1, 2, 2]]  # shares 1/2, 1/4, 1/4
    assert vendi_score(rows) == pytest.approx(2**1.5, rel=1e-12)
    assert vendi_score(rows, 2) == pytest.approx(8 / 3, rel=1e-12)
    assert vendi_score(rows, 0.5) == pytest.approx((math.sqrt(0.5) + 1) ** 2, rel=1e-12)
    assert vendi_score(rows, math.inf) == pytest.approx(2, rel=1e-12)


def test_the_score_is_continuous_and_decreasing_in_its_order():
    rows = features(20, 8)
    for near, limit in ((1 - 1e-6, 1), (1 + 1e-6, 1), (1e5, math.inf)):
        assert vendi_score(rows, near) == pytest.approx(vendi_score(rows, limit), rel=1e-4)
    scores = [vendi_score(rows, q) for q in ORDERS]
    assert scores == sorted(scores, reverse=True)
    assert 1 < scores[-1] < scores[0] < 8


def test_the_score_ignores_norms_row_order_and_float32():
    rows = features()
    lengths = torch.arange(1, 10)[:, None]
    assert vendi_score((rows * lengths).flip(0)) == pytest.approx(vendi_score(rows), rel=1e-12)
    assert vendi_score(rows.float()) == pytest.approx(vendi_score(rows), rel=1e-6)


def test_rounding_noise_in_eigenvalues_does_not_raise_the_score():
    shares = torch.tensor([0.5, 0.5, 1e-17, 1e-16], dtype=torch.float64)
    assert hill_number(shares, 0.05) == pytest.approx(2, rel=1e-12)


def test_rows_without_a_score_are_an_error():
    rows = features()
    for q in (0, -1, math.nan):
        with pytest.raises(ValueError, match="q must be in"):
            vendi_score(rows, q)
    zero, unknown = rows.clone(), rows.clone()
    zero[2], unknown[2, 2] = 0, math.nan
    for bad in (zero, unknown, rows[:0]):
        with pytest.raises(ValueError, match="features must be"):
            vendi_score(bad)
    for bad in (2 * torch.eye(3), torch.ones(3, 3).tril()):
        with pytest.raises(ValueError, match="symmetric with ones"):
            vendi_score_of_kernel(bad)
