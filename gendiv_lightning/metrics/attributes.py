"""`Attributes`: how diverse images are in what their prompts leave open, and whether they show what these state."""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableSequence, Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from gendiv_lightning.attributes.lists import read_attributes
from gendiv_lightning.functional.entropy import chao_wang_jost_entropy, coverage
from gendiv_lightning.metrics.base import PromptMetric, metric_name
from gendiv_lightning.records import PromptSamples
from gendiv_lightning.records.questions import Question
from gendiv_lightning.scorers.base import ImageScorer


class Attributes(PromptMetric):
    """Diversity and fidelity of attributes, such as the colour of the car, as a scorer reads them off the images.

    The attribute list says which attributes a prompt leaves open and which values it states. Each sample gets the most
    probable value of each attribute. Per prompt, the means over its open attributes are

    - `attributes/entropy_bits`: entropy of the values among the samples, Chao-Wang-Jost.
    - `attributes/entropy_share`: the same divided by log2 of the number of values: 0 if all samples show one value, 1
      if all values are equally frequent. An estimate from few samples can exceed 1.
    - `attributes/coverage`: share of the values that occur among the samples. It grows with their number.

    and `attributes/total_entropy_bits` is the sum of the entropies, an upper bound of their joint entropy. The mean
    over stated attributes is

    - `attributes/agreement`: share of the samples that show the stated value.

    Numbers are NaN for a prompt with no open, or no stated, attribute. Entropies need two samples.

    Entropies are those of hard labels. The entropy of the mean probability adds the scorer's own uncertainty: it is not
    0 for equal images. Subtracting the mean entropy of the probabilities removes diversity that the scorer sees, but is
    not sure of. Hard labels are wrong only where the most probable value is, and how often that is can be measured
    (docs/studies/attributes.md).

    Args:
        scorer: the model that reads the images.
        list: attribute list, a file or a registered name, see `read_attributes`.
    """

    title = "diversity of the attributes that prompts leave open"
    short = "attribute entropy"
    needs = ("images", "prompt")

    shown: MutableSequence[Tensor]

    def __init__(self, scorer: ImageScorer, list: str) -> None:
        super().__init__()
        # (values of a prompt, 4) int64 each: indices of prompt, attribute and value, and the number of images.
        self.add_state("shown", default=[], dist_reduce_fx="cat")
        self.scorer, self.attributes = scorer, read_attributes(list)
        self.features = scorer.features

    @property
    @override
    def names(self) -> tuple[str, ...]:
        numbers = ("entropy_bits", "entropy_share", "total_entropy_bits", "coverage", "agreement")
        return tuple(metric_name(f"attributes/{number}", self.scorer.tag) for number in numbers)

    @property
    @override
    def method(self) -> str:
        return (
            f"most probable values by {self.scorer.tag}; entropy by Chao-Wang-Jost 2013, mean or sum over a prompt's "
            "open attributes, agreement over its stated ones; BCa bootstrap over prompts"
        )

    @override
    def identity(self) -> dict[str, object]:
        return {**super().identity(), "scorer": self.scorer.identity(), "list": self.attributes.identity}

    @override
    def describe(self) -> dict[str, dict[str, object]]:
        entropy, share, _, covered, agreement = self.names
        return {
            entropy: {"short": f"{self.short} [{self.scorer.tag}]", "title": self.title, "higher_is_better": None},
            share: {
                "short": f"attribute entropy / max [{self.scorer.tag}]",
                "title": "share of the largest possible entropy of open attributes",
                "higher_is_better": None,
            },
            covered: {
                "short": f"attribute coverage [{self.scorer.tag}]",
                "title": "share of the values of open attributes that occur",
                "higher_is_better": None,
            },
            agreement: {
                "short": f"attribute agreement [{self.scorer.tag}]",
                "title": "share of the images that show a stated value",
                "higher_is_better": True,
            },
        }

    @override
    def load(self) -> None:
        self.scorer.load()

    @override
    def check_prompts(self, texts: Sequence[str]) -> None:
        """Raise ValueError if the list does not have a prompt, or the scorer cannot answer one of its questions."""
        attributes = (attribute for text in texts for attribute in self.attributes.of(text))
        for question in dict.fromkeys(attribute.question for attribute in attributes):
            self.scorer.check(question)

    @override
    def empty_states(self) -> dict[str, Tensor]:
        return {**super().empty_states(), "shown": torch.zeros(0, 4, dtype=torch.int64)}

    def answers(self, texts: Mapping[int, str]) -> Sequence[dict[str, Any]]:
        """For each prompt, attribute and value the number of images that show it, by prompt index.

        Args:
            texts: the text of each measured prompt, by its index.
        """
        rows = sorted(row for part in self.shown for row in part.tolist())
        found = []
        for index, attribute, value, num_images in rows:
            question, stated = self.attributes.of(texts[index])[attribute]
            found.append(
                {
                    "prompt": texts[index],
                    "attribute": question.name,
                    "stated": stated,
                    "value": question.values[value],
                    "images": num_images,
                    "scorer": self.scorer.tag,
                }
            )
        return found

    @override
    def measure(self, samples: PromptSamples) -> list[float]:
        images = samples.images.to(self.device)
        entropies, shares, covered, agreements = list[float](), list[float](), list[float](), list[float]()
        for number, (question, stated) in enumerate(self.attributes.of(samples.prompt)):
            counts = value_counts(self.scorer, images, question)
            rows = [[samples.place, number, value, count] for value, count in enumerate(counts.tolist())]
            self.shown.append(torch.tensor(rows, device=self.device))
            if stated is not None:
                agreements.append(counts[question.values.index(stated)].item() / len(images))
                continue
            entropy = chao_wang_jost_entropy(counts).item() if len(images) > 1 else math.nan
            entropies.append(entropy)
            shares.append(entropy / math.log2(len(question.values)))
            covered.append(coverage(counts).item())
        total = sum(entropies) if entropies else math.nan
        return [_mean(entropies), _mean(shares), total, _mean(covered), _mean(agreements)]


def value_counts(scorer: ImageScorer, images: Tensor, question: Question) -> Tensor:
    """How many of the images (N, 3, H, W) uint8 show each of V values, (V,) int64, by their most probable value."""
    return scorer.choose(images, question).argmax(1).bincount(minlength=len(question.values)).cpu()


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers) if numbers else math.nan
