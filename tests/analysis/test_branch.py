"""The curve of decisions by step: known answers, and the noise of every family under `Branch`."""

import math

import pytest
import torch

from gendiv_lightning.analysis.branch import branch_curve, decided_at
from gendiv_lightning.callbacks import Branch

PROMPTS = torch.rand(40, generator=torch.Generator().manual_seed(0)).double() + 1


def test_the_share_is_one_less_the_ratio_of_mean_distances() -> None:
    points = branch_curve({0: PROMPTS, 4: 0.25 * PROMPTS, 2: PROMPTS / 2, 9: torch.zeros(40)})
    assert [point.step for point in points] == [0, 2, 4, 9]
    assert [point.share for point in points] == pytest.approx([0, 0.5, 0.75, 1])
    for point in points:  # the ratio is the same in every prompt, so in every resample
        assert (point.low, point.high) == pytest.approx((point.share, point.share))


def test_the_interval_contains_the_share_and_widens_with_the_spread_over_prompts() -> None:
    noise = torch.rand(40, generator=torch.Generator().manual_seed(1)).double()
    _, narrow = branch_curve({0: PROMPTS, 1: PROMPTS * (0.5 + 0.1 * (noise - 0.5))})
    _, wide = branch_curve({0: PROMPTS, 1: PROMPTS * (0.5 + 0.9 * (noise - 0.5))})
    for point in (narrow, wide):
        assert point.low < point.share < point.high
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_without_independent_samples_there_is_no_curve() -> None:
    with pytest.raises(ValueError, match="needs step 0"):
        branch_curve({1: PROMPTS})
    with pytest.raises(ValueError, match="step 1 has 3 prompts, but step 0 has 40"):
        branch_curve({0: PROMPTS, 1: PROMPTS[:3]})


def test_equal_samples_have_no_share() -> None:
    assert math.isnan(branch_curve({0: torch.zeros(4), 1: torch.zeros(4)})[1].share)


def test_the_step_of_a_half_is_interpolated() -> None:
    points = branch_curve({0: PROMPTS, 2: 0.8 * PROMPTS, 6: 0.4 * PROMPTS})
    assert decided_at(points) == pytest.approx(2 + 4 * 0.3 / 0.4)
    assert math.isnan(decided_at(points, 0.9))


def test_a_branch_at_a_negative_step_is_an_error() -> None:
    with pytest.raises(ValueError, match="step must be at least 0, got -1"):
        Branch(-1)
