"""The masked sampling loop (MaskGIT, Chang et al. 2022; aMUSEd, Patil et al. 2024).

All masked tokens are drawn at each step (execution). The most confident ones are kept, with Gumbel noise added to their
confidences (path); the others are masked again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gendiv_lightning.errors import ConfigValueError
from gendiv_lightning.records import TokenSamples
from gendiv_lightning.sampling.sampler import TokenGrid, TokenSampler


@dataclass(frozen=True)
class MaskSchedule:
    """Number of masked tokens after each step, and scale of the noise that decides which tokens are kept.

    Attributes:
        num_steps: number of steps of the loop, at least 1.
        kind: the share of masked tokens after step i of n is cos(pi/2 (i+1)/n) for "cosine", 1 - (i+1)/n for "linear".
        temperature: scale of the Gumbel noise on the confidences at the first and the last step, linear in between.
    """

    num_steps: int = 12
    kind: Literal["cosine", "linear"] = "cosine"
    temperature: tuple[float, float] = (2.0, 0.0)

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ConfigValueError(f"num_steps must be at least 1, got {self.num_steps}")
        if self.kind not in ("cosine", "linear"):
            raise ConfigValueError(f'the mask schedule must be "cosine" or "linear", got {self.kind!r}')
        if len(self.temperature) != 2 or not all(math.isfinite(t) and t >= 0 for t in self.temperature):
            raise ConfigValueError(f"mask_temperature must be two numbers of at least 0, got {self.temperature}")

    def num_unknown(self, num_tokens: int) -> list[int]:
        """Number of masked tokens after each step, for an image of `num_tokens`; 0 after the last step.

        Every step keeps at least one token as long as more than one is masked.
        """
        # In float32 and in the order of the reference: a different rounding could change a count by one.
        ratio = torch.arange(1, self.num_steps + 1) / self.num_steps
        share = torch.cos(ratio * math.pi / 2) if self.kind == "cosine" else 1 - ratio
        counts, left = [], num_tokens
        for target in (num_tokens * share).floor().int().tolist()[:-1]:
            left = max(1, min(left - 1, target))
            counts.append(left)
        return [*counts, 0]

    def noise_scales(self) -> list[float]:
        """Scale of the Gumbel noise of each step."""
        return torch.linspace(*self.temperature, self.num_steps).tolist()


def sample_masked(
    predict: Callable[[Tensor], Tensor], sampler: TokenSampler, schedule: MaskSchedule, num_tokens: int, mask: int
) -> TokenSamples:
    """Sample B images, one per row of the sampler.

    Args:
        predict: the network: maps tokens (B, L), equal to `mask` where masked, to guided logits (B, L, K).
        sampler: draws tokens and chooses the positions that are kept.
        schedule: number of masked tokens after each step.
        num_tokens: number of image tokens L.
        mask: the mask token.
    """
    grid = TokenGrid(sampler, num_tokens, blank=mask)
    known = torch.zeros_like(grid.tokens, dtype=torch.bool)
    for step, (left, noise_scale) in enumerate(
        zip(schedule.num_unknown(num_tokens), schedule.noise_scales(), strict=True)
    ):
        rows, positions = (~known).nonzero(as_tuple=True)
        draw = sampler.draw_tokens(predict(grid.tokens)[rows, positions], step, rows, positions)
        confidence = torch.full(known.shape, -torch.inf, device=known.device)
        confidence[rows, positions] = draw.confidence
        num_stay = len(rows) // max(1, len(known)) - left
        stay = sampler.choose_positions(confidence, step, count=num_stay, noise_scale=noise_scale)
        grid.write(draw.take(stay[rows, positions]))
        known |= stay
        del draw  # frees its logits before those of the next step are allocated
    return grid.samples()
