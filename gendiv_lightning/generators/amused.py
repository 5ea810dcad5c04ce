"""aMUSEd (Patil et al. 2024, arXiv 2401.01808): a masked image model on diffusers' `UVit2DModel` and `VQModel`.

The sampling loop is in `sampling/masked.py`.
"""

from __future__ import annotations

import math
from itertools import count
from typing import Literal

import torch
from torch import Tensor

from gendiv_lightning.errors import ConfigValueError
from gendiv_lightning.generators.base import Chance
from gendiv_lightning.generators.diffusers_base import Conditions, PipelineGenerator, Size
from gendiv_lightning.records import TokenSamples
from gendiv_lightning.sampling import TokenSampler
from gendiv_lightning.sampling.branches import run_branches
from gendiv_lightning.sampling.masked import MaskSchedule, sample_masked
from gendiv_lightning.weights.diffusers_folder import PipelineFolder

SIZES = {"amused-256": Size(8192, 16), "amused-512": Size(8192, 32)}


class Amused(PipelineGenerator):
    """aMUSEd, text-to-image at 256 or 512 pixels.

    The path is which tokens are kept at each step; execution is which token each masked position gets.

    Args:
        checkpoint: `amused/amused-256`, `amused/amused-512`, a folder with the same layout, or `toy:amused`.
        size: released model that the checkpoint must be; None reads the size from the checkpoint.
        dtype: dtype of transformer and text encoder; the image tokenizer always runs in float32.
        num_steps: number of sampling steps (official: 12).
        mask_schedule: schedule of the share of masked tokens (official: cosine).
        mask_temperature: scale of the Gumbel noise on the confidences at the first and the last step; this is the path
            noise (official: 2 to 0).
        guidance_scale: scale of classifier-free guidance; values of at most 1 turn it off (official: 10).
        temperature: divides the logits (official: 1).
        top_k: number of most probable tokens to keep; 0 keeps all.
        top_p: nucleus threshold; 1 keeps all.
        aesthetic_score: micro-condition (official: 6).
        crop: micro-condition, top-left corner (official: 0, 0).
        batch_size: number of images sampled together. In float32 it affects speed and memory but not samples; in half
            precision it is part of the run's fingerprint, because logits can depend on the number of rows.
    """

    family, title = "amused", "aMUSEd"
    chance = Chance(path="which drawn tokens stay at each step", execution="which token each unknown position gets")
    pixel_range = (0.0, 1.0)
    advice = "  or, to run the toy model now:   gendiv fit-free predict --config configs/tiny/amused.yaml"

    def __init__(
        self,
        checkpoint: str = "amused/amused-256",
        size: Literal["amused-256", "amused-512"] | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        num_steps: int = 12,
        mask_schedule: Literal["cosine", "linear"] = "cosine",
        mask_temperature: tuple[float, float] = (2.0, 0.0),
        guidance_scale: float = 10.0,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        aesthetic_score: float = 6.0,
        crop: tuple[int, int] = (0, 0),
        batch_size: int = 16,
    ) -> None:
        super().__init__(
            checkpoint=checkpoint,
            size=SIZES[size] if size else None,
            dtype=dtype,
            guidance_scale=guidance_scale,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            batch_size=batch_size,
        )
        if min(crop) < 0:
            raise ConfigValueError(
                f"crop must be two numbers of pixels of at least 0, got {list(crop)}. (0, 0) crops nothing"
            )
        self.schedule = MaskSchedule(num_steps, mask_schedule, mask_temperature)
        self.size, self.crop, self.aesthetic_score = size, crop, aesthetic_score

    def check_folder(self, folder: PipelineFolder) -> None:
        """Check the transformer's codebook, and read its micro-conditions and the mask token."""
        folder.check("transformer", {"codebook_size": self.codebook_size}, "checkpoint")
        self.micro_conditions = (*[float(self.pixels)] * 2, *map(float, self.crop), float(self.aesthetic_score))
        self.mask = int(folder.setting("scheduler", "mask_token_id"))
        if self.schedule.num_steps > math.prod(self.grid):
            raise ConfigValueError(
                f"num_steps must be at most {math.prod(self.grid)}, the number of tokens per image, got "
                f"{self.schedule.num_steps}. Each step decides at least one token"
            )

    def size_name(self) -> str:
        """Name of the released model, if given as `size`."""
        return (self.size or "").removeprefix("amused-")

    def identity(self) -> dict[str, object]:
        """Weight hashes and sampling settings."""
        schedule = {"num_steps": self.schedule.num_steps, "mask_schedule": self.schedule.kind}
        return {
            **super().identity(),
            **schedule,
            "mask_temperature": list(self.schedule.temperature),
            "micro_conditions": list(self.micro_conditions),
        }

    def load(self) -> None:
        """Load all parts."""
        from diffusers import UVit2DModel
        from transformers import CLIPTextModelWithProjection

        self.load_pipeline(
            CLIPTextModelWithProjection, lambda dtype: self.folder.load(UVit2DModel, "transformer", dtype)
        )

    def encode_text(self, text: str) -> tuple[Tensor, Tensor]:
        """The second-to-last hidden states (1, context, D) and the projected state of the end token (1, D)."""
        outputs = self.text_encoder(self.tokenizer(text).to(self.device), output_hidden_states=True)
        return outputs.hidden_states[-2], outputs.text_embeds

    def sample_tokens(self, conditions: Conditions, sampler: TokenSampler) -> TokenSamples:
        """Sample with `sample_masked`."""
        states, pooled = self.condition_rows(conditions, sampler)
        micro = torch.tensor([self.micro_conditions], dtype=states.dtype, device=self.device).expand(len(states), -1)

        steps = count()

        def predict(tokens: Tensor) -> Tensor:
            grids = tokens.unflatten(1, self.grid).repeat(len(states) // len(tokens), 1, 1)
            branches = self.branches(sampler, next(steps))
            logits = run_branches(self.transformer, branches, grids, states, pooled, micro)
            logits = logits.flatten(2).transpose(1, 2)
            if not sampler.is_guided:
                return logits
            null, conditional = logits.chunk(2)
            return sampler.guide(conditional, null)

        return sample_masked(predict, sampler, self.schedule, math.prod(self.grid), self.mask)
