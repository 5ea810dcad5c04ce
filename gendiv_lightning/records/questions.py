"""`Question` and `Attribute`: what can be asked about the images of a prompt."""

from __future__ import annotations

from typing import NamedTuple


class Question(NamedTuple):
    """A question about an image, with a fixed list of answers.

    Attributes:
        name: the attribute, such as "colour of the car".
        values: at least two different answers, such as ("red", "blue", "other").
        text: the question in words, for models that read; empty means "What is the NAME?".
        captions: for each value, the captions of an image that shows it, for models that compare images with captions;
            empty means "NAME: VALUE".
    """

    name: str
    values: tuple[str, ...]
    text: str = ""
    captions: tuple[tuple[str, ...], ...] = ()

    @property
    def words(self) -> str:
        """The question in words."""
        return self.text or f"What is the {self.name}?"

    def captions_of(self, number: int) -> tuple[str, ...]:
        """The captions of value `number`."""
        return self.captions[number] if self.captions else (f"{self.name}: {self.values[number]}",)


class Attribute(NamedTuple):
    """A question about the images of one prompt, and the answer that the prompt states.

    Attributes:
        question: the question.
        stated: the stated value, one of `question.values`; None if the prompt leaves the attribute open.
    """

    question: Question
    stated: str | None = None
