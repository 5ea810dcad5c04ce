"""The recipe of the toy aMUSEd."""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from gendiv_lightning.errors import MissingWeightsError
from gendiv_lightning.toy import postcards
from gendiv_lightning.toy.files import TINY_AMUSED, TINY_AMUSED_SCHEDULE, WEIGHTS, seeded
from gendiv_lightning.toy.recipes.base import GeneratorRecipe, Recipe, captioned, load_tokenizer
from gendiv_lightning.toy.recipes.diffusers_vq import diffusers_vq, in_unit_range
from gendiv_lightning.toy.recipes.pipeline import export_pipeline
from gendiv_lightning.toy.recipes.text_tower import text_tower
from gendiv_lightning.weights.pieces import whole


class AmusedRecipe(GeneratorRecipe):
    """Cross-entropy of masked tokens, whose share follows the cosine schedule (Chang et al. 2022).

    The text encoder starts from CLIP's and is trained further, because contrasting a hundred images is not enough.
    With `refines` everything starts from the exported aMUSEd, with a third of the learning rate and other data.
    """

    sources: ClassVar[dict[str, str]] = {**GeneratorRecipe.sources, "clip": "clip"}
    batch_size = 64
    learning_rate = 1.5e-3

    def __init__(
        self, num_steps: int, seed: int, work: Path, weights: Path = WEIGHTS, *, refines: bool = False
    ) -> None:
        super().__init__(num_steps, seed + 1 if refines else seed, work, weights)
        from diffusers import UVit2DModel
        from transformers import CLIPTextModelWithProjection, PreTrainedTokenizerFast

        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(weights / "clip")
        if refines:
            folder = weights / "amused"
            if not (folder / "transformer").is_dir():
                raise MissingWeightsError(
                    f"there is no amused/transformer in {weights}. Train it first: gendiv toy train amused"
                )
            self.learning_rate /= 3
            self.text_encoder = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder").float().train()
            self.model = UVit2DModel.from_pretrained(folder / "transformer", low_cpu_mem_usage=False).float().train()
        else:
            self.text_encoder = text_tower(weights / "clip", projects=True).requires_grad_(True)
            self.model = UVit2DModel(**TINY_AMUSED)
        if not (weights / "amused" / "vqvae").is_dir():
            raise MissingWeightsError(
                f"there is no amused/vqvae in {weights}. Train it first: gendiv toy train amused-tokenizer"
            )

    def loss(self, step: int) -> dict[str, Tensor]:
        """The loss; at least one random position is masked, and 10 % of the captions are empty, for guidance."""
        images, texts = captioned(self.images, self.batch_size, self.seed, step)
        generator = seeded(self.seed, step + 500_000_000)
        dropped = torch.rand(len(texts), generator=generator) < 0.1
        texts = ["" if drop else text for text, drop in zip(texts, dropped.tolist(), strict=True)]
        ids = self.tokenizer(texts, padding="max_length", return_tensors="pt").input_ids.to(self.device)
        text = self.text_encoder(ids, output_hidden_states=True)
        tokens = self.grids[images]
        share = torch.cos(torch.rand(len(tokens), 1, generator=generator) * math.pi / 2)
        order = torch.rand(tokens.shape, generator=generator).argsort(1)
        masked = order < (share * tokens.shape[1]).ceil().clamp(min=1)
        side = math.isqrt(tokens.shape[1])
        inputs = tokens.masked_fill(masked, TINY_AMUSED_SCHEDULE["mask_token_id"]).unflatten(1, (side, side))
        micro = torch.tensor([[48.0, 48.0, 0.0, 0.0, 6.0]], device=self.device).expand(len(tokens), -1)
        logits = self.model(inputs.to(self.device), text.hidden_states[-2], text.text_embeds, micro)
        picked = logits.flatten(2).transpose(1, 2)[masked.to(self.device)]
        return {"loss": F.cross_entropy(picked.float(), tokens[masked].to(self.device))}

    def export(self, folder: Path) -> None:
        """Write the layout of the official repositories, with the tokenizer of `AmusedTokenizerRecipe`."""
        from diffusers import VQModel

        with whole(self.weights / "amused" / "vqvae") as tokenizer:
            vqvae = VQModel.from_pretrained(tokenizer, low_cpu_mem_usage=False)
        export_pipeline(
            folder / "amused",
            {"_class_name": "AmusedScheduler", **TINY_AMUSED_SCHEDULE},
            transformer=self.model,
            text_encoder=self.text_encoder,
            vqvae=vqvae,
        )


class AmusedTokenizerRecipe(Recipe):
    """Adapts the shared tokenizer's encoder to aMUSEd's range [0, 1], which only affects the outermost pixels.

    Codebook and decoder are unchanged; the target is the latents of the encoder for [-1, 1].
    """

    batch_size = 32
    learning_rate = 2e-4
    weight_decay = 0.0

    def __init__(self, num_steps: int, seed: int, work: Path, weights: Path = WEIGHTS) -> None:
        super().__init__(num_steps, seed, work, weights)
        self.teacher = load_tokenizer(weights).requires_grad_(False)
        self.model = in_unit_range(diffusers_vq(self.teacher))
        self.model.encoder.requires_grad_(True)

    def loss(self, step: int) -> dict[str, Tensor]:
        """Squared distance between directions, because codes are compared by direction."""
        images = torch.randint(postcards.NUM_IMAGES, (self.batch_size,), generator=seeded(self.seed, step))
        unit = postcards.render(images).to(self.device) / 255
        with torch.no_grad():
            target = self.teacher.latents(2 * unit - 1)
        latents = self.model.encode(unit).latents
        agree = self.teacher.quantize.nearest(latents) == self.teacher.quantize.nearest(target)
        distance = (F.normalize(latents, dim=1) - F.normalize(target, dim=1)).square().sum(1).mean()
        return {"loss": distance, "agree": agree.float().mean()}

    def export(self, folder: Path) -> None:
        """Write the tokenizer, which `AmusedRecipe` exports together with its transformer."""
        self.model.half().save_pretrained(folder / "amused" / "vqvae")
        self.model.float()
