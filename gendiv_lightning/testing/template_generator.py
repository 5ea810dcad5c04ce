"""TemplateModel: name its paper, and the code that it was compared with.

It runs unchanged: a random table contains the logits of the next token, the prompt shifts them, and each token is a
grey square. Replace the marked parts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from gendiv_lightning.generators.base import Chance, Precision, TokenGenerator
from gendiv_lightning.records import TokenSamples
from gendiv_lightning.sampling import TokenSampler
from gendiv_lightning.sampling.autoregressive import sample_autoregressive
from gendiv_lightning.text.lengths import TextLengths

CODEBOOK_SIZE = 32
SIDE = 4  # tokens per row and column of an image
PIXELS = 8  # per row and column of a token


class TemplateModel(TokenGenerator[Tensor]):
    """One sentence about the model.

    Args:
        temperature: divides the logits.
        top_k: number of most probable tokens to keep; 0 keeps all.
        top_p: nucleus threshold; 1 keeps all.
        guidance_scale: scale of classifier-free guidance; values of at most 1 turn it off.
        dtype: dtype of the network.
        batch_size: number of images sampled together.
    """

    family, title = "template", "TemplateModel"
    chance = Chance(path="", execution="which token each position gets")  # raster order has no path

    table: Tensor

    def __init__(
        self,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        guidance_scale: float = 2.0,
        dtype: Precision = "float32",
        batch_size: int = 16,
    ) -> None:
        super().__init__(
            codebook_size=CODEBOOK_SIZE,
            grid=(SIDE, SIDE),
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            guidance_scale=guidance_scale,
            dtype=dtype,
            batch_size=batch_size,
        )

    def locate(self) -> None:
        """Replace: find the weight files (`gendiv_lightning.weights.resolve`); ValueError if one is missing."""

    def identity(self) -> dict[str, object]:
        """Replace "weights" by the hash of each file (`gendiv_lightning.weights.hash.sha256`)."""
        return {"generator": self.family, "weights": "random, seed 0", "dtype": self.dtype_name, **self.settings()}

    def load(self) -> None:
        """Replace: load the weights."""
        random = torch.Generator().manual_seed(0)
        self.register_buffer("table", 2 * torch.randn(CODEBOOK_SIZE + 1, CODEBOOK_SIZE, generator=random))

    def check_prompts(self, texts: Sequence[str]) -> list[str]:
        """Replace: warnings about prompts, such as truncation."""
        return []

    def text_lengths(self, texts: Sequence[str]) -> TextLengths | None:
        """Replace: lengths in tokens of the text encoder, see `TextLengths`."""
        return None

    def encode_prompts(self, texts: Sequence[str]) -> Tensor:
        """Replace: conditions of B texts, here (B, K) logits. Encode each text independently of its batch."""
        rows = []
        for text in texts:
            digest = hashlib.sha256(text.encode()).digest()
            rows.append(torch.tensor([digest[n % len(digest)] / 128 - 1 for n in range(CODEBOOK_SIZE)]))
        return torch.stack(rows).to(self.device)

    def sample_tokens(self, conditions: Tensor, sampler: TokenSampler) -> TokenSamples:
        """The loop of the family; `gendiv_lightning.sampling` also has masked, diffusion and next-scale loops."""

        def predict(previous: Tensor, step: int) -> Tensor:
            """Replace by the network: guided logits (B, 1, K) from the tokens (B, 1) of the previous position."""
            logits = self.table[previous if step else torch.full_like(previous, CODEBOOK_SIZE)]
            conditional = logits + conditions[:, None]
            return sampler.guide(conditional, logits) if sampler.is_guided else conditional

        return sample_autoregressive(predict, sampler, SIDE**2)

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        """Replace by the decoder, one image at a time: images (B, 3, H, W) uint8 from tokens (B, L)."""
        grey = (tokens * 255 // (CODEBOOK_SIZE - 1)).to(torch.uint8).unflatten(1, self.grid)
        return grey.repeat_interleave(PIXELS, 1).repeat_interleave(PIXELS, 2)[:, None].expand(-1, 3, -1, -1)

    def encode_images(self, images: Tensor) -> Tensor:
        """Replace by the encoder, or raise NotImplementedError: tokens (B, L) from images (B, 3, H, W) uint8."""
        if tuple(images.shape[1:]) != (3, SIDE * PIXELS, SIDE * PIXELS):
            raise ValueError(f"images must be {SIDE * PIXELS} pixels per side, got {tuple(images.shape)}. Resize them")
        squares = images.float().mean(1).unfold(1, PIXELS, PIXELS).unfold(2, PIXELS, PIXELS).mean((3, 4)).flatten(1)
        return (squares * (CODEBOOK_SIZE - 1) / 255).round().long()
