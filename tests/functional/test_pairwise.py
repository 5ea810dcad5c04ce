import math
from itertools import combinations

import pytest
import torch

from gendiv_lightning.functional.pairwise import PairDistances, extreme_pairs, group_means, split


def features(num=11, size=7, *, spread=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    centre = 10 * torch.rand(size, generator=generator, dtype=torch.float64)
    return (centre + spread * torch.randn(num, size, generator=generator, dtype=torch.float64)).to(dtype)


def matrix_of(rows, groups=None):
    pairs = PairDistances()
    pairs.update(rows, groups)
    return pairs.matrix()


def brute_force(rows, pairs):
    distances = [(rows[i].double() - rows[j].double()).square().sum().item() for i, j in pairs]
    return math.fsum(distances) / len(distances) if distances else math.nan


@pytest.mark.parametrize("num", [2, 3, 11])
@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-6])
def test_the_closed_form_equals_the_mean_over_all_pairs(num, spread):
    rows = features(num, spread=spread)
    expected = brute_force(rows, list(combinations(range(num), 2)))
    assert split(matrix_of(rows)).total == pytest.approx(expected, rel=1e-10, abs=0)


def test_float32_rows_are_accumulated_in_float64():
    rows = features(spread=1e-5, dtype=torch.float32)
    expected = brute_force(rows, list(combinations(range(11), 2)))
    assert split(matrix_of(rows)).total == pytest.approx(expected, rel=1e-10)


def test_unequal_groups_agree_with_brute_force():
    rows, groups = features(), torch.tensor([4, 4, 4, 4, 4, 0, 0, 0, 7, 7, 4])
    members = [[i for i in range(11) if groups[i] == label] for label in (0, 4, 7)]
    within = [brute_force(rows, list(combinations(group, 2))) for group in members]
    between = [brute_force(rows, [(i, j) for i in a for j in b]) for a, b in combinations(members, 2)]
    w, b = sum(within) / 3, sum(between) / 3
    assert split(matrix_of(rows, groups)) == pytest.approx((w / 3 + 2 / 3 * b, w, b), rel=1e-10)


def test_chunks_and_merged_accumulators_equal_the_whole_in_any_order():
    rows, groups = features(), torch.arange(11) % 3
    whole = matrix_of(rows, groups)
    first, second = PairDistances(), PairDistances()
    for start in (6, 0, 9):
        first.update(rows[start : start + 3], groups[start : start + 3])
    second.update(rows[3:6], groups[3:6])
    first.merge(second)
    torch.testing.assert_close(first.matrix(), whole, rtol=1e-12, atol=1e-12)


def test_the_closed_form_agrees_with_the_pairwise_matrix():
    rows, groups = features(), torch.tensor([1, 1, 1, 1, 5, 5, 5, 2, 2, 2, 2])
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square()
    torch.testing.assert_close(group_means(distances, groups), matrix_of(rows, groups), rtol=1e-10, atol=0)
    torch.testing.assert_close(group_means(distances), matrix_of(rows), rtol=1e-10, atol=0)


def test_the_mean_over_all_subsamples_of_four_is_the_value_at_eight():
    rows = features(8)
    fours = [split(matrix_of(rows[list(four)])).total for four in combinations(range(8), 4)]
    assert len(fours) == 70
    assert math.fsum(fours) / 70 == pytest.approx(split(matrix_of(rows)).total, rel=1e-10)


def test_the_total_of_groups_does_not_depend_on_their_size():
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [3.0, 0.0]], dtype=torch.float64)  # W = 4 (two unit variances), B = 4 + 9
    rows = centres.repeat_interleave(20_000, 0) + torch.randn(40_000, 2, generator=generator, dtype=torch.float64)
    groups = torch.arange(2).repeat_interleave(20_000)
    balanced = split(matrix_of(rows, groups))
    lopsided = split(matrix_of(rows[:25_000], groups[:25_000]))
    assert balanced == pytest.approx((8.5, 4, 13), rel=0.02)
    assert lopsided == pytest.approx((8.5, 4, 13), rel=0.03)


def test_identical_rows_have_distance_exactly_zero():
    rows = features(1, 50).expand(7, -1)
    assert split(matrix_of(rows)).total == 0
    pairs = PairDistances()
    for start in range(7):
        pairs.update(rows[start : start + 1])
    assert split(pairs.matrix()).total == 0


def test_a_single_group_has_no_between_part_and_its_total_is_the_within_part():
    total, within, between = split(matrix_of(features()))
    assert total == within
    assert math.isnan(between)


def test_a_single_row_gives_nan():
    assert all(math.isnan(number) for number in split(matrix_of(features(1))))
    assert all(math.isnan(number) for number in split(group_means(torch.zeros(1, 1))))


def test_single_rows_count_between_groups_only():
    rows = features(4)
    total, within, between = split(matrix_of(rows, torch.tensor([0, 0, 1, 2])))
    assert within == pytest.approx(brute_force(rows, [(0, 1)]), rel=1e-10)
    assert total == pytest.approx(within / 3 + 2 / 3 * between, rel=1e-12)
    singles = split(matrix_of(rows, torch.arange(4)))
    assert math.isnan(singles.total)
    assert singles.between == pytest.approx(brute_force(rows, list(combinations(range(4), 2))), rel=1e-10)


def test_the_extreme_pairs_are_the_nearest_and_the_farthest():
    points = torch.tensor([0.0, 5.0, 5.5, -3.0, 9.0])
    matrix = (points[:, None] - points).abs()
    assert extreme_pairs(matrix) == ((1, 2), (3, 4))
    assert extreme_pairs(matrix[:2, :2]) == ((0, 1), (0, 1))
    assert extreme_pairs(torch.zeros(3, 3)) == ((0, 1), (0, 1))  # of equals the first
    with pytest.raises(ValueError, match="two samples"):
        extreme_pairs(torch.zeros(1, 1))
