"""`PlannedSampler`: the path consists of the tokens of a plan and the initial noise of the decoder.

Decisions are numbered consecutively: for a plan of L tokens, plan token i is decision i, the initial noise is decision
L, and scheduler step i is decision L + 1 + i.
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
    """Latent sampler whose path starts with a plan. Guidance applies to the decoder.

    Attributes:
        num_planned: number of plan tokens L.
        codebook_size: number of codebook entries K.
        temperature: divides the logits of plan tokens.
        top_k: number of entries to keep per plan token; None or 0 keeps all.
        top_p: probability mass to keep per plan token; 1 keeps all.
    """

    num_planned: int
    codebook_size: int
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0

    def plan_sampler(self, device: torch.device) -> TokenSampler:
        """Sampler of the plan tokens; it uses path noise, so that a frozen path has a single plan."""
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
        """Standard normals (B, ...) float32 of the decision after the plan."""
        return draw_normals(self.path, self.num_planned, shape, start)

    def decision(self, step: int) -> int:
        """Decision number of scheduler step 0, 1, ..., after the plan and the initial noise."""
        return self.num_planned + 1 + step

    def share(self, part: Part) -> Noise:
        """Share one part of the path noise among all samples of a paraphrase; the other part stays separate."""
        if part == "plan":
            return self.path.branch(self.num_planned)
        return replace(self.path.shared(), trunk=self.path.keys, branch_step=self.num_planned)
