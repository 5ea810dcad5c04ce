"""Diversity at equal quality: frontiers with known answers, gains and their intervals."""

import math

import pytest
import torch

from gendiv_lightning.functional.frontier import frontier, gain_at_equal_quality, mean_gain


def t(*values):
    return torch.tensor(values, dtype=torch.float64)


def columns(means, num=60, spread=0.1, seed=0):
    """Values (S, P) around the given means, with the same deviation for all settings of a prompt."""
    deviations = spread * torch.randn(num, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return t(*means)[:, None] + deviations - deviations.mean()


def test_between_two_settings_the_frontier_is_their_mixture():
    found = frontier(t(1, 3), t(8, 2), t(0, 1, 2, 2.5, 3, 3.1))
    assert found[:-1].tolist() == pytest.approx([8, 8, 5, 3.5, 2])
    assert found[-1].isnan(), "no setting has such a quality"


def test_a_setting_below_a_mixture_of_two_others_is_not_on_the_frontier():
    with_it, without = (frontier(t(1, *q), t(8, *d), t(1.5, 2)) for q, d in (((2, 3), (4, 2)), ((3,), (2,))))
    assert with_it.tolist() == without.tolist()
    above = frontier(t(1, 2, 3), t(8, 7, 2), t(1.5, 2.5))
    assert above.tolist() == pytest.approx([7.5, 4.5])


def test_a_frontier_is_non_increasing_and_independent_of_the_order_of_settings():
    generator = torch.Generator().manual_seed(0)
    quality, diversity = (torch.rand(5, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    at = torch.linspace(0, 1, 21, dtype=torch.float64).expand(5, -1)
    found = frontier(quality, diversity, at)
    known = found.nan_to_num(-1)
    assert (known.diff(dim=1) <= 1e-12).all()
    order = torch.randperm(7, generator=generator)
    torch.testing.assert_close(frontier(quality[:, order], diversity[:, order], at), found, equal_nan=True)


def test_a_gain_is_the_distance_to_the_frontier_at_the_quality_of_the_setting():
    quality, diversity = columns([1.0, 3.0]), columns([8.0, 2.0], seed=1)
    value, low, high = gain_at_equal_quality(columns([2.0])[0], columns([6.0], seed=1)[0], quality, diversity)
    assert value == pytest.approx(1)
    assert low <= 1 <= high
    assert high - low < 0.01, "deviations that all settings share cancel"
    beyond = gain_at_equal_quality(columns([4.0])[0], columns([1.0], seed=1)[0], quality, diversity)
    assert all(map(math.isnan, beyond))


def test_the_interval_of_a_gain_covers_it():
    covered = 0
    for trial in range(100):
        noise = [columns([0.0] * 2, num=40, spread=0.5, seed=10 * trial + k) for k in range(4)]
        quality, diversity = t(1, 3)[:, None] + noise[0], t(8, 2)[:, None] + noise[1]
        seeds = [
            torch.randn(40, generator=torch.Generator().manual_seed(10 * trial + k + 4)).double() for k in range(2)
        ]
        _, low, high = gain_at_equal_quality(2 + 0.3 * seeds[0], 6 + 0.3 * seeds[1], quality, diversity)
        covered += low <= 1 <= high
    assert covered >= 88


def test_the_mean_gain_is_the_area_over_the_shared_qualities():
    reference = columns([1.0, 3.0]), columns([8.0, 2.0], seed=1)
    shifted = columns([2.0, 4.0]), columns([7.0, 1.0], seed=1)  # two above it, from quality 2 to 3
    value, low, high = mean_gain(*shifted, *reference)
    assert value == pytest.approx(2)
    assert low == pytest.approx(2, abs=0.01)
    assert high == pytest.approx(2, abs=0.01)
    assert mean_gain(*reference, *reference)[0] == 0
    assert math.isnan(mean_gain(columns([5.0, 6.0]), columns([1.0, 2.0]), *reference)[0])


def test_prompts_with_nan_are_excluded_and_one_prompt_has_no_interval():
    quality, diversity = columns([1.0, 3.0], num=3), columns([8.0, 2.0], num=3)
    quality[0, 1:] = math.nan
    value, low, _ = gain_at_equal_quality(t(2, 2, 2), t(6, 6, 6), quality, diversity)
    assert math.isfinite(value)
    assert math.isnan(low)
    nothing = gain_at_equal_quality(t(2, 2, 2) * math.nan, t(6, 6, 6), quality, diversity)
    assert all(map(math.isnan, nothing))
