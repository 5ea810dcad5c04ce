"""Attribute metrics: values computed by hand, and the ground truth of postcards."""

import json
import math

import pytest
import torch
from torch.nn import functional as F

from gendiv_lightning.errors import PromptError
from gendiv_lightning.functional.entropy import chao_wang_jost_entropy
from gendiv_lightning.metrics.attributes import Attributes
from gendiv_lightning.metrics.registry import make_metric
from gendiv_lightning.records import PromptSamples
from gendiv_lightning.scorers.base import ImageScorer
from gendiv_lightning.toy import captions, postcards
from gendiv_lightning.toy.metric import PostcardTruth


class FirstPixel(ImageScorer):
    """The value with the number of the first pixel, with a little doubt about all values."""

    tag = "pixel"

    def identity(self):
        return {"scorer": "first pixel"}

    def check(self, question):
        if len(question.values) > 4:
            raise PromptError(f"{question.name} has too many values")

    def choose(self, images, question):
        shown = F.one_hot(images[:, 0, 0, 0].long() % len(question.values), len(question.values))
        return 0.6 * shown.double() + 0.4 / len(question.values)


COLOURS = ["red", "green", "blue", "white"]
LIST = {
    "a car": [{"name": "colour", "values": COLOURS}, {"name": "age", "values": ["old", "new"]}],
    "a red car": [{"name": "colour", "values": COLOURS, "stated": "red"}],
    "a new red car": [
        {"name": "colour", "values": COLOURS, "stated": "red"},
        {"name": "age", "values": ["old", "new"], "stated": "new"},
    ],
}


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "list.jsonl"
    file.write_text("".join(json.dumps({"prompt": text, "attributes": items}) + "\n" for text, items in LIST.items()))
    return str(file)


def shows(prompt, *values, place=0):
    images = torch.tensor(values, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 12, 12)
    return PromptSamples(images.contiguous(), prompt=prompt, place=place)


def measured(path, *prompts):
    metric = Attributes(FirstPixel(), path)
    for place, samples in enumerate(prompts):
        metric.update(samples._replace(place=place))
    return {name.removeprefix("attributes/").removesuffix("[pixel]"): e for name, e in metric.compute().items()}


def test_the_numbers_of_a_prompt_are_those_computed_by_hand(path):
    """Colours red, red, green, blue of four; age by parity: old, old, new, old."""
    found = measured(path, shows("a car", 0, 0, 1, 2))
    colour, age = (chao_wang_jost_entropy(torch.tensor(counts)).item() for counts in ([2, 1, 1, 0], [3, 1]))
    assert found["entropy_bits"].value == pytest.approx((colour + age) / 2, rel=1e-12)
    assert found["total_entropy_bits"].value == pytest.approx(colour + age, rel=1e-12)
    assert found["entropy_share"].value == pytest.approx((colour / 2 + age) / 2, rel=1e-12)
    assert found["coverage"].value == (3 / 4 + 1) / 2
    assert math.isnan(found["agreement"].value)
    assert found["agreement"].num_prompts == 0


def test_agreement_is_the_share_of_samples_with_the_stated_value(path):
    found = measured(path, shows("a red car", 0, 0, 1, 0), shows("a new red car", 0, 1, 1, 3))
    assert found["agreement"].value == pytest.approx((3 / 4 + (1 / 4 + 3 / 4) / 2) / 2)
    assert math.isnan(found["entropy_bits"].value)
    assert found["agreement"].num_samples == 8


def test_equal_images_have_no_entropy_although_the_scorer_is_unsure(path):
    found = measured(path, shows("a car", *[2] * 6))
    assert found["entropy_bits"].value == pytest.approx(0, abs=1e-12)
    assert found["coverage"].value == (1 / 4 + 1 / 2) / 2


def test_the_answers_count_the_images_of_each_value(path):
    metric = Attributes(FirstPixel(), path)
    metric.update(shows("a red car", 0, 0, 1, 0, place=5))
    metric.update(shows("a car", 0, 3, place=2))
    answers = metric.answers({2: "a car", 5: "a red car"})
    assert [(row["attribute"], row["value"], row["images"]) for row in answers[:6]] == [
        *zip(["colour"] * 4, COLOURS, [1, 0, 0, 1], strict=True),
        ("age", "old", 1),
        ("age", "new", 1),
    ]
    expected = {"prompt": "a red car", "attribute": "colour", "stated": "red", "value": "red", "images": 3}
    assert answers[6] == {**expected, "scorer": "pixel"}
    assert Attributes(FirstPixel(), path).answers({}) == []


def test_one_sample_has_coverage_but_no_entropy(path):
    found = measured(path, shows("a car", 3))
    assert math.isnan(found["entropy_bits"].value)
    assert math.isnan(found["total_entropy_bits"].value)
    assert found["coverage"].value == (1 / 4 + 1 / 2) / 2


