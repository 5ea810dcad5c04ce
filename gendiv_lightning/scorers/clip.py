"""`ClipScorer`: zero-shot classification with CLIP."""

from __future__ import annotations

import math
from itertools import combinations

import torch
from torch import Tensor
from typing_extensions import override

from gendiv_lightning.errors import PromptError
from gendiv_lightning.features.clip import LOGIT_SCALE, ClipFeatures
from gendiv_lightning.functional.finite import check_finite
from gendiv_lightning.records.questions import Question
from gendiv_lightning.scorers.base import ImageScorer


class ClipScorer(ImageScorer):
    """Zero-shot classifier: the probability of a value is proportional to the mean of exp(100 cos) over its captions.

    The captions of a value are alternatives: an image need resemble only one of them. The mean feature of captions that
    differ, such as "a red house" and "a blue house", resembles none of them, and any single caption beats it.
    Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021), section 3.1;
    it averages the features of a class's captions (section 3.1.4), which suits captions that differ in style only.

    Args:
        features: the CLIP.
    """

    features: ClipFeatures

    def __init__(self, features: ClipFeatures) -> None:
        self.features = features
        self._known = dict[Question, list[Tensor]]()  # metrics ask the same questions about the images of many prompts

    @property
    @override
    def tag(self) -> str:
        return self.features.tag

    @override
    def identity(self) -> dict[str, object]:
        return {"scorer": "CLIP zero-shot, mean over captions", "scale": LOGIT_SCALE, **self.features.identity()}

    @override
    def load(self) -> None:
        self.features.load()

    @override
    def check(self, question: Question) -> None:
        values = zip(question.values, self._texts(question), strict=True)
        for (first, texts), (second, others) in combinations(values, 2):
            if (texts[:, None] - others).abs().amax(-1).min() <= 1e-6:
                raise PromptError(
                    f"{self.features.label} encodes a caption of {first!r} and one of {second!r}, values of "
                    f"{question.name!r}, as the same text. Reword their captions"
                )

    @override
    def choose(self, images: Tensor, question: Question) -> Tensor:
        features = check_finite(self.features(images), "the CLIP features of the images").double().cpu()
        logits = [
            (LOGIT_SCALE * features @ texts.T).logsumexp(1) - math.log(len(texts)) for texts in self._texts(question)
        ]
        return torch.stack(logits, 1).softmax(1)

    def _texts(self, question: Question) -> list[Tensor]:
        """Features (captions, D) of each value, on the CPU."""
        if question not in self._known:
            captions = [question.captions_of(number) for number in range(len(question.values))]
            features = self.features.texts([text for texts in captions for text in texts]).double().cpu()
            self._known[question] = list(features.split([len(texts) for texts in captions]))
        return self._known[question]
