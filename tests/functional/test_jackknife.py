import math

import pytest
import torch
from scipy import stats

from gendiv_lightning.functional.jackknife import NUM_BLOCKS, assign_blocks, jackknife, jackknife_limit, leave_out


def values_of(statistic, rows, blocks):
    return torch.stack([statistic(rows[kept]) for kept in leave_out(len(rows), blocks)])


def sample(num, seed=0):
    return torch.randn(num, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_interval_of_a_mean_is_the_t_interval():
    rows = sample(12)
    value, low, high = jackknife(values_of(torch.mean, rows, torch.arange(12)))
    expected = stats.t.interval(0.95, 11, rows.mean().item(), stats.sem(rows.numpy()))
    assert value == pytest.approx(rows.mean().item(), rel=1e-12)
    assert (low, high) == pytest.approx(expected, rel=1e-3)


def test_the_limit_of_the_biased_variance_is_the_unbiased_variance():
    rows = sample(15)
    values = values_of(lambda some: some.var(unbiased=False), rows, torch.arange(15))
    limit, low, high = jackknife_limit(values)
    assert limit == pytest.approx(rows.var().item(), rel=1e-12)
    assert high - low == pytest.approx(jackknife(values)[2] - jackknife(values)[1], rel=1e-12)


def test_the_limit_removes_a_bias_that_falls_with_the_sample_size():
    sizes = torch.tensor([200.0, *[190.0] * 20])
    assert jackknife_limit(3 + 70 / sizes)[0] == pytest.approx(3, abs=1e-4)


def test_intervals_over_blocks_have_nominal_coverage():
    blocks = assign_blocks(100)
    intervals = [jackknife(values_of(lambda some: some.mean() ** 2, 1 + sample(100, s), blocks)) for s in range(100)]
    covered = sum(low < 1 < high for _, low, high in intervals) / 100
    assert 0.89 < covered < 0.99


def test_few_blocks_have_no_interval():
    for num in (0, 1, 4):
        value, low, high = jackknife(sample(1 + num))
        assert value == sample(1 + num)[0]
        assert math.isnan(low)
        assert math.isnan(high)
        assert all(math.isnan(number) for number in jackknife_limit(sample(1 + num)))
    assert not any(math.isnan(number) for number in jackknife(sample(6)))


def test_blocks_have_equal_sizes_and_do_not_follow_the_row_order():
    for num_prompts in (1, 7, 20, 53, 200):
        blocks = assign_blocks(num_prompts)
        sizes = blocks.bincount()
        assert len(sizes) == min(num_prompts, NUM_BLOCKS)
        assert sizes.max() - sizes.min() <= 1
        assert torch.equal(blocks, assign_blocks(num_prompts))
    assert abs(stats.spearmanr(torch.arange(200), blocks).statistic) < 0.2
    assert not torch.equal(blocks, torch.arange(200) % NUM_BLOCKS)
    assert len(assign_blocks(0)) == 0


def test_without_blocks_all_rows_are_used():
    assert [kept.tolist() for kept in leave_out(3)] == [[True] * 3]
    masks = [kept.tolist() for kept in leave_out(3, torch.tensor([0, 1, 0]))]
    assert masks == [[True, True, True], [False, True, False], [True, False, True]]
