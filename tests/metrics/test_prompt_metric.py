"""`PromptMetric`: rows and counts stay with their prompts, for any ranks and order."""

import math

import pytest
import torch

from gendiv_lightning.metrics.base import PromptMetric
from gendiv_lightning.records import PromptSamples


class Brightness(PromptMetric):
    """The mean pixel, and the same for prompts with more than one sample (NaN for others)."""

    title, short = "mean pixel", "brightness"
    names = ("brightness", "brightness/several")
    method = "mean over prompts"

    def measure(self, samples):
        mean = samples.images.double().mean().item()
        return [mean, mean if len(samples.images) > 1 else math.nan]


def prompt(index, num, num_paths=None):
    """A prompt with the given number of samples, whose pixels are 10 times its index."""
    path = None if num_paths is None else torch.arange(num) % num_paths
    return PromptSamples(torch.full((num, 3, 2, 2), 10 * index, dtype=torch.uint8), place=index, path=path)


# Index, samples, paths: all prompts have different numbers of samples, and one has a single sample.
PROMPTS = [(4, 7, 3), (0, 2, None), (3, 1, None), (1, 5, 2), (2, 4, 1)]


def measured(prompts):
    metric = Brightness()
    for settings in prompts:
        metric.update(prompt(*settings))
    return metric


@pytest.mark.parametrize("order", [PROMPTS, PROMPTS[::-1], sorted(PROMPTS)])
def test_excluded_prompts_do_not_shift_the_samples_of_others(order):
    whole, several = measured(order).compute().values()
    assert (whole.value, several.value) == pytest.approx((20, 17.5))
    assert (whole.num_prompts, whole.num_paths, whole.num_samples) == (5, 3 + 2 + 1 + 2 + 1, 19)
    assert (several.num_prompts, several.num_paths, several.num_samples) == (4, 3 + 2 + 2 + 1, 18)


def test_columns_and_sizes_are_ordered_by_prompt_index():
    metric = measured(PROMPTS)
    assert metric.columns()["brightness"].tolist() == [0, 10, 20, 30, 40]
    assert metric.columns()["brightness/several"].isnan().tolist() == [False, False, False, True, False]
    order, sizes, _ = metric.per_prompt()
    assert order.tolist() == [0, 1, 2, 3, 4]
    assert sizes.tolist() == [[2, 2], [2, 5], [1, 4], [1, 1], [3, 7]]


def test_merged_ranks_equal_a_single_process():
    first, second = measured(PROMPTS[::2]), measured(PROMPTS[1::2])
    first.merge_state(second)
    assert repr(first.compute()) == repr(measured(PROMPTS).compute())


def test_without_prompts_nothing_is_defined():
    with pytest.warns(UserWarning, match="before the ``update``"):
        estimates = Brightness().compute()
    assert all(math.isnan(e.value) and e[3:6] == (0, 0, 0) for e in estimates.values())
    assert [len(column) for column in Brightness().columns().values()] == [0, 0]
