"""`PlannedSampler`: a path in two parts, the tokens of a plan and then the initial noise of its decoder.

Decisions are numbered through: plan token i is decision i, the initial noise decision L, and step i of the scheduler
decision L + 1 + i, for a plan of L tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from gendiv_lightning.sampling.latents import LatentSampler, draw_normals
from gendiv_lightning.sampling.noise import Noise
from gendiv_lightning.sampling.sampler import TokenSampler

Part = Literal["plan", "decoder"]


@dataclass(frozen=True)
class PlannedSampler(LatentSampler):
    """A sampler of latents whose path begins with a plan. Guidance is the decoder's.

    Attributes:
        num_planned: L, tokens of the plan.
        codebook_size: K, entries that a plan token can have.
        temperature: divides the logits of plan tokens.
        top_k: entries kept per plan token; None or 0 keeps all.
        top_p: probability mass kept per plan token; 1 keeps all.
    """

    num_planned: int
    codebook_size: int
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0

    def plan_sampler(self, device: torch.device) -> TokenSampler:
        """The sampler of plan tokens, which draws them by path noise: a frozen path has one plan."""
        noise = self.path.to(device)
        return TokenSampler(
            noise,
            noise,
            self.codebook_size,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            observers=self.observers,
        )

    def initial_noise(self, shape: Sequence[int], start: int = 0) -> Tensor:
        """Standard normals (B, ...) float32 of the decision after the plan's."""
        return draw_normals(self.path, self.num_planned, shape, start)

    def decision(self, step: int) -> int:
        """Number of the decision that scheduler step 0, 1, ... is: after the plan and the initial noise."""
        return self.num_planned + 1 + step

    def share(self, part: Part) -> Noise:
        """Path noise with one part shared by all samples of a paraphrase, and the other part their own."""
        if part == "plan":
            return self.path.branch(self.num_planned)
        return replace(self.path.shared(), trunk=self.path.keys, branch_step=self.num_planned)
