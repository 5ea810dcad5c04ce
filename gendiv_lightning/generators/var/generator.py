"""VAR (Tian et al. 2024, arXiv 2404.02905): class labels to a pyramid of token grids, scale by scale, to images.

The sampling loop is `sample_next_scale`; `ScalePredictor` is what it asks. The networks are in `transformer.py` and
`tokenizer.py`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from gendiv_lightning.generators.var.tokenizer import Quantizer
from gendiv_lightning.generators.var.transformer import VAR, Cache
from gendiv_lightning.sampling import TokenSampler


def guidance_at(scale: int, num_scales: int, guidance: float) -> float:
    """Guidance of a scale: from 1, which is none, at the first one in a straight line to `guidance` at the last."""
    return 1 + (guidance - 1) * scale / (num_scales - 1)


class ScalePredictor:
    """The transformer with its cache, as the loop asks it: the guided logits of each scale in turn.

    Args:
        var: the transformer.
        quantizer: knows what the tokens of a scale add to the image.
        labels: (B,) class numbers.
        sampler: knows the guidance.
    """

    def __init__(self, var: VAR, quantizer: Quantizer, labels: Tensor, sampler: TokenSampler) -> None:
        self.var, self.quantizer, self.sampler, self.num_rows = var, quantizer, sampler, len(labels)
        null = torch.full_like(labels, var.config.num_classes)
        self.cache = Cache(var, torch.cat([labels, null]) if sampler.is_guided else labels)
        self.total: Tensor | None = None

    def __call__(self, before: Tensor, scale: int) -> Tensor:
        """Logits (B, n, K) of a scale, from the tokens (B, n') of the one before; scale 0 reads none."""
        logits = self.var.predict(self._inputs(before, scale), self.cache)
        if not self.sampler.is_guided:
            return logits
        guidance = guidance_at(scale, len(self.var.config.sides), self.sampler.guidance)
        return replace(self.sampler, guidance=guidance).guide(*logits.split(self.num_rows))

    def _inputs(self, before: Tensor, scale: int) -> Tensor:
        if scale == 0:
            return self.var.first_inputs(self.cache.label)
        added = self.quantizer.added(before, scale - 1)
        self.total = added if self.total is None else self.total + added
        inputs = self.var.inputs(self.quantizer.at_scale(self.total, scale), scale)
        return inputs.repeat(2, 1, 1) if self.sampler.is_guided else inputs
