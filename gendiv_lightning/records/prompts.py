"""`Prompt`: one meaning and its paraphrases."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

LENGTHS = ("short", "medium", "long")


class Paraphrase(NamedTuple):
    """One more wording of a prompt; `length` is its class in words (short <= 12 < medium <= 40 < long)."""

    text: str
    length: str


class Prompt(NamedTuple):
    """One meaning: the base wording (wording 0), its paraphrases (wordings 1, 2, ...) and where it came from."""

    id: str
    text: str
    paraphrases: tuple[Paraphrase, ...] = ()
    source: str = ""

    def wording(self, number: int) -> str:
        """Text of wording `number`: 0 is the base prompt, p > 0 the p-th paraphrase."""
        return self.text if number == 0 else self.paraphrases[number - 1].text


def length_class(text: str) -> str:
    """Length class of a wording by its number of words: short <= 12 < medium <= 40 < long."""
    num_words = len(text.split())
    return "short" if num_words <= 12 else "medium" if num_words <= 40 else "long"


def prompt_id(text: str, prompt_set: str) -> str:
    """Stable id of a prompt: hash of its text (white space and case normalised) and of the prompt set's name."""
    normalised = " ".join(text.split()).lower()
    return hashlib.sha256(f"{prompt_set}\n{normalised}".encode()).hexdigest()[:16]