def test_a_prompt_without_attributes_enters_no_number(path, tmp_path):
    (tmp_path / "none.jsonl").write_text('{"prompt": "a car", "attributes": []}\n')
    found = measured(str(tmp_path / "none.jsonl"), shows("a car", 0, 1))
    assert all(math.isnan(estimate.value) and estimate.num_prompts == 0 for estimate in found.values())


def test_prompts_and_questions_are_checked_before_sampling(path, tmp_path):
    metric = Attributes(FirstPixel(), path)
    metric.check_prompts(["a car", "A new  red car"])
    with pytest.raises(PromptError, match="does not have the prompt 'a dog'"):
        metric.check_prompts(["a car", "a dog"])
    many = {"prompt": "a car", "attributes": [{"name": "kind", "values": list("abcde")}]}
    (tmp_path / "many.jsonl").write_text(json.dumps(many))
    with pytest.raises(PromptError, match="kind has too many values"):
        Attributes(FirstPixel(), str(tmp_path / "many.jsonl")).check_prompts(["a car"])


def test_the_identity_contains_list_and_scorer(path, tmp_path):
    identity = Attributes(FirstPixel(), path).identity()
    assert identity["scorer"] == {"scorer": "first pixel"}
    (tmp_path / "other.jsonl").write_text('{"prompt": "a car", "attributes": []}\n')
    assert identity["list"] != Attributes(FirstPixel(), str(tmp_path / "other.jsonl")).identity()["list"]


def test_only_agreement_has_a_direction(path):
    described = Attributes(FirstPixel(), path).describe()
    directions = {name: words["higher_is_better"] for name, words in described.items()}
    assert directions.pop("attributes/agreement[pixel]") is True
    assert set(directions.values()) == {None}


@pytest.fixture(scope="module")
def samples():
    """Twelve postcards of each of eight captions; a third show something that was not stated."""
    generator = torch.Generator().manual_seed(0)
    prompts = []
    for place, prompt in enumerate(captions.prompts(8)):
        stated = captions.parse(prompt.text)
        columns = []
        for group, values in postcards.GROUPS.items():
            drawn = torch.randint(len(values), (12,), generator=generator)
            keep = (torch.rand(12, generator=generator) > 1 / 3) & (group in stated)
            columns.append(torch.where(keep, stated.get(group, 0), drawn))
        images = postcards.render(postcards.index_of(torch.stack(columns, 1)))
        prompts.append(PromptSamples(images, prompt=prompt.text, place=place))
    return prompts


def columns(metric, samples):
    for prompt in samples:
        metric.update(prompt)
    return {name.partition("[")[0].partition("/")[2]: column for name, column in metric.columns().items()}


def assert_equal(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12, equal_nan=True)


def test_with_the_ground_truth_as_scorer_the_numbers_are_the_true_ones(samples):
    true = columns(PostcardTruth(), samples)
    found = columns(make_metric("attributes[postcards,list=postcards]"), samples)
    assert_equal(found["total_entropy_bits"], true["free_entropy_bits"])
    assert_equal(found["agreement"], true["stated_right"])
    assert found["entropy_bits"].isnan().sum() == 2  # the captions that state everything


@pytest.mark.parametrize("factor", ["sky", "object colour"])
def test_the_entropy_of_one_factor_is_its_recall(samples, factor, tmp_path):
    rows = []
    for prompt in samples:
        (item,) = (
            a
            for a in make_metric("attributes[postcards,list=postcards]").attributes.of(prompt.prompt)
            if a.question.name == factor
        )
        shown = {"name": factor, "values": item.question.values, "stated": item.stated}
        rows.append(json.dumps({"prompt": prompt.prompt, "attributes": [shown]}) + "\n")
    (tmp_path / "one.jsonl").write_text("".join(rows))
    found = columns(make_metric(f"attributes[postcards,list={tmp_path / 'one.jsonl'}]"), samples)
    true = columns(PostcardTruth(), samples)[f"recall/{factor.replace(' ', '_')}"]
    assert_equal(found["entropy_bits"] / postcards.factor_entropy(factor), true)


def test_the_ground_truth_refuses_a_list_of_other_attributes(path):
    with pytest.raises(PromptError, match="factors of postcards only"):
        make_metric(f"attributes[postcards,list={path}]").check_prompts(["a car"])


def test_scorer_and_list_must_be_named(path):
    with pytest.raises(ValueError, match="requires a scorer in brackets"):
        make_metric(f"attributes[list={path}]")
    with pytest.raises(ValueError, match="requires the option 'list'"):
        make_metric("attributes[tiny-clip]")
    with pytest.raises(ValueError, match="neither a file nor a registered name"):
        make_metric("attributes[tiny-clip,list=nothing.jsonl]")
