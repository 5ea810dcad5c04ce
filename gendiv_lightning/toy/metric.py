"""`PostcardTruth`: what only the embedded world tells: a caption's free factors and their entropy are known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from gendiv_lightning.errors import restated
from gendiv_lightning.functional.entropy import chao_wang_jost_entropy
from gendiv_lightning.metrics.base import PromptMetric
from gendiv_lightning.records import PromptSamples
from gendiv_lightning.toy import world
from gendiv_lightning.toy.captions import parse


class PostcardTruth(PromptMetric):
    """Fidelity and true diversity of postcards, read by the exact oracle (`toy.world.read`).

    - `postcards/stated_right`: share of the factors that the caption states which the images show.
    - `postcards/all_stated_right`: share of the images that show all of them.
    - `postcards/coherence`: share of the images within `world.COHERENT_RMS` of a valid postcard.
    - `postcards/free_entropy_bits`: entropy among a prompt's samples of each factor that the caption leaves free,
      summed over these factors (Chao-Wang-Jost per prompt and factor: few samples are enough for few values).
    - `postcards/free_entropy_true_bits`: what it would be for a perfect generator, exactly.
    - `postcards/free_entropy_share`: their ratio, prompt by prompt.
    - `postcards/h_total_true_bits`: H(image | caption) of a perfect generator, log2 of the number of postcards that the
      caption fits. Its wordings all mean the same, so a perfect generator has no prompt path.
    - `postcards/recall/sky`, `.../land_shape`, ...: the same ratio, factor by factor, of the prompts whose captions
      leave the factor free: 0 where all samples show one value, 1 where they are as diverse as they should be. It is
      not capped: the estimate of an entropy from a few samples errs upwards too, and then the ratio exceeds 1.

    A caption that leaves nothing free has no free entropy, and its prompt is left out of the three numbers about it.
    """

    title = "what postcards show, beside the exact truth"
    short = "coherence"
    needs = ("images", "prompt")
    higher_is_better = True

    @property
    def names(self) -> tuple[str, ...]:
        """See above."""
        numbers = ("stated_right", "all_stated_right", "coherence")
        entropies = ("free_entropy_bits", "free_entropy_true_bits", "free_entropy_share", "h_total_true_bits")
        recalls = (f"recall/{factor.replace(' ', '_')}" for factor in world.FACTORS)
        return tuple(f"postcards/{name}" for name in (*numbers, *entropies, *recalls))

    @override
    def describe(self) -> dict[str, dict[str, object]]:
        """Of the share of images that are valid postcards; the others are read beside their ground truth."""
        words = {"title": "share of valid postcards", "higher_is_better": self.higher_is_better}
        return {"postcards/coherence": {"short": self.short, **words}}

    @property
    def method(self) -> str:
        """Oracle and interval."""
        return "exact oracle of the embedded world, mean over prompts, 95 % BCa bootstrap over prompts"

    def check_prompts(self, texts: Sequence[str]) -> None:
        """Prompts outside the grammar of postcards have no truth."""
        for text in texts:
            try:
                parse(text)
            except ValueError as error:
                raise restated(
                    error,
                    f"PostcardTruth measures prompts of the embedded world only: {error}. Leave it out of the "
                    "metrics, or use the words of toy:postcards.jsonl",
                ) from error

    def measure(self, samples: PromptSamples) -> list[float]:
        """Read the images, compare with the caption."""
        stated = parse(samples.prompt)
        images, distances = world.read(samples.images)
        right = stated_right(images, stated)
        coherence = (distances < world.COHERENT_RMS).double().mean().item()
        free = [factor for factor, (group, _) in world.FACTORS.items() if group not in stated]
        shown = world.factors_of(images)
        entropies = {f: _entropy(shown[f]) for f in free if len(images) > 1}
        measured = sum(entropies.values()) if entropies else math.nan
        true = sum(world.factor_entropy(f) for f in free) if free else math.nan
        recalls = [entropies.get(f, math.nan) / world.factor_entropy(f) for f in world.FACTORS]
        return [
            right.double().mean().item(),
            right.all(1).double().mean().item(),
            coherence,
            measured,
            true,
            measured / true,
            sum(math.log2(len(values)) for group, values in world.GROUPS.items() if group not in stated),
            *recalls,
        ]


def stated_right(images: Tensor, stated: dict[str, int]) -> Tensor:
    """Which stated factors the images (B,) show, (B, number of stated factors) bool.

    An absent thing's colour and place count too.
    """
    shown = world.factors_of(images)
    wanted = world.factors_of(world.index_of(torch.tensor([[stated.get(group, 0) for group in world.GROUPS]])))
    factors = [factor for factor, (group, _) in world.FACTORS.items() if group in stated]
    return torch.stack([shown[factor] == wanted[factor] for factor in factors], dim=1)


def _entropy(values: Tensor) -> float:
    return float(chao_wang_jost_entropy(values.bincount()))
