"""Answers are filtered, requested again and cached; the set is the same whatever fails in between."""

import json
import random
from collections import Counter

import pytest

from gendiv_lightning.prompts.paraphrase import generate as rewording
from gendiv_lightning.prompts.paraphrase.generate import NUM_ROUNDS, Judge, Rewording
from gendiv_lightning.prompts.paraphrase.request import Paraphraser
from gendiv_lightning.prompts.paraphrase.set_files import check_set, distribution, dropped
from gendiv_lightning.records import Paraphrase, Prompt, length_class
from gendiv_lightning.toy import captions
from gendiv_lightning.toy.grammar import Grammar

PROMPT = Prompt("one", "Blue sky, red house left.")
LONG = " ".join(["blue sky"] * 25)


class Overlap:
    """Share of the words of the prompt that a text contains."""

    name = "overlap"

    def score(self, prompt, text):
        words = set(rewording.normalise(prompt).split())
        return len(words & set(rewording.normalise(text).split())) / len(words)


class Script(Paraphraser):
    """Returns its answers one after the other, and records the requests."""

    name = "script"

    def __init__(self, *answers):
        self.answers, self.requests = list(answers), []

    def identity(self):
        return {"model": self.name}

    async def answer(self, request):
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, str) else json.dumps(answer)


@pytest.fixture(autouse=True)
def _empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("GENDIV_CACHE", str(tmp_path / "cache"))


def reword(script, *prompts, min_similarity=None, **settings):
    settings = {"per_prompt": 2, "length": "short", **settings}
    return Rewording(script, Judge([Overlap()], min_similarity), **settings).reword(prompts or [PROMPT])


def texts(reworded):
    return [scored.text for scored in reworded.paraphrases]


def test_unsuitable_texts_are_dropped_with_a_reason_and_requested_again():
    first = ["blue SKY; red house, left", "a blue sky", "A blue sky!", LONG, "no such thing"]
    script = Script(first, ["another blue sky"])
    (found,) = reword(script, min_similarity=0.2)
    assert texts(found) == ["a blue sky", "another blue sky"]
    assert (found.missing, found.prompt) == (0, PROMPT)
    assert found.dropped == {
        "copy of the prompt": 1,
        "duplicate": 1,
        "other length": 1,
        "below --min-similarity": 1,
    }
    again = script.requests[1]
    assert (again.number, again.avoid) == (1, tuple(first))
    assert again.seed != script.requests[0].seed


def test_a_text_that_was_rejected_once_is_not_accepted_later():
    (found,) = reword(Script(["no such thing", "a sky"], ["no such thing", "the sky"]), min_similarity=0.2)
    assert texts(found) == ["a sky", "the sky"]
    assert found.dropped == {"below --min-similarity": 1, "duplicate": 1}


def test_unreadable_answers_are_counted_and_requests_end():
    (found,) = reword(Script(["a sky"], *["I would rather not."] * NUM_ROUNDS))
    assert texts(found) == ["a sky"]
    assert found.missing == 1
    assert found.dropped == {"unreadable answer": NUM_ROUNDS - 1}


def test_surplus_paraphrases_are_ignored():
    assert texts(reword(Script([f"sky {n}" for n in range(5)]))[0]) == ["sky 0", "sky 1"]


@pytest.mark.parametrize("per_prompt", [1, 3, 8])
def test_mixed_lengths_are_split_evenly_shorter_ones_first(per_prompt):
    prompts = captions.prompts(12)
    for reworded in reword(Grammar(), *prompts, per_prompt=per_prompt, length="mixed"):
        lengths = [scored.length for scored in reworded.paraphrases]
        assert lengths == [length_class(text) for text in texts(reworded)]
        assert [lengths.count(name) for name in ("short", "medium", "long")] == [
            (per_prompt + 2) // 3,
            (per_prompt + 1) // 3,
            per_prompt // 3,
        ]
        assert len({rewording.normalise(text) for text in [reworded.prompt.text, *texts(reworded)]}) == per_prompt + 1


def test_the_grammar_keeps_the_meaning_and_draws_by_the_seed():
    prompts = captions.prompts(8)
    found = [reword(Grammar(), *prompts, length="medium", seed=seed) for seed in (0, 0, 1)]
    assert found[0] == found[1]
    assert found[0] != found[2]
    for reworded in (*found[0], *found[2]):
        for text in texts(reworded):
            assert captions.parse(text) == captions.parse(reworded.prompt.text)


def test_a_caption_outside_the_grammar_is_an_error():
    with pytest.raises(ValueError, match=r"a corgi.*postcard grammar"):
        reword(Grammar(), Prompt("one", "a corgi"))


def test_answered_requests_are_not_repeated():
    prompts = [PROMPT, Prompt("two", "green sky")]
    answers = [["sky 0", "sky 1"], ["sky 2"], ConnectionError("down")]
    with pytest.raises(ConnectionError):
        reword(Script(*answers), *prompts, concurrency=1)
    rest = Script(["sky 3", "sky 4"])
    found = reword(rest, *prompts, concurrency=1)
    assert [texts(reworded) for reworded in found] == [["sky 0", "sky 1"], ["sky 2", "sky 3"]]
    assert len(rest.requests) == 1
    assert found == reword(Script(), *prompts, concurrency=1)


def test_answers_that_were_cached_by_earlier_versions_are_found(tmp_path):
    reword(Script(["sky 0", "sky 1"]))
    (path,) = (tmp_path / "cache").rglob("*.json")
    key = "a527ce5b72e303af28791420fdf8b68f11e3e43c7e62892bfbf5095e7067c08c"
    assert path.relative_to(tmp_path / "cache").as_posix() == f"paraphrases/{key[:2]}/{key}.json"


@pytest.mark.parametrize("change", [{"seed": 1}, {"instruction": "other"}, {"length": "any"}, {"prompt": "other"}])
def test_another_request_has_another_answer(change):
    change = dict(change)
    reword(Script(["sky 0", "sky 1"]))
    prompt = Prompt("one", change.pop("prompt", PROMPT.text))
    if change.pop("length", None):
        (found,) = reword(Script([LONG, f"{LONG} a"]), prompt, length="long")
    else:
        (found,) = reword(Script(["sky 2", "sky 3"]), prompt, **change)
    assert found.missing == 0
    assert texts(found) != ["sky 0", "sky 1"]


def test_prompts_keep_their_order_with_any_concurrency():
    prompts = captions.prompts(16)
    found = [reword(Grammar(), *prompts, concurrency=number) for number in (1, 5, 50)]
    assert found[0] == found[1] == found[2]
    assert [reworded.prompt for reworded in found[0]] == prompts


def test_an_existing_set_is_filtered_by_the_same_rules():
    wordings = [("a blue sky", "short"), ("a blue  sky", "short"), (LONG, "short"), ("other", "short"), (LONG, "long")]
    prompt = Prompt("one", PROMPT.text, tuple(Paraphrase(*wording) for wording in wordings))
    found = check_set([prompt], Judge([Overlap()], 0.2))
    assert dropped(found) == {"below --min-similarity": 1, "duplicate": 2, "other length": 1}
    assert distribution(found)["overlap"]["short"]["paraphrases"] == 1


def test_duplicates_are_found_without_case_and_punctuation():
    rng = random.Random(0)
    for _ in range(50):
        text = captions.make_caption({"sky": 1, "light": 2}, "medium", rng)
        assert rewording.normalise(text) == rewording.normalise(f" {text.upper().replace(',', ' ;')}!")
    assert Counter(map(rewording.normalise, ["a b", "ab", "A-B"])) == {"a b": 2, "ab": 1}
