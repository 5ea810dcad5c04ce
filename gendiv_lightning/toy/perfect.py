"""`PerfectPostcards`: an autoregressive generator with exactly the distribution of the toy dataset.

Notation: B rows, N images that a caption fits, L tokens of an image, K codebook entries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from gendiv_lightning.generators.llamagen.generator import Conditions, LlamaGen
from gendiv_lightning.generators.llamagen.tokenizer import VQModel
from gendiv_lightning.records import TokenSamples
from gendiv_lightning.sampling import TokenGrid, TokenSampler
from gendiv_lightning.toy.captions import parse
from gendiv_lightning.toy.files import WEIGHTS
from gendiv_lightning.toy.postcards import GROUPS, NUM_IMAGES, values_of
from gendiv_lightning.weights.hash import sha256
from gendiv_lightning.weights.load import load_strictly, read_checkpoint

GRIDS = WEIGHTS / "postcards_tokens.npz"
# Weight of tokens that no image continues with, because a codebook subset may exclude all others.
_NEGLIGIBLE = 1e-12


class PerfectPostcards(LlamaGen):
    """Draws each token with its frequency among the images that the caption fits and that start with the same tokens.

    By the chain rule each of the N images has probability 1 / N. So H(C | X) = log2 N, paraphrases and paths carry no
    information, and any other measurement is an error of the estimator. Tokens are those of the toy LlamaGen, whose
    tokenizer is shared; there is no transformer.

    Args:
        batch_size: number of images sampled together.
    """

    family, title = "postcards", "Perfect postcards"

    def __init__(self, batch_size: int = 64) -> None:
        super().__init__(
            gpt_checkpoint="",
            vq_checkpoint="toy:llamagen_vq.safetensors",
            text_encoder="",
            gpt="toy:llamagen_gpt.json",
            vq="toy:llamagen_vq.json",
            image_size=48,
            dtype="float32",
            guidance_scale=1.0,
            top_k=0,
            batch_size=batch_size,
        )

    def locate(self) -> None:
        """Set the two files, which are part of the package."""
        self._files = {"vq_checkpoint": WEIGHTS / "llamagen_vq.safetensors", "grids": GRIDS}

    def identity(self) -> dict[str, object]:
        """Hashes of tokenizer and token grids, and the sampling settings."""
        files = {key: sha256(path) for key, path in self._files.items()}
        return {"generator": self.family, "embedded": True, **self.settings(), **files}

    def check_prompts(self, texts: Sequence[str]) -> list[str]:
        """Raise ValueError for captions outside the grammar of postcards."""
        for text in texts:
            parse(text)
        return []

    def load(self) -> None:
        """Load the tokenizer."""
        self.locate()
        with torch.device("meta"):
            vq = VQModel(self.vq_config)
        path = self._files["vq_checkpoint"]
        load_strictly(vq, read_checkpoint(path), path, torch.float32)
        self.vq = vq

    def encode_prompts(self, texts: Sequence[str]) -> Conditions:
        """Token grids (N, L) of each distinct text."""
        distinct = list(dict.fromkeys(texts))
        rows = torch.tensor([distinct.index(text) for text in texts])
        return Conditions([fitting_grids(parse(text)) for text in distinct], rows)

    def sample_tokens(self, conditions: Conditions, sampler: TokenSampler) -> TokenSamples:
        """Sample one token at a time, in raster order."""
        grid, grids = TokenGrid(sampler, math.prod(self.grid)), _Fitting(conditions, self.codebook_size)
        rows = torch.arange(len(conditions.rows))
        for step in range(grid.tokens.shape[1]):
            draw = sampler.draw_tokens(grids.log_shares(step), step, rows, torch.full_like(rows, step))
            grid.write(draw)
            grids.keep(step, draw.tokens)
        return grid.samples()

    def score_tokens(self, conditions: Conditions, tokens: Tensor, sampler: TokenSampler) -> Tensor:
        """Log2-probability (B, L) of given tokens (B, L)."""
        grids, scores = _Fitting(conditions, self.codebook_size), []
        for step in range(tokens.shape[1]):
            log_probs = sampler.filter_logits(grids.log_shares(step)).log_softmax(-1)
            scores.append(log_probs.gather(1, tokens[:, step : step + 1])[:, 0] / math.log(2))
            grids.keep(step, tokens[:, step])
        return torch.stack(scores, 1)


class _Fitting:
    """The images of a caption that agree with the tokens of each row so far."""

    def __init__(self, conditions: Conditions, codebook_size: int) -> None:
        self.codebook_size, self.grids = codebook_size, conditions.features
        self.rows = [(conditions.rows == number).nonzero()[:, 0] for number in range(len(self.grids))]
        self.fits = [torch.ones(len(rows), len(grid)) for rows, grid in zip(self.rows, self.grids, strict=True)]

    def log_shares(self, step: int) -> Tensor:
        """Unnormalised logits (B, K) of the tokens of a step, from the counts of the images that fit."""
        counts = torch.full((sum(map(len, self.rows)), self.codebook_size), _NEGLIGIBLE)
        for rows, fits, grid in zip(self.rows, self.fits, self.grids, strict=True):
            counts[rows] += torch.zeros(len(rows), self.codebook_size).index_add_(1, grid[:, step], fits)
        return counts.log()

    def keep(self, step: int, tokens: Tensor) -> None:
        """Drop the images whose token at this step differs from the row's token (B,)."""
        for rows, fits, grid in zip(self.rows, self.fits, self.grids, strict=True):
            fits *= grid[:, step] == tokens[rows][:, None]


def fitting_grids(stated: dict[str, int]) -> Tensor:
    """Tokens (N, L) int64 of all images that a meaning (group: value) fits, from the toy tokenizer; {} fits all."""
    values = values_of(torch.arange(NUM_IMAGES))
    fits = torch.ones(NUM_IMAGES, dtype=torch.bool)
    for column, group in enumerate(GROUPS):
        if group in stated:
            fits &= values[:, column] == stated[group]
    return _all_grids()[fits].long()


@lru_cache
def _all_grids() -> Tensor:
    """Tokens (52500, L) uint8 of all postcards."""
    with np.load(GRIDS, allow_pickle=False) as file:
        return torch.from_numpy(file["tokens"])
