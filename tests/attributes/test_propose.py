"""Attributes from a language model: valid answers are kept, others requested again, and all are cached."""

import json

import pytest

from gendiv_lightning.attributes.lists import read_attributes
from gendiv_lightning.attributes.propose import NUM_TRIES, Proposal, write_list
from gendiv_lightning.attributes.request import Request, read_answer
from gendiv_lightning.chat.model import LanguageModel
from gendiv_lightning.errors import PromptError
from gendiv_lightning.prompts.files import read_prompts
from gendiv_lightning.records import Paraphrase, Prompt
from gendiv_lightning.records.questions import Attribute, Question

PROMPTS = [Prompt("one", "a red car", (Paraphrase("red car", "short"),)), Prompt("two", "the sea")]
COLOUR = {
    "name": "colour of the car",
    "question": "What colour is the car?",
    "values": [{"value": "red", "caption": "a red car"}, {"value": "blue", "caption": "a blue car"}],
    "stated": "red",
}
WEATHER = {
    "name": "weather",
    "question": "What is the weather like?",
    "values": [{"value": "sunny", "caption": "in the sun"}, {"value": "rainy", "caption": "in the rain"}],
    "stated": None,
}
EXPECTED = (
    Attribute(
        Question("colour of the car", ("red", "blue"), "What colour is the car?", (("a red car",), ("a blue car",))),
        "red",
    ),
    Attribute(
        Question("weather", ("sunny", "rainy"), "What is the weather like?", (("in the sun",), ("in the rain",)))
    ),
)
ANSWER = json.dumps({"attributes": [COLOUR, WEATHER]})


class Script(LanguageModel):
    """Gives its answers about each prompt, one after the other, the last one for ever."""

    name = "script"

    def __init__(self, **answers):
        self.answers, self.requests = answers, []

    def identity(self):
        return {"model": self.name}

    async def answer(self, request):
        self.requests.append(request)
        answers = self.answers[request.prompt.split()[1]]
        return answers.pop(0) if len(answers) > 1 else answers[0]


@pytest.fixture(autouse=True)
def _empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("GENDIV_CACHE", str(tmp_path / "cache"))


def test_an_answer_is_read_with_captions_and_stated_values():
    assert read_answer(ANSWER, 2) == EXPECTED
    assert read_answer(f"<think>hm {{}}</think>\n```json\n{ANSWER}\n```", 2) == EXPECTED


@pytest.mark.parametrize(
    "answer",
    [
        "no JSON",
        "{}",
        '{"attributes": []}',
        '{"attributes": ["colour"]}',
        json.dumps({"attributes": [COLOUR] * 3}),
        json.dumps({"attributes": [COLOUR, COLOUR]}),
        json.dumps({"attributes": [{**COLOUR, "stated": "green"}]}),
        json.dumps({"attributes": [{**COLOUR, "values": COLOUR["values"][:1]}]}),
        json.dumps({"attributes": [{**COLOUR, "values": [{"value": "red"}, {"value": "blue"}]}]}),
        json.dumps({"attributes": [{**COLOUR, "name": "\ud800"}]}),
    ],
)
def test_other_answers_are_invalid(answer):
    with pytest.raises(ValueError, match=r"."):
        read_answer(answer, 2)


def test_the_prompt_is_inside_json_and_the_answer_has_a_schema():
    request = Request('say "yes"', 3)
    assert json.loads(request.messages[1]["content"]) == {"caption": 'say "yes"', "number": 3}
    assert request.schema["required"] == ["attributes"]


def test_invalid_answers_are_requested_again_with_other_seeds_and_nothing_twice():
    model = Script(red=["nonsense", "{}", ANSWER], sea=[json.dumps([WEATHER])])
    first, second = Proposal(model, 2, seed=1).propose(PROMPTS)
    assert (first.attributes, first.num_invalid) == (EXPECTED, 2)
    assert (second.attributes, second.num_invalid) == (EXPECTED[1:], 0)
    seeds = [request.seed for request in model.requests if request.prompt == "a red car"]
    assert seeds == [NUM_TRIES, NUM_TRIES + 1, NUM_TRIES + 2]
    again = Script()
    assert Proposal(again, 2, seed=1).propose(PROMPTS) == [first, second]
    assert not again.requests


def test_a_prompt_without_a_valid_answer_is_an_error_that_names_it():
    model = Script(red=[ANSWER], sea=["nonsense"])
    with pytest.raises(PromptError, match=r"1 of 2 prompts in 6 answers each, the first 'the sea': .*--seed"):
        Proposal(model, 2).propose(PROMPTS)
    assert len(model.requests) == 1 + NUM_TRIES


def test_the_list_is_a_prompt_set_and_an_attribute_list(tmp_path):
    found = Proposal(Script(red=[ANSWER], sea=[json.dumps([WEATHER])]), 2).propose(PROMPTS)
    write_list(tmp_path / "list.jsonl", found)
    attributes = read_attributes(tmp_path / "list.jsonl")
    assert attributes.prompts == ("a red car", "the sea")
    assert [attributes.of(prompt.text) for prompt in PROMPTS] == [EXPECTED, EXPECTED[1:]]
    assert [prompt._replace(source="") for prompt in read_prompts(tmp_path / "list.jsonl")] == PROMPTS
