"""VQ-Diffusion (Gu et al. 2022, arXiv 2111.14822): discrete diffusion on diffusers' `Transformer2DModel`, `VQModel`.

The sampling loop and the reverse process are in `sampling/diffusion.py`.
"""

from __future__ import annotations

import math
from itertools import count
from typing import Any, Literal

import torch
from torch import Tensor

from gendiv_lightning.errors import ConfigValueError, WrongWeightsError
from gendiv_lightning.generators.base import Chance
from gendiv_lightning.generators.diffusers_base import Conditions, PipelineGenerator, Size
from gendiv_lightning.records import TokenSamples
from gendiv_lightning.sampling import TokenSampler
from gendiv_lightning.sampling.branches import run_branches
from gendiv_lightning.sampling.diffusion import NoiseSchedule, sample_diffusion
from gendiv_lightning.weights.diffusers_folder import PipelineFolder, read_weights

SIZES = {"ithq": Size(4096, 32)}
LEARNED = "learned_classifier_free_sampling_embeddings"


class VQDiffusion(PipelineGenerator):
    """VQ-Diffusion, text-to-image at 256 pixels.

    The path is which positions change at each step (are unmasked or replaced); execution is what they become.

    Args:
        checkpoint: `microsoft/vq-diffusion-ithq`, a folder with the same layout, or `toy:vq_diffusion`.
        size: released model that the checkpoint must be; None reads the size from the checkpoint.
        dtype: dtype of transformer and text encoder; the image tokenizer always runs in float32.
        num_steps: number of sampling steps, at most the number of times of the network (official: 100, all of them).
        spacing: times visited by fewer steps: "even", or "last" as in diffusers' scheduler.
        guidance_scale: scale of classifier-free guidance on log-probabilities; values of at most 1 turn it off
            (diffusers: 5).
        truncation_rate: nucleus threshold of x_0, the sampler's top-p (paper: 0.86; 1 keeps all, as in diffusers).
        temperature: divides the log-probabilities of x_0.
        top_k: number of most probable tokens to keep; 0 keeps all.
        batch_size: number of images sampled together. In float32 it affects speed and memory but not samples; in half
            precision it is part of the run's fingerprint, because logits can depend on the number of rows.
    """

    family, title = "vqdiffusion", "VQ-Diffusion"
    chance = Chance(path="which positions change at each step", execution="which token a changed position gets")
    rewrites_tokens = True
    learned: Tensor | None = None
    parts = (*PipelineGenerator.parts, LEARNED)
    pixel_range = (-1.0, 1.0)
    advice = "  or, to run the toy model now:   gendiv fit-free predict --config configs/tiny/vq_diffusion.yaml"

    def __init__(
        self,
        checkpoint: str = "microsoft/vq-diffusion-ithq",
        size: Literal["ithq"] | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        num_steps: int = 100,
        spacing: Literal["even", "last"] = "even",
        guidance_scale: float = 5.0,
        truncation_rate: float = 1.0,
        temperature: float = 1.0,
        top_k: int = 0,
        batch_size: int = 8,
    ) -> None:
        if not 0 <= truncation_rate <= 1:
            raise ConfigValueError(f"truncation_rate must be a probability in [0, 1], got {truncation_rate}. 1 is off")
        super().__init__(
            checkpoint=checkpoint,
            size=SIZES[size] if size else None,
            dtype=dtype,
            guidance_scale=guidance_scale,
            temperature=temperature,
            top_k=top_k,
            top_p=truncation_rate,
            batch_size=batch_size,
        )
        if num_steps < 1:
            raise ConfigValueError(f"num_steps must be at least 1, got {num_steps}")
        self.num_steps, self.spacing = num_steps, spacing

    def check_folder(self, folder: PipelineFolder) -> None:
        """Check the transformer's codebook, and read the noise schedule of its training."""
        folder.check("transformer", {"num_vector_embeds": self.codebook_size + 1}, "checkpoint")
        folder.check("scheduler", {"num_vec_classes": self.codebook_size + 1}, "checkpoint")
        config = folder.config("scheduler")
        defaults = NoiseSchedule(self.codebook_size)
        self.schedule = NoiseSchedule(
            self.codebook_size,
            config.get("num_train_timesteps", defaults.num_times),
            (config.get("alpha_cum_start", defaults.keep[0]), config.get("alpha_cum_end", defaults.keep[1])),
            (config.get("gamma_cum_start", defaults.mask[0]), config.get("gamma_cum_end", defaults.mask[1])),
        )
        self.times = self.schedule.times(self.num_steps, self.spacing)

    def identity(self) -> dict[str, object]:
        """Weight hashes and sampling settings."""
        return {**super().identity(), "num_steps": self.num_steps, "spacing": self.spacing}

    def load(self) -> None:
        """Load all parts."""
        from diffusers import Transformer2DModel
        from transformers import CLIPTextModel

        def load_transformer(dtype: torch.dtype) -> Any:
            # The official configuration predates this setting, which diffusers now requires.
            return self.folder.load(Transformer2DModel, "transformer", dtype, norm_type="ada_norm")

        self.load_pipeline(CLIPTextModel, load_transformer)
        self.learned = self._read_learned()

    def _read_learned(self) -> Tensor | None:
        """The unconditional embedding (1, context, D), if the checkpoint has one."""
        if not self.folder.config(LEARNED).get("learnable"):
            return None
        folder = self.folder.path / LEARNED
        tensors = read_weights(folder)
        if "embeddings" not in tensors:
            raise WrongWeightsError(
                f"{folder} has learnable: true but no tensor 'embeddings'. Download the checkpoint again"
            )
        return tensors["embeddings"].to(self.text_encoder.dtype)[None]

    def encode_text(self, text: str) -> tuple[Tensor]:
        """The last hidden states (1, context, D), normalised to unit length as in VQ-Diffusion's training."""
        states = self.text_encoder(self.tokenizer(text).to(self.device)).last_hidden_state
        return (states / states.norm(dim=-1, keepdim=True),)

    def encode_null(self) -> tuple[Tensor, ...]:
        """The learned embedding if there is one, else the empty text."""
        return super().encode_null() if self.learned is None else (self.learned.to(self.device),)

    def sample_tokens(self, conditions: Conditions, sampler: TokenSampler) -> TokenSamples:
        """Sample with `sample_diffusion`."""
        (states,) = self.condition_rows(conditions, sampler)

        steps = count()

        def predict(tokens: Tensor, time: int) -> Tensor:
            rows, now = tokens.repeat(len(states) // len(tokens), 1), torch.tensor(time, device=self.device)
            log_probs = run_branches(
                lambda *given: self.transformer(*given, now, return_dict=False)[0],
                self.branches(sampler, next(steps)),
                rows,
                states,
            )
            if not sampler.is_guided:
                return log_probs.transpose(1, 2)
            null, conditional = log_probs.chunk(2)
            return sampler.guide(conditional, null).transpose(1, 2)

        return sample_diffusion(predict, sampler, self.schedule, self.times, math.prod(self.grid))
