"""The grammar of postcard captions: writes captions for a meaning (the stated groups), and parses captions.

A caption is a list of phrases, joined by commas or "and"; each phrase states one group, or is a filler and states none.
Its length class is that of its words (short <= 12 < medium <= 40 < long), so one meaning has captions of every length.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection
from functools import lru_cache

import torch

from gendiv_lightning.errors import PromptError
from gendiv_lightning.records import Paraphrase, Prompt, length_class, prompt_id
from gendiv_lightning.toy.postcards import GROUPS, NUM_IMAGES, values_of

PROMPT_SET = "postcards"
NUM_HELD_OUT = 1024

_OPENERS = ("a postcard of", "a picture of", "a view with")
_FILLERS = (
    "this is an old postcard that a friend sent from a place far away",
    "someone painted this little scene with a steady hand a long time ago",
    "it is a quiet picture with clean lines that is pleasant to look at",
    "the paper is a bit worn at the corners but the view is still clear",
    "it would look good on any wall of a small room",
)


def phrases(group: str, value: tuple[str, ...]) -> tuple[str, ...]:
    """All phrases for one value of one group; the first is the shortest."""
    if group == "sky":
        return (f"{value[0]} sky", f"the {value[0]} sky", f"a sky in {value[0]}")
    if group == "ground":
        return (f"{value[0]} ground", f"the {value[0]} ground", f"a ground in {value[0]}")
    if group == "land":
        shape, colour = value
        if shape == "flat":
            return ("flat land", "no hills", "a flat land")
        if shape == "hills":
            return (f"two {colour} hills", f"a pair of {colour} hills", f"two hills in {colour}")
        return (f"{colour} {shape}", f"a {colour} {shape}", f"one {shape} in {colour}")
    if group == "light":
        kind, place = value
        if kind == "none":
            return ("no light", "no sun or moon", "an empty sky above")
        return (f"{place} {kind}", f"the {kind} at the {place}", f"a {kind} in the {place} of the sky")
    thing, colour, place = value
    if thing == "none":
        return ("no object", "nothing on the ground", "an empty ground below")
    return (
        f"{colour} {thing} {place}",
        f"a {colour} {thing} on the {place}",
        f"a {thing} in {colour} at the {place} side",
    )


@lru_cache
def _meaning_of_phrase() -> dict[str, tuple[str, int]]:
    return {
        phrase: (group, number)
        for group, values in GROUPS.items()
        for number, value in enumerate(values)
        for phrase in phrases(group, value)
    }


def make_caption(stated: dict[str, int], length: str, rng: random.Random) -> str:
    """Write a caption for a meaning in a length class; phrases, their order, openers and fillers are random.

    Args:
        stated: number of the value (see `postcards.GROUPS`) of each stated group; at least one group.
        length: "short", "medium" or "long".
        rng: source of randomness.
    """
    groups = rng.sample(list(stated), len(stated))
    options = [phrases(group, GROUPS[group][stated[group]]) for group in groups]
    if length == "short":
        text = ", ".join(rng.choice(ways) for ways in options)
        return text if length_class(text) == "short" else ", ".join(ways[0] for ways in options)
    text = rng.choice(options[0][1:])
    for ways in options[1:]:
        text += rng.choice((", ", " and ")) + rng.choice(ways[1:])
    text = f"{rng.choice(_OPENERS)} {text}"
    for filler in rng.sample(_FILLERS, len(_FILLERS)):
        if length_class(text) == length:
            return text
        text = f"{text}, {filler}" if rng.random() < 0.5 else f"{filler}, {text}"
    return text


def new_caption(stated: dict[str, int], length: str, rng: random.Random, known: Collection[str]) -> str | None:
    """A caption for a meaning that is not in `known`; None if none is found.

    A short caption of one group has only three forms.
    """
    candidates = (make_caption(stated, length, rng) for _ in range(100))
    return next((candidate for candidate in candidates if candidate not in known), None)


def parse(caption: str) -> dict[str, int]:
    """Parse a caption into its meaning: the number of the value of each stated group.

    Raises:
        ValueError: a phrase is not in the grammar.
    """
    stated = {}
    for piece in re.split(r", | and ", caption.strip().lower()):
        phrase = piece
        for opener in _OPENERS:
            phrase = phrase.removeprefix(f"{opener} ")
        if phrase in _FILLERS:
            continue
        if phrase not in _meaning_of_phrase():
            raise PromptError(f"{piece!r} is not a phrase of the postcard grammar, in the caption {caption!r}")
        group, value = _meaning_of_phrase()[phrase]
        stated[group] = value
    return stated


def vocabulary() -> list[str]:
    """All words of the grammar and the comma, sorted."""
    texts = [*_OPENERS, *_FILLERS, "and", *_meaning_of_phrase()]
    return [",", *sorted({word for text in texts for word in text.split()})]


def held_out() -> torch.Tensor:
    """The 1,024 images that no generator is trained on, which are used for evaluation."""
    return torch.randperm(NUM_IMAGES, generator=torch.Generator().manual_seed(2512_01831))[:NUM_HELD_OUT]


def meaning(image: int, num_stated: int, rng: random.Random) -> dict[str, int]:
    """A meaning that is true of an image: `num_stated` of its five groups, chosen by `rng`."""
    values = dict(zip(GROUPS, values_of(torch.tensor([image]))[0].tolist(), strict=True))
    return {group: values[group] for group in sorted(rng.sample(list(GROUPS), num_stated))}


def prompts(num_prompts: int, paraphrases_per_length: int = 3, seed: int = 0) -> list[Prompt]:
    """Prompts for held-out images, stating 1, 2, 3 and 5 groups in turn, with paraphrases of each length class."""
    rng = random.Random(seed)
    result: list[Prompt] = []
    for image in held_out()[:num_prompts].tolist():
        stated = meaning(image, (1, 2, 3, 5)[len(result) % 4], rng)
        text = make_caption(stated, "medium", rng)
        paraphrases: dict[str, Paraphrase] = {}
        for number in range(3 * paraphrases_per_length):
            length = ("short", "medium", "long")[number // paraphrases_per_length]
            caption = new_caption(stated, length, rng, {text, *paraphrases})
            if caption is not None:
                paraphrases[caption] = Paraphrase(caption, length)
        result.append(Prompt(prompt_id(text, PROMPT_SET), text, tuple(paraphrases.values()), PROMPT_SET))
    return result
