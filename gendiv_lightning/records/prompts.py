"""`Prompt`: one meaning and its paraphrases."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

LENGTHS = ("short", "medium", "long")


class Paraphrase(NamedTuple):
    """A paraphrase of a prompt; `length` is its class by number of words (short <= 12 < medium <= 40 < long)."""

    text: str
    length: str


class Prompt(NamedTuple):
    """A prompt with its paraphrases; paraphrase 0 is the original text, paraphrases 1, 2, ... follow.

    Attributes:
        id: stable id, see `prompt_id`.
        text: the original prompt.
        paraphrases: further texts of the same meaning.
        source: origin of the prompt, such as the URL of its data set.
    """

    id: str
    text: str
    paraphrases: tuple[Paraphrase, ...] = ()
    source: str = ""

    def wording(self, number: int) -> str:
        """Text of paraphrase `number`: 0 is the original prompt, p > 0 the p-th paraphrase."""
        return self.text if number == 0 else self.paraphrases[number - 1].text


def length_class(text: str) -> str:
    """Length class of a text by its number of words: short <= 12 < medium <= 40 < long."""
    num_words = len(text.split())
    return "short" if num_words <= 12 else "medium" if num_words <= 40 else "long"


def prompt_id(text: str, prompt_set: str) -> str:
    """Stable id of a prompt: hash of its text (whitespace and case normalised) and the name of the prompt set."""
    normalised = " ".join(text.split()).lower()
    return hashlib.sha256(f"{prompt_set}\n{normalised}".encode()).hexdigest()[:16]
