"""Filters of prompts: the reasons for dropping, texts that look English, and near-duplicates versus all pairs."""

from __future__ import annotations

import random

import pytest

from gendiv_lightning.prompts.filters import LANGUAGES, NearDuplicates, PromptFilter, _jaccard, _shingles, looks_english
from gendiv_lightning.records import Prompt


@pytest.mark.parametrize(
    ("text", "source", "reason"),
    [
        ("a red house by the sea", "DALL-E 3", None),
        (" \n", "DALL-E 3", "empty"),
        ("a red house", "Midjourney", "source"),
        ("a house", "dall-e", "too_short"),
        ("one two three four five six seven", "DALL-E 3", "too_long"),
        ("ein Haus auf dem Hügel", "DALL-E 3", "language"),
    ],
)
def test_the_first_reason_to_drop_a_prompt_is_returned(text, source, reason):
    keep = PromptFilter(("DALL",), min_words=3, max_words=6, english=True)
    assert keep.reason(Prompt("1", text, source=source)) == reason
    assert PromptFilter().reason(Prompt("1", text, source=source)) == (reason if reason == "empty" else None)


@pytest.mark.parametrize(
    "text",
    [
        "Ein roter Hund sitzt auf dem Tisch und schaut in die Ferne",
        "Een hond ligt op het gras naast een boom",
        "Un chien est assis sur une chaise près de la fenêtre",
        "Una mujer camina por la playa con el perro",
        "Uma mulher anda na praia com os filhos",
        "Il gatto dorme sulla sedia con gli occhi chiusi",
        "красный дом на холме",
        "一只红色的狗坐在草地上",
        "a house κόκκινο σπίτι στο λόφο",
    ],
)
def test_captions_in_other_languages_do_not_look_english(text):
    assert not looks_english(text)


@pytest.mark.parametrize(
    "text",
    [
        "red house",
        "a café in the old town, très chic",
        "El Capitan by Ansel Adams",
        "der Mann",
        "42",
        "π and its digits",
    ],
)
def test_names_numbers_and_short_texts_pass(text):
    assert looks_english(text)


def test_common_words_of_other_languages_are_not_english_words():
    assert all(not words & LANGUAGES["English"] for name, words in LANGUAGES.items() if name != "English")


def texts(number):
    """Sentences, and copies of some of them with a word changed."""
    rng = random.Random(0)
    words = [" ".join(rng.choices("abcdefghij", k=rng.randint(2, 7))).replace(" ", "") for _ in range(200)]
    found = []
    for _ in range(number):
        if found and rng.random() < 0.5:
            changed = rng.choice(found).split()
            changed[rng.randrange(len(changed))] = rng.choice(words)
            found.append(" ".join(changed))
        else:
            found.append(" ".join(rng.choices(words, k=rng.randint(5, 20))))
    return found


@pytest.mark.parametrize("threshold", [0.5, 0.8, 1.0])
def test_near_duplicates_equal_those_of_a_comparison_of_all_pairs(threshold):
    near, kept, expected = NearDuplicates(threshold), [], []
    for text in texts(300):
        shingles = _shingles(text)
        expected.append(all(_jaccard(shingles, other) < threshold for other in kept))
        if expected[-1]:
            kept.append(shingles)
    assert [NearDuplicates.add(near, text) for text in texts(300)] == expected
    assert 0 < expected.count(False) < 300


def test_case_punctuation_and_white_space_make_no_difference():
    near = NearDuplicates(1.0)
    assert [near.add(text) for text in ("A red house.", "a  RED house", "?!", "?!", "a red horse")] == [
        True,
        False,
        True,
        False,
        True,
    ]


@pytest.mark.parametrize("threshold", [0, 0.05, 1.1])
def test_an_impossible_threshold_is_an_error(threshold):
    with pytest.raises(ValueError, match=r"in \[0\.1, 1\]"):
        NearDuplicates(threshold)
