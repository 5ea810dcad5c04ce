"""Scorers of postcards: the ground truth, and the toy's CLIP as a zero-shot classifier."""

import pytest
import torch

from gendiv_lightning.records.questions import Question
from gendiv_lightning.scorers.registry import scorer_of
from gendiv_lightning.toy import postcards
from gendiv_lightning.toy.captions import prompts
from gendiv_lightning.toy.scorer import PostcardScorer, postcard_attributes

INDICES = torch.arange(0, postcards.NUM_IMAGES, 997)
IMAGES = postcards.render(INDICES)


@pytest.mark.parametrize("attribute", postcard_attributes("blue sky"), ids=lambda a: a.question.name)
def test_the_ground_truth_reads_every_factor_of_a_postcard(attribute):
    chosen = PostcardScorer().choose(IMAGES, attribute.question)
    assert chosen.argmax(1).tolist() == postcards.factors_of(INDICES)[attribute.question.name].tolist()
    assert chosen.sum(1).eq(1).all()


def test_the_attributes_of_a_caption_state_what_it_states():
    stated = {a.question.name: a.stated for a in postcard_attributes("blue sky, red house left") if a.stated}
    assert stated == {"sky": "blue", "object": "house", "object colour": "red", "object place": "left"}


def test_the_ground_truth_affirms_only_captions_that_fit():
    prompt = prompts(1)[0]
    fits = PostcardScorer().affirm(IMAGES, prompt.text)
    attributes = [a for a in postcard_attributes(prompt.text) if a.stated is not None]
    right = torch.stack(
        [PostcardScorer().choose(IMAGES, a.question)[:, a.question.values.index(a.stated)] for a in attributes]
    )
    assert torch.equal(fits, right.prod(0))


def test_the_ground_truth_refuses_other_questions():
    with pytest.raises(ValueError, match="knows the factors of postcards only"):
        PostcardScorer().check(Question("sky", ("blue", "green")))


def test_clip_answers_with_probabilities_that_do_not_depend_on_the_batch():
    scorer = scorer_of("tiny-clip")()
    question = postcard_attributes("blue sky")[0].question
    scorer.check(question)
    chosen = scorer.choose(IMAGES, question)
    assert chosen.sum(1).allclose(torch.ones(len(IMAGES), dtype=torch.float64))
    assert torch.allclose(scorer.choose(IMAGES[:3], question), chosen[:3], rtol=0, atol=1e-6)
    right = postcards.factors_of(INDICES)["sky"]
    assert (chosen.argmax(1) == right).double().mean() > 0.9


def test_values_with_several_captions_are_not_beaten_by_one_that_has_a_single_caption():
    question = next(a.question for a in postcard_attributes("blue sky") if a.question.name == "object place")
    assert [len(captions) for captions in question.captions] == [1, 12, 12]
    chosen = scorer_of("tiny-clip")().choose(IMAGES, question).argmax(1)
    assert (chosen == 0).double().mean() < 0.15  # one in 25 postcards has no object


def test_repeating_the_captions_of_a_value_changes_nothing():
    scorer, question = scorer_of("tiny-clip")(), postcard_attributes("blue sky")[0].question
    again = question._replace(captions=tuple(captions * (1 + n % 3) for n, captions in enumerate(question.captions)))
    assert torch.allclose(scorer.choose(IMAGES, again), scorer.choose(IMAGES, question), rtol=0, atol=1e-6)


def test_clip_refuses_values_that_it_cannot_tell_apart():
    with pytest.raises(ValueError, match="same text"):
        scorer_of("tiny-clip")().check(Question("mood", ("gloomy", "cheerful")))


def test_clip_features_that_are_not_finite_are_an_error(monkeypatch):
    scorer = scorer_of("tiny-clip")()
    monkeypatch.setattr(type(scorer.features), "forward", lambda self, images: torch.full((len(images), 8), torch.nan))
    with pytest.raises(ValueError, match=r"CLIP features of the images: .* not finite"):
        scorer.choose(IMAGES, postcard_attributes("blue sky")[0].question)
