"""The recipe of the toy CLIP, in open_clip's architecture; other toy models start from its text encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gendiv_lightning.generators.vqgan import from_uint8
from gendiv_lightning.toy import postcards
from gendiv_lightning.toy.files import TINY_CLIP, TINY_CLIP_PREPROCESSING, WEIGHTS, save_half, seeded, write_tokenizer
from gendiv_lightning.toy.recipes.base import Recipe, captioned, training_images


class ClipRecipe(Recipe):
    """Contrastive training of image and text encoder (Radford et al. 2021), on noisy, shifted and rescaled images."""

    batch_size = 128
    learning_rate = 1.5e-3

    def __init__(self, num_steps: int, seed: int, work: Path, weights: Path = WEIGHTS) -> None:
        super().__init__(num_steps, seed, work, weights)
        import open_clip
        from transformers import PreTrainedTokenizerFast

        write_tokenizer(work / "clip", kind="clip")
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(work / "clip")
        self.model = open_clip.CLIP(**TINY_CLIP)
        self.images = training_images()

    def loss(self, step: int) -> dict[str, Tensor]:
        """The contrastive loss in both directions; a short caption can also fit other images of its batch."""
        images, texts = captioned(self.images, self.batch_size, self.seed, step)
        generator = seeded(self.seed, step + 500_000_000)
        pixels = postcards.render(images)
        pixels = pixels.roll(torch.randint(-1, 2, (2,), generator=generator).tolist(), dims=(2, 3))
        inputs = from_uint8(pixels) * (0.95 + 0.1 * torch.rand(len(pixels), 1, 1, 1, generator=generator))
        sigma = 0.1 * torch.rand(len(pixels), 1, 1, 1, generator=generator)
        inputs = inputs + sigma * torch.randn(inputs.shape, generator=generator)
        ids = self.tokenizer(texts, padding=True, return_tensors="pt").input_ids.to(self.device)
        image = F.normalize(self.model.encode_image(inputs.to(self.device)).float(), dim=-1)
        text = F.normalize(self._encode_text(ids).float(), dim=-1)
        scale = self.model.logit_scale.exp()
        logits = scale * image @ text.T
        labels = torch.arange(len(logits), device=self.device)
        loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
        retrieval = (logits.argmax(1) == labels).float().mean()
        return {"loss": loss, "retrieval": retrieval, "scale": scale.detach()}

    def _encode_text(self, ids: Tensor) -> Tensor:
        """Encode as the model does, but without padding, which a causal encoder ignores."""
        model, length = self.model, ids.shape[1]
        states = model.token_embedding(ids) + model.positional_embedding[:length]
        states = model.ln_final(model.transformer(states, attn_mask=model.attn_mask[:length, :length]))
        return states[torch.arange(len(ids)), ids.argmax(1)] @ model.text_projection

    def on_train_batch_end(self, *_: Any) -> None:
        """Clamp the inverse temperature to at most 100, as in the paper."""
        self.model.logit_scale.data.clamp_(0, 4.6052)

    def export(self, folder: Path) -> None:
        """Write the layout that open_clip reads as `local-dir:FOLDER`."""
        write_tokenizer(folder / "clip", kind="clip")
        save_half(self.model.state_dict(), folder / "clip" / "open_clip_model.safetensors")
        config = {"model_cfg": TINY_CLIP, "preprocess_cfg": TINY_CLIP_PREPROCESSING}
        (folder / "clip" / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
