"""`ImageScorer`: a model that answers questions about images."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from gendiv_lightning.errors import MetricInputError
from gendiv_lightning.features.base import ImageFeatures
from gendiv_lightning.records.questions import Question


class ImageScorer(ABC):
    """Answers questions about images with probabilities. The answer for an image does not depend on its batch.

    To add one, implement `tag`, `identity` and `choose`; `affirm` if it reads free text, and `load` if it has weights.
    The plug-in group is `gendiv.scorers`; options in a metric's brackets are arguments of the constructor.

    Attributes:
        features: the feature network that it uses, which moves to the device of a metric; None if it uses none.
    """

    features: ImageFeatures | None = None

    @property
    @abstractmethod
    def tag(self) -> str:
        """Short name, shown in brackets after the name of a metric."""

    @abstractmethod
    def identity(self) -> dict[str, object]:
        """Everything that can change an answer, as plain values, without secrets."""

    def load(self) -> None:  # noqa: B027  not all have weights
        """Load everything that is required, before any expensive work; OSError if that is impossible."""

    def check(self, question: Question) -> None:  # noqa: B027  most answer any question
        """Raise ValueError if the scorer cannot answer a question; called before any expensive work."""

    def check_text(self, text: str) -> None:  # noqa: B027  most read any text
        """Raise ValueError if the scorer cannot read a text; called before any expensive work."""

    @property
    def affirms(self) -> bool:
        """Whether the scorer implements `affirm`."""
        return type(self).affirm is not ImageScorer.affirm

    @abstractmethod
    def choose(self, images: Tensor, question: Question) -> Tensor:
        """Probabilities (N, V) float64 of the question's V values for images (N, 3, H, W) uint8; rows sum to 1."""

    def affirm(self, images: Tensor, text: str) -> Tensor:
        """Probability (N,) float64 of "yes" to whether images (N, 3, H, W) uint8 show the text.

        Raises:
            MetricInputError: the scorer cannot answer such questions.
        """
        raise MetricInputError(f"the scorer {self.tag!r} cannot answer yes or no. Choose a vision-language model")
