"""PERMANOVA, against explicit sums of squares and its nominal error rate."""

import pytest
import torch

from gendiv_lightning.functional.permanova import permanova


def squared_distances(points):
    return torch.cdist(points, points).square()


def prompt(seed, shift=0.0, num_groups=3, size=4):
    generator = torch.Generator().manual_seed(seed)
    groups = torch.arange(num_groups).repeat(size)
    centres = shift * torch.randn(num_groups, 5, generator=generator, dtype=torch.float64)
    points = centres[groups] + torch.randn(len(groups), 5, generator=generator, dtype=torch.float64)
    return points, groups


def test_the_statistic_is_the_ratio_of_mean_squares_in_feature_space():
    points, groups = prompt(0, shift=1)
    within = sum((points[groups == g] - points[groups == g].mean(0)).square().sum() for g in range(3))
    total = (points - points.mean(0)).square().sum()
    result = permanova([(squared_distances(points), groups)], 99)
    assert result.pseudo_f == pytest.approx(((total - within) / 2 / (within / 9)).item())
    assert result.share == pytest.approx((1 - within / total).item())


def test_differing_groups_are_detected_by_pooling_prompts_with_few_samples():
    prompts = [prompt(seed, shift=0.5) for seed in range(12)]
    assert permanova([(squared_distances(p), g) for p, g in prompts], 199).p_value == 1 / 200


def test_equal_groups_are_rejected_at_the_nominal_rate():
    p_values = [permanova([(squared_distances(p), g)], 99).p_value for p, g in map(prompt, range(200))]
    assert 0.01 < sum(p <= 0.05 for p in p_values) / 200 < 0.1


def test_prompts_with_one_group_are_excluded_and_no_prompts_are_an_error():
    points, groups = prompt(1, shift=2)
    alone = (squared_distances(points), torch.zeros(12, dtype=torch.int64))
    both = permanova([alone, (squared_distances(points), groups)], 99)
    assert both.pseudo_f == permanova([(squared_distances(points), groups)], 99).pseudo_f
    with pytest.raises(ValueError, match="no prompt"):
        permanova([alone])
