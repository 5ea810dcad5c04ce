"""VAR (Tian et al. 2024, arXiv 2404.02905): a pyramid of token grids from class labels, scale by scale.

The sampling loop is `sample_next_scale`, which calls a `ScalePredictor`. The networks are in `transformer.py` and
`tokenizer.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import override

from gendiv_lightning.errors import ImageSizeError, OptionConflictError
from gendiv_lightning.functional.finite import PIXELS, check_finite
from gendiv_lightning.generators.base import Chance, Precision, TokenGenerator
from gendiv_lightning.generators.labels import read_label
from gendiv_lightning.generators.size_files import read_sizes
from gendiv_lightning.generators.var.tokenizer import VQVAE, Quantizer, VAEConfig, to_uint8
from gendiv_lightning.generators.var.transformer import Cache, VARConfig, VARTransformer
from gendiv_lightning.generators.vqgan import from_uint8
from gendiv_lightning.records import TokenSamples
from gendiv_lightning.sampling import TokenSampler
from gendiv_lightning.sampling.likelihood import score_given_tokens
from gendiv_lightning.sampling.next_scale import sample_next_scale
from gendiv_lightning.text.lengths import TextLengths
from gendiv_lightning.weights.hash import sha256
from gendiv_lightning.weights.load import DTYPES, load_strictly, read_checkpoint
from gendiv_lightning.weights.resolve import resolve

SIZES = {f"d{depth}": VARConfig.of_depth(depth) for depth in (16, 20, 24, 30)}
TOKENIZERS = {"ch160v4096z32": VAEConfig()}
ADVICE = "  or, to run a toy model now:   gendiv fit-free predict --config configs/tiny/llamagen_argmax.yaml"


def guidance_at(scale: int, num_scales: int, guidance: float) -> float:
    """Guidance of a scale: linear from 1 (no guidance) at the first scale to `guidance` at the last."""
    return 1 + (guidance - 1) * scale / (num_scales - 1)


class ScalePredictor:
    """The transformer with its cache, for the sampling loop: guided logits of one scale after another.

    Args:
        var: the transformer.
        quantizer: computes the contribution of a scale's tokens to the image.
        labels: (B,) class numbers.
        sampler: sampler with the guidance scale.
    """

    def __init__(self, var: VARTransformer, quantizer: Quantizer, labels: Tensor, sampler: TokenSampler) -> None:
        self.var, self.quantizer, self.sampler, self.num_rows = var, quantizer, sampler, len(labels)
        null = torch.full_like(labels, var.config.num_classes)
        self.cache = Cache(var, torch.cat([labels, null]) if sampler.is_guided else labels)
        self.total: Tensor | None = None

    def __call__(self, before: Tensor, scale: int) -> Tensor:
        """Logits (B, n, K) of a scale, from the tokens (B, n') of the previous scale; ignored for scale 0."""
        logits = self.var.predict(self._inputs(before, scale), self.cache)
        if not self.sampler.is_guided:
            return logits
        guidance = guidance_at(scale, len(self.var.config.sides), self.sampler.guidance)
        return replace(self.sampler, guidance=guidance).guide(*logits.split(self.num_rows))

    def _inputs(self, before: Tensor, scale: int) -> Tensor:
        if scale == 0:
            return self.var.first_inputs(self.cache.label)
        added = self.quantizer.added(before, scale - 1)
        self.total = added if self.total is None else self.total + added
        inputs = self.var.inputs(self.quantizer.at_scale(self.total, scale), scale)
        return inputs.repeat(2, 1, 1) if self.sampler.is_guided else inputs


class VAR(TokenGenerator[Tensor]):
    """VAR: class-to-image at 256 pixels, 680 tokens on 10 scales. Prompts are class numbers, such as "207".

    As in the official sampler, guidance rises from none at the first scale to u + (1 + cfg) (c - u) at the last one;
    the official `cfg` is `guidance_scale` - 1.

    Args:
        var_checkpoint: transformer weights: a path, or `OWNER/REPO:FILE` on the Hub. Official files load unchanged.
        vq_checkpoint: tokenizer weights, in the same forms.
        size: size of the transformer: "d16", "d20", "d24" or "d30"; or a JSON file with the fields of `VARConfig`.
        vq: size of the tokenizer: "ch160v4096z32"; or a JSON file with the fields of `VAEConfig`.
        dtype: dtype of the transformer; the image tokenizer always runs in float32.
        guidance_scale: guidance of the last scale; values of at most 1 turn it off (official for FID: cfg 1.5, that is
            2.5).
        temperature: divides the logits.
        top_k: number of most probable tokens to keep (official: 900); 0 keeps all.
        top_p: nucleus threshold (official: 0.96); 1 keeps all.
        batch_size: number of images sampled together. In float32 it affects speed and memory but not samples; in half
            precision it is part of the run's fingerprint, because logits can depend on the number of rows.
    """

    family, title = "var", "VAR"
    chance = Chance(path="", execution="which token each position gets, scale by scale")
    has_likelihood = True

    def __init__(
        self,
        var_checkpoint: str = "FoundationVision/var:var_d16.pth",
        vq_checkpoint: str = "FoundationVision/var:vae_ch160v4096z32.pth",
        size: str = "d16",
        vq: str = "ch160v4096z32",
        dtype: Precision = "float32",
        guidance_scale: float = 2.5,
        temperature: float = 1.0,
        top_k: int = 900,
        top_p: float = 0.96,
        batch_size: int = 16,
    ) -> None:
        self.var_config, facts = (SIZES[size], {}) if size in SIZES else read_sizes(size, "size", VARConfig, SIZES)
        self.vq_config = TOKENIZERS[vq] if vq in TOKENIZERS else read_sizes(vq, "vq", VAEConfig, TOKENIZERS)[0]
        for name in ("codebook_size", "code_dim", "sides"):
            configs = (self.var_config, self.vq_config)
            of_transformer, of_tokenizer = (json.dumps(getattr(config, name)) for config in configs)
            if of_transformer != of_tokenizer:
                raise OptionConflictError(
                    f"size and vq must agree on {name}, got {of_transformer} of {size} and {of_tokenizer} of {vq}. "
                    "Choose a transformer that was trained on this tokenizer"
                )
        official = re.search(r"var_(d\d+)\.pth$", var_checkpoint)
        if official and official[1] != size:
            raise OptionConflictError(
                f"var_checkpoint: {var_checkpoint} has size {official[1]}, got {size}. Set size to that"
            )
        super().__init__(
            codebook_size=self.var_config.codebook_size,
            grid=(1, self.var_config.starts[-1]),  # a pyramid has no single grid, so its tokens form one row
            guidance_scale=guidance_scale,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            dtype=dtype,
            batch_size=batch_size,
        )
        self.var_checkpoint, self.vq_checkpoint = var_checkpoint, vq_checkpoint
        self.size, self.is_toy = facts.get("name", Path(size).stem), bool(facts.get("toy", False))
        self._files: dict[str, Path] = {}

    # --- before anything is loaded ---

    def locate(self) -> None:
        """Find the weight files, downloading them from the Hub if necessary."""
        names = {"var_checkpoint": self.var_checkpoint, "vq_checkpoint": self.vq_checkpoint}
        self._files = {key: resolve(name, key, advice=ADVICE, folder=False) for key, name in names.items()}

    def identity(self) -> dict[str, object]:
        """Weight hashes, sizes and sampling settings."""
        return {
            "generator": self.family,
            "embedded": self.is_toy,
            "size": self.size,
            "dtype": self.dtype_name,
            **self.settings(),
            **{key: sha256(path) for key, path in self._files.items()},
            **({"batch_size": self.batch_size} if self.pads_batches else {}),
        }

    def check_prompts(self, texts: Sequence[str]) -> list[str]:
        """Raise ValueError for an invalid class label; there are no warnings."""
        for text in texts:
            read_label(text, self.var_config.num_classes)
        return []

    def text_lengths(self, texts: Sequence[str]) -> TextLengths | None:
        """None, because prompts are class labels."""
        return None

    def size_name(self) -> str:
        """Depth of the transformer, such as "d16"."""
        return self.size

    # --- weights ---

    def load(self) -> None:
        """Load transformer and tokenizer."""
        if not self._files:
            self.locate()
        with torch.device("meta"):
            var, vq = VARTransformer(self.var_config), VQVAE(self.vq_config)
        path = self._files["var_checkpoint"]
        load_strictly(var, read_checkpoint(path), path, DTYPES[self.dtype_name])
        path = self._files["vq_checkpoint"]
        load_strictly(vq, read_checkpoint(path), path, torch.float32)
        # Assigned only when both are loaded, because Lightning moves all attributes when it closes after an error.
        self.var, self.vq = var, vq

    # --- prompts to images ---

    def encode_prompts(self, texts: Sequence[str]) -> Tensor:
        """Class numbers (B,)."""
        return torch.tensor([read_label(text, self.var_config.num_classes) for text in texts], device=self.device)

    def sample_tokens(self, conditions: Tensor, sampler: TokenSampler) -> TokenSamples:
        """Sample with `sample_next_scale`."""
        predict = ScalePredictor(self.var, self.vq.quantize, conditions, sampler)
        return sample_next_scale(predict, sampler, self.var_config.sizes)

    def score_tokens(self, conditions: Tensor, tokens: Tensor, sampler: TokenSampler) -> Tensor:
        """Log2-probability (B, L) in one pass over all scales (teacher forcing), under the loop's distributions."""
        totals = self.vq.quantize.totals(tokens)
        codes = [self.vq.quantize.at_scale(total, scale) for scale, total in enumerate(totals[:-1], 1)]
        logits = self.var(conditions, codes)
        if sampler.is_guided:
            null = self.var(torch.full_like(conditions, self.var_config.num_classes), codes)
            sizes, guided = self.var_config.sizes, []
            for scale, parts in enumerate(zip(logits.split(sizes, 1), null.split(sizes, 1), strict=True)):
                guidance = guidance_at(scale, len(sizes), sampler.guidance)
                guided.append(replace(sampler, guidance=guidance).guide(*parts))
            logits = torch.cat(guided, 1)
        return score_given_tokens(sampler, logits, tokens)

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        """Decode tokens one image at a time, so that pixels do not depend on the batch size."""
        return torch.cat([to_uint8(check_finite(self.vq.decode(image), PIXELS)) for image in tokens.split(1)])

    @property
    @override
    def image_side(self) -> int:
        return self.vq_config.image_size

    def encode_images(self, images: Tensor) -> Tensor:
        """Encode images one at a time, so that codebook counts are exact on any number of ranks."""
        side = self.vq_config.image_size
        if tuple(images.shape[2:]) != (side, side):
            raise ImageSizeError(f"images must be {side} x {side} pixels for this tokenizer, got {tuple(images.shape)}")
        if not len(images):
            return torch.zeros(0, self.var_config.starts[-1], dtype=torch.int64, device=self.device)
        return torch.cat([self.vq.encode(from_uint8(image.to(self.device))) for image in images.split(1)])
