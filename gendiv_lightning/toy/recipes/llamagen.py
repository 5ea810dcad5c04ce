"""The recipe of the toy LlamaGen."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from gendiv_lightning.generators.llamagen.transformer import GPT, CaptionEmbedder
from gendiv_lightning.toy.files import TINY_GPT, TINY_T5, WEIGHTS, num_words, save_half, seeded, write_tokenizer
from gendiv_lightning.toy.recipes.base import GeneratorRecipe, captioned


class LlamaGenRecipe(GeneratorRecipe):
    """Trains transformer and text encoder end to end: next-token cross-entropy, with 10 % of the captions dropped."""

    batch_size = 128
    learning_rate = 1.5e-3

    def __init__(self, num_steps: int, seed: int, work: Path, weights: Path = WEIGHTS) -> None:
        super().__init__(num_steps, seed, work, weights)
        from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

        write_tokenizer(work / "t5")
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(work / "t5")
        self.text_encoder = T5EncoderModel(T5Config(vocab_size=num_words(), **TINY_T5))
        self.gpt = GPT(TINY_GPT)
        self.apply(self._initialise)
        embedder = self.gpt.cls_embedding
        assert isinstance(embedder, CaptionEmbedder), "the toy model is conditioned on captions"
        null = torch.randn(embedder.uncond_embedding.shape, generator=seeded(seed, -1))
        embedder.uncond_embedding.copy_(null / TINY_GPT.caption_dim**0.5)

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.05 if isinstance(module, nn.Linear) else 0.3)

    def loss(self, step: int) -> dict[str, Tensor]:
        """Next-token cross-entropy."""
        images, texts = captioned(self.images, self.batch_size, self.seed, step)
        encoded = self.tokenizer(texts, padding=True, padding_side="left", return_tensors="pt").to(self.device)
        mask = encoded.attention_mask.bool()
        features = self.text_encoder(input_ids=encoded.input_ids, attention_mask=mask).last_hidden_state
        null, _ = self.gpt.null_features(mask.sum(1))
        dropped = torch.rand(len(texts), generator=seeded(self.seed, step + 500_000_000)) < 0.1
        features = torch.where(dropped[:, None, None].to(self.device), null[:, -features.shape[1] :], features.float())
        tokens = self.grids[images].to(self.device)
        with sdpa_kernel(SDPBackend.MATH):  # on a CPU the fused kernel is several times slower for 36 positions
            logits = self.gpt(self.gpt.cls_embedding(features), mask, tokens)
        return {"loss": F.cross_entropy(logits.flatten(0, 1), tokens.flatten())}

    def export(self, folder: Path) -> None:
        """Write the transformer with official names, and the encoder in the Hugging Face layout."""
        save_half(self.gpt.state_dict(), folder / "llamagen_gpt.safetensors")
        write_tokenizer(folder / "t5")
        self.text_encoder.half().save_pretrained(folder / "t5")
        self.text_encoder.float()
