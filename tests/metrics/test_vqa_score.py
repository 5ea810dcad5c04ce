"""vqa_score by the ground truth of postcards: the share of images that show all that a caption states."""

import pytest
import torch

from gendiv_lightning.errors import PromptError
from gendiv_lightning.metrics.registry import make_metric
from gendiv_lightning.records import PromptSamples
from gendiv_lightning.scorers.base import ImageScorer
from gendiv_lightning.toy import postcards

PROMPT = "blue sky, green ground"
STATED = {"sky": "blue", "ground": "green"}


def images(num_right, num):
    """Postcards of which the first ones show the prompt."""
    indices = torch.arange(postcards.NUM_IMAGES)
    right = torch.ones(len(indices), dtype=torch.bool)
    for factor, name in STATED.items():
        right &= postcards.factors_of(indices)[factor] == postcards.factor_names(factor).index(name)
    chosen = torch.cat([indices[right][:num_right], indices[~right][: num - num_right]])
    return postcards.render(chosen)


def samples(place, num_right, num=4, prompt=PROMPT, **more):
    return PromptSamples(images(num_right, num), prompt=prompt, place=place, **more)


def test_the_score_is_the_mean_probability_over_samples_then_prompts():
    metric = make_metric("vqa_score[postcards]")
    metric.load()
    for place, num_right in enumerate((4, 3, 0)):
        metric.update(samples(place, num_right))
    estimate = metric.compute()["quality/vqa_score[postcards]"]
    assert estimate.value == pytest.approx((1 + 0.75 + 0) / 3)
    assert (estimate.num_prompts, estimate.num_samples) == (3, 12)
    assert estimate.low < estimate.value < estimate.high
    assert "base prompt" in estimate.method
    assert metric.columns()["quality/vqa_score[postcards]"].tolist() == [1, 0.75, 0]


def test_images_of_a_paraphrase_are_compared_with_the_original_prompt():
    metric = make_metric("vqa_score[postcards]")
    paraphrase = torch.tensor([0, 0, 1, 1])
    metric.update(samples(0, 4, paraphrase=paraphrase, texts=(PROMPT, PROMPT, "a corgi", "a corgi")))
    assert metric.compute()["quality/vqa_score[postcards]"].value == 1


@pytest.mark.parametrize(("text", "words"), [(" ", "one is empty"), ("a corgi", "a corgi")])
def test_a_prompt_that_cannot_be_asked_about_is_an_error_before_sampling(text, words):
    with pytest.raises(PromptError, match=words):
        make_metric("vqa_score[postcards]").check_prompts([PROMPT, text])


def test_the_identity_contains_that_of_the_scorer():
    assert make_metric("vqa_score[postcards]").identity()["scorer"] == {"scorer": "ground truth of postcards"}


def test_a_scorer_that_only_chooses_does_not_affirm():
    class Chooser(ImageScorer):
        tag = "chooser"

        def identity(self):
            return {}

        def choose(self, images, question):
            raise AssertionError

    assert not Chooser().affirms
    with pytest.raises(ValueError, match="'chooser' cannot answer yes or no"):
        Chooser().affirm(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "a cat")
