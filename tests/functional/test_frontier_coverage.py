"""Gains at equal quality in simulated sweeps with known frontiers: bias and coverage of the intervals.

Sweeps have 5 settings and 16 prompts. Values of a prompt share a deviation in all settings, as paired runs do.
"""

import math

import pytest
import torch

from gendiv_lightning.functional.frontier import frontier, gain_at_equal_quality, mean_gain

NUM_PROMPTS = 16
SHARED = 0.3  # standard deviation of a prompt's quality and diversity that all settings share
CURVES = {  # quality and diversity of the settings, in units of their range
    "concave": ([0, 0.25, 0.5, 0.75, 1], [1, 0.97, 0.85, 0.6, 0.2]),
    "straight": ([0, 0.25, 0.5, 0.75, 1], [1, 0.75, 0.5, 0.25, 0]),
    "convex": ([0, 0.25, 0.5, 0.75, 1], [1, 0.55, 0.3, 0.1, 0]),
    "turning": ([0, 0.4, 0.8, 1, 0.8], [1, 0.9, 0.6, 0.2, 0.1]),  # too much of the knob costs quality as well
    "flat": ([0, 0.05, 0.1, 0.5, 1], [1, 1, 1, 0.98, 0.9]),
}
NOISE = [0.03, 0.1, 0.3]  # standard deviation of a prompt within a setting


def t(*values):
    return torch.tensor(values, dtype=torch.float64)


def measure(means, noise, shared, generator):
    """Values (S, P) of a simulated run of each setting."""
    return means[:, None] + shared + noise * torch.randn(len(means), NUM_PROMPTS, generator=generator).double()


def deviations(generator):
    return SHARED * torch.randn(2, NUM_PROMPTS, generator=generator).double()


def gains(curve, noise, num_trials):
    """Gains (num_trials, 3) of a setting in the middle of the sweep, and the true gain."""
    generator = torch.Generator().manual_seed(10 * list(CURVES).index(curve) + NOISE.index(noise))
    quality, diversity = (t(*values) for values in CURVES[curve])
    own = t(0.53), t(0.8)
    found = []
    for _ in range(num_trials):
        shared = deviations(generator)
        values = [measure(m, noise, d, generator) for m, d in zip(own, shared, strict=True)]
        reference = [measure(m, noise, d, generator) for m, d in zip((quality, diversity), shared, strict=True)]
        found.append(gain_at_equal_quality(values[0][0], values[1][0], *reference))
    return t(*found), (own[1] - frontier(quality, diversity, own[0])).item()


def areas(curve, noise, num_trials):
    """Mean gains (num_trials, 3) of a sweep of better settings over the curve, and the true one."""
    generator = torch.Generator().manual_seed(10 * list(CURVES).index(curve) + NOISE.index(noise))
    quality, diversity = (t(*values) for values in CURVES[curve])
    better = quality + 0.1, diversity + 0.05
    at = torch.linspace(0.1, 1, 100_001, dtype=torch.float64)  # the qualities that both reach
    truth = (frontier(*better, at) - frontier(quality, diversity, at)).mean().item()
    found = []
    for _ in range(num_trials):
        shared = deviations(generator)
        own = [measure(m, noise, d, generator) for m, d in zip(better, shared, strict=True)]
        reference = [measure(m, noise, d, generator) for m, d in zip((quality, diversity), shared, strict=True)]
        found.append(mean_gain(*own, *reference))
    return t(*found), truth


def summarize(found, truth):
    """Bias in standard errors, share of intervals that contain the truth, and number of intervals."""
    known = found[~found[:, 1].isnan()]
    covered = (known[:, 1] <= truth) & (truth <= known[:, 2])
    return ((known[:, 0].mean() - truth) / known[:, 0].std()).item(), covered.double().mean().item(), len(known)


def check(found, truth, bias):
    """Coverage is 90 to 97 % and the bias at most `bias`, up to 2.5 standard errors of the simulation."""
    measured_bias, coverage, num_known = summarize(found, truth)
    slack = 2.5 * math.sqrt(0.05 * 0.95 / len(found))
    assert num_known >= 0.95 * len(found)
    assert abs(measured_bias) < bias + 2.5 / math.sqrt(len(found))
    assert 0.9 - slack <= coverage <= 0.97 + slack


def test_a_gain_over_a_straight_line_is_covered_and_hardly_biased():
    """The hardest case: every pair of settings makes the same frontier, so the highest of all is too high."""
    check(*gains("straight", 0.1, 400), bias=0.5)


def test_a_gain_over_a_concave_curve_is_covered_and_unbiased():
    check(*gains("concave", 0.03, 400), bias=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("curve", CURVES)
def test_gains_are_covered_for_any_curve_and_noise(curve, noise):
    check(*gains(curve, noise, 1000), bias=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("curve", CURVES)
def test_areas_between_frontiers_are_covered_for_any_curve_and_noise(curve, noise):
    check(*areas(curve, noise, 200), bias=0.3)
