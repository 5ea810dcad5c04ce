import math

import numpy as np
import pytest
import torch
from scipy import stats

from gendiv_lightning.functional.bootstrap import bootstrap_mean


def test_the_interval_agrees_with_scipy_on_skewed_values():
    values = torch.from_numpy(np.random.default_rng(0).uniform(size=400) ** 3)
    value, low, high = bootstrap_mean(values, num_resamples=9999)
    reach = math.sqrt(400 / 399) * stats.t.ppf(0.975, 399)  # our quantiles are wider: SciPy at this level
    level = 2 * stats.norm.cdf(reach) - 1
    theirs = stats.bootstrap(
        (values.numpy(),), np.mean, method="BCa", confidence_level=level, rng=np.random.default_rng(1)
    )
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert value == pytest.approx(values.mean().item(), abs=1e-15)
    assert low == pytest.approx(theirs.confidence_interval.low, abs=0.04 * width)
    assert high == pytest.approx(theirs.confidence_interval.high, abs=0.04 * width)


def test_the_interval_of_skewed_values_is_skewed():
    values = torch.from_numpy(np.random.default_rng(0).uniform(size=60) ** 3)
    value, low, high = bootstrap_mean(values)
    assert high - value > value - low > 0


def test_a_single_outlier_does_not_skew_the_interval():
    values = torch.tensor([*[-1.0, 0.0, 1.0] * 5, 12.0])
    value, low, high = bootstrap_mean(values)
    assert high - value == pytest.approx(value - low)


def test_equal_seeds_give_equal_intervals_without_touching_the_global_generator():
    values = torch.rand(50, generator=torch.Generator().manual_seed(0))
    state = torch.random.get_rng_state()
    assert bootstrap_mean(values) == bootstrap_mean(values)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values)
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_chunk_of_resamples_does_not_change_the_result(monkeypatch):
    values = torch.rand(37, generator=torch.Generator().manual_seed(0))
    whole = bootstrap_mean(values, num_resamples=100)
    monkeypatch.setattr("gendiv_lightning.functional.bootstrap._CHUNK_DRAWS", 37 * 7)
    assert bootstrap_mean(values, num_resamples=100) == pytest.approx(whole, abs=1e-12)


def test_too_few_prompts_have_no_interval():
    assert all(math.isnan(number) for number in bootstrap_mean(torch.zeros(0)))
    value, low, high = bootstrap_mean(torch.tensor([0.25]))
    assert value == 0.25
    assert math.isnan(low)
    assert math.isnan(high)


def test_equal_values_have_an_interval_of_width_zero():
    assert bootstrap_mean(torch.full((7,), 0.1, dtype=torch.float64)) == (0.1, 0.1, 0.1)


@pytest.mark.parametrize("num_prompts", [16, 32])
@pytest.mark.parametrize(
    "draw",
    [
        np.random.Generator.standard_normal,
        lambda rng, size: rng.gamma(2.0, size=size) - 2,
        lambda rng, size: rng.standard_normal(size) * (0.2 + 2 * rng.uniform(size=size) ** 2),
    ],
    ids=["normal", "skewed", "uneven"],
)
def test_intervals_of_few_prompts_have_nominal_coverage(num_prompts, draw):
    draws = torch.from_numpy(draw(np.random.default_rng(0), size=(600, num_prompts)))
    intervals = [bootstrap_mean(row, num_resamples=500) for row in draws]
    share = sum(low <= 0 <= high for _, low, high in intervals) / len(intervals)
    assert 0.93 <= share <= 0.97


@pytest.mark.parametrize("num_prompts", [2, 3, 4])
def test_the_interval_of_two_to_four_prompts_is_the_range_of_the_values(num_prompts):
    values = torch.tensor([0.0, 0.0, 0.5, 1.0][-num_prompts:])
    value, low, high = bootstrap_mean(values)
    assert values.min() <= low < value < high <= values.max()


def test_a_level_outside_zero_and_one_is_an_error():
    with pytest.raises(ValueError, match=r"level .* got 95"):
        bootstrap_mean(torch.rand(3), level=95)
