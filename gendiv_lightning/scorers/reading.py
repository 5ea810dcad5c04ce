"""`ReadingScorer`: a vision-language model that reads a question and answers with a single token.

Notation: N images, V values of a question, A answers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor
from typing_extensions import override

from gendiv_lightning.errors import PromptError
from gendiv_lightning.records.questions import Question
from gendiv_lightning.scorers.base import ImageScorer

LETTERS = "ABCDEFGHIJKLMNOPQRST"  # endpoints report at most 20 tokens
YES_OR_NO = ("yes", "no")
AFFIRM = 'Does this figure show "{text}"? Please answer yes or no.'
CHOOSE = "{question}\n{options}\nAnswer with the letter of the best option only."


class ReadingScorer(ImageScorer):
    """A vision-language model; its probabilities are those of the first token of its answer.

    `affirm` is equation 1 of VQAScore: the probability of the answer "yes" to its question, summed over all tokens that
    are "yes" but for case and surrounding space. It is not divided by the sum of "yes" and "no", so it is low if the
    model wants to answer otherwise.
    Source: Lin et al., "Evaluating Text-to-Visual Generation with Image-to-Text Generation" (2024), equation 1.

    `choose` offers the values with letters, and divides the probability of each letter by their sum. A model may prefer
    the first options, so each image gets two questions, with the values in the given and in reversed order, and the two
    distributions are averaged.
    """

    @property
    def templates(self) -> dict[str, str]:
        """The templates of questions, part of the identity."""
        return {"affirm": AFFIRM, "choose": CHOOSE}

    @abstractmethod
    def probabilities_of(self, answers: Sequence[str], images: Tensor, text: str) -> Tensor:
        """Probabilities (N, A) float64 that the first token of the answer to a text is one of these answers.

        Case and surrounding space do not count. They need not sum to 1, but a row must not be 0.
        """

    @override
    def check(self, question: Question) -> None:
        if len(question.values) > len(LETTERS):
            raise PromptError(
                f"{question.name!r} must have at most {len(LETTERS)} values for a model that answers by letters, got "
                f"{len(question.values)}. Merge the rare ones into one value, such as 'other'"
            )

    @override
    def choose(self, images: Tensor, question: Question) -> Tensor:
        self.check(question)
        given = self._choose(images, question.words, question.values)
        reversed_order = self._choose(images, question.words, question.values[::-1])
        return (given + reversed_order.flip(1)) / 2

    @override
    def affirm(self, images: Tensor, text: str) -> Tensor:
        return self.probabilities_of(YES_OR_NO, images, AFFIRM.format(text=text))[:, 0].clamp(max=1)

    def _choose(self, images: Tensor, question: str, values: Sequence[str]) -> Tensor:
        letters = LETTERS[: len(values)]
        options = "\n".join(f"{letter}. {value}" for letter, value in zip(letters, values, strict=True))
        text = CHOOSE.format(question=question, options=options)
        found = self.probabilities_of(letters, images, text)
        return found / found.sum(1, keepdim=True)


def is_answer(token: str, answer: str) -> bool:
    """Whether a token is an answer, but for case and surrounding space."""
    return token.strip().casefold() == answer.casefold()
