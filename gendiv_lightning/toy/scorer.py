"""`PostcardScorer`, which reads postcards exactly, and the attributes of their captions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from gendiv_lightning.errors import PromptError
from gendiv_lightning.records.questions import Attribute, Question
from gendiv_lightning.scorers.base import ImageScorer
from gendiv_lightning.toy import postcards
from gendiv_lightning.toy.captions import parse, phrases


class PostcardScorer(ImageScorer):
    """The ground truth: the nine factors of a postcard, read exactly, with probabilities of 0 and 1."""

    tag = "postcards"

    @override
    def identity(self) -> dict[str, object]:
        return {"scorer": "ground truth of postcards"}

    @override
    def check(self, question: Question) -> None:
        if question.name not in postcards.FACTORS or question.values != postcards.factor_names(question.name):
            raise PromptError(
                f"the scorer 'postcards' knows the factors of postcards only, got {question.name!r} with the values "
                f"{', '.join(question.values)}. Use the attribute list 'postcards', or another scorer"
            )

    @override
    def check_text(self, text: str) -> None:
        parse(text)

    @override
    def choose(self, images: Tensor, question: Question) -> Tensor:
        self.check(question)
        shown = postcards.factors_of(postcards.read(images.cpu())[0])[question.name]
        return F.one_hot(shown, len(question.values)).double()

    @override
    def affirm(self, images: Tensor, text: str) -> Tensor:
        """1 if the image shows all that a caption of the grammar states, else 0."""
        stated = parse(text)
        values = postcards.values_of(postcards.read(images.cpu())[0])
        groups = list(postcards.GROUPS)
        right = [values[:, groups.index(group)] == value for group, value in stated.items()]
        return torch.stack(right).all(0).double() if right else torch.ones(len(images), dtype=torch.float64)


def postcard_attributes(prompt: str) -> tuple[Attribute, ...]:
    """The nine factors of a caption; those of a stated group have a stated value.

    Raises:
        PromptError: the prompt is not in the grammar.
    """
    stated = parse(prompt)
    return tuple(
        Attribute(_question(factor), postcards.GROUPS[group][stated[group]][position] if group in stated else None)
        for factor, (group, position) in postcards.FACTORS.items()
    )


def _question(factor: str) -> Question:
    group, position = postcards.FACTORS[factor]
    values = postcards.factor_names(factor)
    captions = tuple(
        tuple(phrases(group, options)[0] for options in postcards.GROUPS[group] if options[position] == value)
        for value in values
    )
    return Question(factor, values, captions=captions)
