"""The recipe of the toy VQ-Diffusion."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gendiv_lightning.toy.files import TINY_CLIP, TINY_VQ_DIFFUSION, TINY_VQ_DIFFUSION_SCHEDULE, WEIGHTS, seeded
from gendiv_lightning.toy.recipes.base import GeneratorRecipe, captioned, load_tokenizer
from gendiv_lightning.toy.recipes.diffusers_vq import diffusers_vq
from gendiv_lightning.toy.recipes.pipeline import export_pipeline
from gendiv_lightning.toy.recipes.text_tower import text_tower


class VQDiffusionRecipe(GeneratorRecipe):
    """Cross-entropy of the clean tokens at every position; also trains the text encoder (from CLIP) and null embedding.

    The noise is that of the paper (Gu et al. 2022, section 4.1): tokens are kept, replaced by any other, or masked.
    """

    sources: ClassVar[dict[str, str]] = {**GeneratorRecipe.sources, "clip": "clip"}
    batch_size = 64
    learning_rate = 1.5e-3

    def __init__(self, num_steps: int, seed: int, work: Path, weights: Path = WEIGHTS) -> None:
        super().__init__(num_steps, seed, work, weights)
        from diffusers import Transformer2DModel, VQDiffusionScheduler
        from transformers import PreTrainedTokenizerFast

        self.text_encoder = text_tower(weights / "clip", projects=False).requires_grad_(True)
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(weights / "clip")
        self.model = Transformer2DModel(**TINY_VQ_DIFFUSION)
        for block in self.model.transformer_blocks:
            # Their inputs have length 1 instead of the usual square root of the width.
            for projection in (block.attn2.to_k, block.attn2.to_v):
                projection.weight.data *= TINY_VQ_DIFFUSION["cross_attention_dim"] ** 0.5
        sizes = TINY_CLIP["text_cfg"]
        self.unconditional = nn.Parameter(0.1 * torch.randn(sizes["context_length"], sizes["width"]))
        schedule = VQDiffusionScheduler(**TINY_VQ_DIFFUSION_SCHEDULE)
        times = schedule.config.num_train_timesteps
        self.keep, self.mask = schedule.log_cumprod_at.exp()[:times], schedule.log_cumprod_ct.exp()[:times]

    def loss(self, step: int) -> dict[str, Tensor]:
        """The loss; for guidance, 10 % of the captions are replaced by the unconditional embedding."""
        images, texts = captioned(self.images, self.batch_size, self.seed, step)
        generator = seeded(self.seed, step + 500_000_000)
        ids = self.tokenizer(texts, padding="max_length", return_tensors="pt").input_ids.to(self.device)
        features = F.normalize(self.text_encoder(ids).last_hidden_state, dim=-1)
        dropped = (torch.rand(len(texts), generator=generator) < 0.1).to(self.device)
        features = torch.where(dropped[:, None, None], self.unconditional, features)
        tokens = self.grids[images]
        # diffusers' adaptive norm takes one time per call, so there are four calls with times from the four quarters.
        losses = []
        for quarter, part in enumerate(torch.arange(len(tokens)).chunk(4)):
            time = (quarter + torch.rand(1, generator=generator)) / 4 * len(self.keep)
            noised = self._noise(tokens[part], int(time), generator).to(self.device)
            log_probs = self.model(noised, features[part], time.long().to(self.device)[0]).sample
            losses.append(F.nll_loss(log_probs.float(), tokens[part].to(self.device)))
        return {"loss": torch.stack(losses).mean()}

    def _noise(self, tokens: Tensor, time: int, generator: torch.Generator) -> Tensor:
        chance = torch.rand(tokens.shape, generator=generator)
        mask = TINY_VQ_DIFFUSION["num_vector_embeds"] - 1
        others = torch.randint(mask, tokens.shape, generator=generator)
        noised = torch.where(chance < self.keep[time], tokens, others)
        return noised.masked_fill(chance > 1 - self.mask[time], mask)

    def export(self, folder: Path) -> None:
        """Write the weights in the layout of the official repository."""
        export_pipeline(
            folder / "vq_diffusion",
            {"_class_name": "VQDiffusionScheduler", **TINY_VQ_DIFFUSION_SCHEDULE},
            unconditional=self.unconditional,
            transformer=self.model,
            text_encoder=self.text_encoder,
            vqvae=diffusers_vq(load_tokenizer(self.weights)),
        )
