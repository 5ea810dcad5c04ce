"""`ClipScorer`: zero-shot classification with CLIP."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from gendiv_lightning.errors import PromptError
from gendiv_lightning.features.clip import ClipFeatures
from gendiv_lightning.records.questions import Question
from gendiv_lightning.scorers.base import ImageScorer

LOGIT_SCALE = 100.0  # of all released CLIP models


class ClipScorer(ImageScorer):
    """Zero-shot classifier: a softmax over 100 cos of an image and the mean feature of each value's captions.

    Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021), section 3.1.

    Args:
        features: the CLIP.
    """

    features: ClipFeatures

    def __init__(self, features: ClipFeatures) -> None:
        self.features = features
        self._known = dict[Question, Tensor]()  # metrics ask the same questions about the images of many prompts

    @property
    @override
    def tag(self) -> str:
        return self.features.tag

    @override
    def identity(self) -> dict[str, object]:
        return {"scorer": "CLIP zero-shot", "scale": LOGIT_SCALE, **self.features.identity()}

    @override
    def load(self) -> None:
        self.features.load()

    @override
    def check(self, question: Question) -> None:
        anchors = self._anchors(question)
        for first in range(len(anchors)):
            for second in range(first):
                if torch.allclose(anchors[first], anchors[second], rtol=0, atol=1e-6):
                    raise PromptError(
                        f"{self.features.label} encodes the values {question.values[second]!r} and "
                        f"{question.values[first]!r} of {question.name!r} as the same text. Reword their captions"
                    )

    @override
    def choose(self, images: Tensor, question: Question) -> Tensor:
        cosines = self.features(images).double().cpu() @ self._anchors(question).T
        return (LOGIT_SCALE * cosines).softmax(-1)

    def _anchors(self, question: Question) -> Tensor:
        """Unit features (V, D) of the values, on the CPU."""
        if question not in self._known:
            self._known[question] = self._encode(question)
        return self._known[question]

    def _encode(self, question: Question) -> Tensor:
        captions = [question.captions_of(number) for number in range(len(question.values))]
        features = self.features.texts([text for texts in captions for text in texts]).double().cpu()
        means = torch.stack([part.mean(0) for part in features.split([len(texts) for texts in captions])])
        return F.normalize(means, dim=1)
