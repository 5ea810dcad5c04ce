"""`PipelineGenerator`: what aMUSEd and VQ-Diffusion have in common, a diffusers folder with a CLIP text encoder."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gendiv_lightning.errors import ImageSizeError
from gendiv_lightning.functional.finite import PIXELS, check_finite
from gendiv_lightning.generators.base import Precision, TokenGenerator
from gendiv_lightning.sampling import TokenSampler
from gendiv_lightning.text.clip import ClipTokenizer
from gendiv_lightning.text.lengths import TextLengths
from gendiv_lightning.weights.diffusers_folder import PipelineFolder, weight_file
from gendiv_lightning.weights.load import DTYPES


class Size(NamedTuple):
    """What a released checkpoint must be: K, and tokens per side."""

    codebook_size: int
    side: int


class Conditions(NamedTuple):
    """Conditions of B rows.

    Attributes:
        texts: the text encoder's output for each distinct text, each a tuple of tensors (1, ...).
        rows: place in `texts` of each row.
    """

    texts: list[tuple[Tensor, ...]]
    rows: list[int]

    def take_rows(self, null: tuple[Tensor, ...] | None) -> list[Tensor]:
        """Each part of the outputs as a batch (B, ...); with a null condition that B times first: (2 B, ...)."""
        rows = [self.texts[row] for row in self.rows]
        return [torch.cat(part) for part in zip(*([null] * len(rows) if null else []), *rows, strict=True)]


class PipelineGenerator(TokenGenerator[Conditions]):
    """A generator whose weights lie in a diffusers folder: text_encoder, tokenizer, transformer, scheduler, vqvae.

    Args:
        checkpoint: the folder, or its repository on the Hub.
        size: what the checkpoint must be; None reads it from the checkpoint.
        dtype: of transformer and text encoder.
        guidance_scale: classifier-free guidance; 1 and below is off.
        temperature: divides the logits.
        top_k: tokens kept; 0 keeps all.
        top_p: probability mass kept; 1 keeps all.
        batch_size: rows (images) that are sampled together.
        image_size: pixels per side, where the transformer's configuration does not tell the grid.
    """

    # What the tokenizer takes and gives.
    pixel_range: tuple[float, float]
    # diffusers' and transformers' classes, which a type checker does not know.
    text_encoder: Any
    transformer: Any
    vq: Any
    parts: tuple[str, ...] = ("text_encoder", "tokenizer", "transformer", "scheduler", "vqvae")
    advice: str
    pixels: int

    def __init__(
        self,
        *,
        checkpoint: str,
        size: Size | None,
        dtype: Precision,
        guidance_scale: float,
        temperature: float,
        top_k: int,
        top_p: float,
        batch_size: int,
        image_size: int | None = None,
    ) -> None:
        super().__init__(
            codebook_size=size.codebook_size if size else 0,
            grid=(size.side, size.side) if size else (0, 0),
            guidance_scale=guidance_scale,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            dtype=dtype,
            batch_size=batch_size,
        )
        self.checkpoint, self.image_size = checkpoint, image_size
        self._folder: PipelineFolder | None = None
        self._null: tuple[Tensor, ...] | None = None

    # --- before anything is loaded ---

    @property
    def folder(self) -> PipelineFolder:
        """The checkpoint, found."""
        if self._folder is None:
            self.locate()
        assert self._folder is not None, "locate() sets it"
        return self._folder

    def locate(self) -> None:
        """Find the checkpoint, download it if it is only on the Hub, read codebook and grid, and check the settings."""
        folder = PipelineFolder(self.checkpoint, self.parts, "checkpoint", self.advice)
        pixels_per_token = 2 ** (len(folder.setting("vqvae", "block_out_channels")) - 1)
        if not self.codebook_size:
            pixels = self.image_size
            side = pixels // pixels_per_token if pixels else int(folder.setting("transformer", "sample_size"))
            self.codebook_size, self.grid = int(folder.setting("vqvae", "num_vq_embeddings")), (side, side)
        folder.check("vqvae", {"num_vq_embeddings": self.codebook_size}, "checkpoint")
        if not self.image_size:
            folder.check("transformer", {"sample_size": self.grid[0]}, "checkpoint")
        self.pixels, self.is_toy = self.grid[0] * pixels_per_token, folder.is_toy
        self.check_folder(folder)
        for part in ("text_encoder", "transformer", "vqvae"):
            weight_file(folder.path / part)  # all are there, before the first is loaded
        context = int(folder.setting("text_encoder", "max_position_embeddings"))
        self.tokenizer, self._folder = ClipTokenizer(folder.path / "tokenizer", context), folder

    @abstractmethod
    def check_folder(self, folder: PipelineFolder) -> None:
        """Raise ValueError if the configurations are of another model than the settings say."""

    def identity(self) -> dict[str, object]:
        """Hashes of the parts, and the sampling settings that all such generators have."""
        return {
            "generator": self.family,
            "embedded": self.is_toy,
            "dtype": self.dtype_name,
            **self.settings(),
            **self.folder.identity(),
            **({"batch_size": self.batch_size} if self.pads_batches else {}),
        }

    def check_prompts(self, texts: Sequence[str]) -> list[str]:
        """Captions longer than CLIP's context."""
        return self.text_lengths(texts).warnings()

    def text_lengths(self, texts: Sequence[str]) -> TextLengths:
        """By CLIP's tokenizer."""
        return self.tokenizer.lengths(texts)

    # --- weights ---

    def load_pipeline(self, text_encoder_class: Any, load_transformer: Callable[[torch.dtype], Any]) -> None:
        """Load text encoder and transformer in `dtype`, the tokenizer of images in float32."""
        from diffusers import VQModel

        dtype = DTYPES[self.dtype_name]
        text_encoder = self.folder.load(text_encoder_class, "text_encoder", dtype)
        transformer = load_transformer(dtype)
        vq = self.folder.load(VQModel, "vqvae", torch.float32)
        # Not before all are whole: Lightning moves what it finds here when it closes after an error.
        self.text_encoder, self.transformer, self.vq = text_encoder, transformer, vq
        self._null = None

    # --- prompts to images ---

    @abstractmethod
    def encode_text(self, text: str) -> tuple[Tensor, ...]:
        """What the transformer reads of one text, each tensor (1, ...)."""

    def encode_null(self) -> tuple[Tensor, ...]:
        """The condition of guidance's other half: the empty text."""
        return self.encode_text("")

    def encode_prompts(self, texts: Sequence[str]) -> Conditions:
        """Each distinct text is encoded once, alone: its features do not depend on the batch."""
        distinct = list(dict.fromkeys(texts))
        return Conditions([self.encode_text(text) for text in distinct], [distinct.index(text) for text in texts])

    def condition_rows(self, conditions: Conditions, sampler: TokenSampler) -> list[Tensor]:
        """The transformer's conditions: B rows, under guidance after B null rows."""
        if not sampler.is_guided:
            return conditions.take_rows(None)
        if self._null is None:
            self._null = self.encode_null()
        return conditions.take_rows(self._null)

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        """By the tokenizer's decoder, one by one: the last digits, and so some pixels, would tell an image's batch."""
        images = torch.cat([self._decode(image) for image in tokens.split(1)])
        low, high = self.pixel_range
        unit = (check_finite(images, PIXELS) - low) / (high - low)
        return (255 * unit).round().clamp(0, 255).to(torch.uint8)

    @property
    @override
    def image_side(self) -> int:
        return self.pixels

    def encode_images(self, images: Tensor) -> Tensor:
        """By the tokenizer's encoder, one by one, for the same reason."""
        pixels = self.pixels
        if tuple(images.shape[2:]) != (pixels, pixels):
            raise ImageSizeError(
                f"images must be {pixels} pixels a side, as the checkpoint's, got {tuple(images.shape)}"
            )
        low, high = self.pixel_range
        empty = torch.zeros(0, math.prod(self.grid), dtype=torch.int64, device=self.device)
        tokens = [
            self._nearest(low + (high - low) * image.to(self.device) / 255) for image in images.split(1) if len(image)
        ]
        return torch.cat([empty, *tokens])

    def _decode(self, tokens: Tensor) -> Tensor:
        """Tokens (B, L) to images (B, 3, H, W), about `pixel_range`, not clamped."""
        codes = self.vq.quantize.embedding(tokens.unflatten(1, self.grid)).permute(0, 3, 1, 2)
        # What `VQModel.decode` does after its look-up, which it has in some configurations only.
        return self.vq.decoder(self.vq.post_quant_conv(codes), codes if self.vq.config.norm_type == "spatial" else None)

    def _nearest(self, images: Tensor) -> Tensor:
        """Tokens (B, L) of images in the tokenizer's range."""
        return self.vq.quantize(self.vq.encode(images).latents)[2][2].view(len(images), -1)
