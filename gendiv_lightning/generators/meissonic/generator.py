"""Meissonic (Bai et al. 2024, arXiv 2410.08261): a masked image model at 1024 pixels, 4,096 tokens.

The sampling loop is in `sampling/masked.py`, the network in `transformer.py`. Text encoder and image tokenizer are
those of transformers and diffusers.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from gendiv_lightning.errors import ConfigValueError, WrongWeightsError
from gendiv_lightning.generators.base import Chance, Precision
from gendiv_lightning.generators.diffusers_base import Conditions, PipelineGenerator, Size
from gendiv_lightning.generators.meissonic.transformer import MeissonicConfig, MeissonicTransformer
from gendiv_lightning.records import TokenSamples
from gendiv_lightning.sampling import TokenSampler
from gendiv_lightning.sampling.masked import MaskSchedule, sample_masked
from gendiv_lightning.weights.diffusers_folder import PipelineFolder, read_weights
from gendiv_lightning.weights.load import load_strictly

PIXELS_PER_TOKEN = 16
SIZES = {"meissonic-1024": Size(8192, 64)}


class MeissonicPredictor:
    """The network for the sampling loop, called once per step; it counts the remaining steps.

    Args:
        transformer: the network.
        conditions: features (R, T, C), vectors (R, D) and micro-conditions (R, 5) of B rows, preceded by those of B
            null rows under guidance.
        sampler: sampler with the guidance scale.
        num_steps: number of steps of the loop.
    """

    def __init__(
        self,
        transformer: MeissonicTransformer,
        conditions: tuple[Tensor, Tensor, Tensor],
        sampler: TokenSampler,
        num_steps: int,
    ) -> None:
        self.transformer, self.conditions, self.sampler, self.left = transformer, conditions, sampler, num_steps

    def __call__(self, tokens: Tensor) -> Tensor:
        """Guided logits (B, L, K) of tokens (B, L)."""
        self.left -= 1
        side, num_rows = math.isqrt(tokens.shape[1]), len(self.conditions[0])
        grids = tokens.unflatten(1, (side, side)).repeat(num_rows // len(tokens), 1, 1)
        logits = self.transformer(grids, self.left, *self.conditions).flatten(2).transpose(1, 2)
        if not self.sampler.is_guided:
            return logits
        null, conditional = logits.chunk(2)
        return self.sampler.guide(conditional, null)


class Meissonic(PipelineGenerator):
    """Meissonic, text-to-image.

    The path is which tokens are kept at each step; execution is which token each masked position gets.

    Args:
        checkpoint: `MeissonFlow/Meissonic`, or a folder with the same layout.
        size: released model that the checkpoint must be; None reads the size from the checkpoint.
        image_size: pixels per side (official: 1024). Checkpoints do not contain it, so it cannot be verified.
        negative_prompt: text of the null condition of guidance (the official pipeline's default: empty).
        dtype: dtype of transformer and text encoder; the image tokenizer always runs in float32.
        num_steps: number of sampling steps (official: 64).
        mask_temperature: scale of the Gumbel noise on the confidences at the first and the last step; this is the path
            noise (official: 2 to 0).
        guidance_scale: scale of classifier-free guidance; values of at most 1 turn it off (official: 9).
        temperature: divides the logits (official: 1).
        top_k: number of most probable tokens to keep; 0 keeps all.
        top_p: nucleus threshold; 1 keeps all.
        aesthetic_score: micro-condition (official: 6).
        crop: micro-condition, top-left corner (official: 0, 0).
        batch_size: number of images sampled together. In float32 it affects speed and memory but not samples; in half
            precision it is part of the run's fingerprint, because logits can depend on the number of rows.
    """

    family, title = "meissonic", "Meissonic"
    chance = Chance(path="which drawn tokens stay at each step", execution="which token each unknown position gets")
    pixel_range = (0.0, 1.0)
    advice = "  or, to run a toy model now:   gendiv fit-free predict --config configs/tiny/amused.yaml"

    def __init__(
        self,
        checkpoint: str = "MeissonFlow/Meissonic",
        size: Literal["meissonic-1024"] | None = None,
        image_size: int = 1024,
        negative_prompt: str = "",
        dtype: Precision = "float32",
        num_steps: int = 64,
        mask_temperature: tuple[float, float] = (2.0, 0.0),
        guidance_scale: float = 9.0,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        aesthetic_score: float = 6.0,
        crop: tuple[int, int] = (0, 0),
        batch_size: int = 4,
    ) -> None:
        if image_size < 1 or image_size % (2 * PIXELS_PER_TOKEN):
            raise ConfigValueError(
                f"image_size must be a multiple of {2 * PIXELS_PER_TOKEN}, got {image_size}. The released model uses "
                "1024"
            )
        if size and image_size != SIZES[size].side * PIXELS_PER_TOKEN:
            raise ConfigValueError(
                f"image_size must be {SIZES[size].side * PIXELS_PER_TOKEN} for {size}, got {image_size}"
            )
        super().__init__(
            checkpoint=checkpoint,
            size=SIZES[size] if size else None,
            dtype=dtype,
            guidance_scale=guidance_scale,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            batch_size=batch_size,
            image_size=image_size,
        )
        self.num_steps, self.mask_temperature, self.negative_prompt = num_steps, mask_temperature, negative_prompt
        self.schedule = MaskSchedule(num_steps, "cosine", mask_temperature)
        self.micro_conditions = (*[float(image_size)] * 2, *map(float, crop), float(aesthetic_score))

    def check_folder(self, folder: PipelineFolder) -> None:
        """Check the transformer's codebook, and read its sizes, the mask token and the mask schedule."""
        folder.check("transformer", {"codebook_size": self.codebook_size}, "checkpoint")
        self.config = MeissonicConfig.of(folder.config("transformer"))
        self.mask = int(folder.setting("scheduler", "mask_token_id"))
        self.schedule = MaskSchedule(
            self.num_steps, folder.config("scheduler").get("masking_schedule", "cosine"), self.mask_temperature
        )
        if not self.codebook_size <= self.mask < self.config.vocab_size:
            raise WrongWeightsError(
                f"checkpoint: {folder.path} has the mask token {self.mask}, which must be at least the codebook size "
                f"{self.codebook_size} and below vocab_size {self.config.vocab_size}. Its parts belong to two models"
            )

    def identity(self) -> dict[str, object]:
        """Weight hashes and sampling settings."""
        return {
            **super().identity(),
            "image_size": self.image_size,
            "negative_prompt": self.negative_prompt,
            "num_steps": self.num_steps,
            "mask_temperature": list(self.mask_temperature),
            "micro_conditions": list(self.micro_conditions),
        }

    def load(self) -> None:
        """Load all parts."""
        from transformers import CLIPTextModelWithProjection

        self.load_pipeline(CLIPTextModelWithProjection, self._load_transformer)

    def _load_transformer(self, dtype: torch.dtype) -> MeissonicTransformer:
        with torch.device("meta"):
            transformer = MeissonicTransformer(MeissonicConfig.of(self.folder.config("transformer")))
        folder = self.folder.path / "transformer"
        load_strictly(transformer, read_weights(folder), folder, dtype)
        return transformer

    def encode_text(self, text: str) -> tuple[Tensor, Tensor]:
        """The second-to-last hidden states (1, context, C) and the projected state of the end token (1, D)."""
        outputs = self.text_encoder(self.tokenizer(text).to(self.device), output_hidden_states=True)
        return outputs.hidden_states[-2], outputs.text_embeds

    def encode_null(self) -> tuple[Tensor, Tensor]:
        """Encode the negative prompt."""
        return self.encode_text(self.negative_prompt)

    def sample_tokens(self, conditions: Conditions, sampler: TokenSampler) -> TokenSamples:
        """Sample with `sample_masked`."""
        states, pooled = self.condition_rows(conditions, sampler)
        micro = torch.tensor([self.micro_conditions], device=self.device).expand(len(states), -1)
        predict = MeissonicPredictor(self.transformer, (states, pooled, micro), sampler, self.schedule.num_steps)
        return sample_masked(predict, sampler, self.schedule, math.prod(self.grid), self.mask)
