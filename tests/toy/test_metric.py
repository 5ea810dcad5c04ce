import math
import random

import pytest
import torch

from gendiv_lightning.functional.entropy import chao_wang_jost_entropy
from gendiv_lightning.records import PromptSamples
from gendiv_lightning.toy import captions, postcards
from gendiv_lightning.toy.metric import PostcardTruth

RECALL = {factor: f"postcards/recall/{factor.replace(' ', '_')}" for factor in postcards.FACTORS}


def draw_postcards(stated, num, *, seed=0, fixed=()):
    """Samples of a perfect generator, except that the groups in `fixed` always have their first value."""
    generator = torch.Generator().manual_seed(seed)
    columns = [
        torch.full((num,), stated.get(group, 0))
        if group in stated or group in fixed
        else torch.randint(len(values), (num,), generator=generator)
        for group, values in postcards.GROUPS.items()
    ]
    return postcards.render(postcards.index_of(torch.stack(columns, 1)))


def prompt(stated, num, index=0, **how):
    # Any caption with this meaning will do.
    text = captions.make_caption(stated, "medium", random.Random(0))
    return PromptSamples(draw_postcards(stated, num, **how), prompt=text, place=index)


def measured(*prompts):
    metric = PostcardTruth()
    for samples in prompts:
        metric.update(samples)
    return metric.compute()


@pytest.fixture(scope="module")
def perfect():
    return measured(prompt({"sky": 2, "light": 5}, 256))


def test_a_perfect_generator_is_correct_coherent_and_as_diverse_as_the_caption_allows(perfect):
    assert perfect["postcards/all_stated_right"].value == perfect["postcards/coherence"].value == 1
    free = [factor for factor, (group, _) in postcards.FACTORS.items() if group not in ("sky", "light")]
    expected = sum(postcards.factor_entropy(factor) for factor in free)
    assert perfect["postcards/free_entropy_true_bits"].value == pytest.approx(expected, rel=1e-12)
    assert perfect["postcards/free_entropy_share"].value == pytest.approx(1, abs=0.02)


def test_the_recall_of_a_perfect_generator_is_one_for_every_free_factor(perfect):
    for factor, (group, _) in postcards.FACTORS.items():
        recall = perfect[RECALL[factor]]
        if group in ("sky", "light"):
            assert math.isnan(recall.value)  # stated: nothing to recall
            assert recall.num_prompts == 0
        else:
            assert recall.value == pytest.approx(1, abs=0.04)


def test_the_recall_of_a_factor_is_its_entropy_relative_to_the_exact_entropy():
    samples = prompt({"ground": 1}, 12)
    values = postcards.factors_of(postcards.read(samples.images)[0])["object colour"]
    expected = chao_wang_jost_entropy(values.bincount()).item() / postcards.factor_entropy("object colour")
    assert measured(samples)["postcards/recall/object_colour"].value == pytest.approx(expected, rel=1e-12)


def test_a_constant_factor_is_detected_by_its_recall_only():
    estimates = measured(prompt({"ground": 1}, 64, fixed=("sky",)))
    assert estimates["postcards/recall/sky"].value == 0
    others = [factor for factor in postcards.FACTORS if factor not in ("sky", "ground")]
    assert all(estimates[RECALL[factor]].value > 0.9 for factor in others)
    assert estimates["postcards/all_stated_right"].value == 1


def test_recall_may_exceed_one_and_is_not_capped():
    samples = prompt({"ground": 1}, 6)
    skies = draw_postcards({"ground": 1}, 6, fixed=postcards.GROUPS)
    images = torch.stack([torch.tensor([sky, 1, 0, 0, 0]) for sky in range(6)])
    images = postcards.render(postcards.index_of(images))  # six samples, six skies: as if there were many more
    assert measured(samples._replace(images=images))["postcards/recall/sky"].value > 1.1
    assert measured(samples._replace(images=skies))["postcards/recall/sky"].value == 0


def test_a_prompt_counts_for_the_factors_that_its_caption_leaves_free():
    everything = {group: 1 for group in postcards.GROUPS}
    first, second = prompt({"sky": 2}, 8), prompt({"ground": 3}, 8, 1, seed=1)
    estimates = measured(first, second, prompt(everything, 8, 2), prompt({"ground": 3}, 1, 3))
    alone = measured(second)["postcards/recall/sky"]
    assert estimates["postcards/recall/sky"][:1] == alone[:1]
    assert estimates["postcards/recall/sky"][3:6] == (1, 8, 8)
    assert estimates["postcards/recall/object"][3:6] == (2, 16, 16)
    assert estimates["postcards/recall/object"].low <= estimates["postcards/recall/object"].value
    assert estimates["postcards/coherence"].num_prompts == 4


def test_the_names_are_unchanged_with_one_recall_per_factor():
    names = PostcardTruth().names
    assert names[:7] == tuple(
        f"postcards/{name}"
        for name in (
            "stated_right",
            "all_stated_right",
            "coherence",
            "free_entropy_bits",
            "free_entropy_true_bits",
            "free_entropy_share",
            "h_total_true_bits",
        )
    )
    assert set(names[7:]) == {*RECALL.values()}
    assert not any(" " in name for name in names)


def test_broken_images_are_incoherent():
    samples = prompt({"sky": 2}, 4)
    noise = torch.randint(0, 256, samples.images.shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert measured(samples._replace(images=noise))["postcards/coherence"].value == 0


def test_a_prompt_that_is_no_caption_counts_for_coherence_only_and_is_reported():
    samples = prompt({"sky": 2}, 4)
    PostcardTruth().check_prompts([samples.prompt])
    with pytest.warns(UserWarning, match=r"1 of 2 prompts are no captions of Postcards, such as 'an astronaut"):
        PostcardTruth().check_prompts([samples.prompt, "an astronaut on a horse"])
    both = measured(samples, samples._replace(prompt="an astronaut on a horse", place=1))
    assert both["postcards/coherence"].num_prompts == 2
    assert both["postcards/all_stated_right"] == measured(samples)["postcards/all_stated_right"]
