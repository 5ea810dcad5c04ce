"""`PipelineGenerator`, the base class of generators with a diffusers folder and a CLIP text encoder."""

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
from gendiv_lightning.weights.diffusers_folder import PipelineFolder, weight_files
from gendiv_lightning.weights.load import DTYPES


class Size(NamedTuple):
    """Size of a released checkpoint: codebook entries K, and tokens per side."""

    codebook_size: int
    side: int


class Conditions(NamedTuple):
    """Conditions of B rows.

    Attributes:
        texts: output of the text encoder for each distinct text, a tuple of tensors (1, ...).
        rows: index in `texts` of each row.
    """

    texts: list[tuple[Tensor, ...]]
    rows: list[int]

    def take_rows(self, null: tuple[Tensor, ...] | None) -> list[Tensor]:
        """Each tensor of the outputs as a batch (B, ...), or (2 B, ...) with B copies of a null condition first."""
        rows = [self.texts[row] for row in self.rows]
        return [torch.cat(part) for part in zip(*([null] * len(rows) if null else []), *rows, strict=True)]


class PipelineGenerator(TokenGenerator[Conditions]):
    """A generator that loads a diffusers folder with text_encoder, tokenizer, transformer, scheduler and vqvae.

    Args:
        checkpoint: the folder, or its repository on the Hub.
        size: required size of the checkpoint; None reads it from the checkpoint.
        dtype: dtype of transformer and text encoder.
        guidance_scale: scale of classifier-free guidance; values of at most 1 turn it off.
        temperature: divides the logits.
        top_k: number of most probable tokens to keep; 0 keeps all.
        top_p: nucleus threshold; 1 keeps all.
        batch_size: number of rows (images) sampled together.
        image_size: pixels per side, if the transformer's configuration does not contain the grid.
    """

    # Value range of the tokenizer's pixels.
    pixel_range: tuple[float, float]
    # Classes of diffusers and transformers, which are untyped.
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
        self._nulls: dict[torch.device, tuple[Tensor, ...]] = {}

    # --- before anything is loaded ---

    @property
    def folder(self) -> PipelineFolder:
        """The located checkpoint."""
        if self._folder is None:
            self.locate()
        assert self._folder is not None, "locate() sets the folder"
        return self._folder

    def locate(self) -> None:
        """Find or download the checkpoint, read codebook size and grid, and check the settings."""
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
            weight_files(folder.path / part)  # fails before the first part is loaded
        context = int(folder.setting("text_encoder", "max_position_embeddings"))
        self.tokenizer, self._folder = ClipTokenizer(folder.path / "tokenizer", context), folder

    @abstractmethod
    def check_folder(self, folder: PipelineFolder) -> None:
        """Raise ValueError if the configurations do not match the settings."""

    def identity(self) -> dict[str, object]:
        """Weight hashes and common sampling settings."""
        return {
            "generator": self.family,
            "embedded": self.is_toy,
            "dtype": self.dtype_name,
            **self.settings(),
            **self.folder.identity(),
            **({"batch_size": self.batch_size} if self.pads_batches else {}),
        }

    def check_prompts(self, texts: Sequence[str]) -> list[str]:
        """Warn about captions that are longer than CLIP's context."""
        return self.text_lengths(texts).warnings()

    def text_lengths(self, texts: Sequence[str]) -> TextLengths:
        """Lengths in tokens of the CLIP tokenizer."""
        return self.tokenizer.lengths(texts)

    # --- weights ---

    def load_pipeline(self, text_encoder_class: Any, load_transformer: Callable[[torch.dtype], Any]) -> None:
        """Load text encoder and transformer in `dtype`, the image tokenizer in float32."""
        from diffusers import VQModel

        dtype = DTYPES[self.dtype_name]
        text_encoder = self.folder.load(text_encoder_class, "text_encoder", dtype)
        transformer = load_transformer(dtype)
        vq = self.folder.load(VQModel, "vqvae", torch.float32)
        # Assigned only when all are loaded, because Lightning moves all attributes when it closes after an error.
        self.text_encoder, self.transformer, self.vq = text_encoder, transformer, vq
        self._nulls.clear()

    # --- prompts to images ---

    @abstractmethod
    def encode_text(self, text: str) -> tuple[Tensor, ...]:
        """The transformer's inputs for one text, each tensor (1, ...)."""

    def encode_null(self) -> tuple[Tensor, ...]:
        """The null condition of guidance: the empty text."""
        return self.encode_text("")

    def encode_prompts(self, texts: Sequence[str]) -> Conditions:
        """Encode each distinct text once and separately, so that its features do not depend on the batch."""
        distinct = list(dict.fromkeys(texts))
        return Conditions([self.encode_text(text) for text in distinct], [distinct.index(text) for text in texts])

    def condition_rows(self, conditions: Conditions, sampler: TokenSampler) -> list[Tensor]:
        """The transformer's conditions: B rows, preceded by B null rows under guidance."""
        if not sampler.is_guided:
            return conditions.take_rows(None)
        self._nulls = {self.device: self._nulls.get(self.device) or self.encode_null()}
        return conditions.take_rows(self._nulls[self.device])

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        """Decode tokens one image at a time, so that pixels do not depend on the batch size."""
        images = torch.cat([self._decode(image) for image in tokens.split(1)])
        low, high = self.pixel_range
        unit = (check_finite(images, PIXELS) - low) / (high - low)
        return (255 * unit).round().clamp(0, 255).to(torch.uint8)

    @property
    @override
    def image_side(self) -> int:
        return self.pixels

    def encode_images(self, images: Tensor) -> Tensor:
        """Encode images one at a time, so that tokens do not depend on the batch size."""
        pixels = self.pixels
        if tuple(images.shape[2:]) != (pixels, pixels):
            raise ImageSizeError(
                f"images must be {pixels} x {pixels} pixels for this checkpoint, got {tuple(images.shape)}"
            )
        low, high = self.pixel_range
        empty = torch.zeros(0, math.prod(self.grid), dtype=torch.int64, device=self.device)
        tokens = [
            self._nearest(low + (high - low) * image.to(self.device) / 255) for image in images.split(1) if len(image)
        ]
        return torch.cat([empty, *tokens])

    def _decode(self, tokens: Tensor) -> Tensor:
        """Decode tokens (B, L) into images (B, 3, H, W), approximately in `pixel_range`, not clamped."""
        codes = self.vq.quantize.embedding(tokens.unflatten(1, self.grid)).permute(0, 3, 1, 2)
        # As in `VQModel.decode` after its look-up, which only some configurations have.
        return self.vq.decoder(self.vq.post_quant_conv(codes), codes if self.vq.config.norm_type == "spatial" else None)

    def _nearest(self, images: Tensor) -> Tensor:
        """Tokens (B, L) of images in the tokenizer's pixel range."""
        return self.vq.quantize(self.vq.encode(images).latents)[2][2].view(len(images), -1)
