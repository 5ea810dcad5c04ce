"""`PostcardTruth`: fidelity and diversity of postcards, compared with the exact ground truth."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from gendiv_lightning.errors import PromptError
from gendiv_lightning.functional.entropy import chao_wang_jost_entropy
from gendiv_lightning.metrics.base import PromptMetric
from gendiv_lightning.records import PromptSamples
from gendiv_lightning.toy import postcards
from gendiv_lightning.toy.captions import parse


class PostcardTruth(PromptMetric):
    """Fidelity and true diversity of postcards, read by an exact classifier (`toy.postcards.read`).

    - `postcards/stated_right`: share of the stated factors that the images show, in [0, 1].
    - `postcards/all_stated_right`: share of the images that show all stated factors, in [0, 1].
    - `postcards/coherence`: share of the images within `postcards.COHERENT_RMS` of a valid postcard, in [0, 1].
    - `postcards/free_entropy_bits`: entropy of each factor that the caption leaves free among a prompt's samples,
      summed over these factors (Chao-Wang-Jost per prompt and factor, because factors have few values).
    - `postcards/free_entropy_true_bits`: the same for a perfect generator, exactly.
    - `postcards/free_entropy_share`: their ratio per prompt.
    - `postcards/h_total_true_bits`: H(image | caption) of a perfect generator, log2 of the number of postcards that the
      caption fits. All paraphrases have the same meaning, so a perfect generator has no prompt path.
    - `postcards/recall/sky`, `.../land_shape`, ...: the same ratio per factor, over the prompts whose captions leave
      the factor free: 0 if all samples show one value, 1 if they are as diverse as they should be. It is not capped:
      an entropy estimated from a small sample can be too high, and then the ratio exceeds 1.

    A caption that leaves nothing free has no free entropy, and its prompt is left out of the three numbers about it. A
    prompt that is no caption of Postcards has no ground truth, and counts only for `postcards/coherence`.
    """

    title = "content of postcards, compared with the exact ground truth"
    short = "coherence"
    needs = ("images", "prompt")
    higher_is_better = True

    @property
    def names(self) -> tuple[str, ...]:
        """Names in the order of the class description."""
        numbers = ("stated_right", "all_stated_right", "coherence")
        entropies = ("free_entropy_bits", "free_entropy_true_bits", "free_entropy_share", "h_total_true_bits")
        recalls = (f"recall/{factor.replace(' ', '_')}" for factor in postcards.FACTORS)
        return tuple(f"postcards/{name}" for name in (*numbers, *entropies, *recalls))

    @override
    def describe(self) -> dict[str, dict[str, object]]:
        """Shows the share of valid postcards; the other numbers need their ground truth beside them."""
        words = {"title": "share of valid postcards", "higher_is_better": self.higher_is_better}
        return {"postcards/coherence": {"short": self.short, **words}}

    @property
    def method(self) -> str:
        """Classifier and interval."""
        return "exact oracle of the embedded world, mean over prompts, 95 % BCa bootstrap over prompts"

    def check_prompts(self, texts: Sequence[str]) -> None:
        """Warn about prompts outside the grammar of postcards, which have no ground truth."""
        others = [text for text in texts if _meaning(text) is None]
        if others:
            warnings.warn(
                f"{len(others)} of {len(texts)} prompts are no captions of Postcards, such as {others[0][:60]!r}. They "
                "have no ground truth and count only for postcards/coherence",
                stacklevel=2,
            )

    def measure(self, samples: PromptSamples) -> list[float]:
        """Read the images and compare them with the caption."""
        stated = _meaning(samples.prompt)
        images, distances = postcards.read(samples.images)
        coherence = (distances < postcards.COHERENT_RMS).double().mean().item()
        if stated is None:
            return [coherence if name == "postcards/coherence" else math.nan for name in self.names]
        right = stated_right(images, stated)
        free = [factor for factor, (group, _) in postcards.FACTORS.items() if group not in stated]
        shown = postcards.factors_of(images)
        entropies = {f: _entropy(shown[f]) for f in free if len(images) > 1}
        measured = sum(entropies.values()) if entropies else math.nan
        true = sum(postcards.factor_entropy(f) for f in free) if free else math.nan
        recalls = [entropies.get(f, math.nan) / postcards.factor_entropy(f) for f in postcards.FACTORS]
        return [
            right.double().mean().item(),
            right.all(1).double().mean().item(),
            coherence,
            measured,
            true,
            measured / true,
            sum(math.log2(len(values)) for group, values in postcards.GROUPS.items() if group not in stated),
            *recalls,
        ]


def _meaning(text: str) -> dict[str, int] | None:
    """The groups that a caption states; None for a text that is no caption of Postcards."""
    try:
        return parse(text)
    except PromptError:
        return None


def stated_right(images: Tensor, stated: dict[str, int]) -> Tensor:
    """Which stated factors the images (B,) show, (B, number of stated factors) bool.

    The colour and place of an absent thing count too.
    """
    shown = postcards.factors_of(images)
    values = torch.tensor([[stated.get(group, 0) for group in postcards.GROUPS]])
    expected = postcards.factors_of(postcards.index_of(values))
    factors = [factor for factor, (group, _) in postcards.FACTORS.items() if group in stated]
    return torch.stack([shown[factor] == expected[factor] for factor in factors], dim=1)


def _entropy(values: Tensor) -> float:
    return float(chao_wang_jost_entropy(values.bincount()))
