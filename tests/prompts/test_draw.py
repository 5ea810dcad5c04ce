"""The draw of prompts: random, but determined by the seed and the prompts; every record is counted."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from gendiv_lightning.prompts import draw as prompt_pick
from gendiv_lightning.prompts.draw import in_words, pick_prompts
from gendiv_lightning.prompts.filters import PromptFilter
from gendiv_lightning.records import Prompt, length_class, prompt_id

WORDS = list("abcdefghijklmnopqrs")  # 19
ALL = PromptFilter()


def prompt(text, id=None, source="web"):
    return Prompt(id or prompt_id(text, "set"), text, source=source)


def stream(number, seed=0):
    """Captions of 4 to 60 words, no two alike."""
    rng = random.Random(seed)
    sources = ["DALL-E 3", "DALL-E 3", "Midjourney"]
    return [
        prompt(" ".join(rng.choices(WORDS, k=rng.choice([4, 20, 60]))), source=rng.choice(sources))
        for _ in range(number)
    ]


def pick(prompts, num, seed=0, keep=ALL, **settings):
    return pick_prompts(lambda: prompts, num, seed, keep=keep, **settings)


def shuffled(prompts, seed):
    return random.Random(seed).sample(prompts, len(prompts))


@pytest.mark.parametrize("stratify", [None, "length", "source"])
def test_a_draw_does_not_depend_on_the_order_of_the_stream(stratify):
    prompts = stream(300) + stream(40)  # some twice
    expected = pick(prompts, 30, stratify=stratify)
    for seed in range(3):
        assert pick(shuffled(prompts, seed), 30, stratify=stratify) == expected


def test_the_seed_changes_the_draw():
    prompts = stream(300)
    ids = [{p.id for p in pick(prompts, 30, seed).prompts} for seed in (0, 1)]
    assert len(ids[0] & ids[1]) < 15


def test_every_prompt_has_the_same_chance():
    """400 draws of 5 out of 20: a count is binomial with mean 100 and standard deviation 8.7."""
    prompts = [prompt(f"{word} alone") for word in WORDS] + [prompt("nothing")]
    drawn = Counter(p.text for seed in range(400) for p in pick(prompts, 5, seed).prompts)
    assert len(prompts) == 20
    assert all(abs(drawn[p.text] - 100) < 4.5 * 8.7 for p in prompts)


def test_an_image_with_more_captions_has_no_more_chances():
    few, many = [prompt("sun", "a")], [prompt(word, "b") for word in WORDS[1:]]
    drawn = Counter(pick(few + many, 1, seed).prompts[0].id for seed in range(400))
    assert abs(drawn["a"] - 200) < 4.5 * 10
    captions = Counter(pick(many, 1, seed).prompts[0].text for seed in range(400))
    assert captions.keys() == set(WORDS[1:])


def test_the_first_prompts_equal_a_smaller_draw():
    prompts = stream(300)
    assert pick(prompts, 50).prompts[:20] == pick(prompts, 20).prompts


def test_one_prompt_per_id_is_drawn_and_the_others_are_counted():
    prompts = [prompt(f"{place} {word}", id=str(place)) for place in range(4) for word in WORDS[:5]]
    found = pick(prompts, 4)
    assert sorted(p.id for p in found.prompts) == list("0123")
    assert found.counts["same_id"] + found.counts["not_drawn"] == 16


def test_outcomes_of_records_are_counted_and_add_up():
    prompts = [
        prompt("the sun over the hill"),
        prompt("The  sun over the hill"),
        prompt("the sun over the hills"),
        prompt("the sun over the hill", id="other"),
        prompt(""),
        prompt("der Mond über dem Haus und dem Baum"),
        prompt("a moon", source="elsewhere"),
        prompt("moon"),
        prompt("snow " * 30),
        prompt("the lamp"),
    ]
    keep = PromptFilter(("web",), min_words=2, max_words=20, english=True)
    counts = pick(prompts, 2, keep=keep).counts
    assert counts == {
        "read": 10,
        "empty": 1,
        "source": 1,
        "too_short": 1,
        "too_long": 1,
        "language": 1,
        "duplicate": counts["duplicate"],
        "same_id": 0,
        "near_duplicate": counts["near_duplicate"],
        "drawn": 2,
        "not_drawn": counts["not_drawn"],
    }
    assert counts["duplicate"] + counts["near_duplicate"] + counts["not_drawn"] == 3
    assert in_words({"read": 1200, "too_short": 0, "near_duplicate": 1}) == "1,200 read, 1 near duplicate"


@pytest.mark.parametrize("stratify", ["length", "source"])
def test_strata_get_equal_numbers(stratify):
    found = pick(stream(400), 20, stratify=stratify).prompts
    of = (lambda p: length_class(p.text)) if stratify == "length" else (lambda p: p.source)
    shares = Counter(map(of, found))
    expected = {"short": 7, "medium": 7, "long": 6} if stratify == "length" else {"DALL-E 3": 10, "Midjourney": 10}
    assert shares == expected


def test_near_duplicates_never_displace_other_prompts(monkeypatch):
    """So many that the candidates in memory are not enough, and the stream is read again with more."""
    readings = []

    def read():
        readings.append(1)
        return copies + others

    copies = [prompt(f"the sun over the hill and the old stone bridge {n}") for n in range(300)]
    others = [prompt(f"{word * 9} and nothing else") for word in WORDS[:4]]
    found = pick_prompts(read, 5, 0, keep=PromptFilter(), near_duplicates=0.7)
    assert len(readings) > 1
    assert {p.text for p in others} < {p.text for p in found.prompts}
    monkeypatch.setattr(prompt_pick, "SPARE", 1000)
    assert pick_prompts(read, 5, 0, keep=PromptFilter(), near_duplicates=0.7) == found


@pytest.mark.parametrize(
    ("num", "stratify", "message"),
    [
        (30, None, r"too few prompts pass the filters to draw 30: 20 \(20 read, 20 drawn\)"),
        (20, "source", r"to draw 20: 3 rare \(20 read, "),
    ],
)
def test_too_few_prompts_are_an_error_with_their_number(num, stratify, message):
    texts = [f"{word} {place}" for place, word in enumerate([*WORDS, "end"])]
    prompts = [prompt(text, source="rare" if place < 3 else "web") for place, text in enumerate(texts)]
    with pytest.raises(ValueError, match=message):
        pick(prompts, num, stratify=stratify)


def test_no_prompt_at_all_is_an_error_and_so_is_a_wrong_threshold_before_anything_is_read():
    with pytest.raises(ValueError, match=r"\(1 read, 1 empty\)"):
        pick([prompt("")], 1)
    with pytest.raises(ValueError, match="similarity"):
        pick(None, 1, near_duplicates=2)
