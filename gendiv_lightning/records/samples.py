"""Samples: what a loop returns, what `predict_step` returns, and all samples of one prompt, the unit of metrics.

Plain named tuples: Lightning can move them between devices.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gendiv_lightning.records.design import PromptBatch


class TokenSamples(NamedTuple):
    """What a sampling loop returns, a row an image.

    Attributes:
        tokens: (B, L) int64, in the tokenizer's raster order.
        entropy: (B, L) float32, bits: entropy of the distribution that each token was drawn from, after guidance,
            subset, temperature, top-k and top-p; 0 with execution noise off, where a token is the mode for certain.
        log_prob: (B, L) float32, bits (<= 0): log2-probability of the token under that distribution.
    """

    tokens: Tensor
    entropy: Tensor
    log_prob: Tensor


class SampleBatch(NamedTuple):
    """What `predict_step` returns: the rows of a `PromptBatch`, sampled and decoded.

    Attributes:
        batch: the prompts and the names of the rows.
        samples: tokens and the statistics of their draws, on the CPU.
        images: (B, 3, H, W) uint8, on the CPU.
        marginals: (P, M) float64, bits: a row a prompt of what only the sampling loop sees, the entropies of its token
            marginals (`sampling.marginals.NAMES`); None where they are not recorded.
        wording_log_prob: (B, Q) float32, bits: log2-probability of each row's tokens under its prompt's Q wordings, in
            the order of their numbers; None where it was not asked for, or the model has no such likelihood.
    """

    batch: PromptBatch
    samples: TokenSamples
    images: Tensor
    marginals: Tensor | None = None
    wording_log_prob: Tensor | None = None


class PromptSamples(NamedTuple):
    """All samples of one prompt: the unit that metrics measure. Only `images` is needed.

    Attributes:
        images: (N, 3, H, W) uint8.
        tokens: (N, L) integer tokens, if the generator has any.
        prompt: text of the base prompt.
        place: of the prompt in its set, its own for each prompt; it orders the rows, whatever rank measured them.
        paraphrase: (N,) wording number of each sample; None means one wording.
        path: (N,) path number of each sample; None means a path of its own for each.
        entropy: (N, L) bits, see `TokenSamples`.
        marginals: (M,) bits, see `SampleBatch`.
        wording_log_prob: (N, Q) bits, see `SampleBatch`.
        texts: the wording that each sample was made from; empty where it is not known.
        names: what each image is called, such as its file; empty where it has no name.
    """

    images: Tensor
    tokens: Tensor | None = None
    prompt: str = ""
    place: int = 0
    paraphrase: Tensor | None = None
    path: Tensor | None = None
    entropy: Tensor | None = None
    marginals: Tensor | None = None
    wording_log_prob: Tensor | None = None
    texts: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def groups(self) -> Tensor:
        """(N, 2) wording and path of each sample."""
        num_samples = len(self.images)
        paraphrase = torch.zeros(num_samples, dtype=torch.int64) if self.paraphrase is None else self.paraphrase
        path = torch.arange(num_samples) if self.path is None else self.path
        return torch.stack([paraphrase, path], 1)

    @property
    def num_paths(self) -> int:
        """Distinct (wording, path) among the samples."""
        return len(self.groups.unique(dim=0))


def split_by_prompt(sampled: SampleBatch) -> list[PromptSamples]:
    """The rows of a batch, a `PromptSamples` a prompt."""
    batch, samples = sampled.batch, sampled.samples
    images = sampled.images.contiguous()  # the memory layout would show in a metric's last digits
    rows = torch.tensor(batch.rows)
    paraphrase = torch.tensor([key.paraphrase for key in batch.keys])
    path = torch.tensor([key.path for key in batch.keys])
    return [
        PromptSamples(
            images[mine],
            samples.tokens[mine],
            prompt.text,
            place,
            paraphrase[mine],
            path[mine],
            samples.entropy[mine],
            None if sampled.marginals is None else sampled.marginals[number],
            None if sampled.wording_log_prob is None else sampled.wording_log_prob[mine],
            tuple(text for text, row in zip(batch.texts, batch.rows, strict=True) if row == number),
        )
        for number, (prompt, place) in enumerate(zip(batch.prompts, batch.indices, strict=True))
        for mine in [rows == number]
    ]


class ImageBatch(NamedTuple):
    """Images of a validation set, for codebook usage.

    Attributes:
        images: (B, 3, S, S) uint8; B may be 0 where all files of a batch were corrupt.
        indices: (B,) int64, place of each image in its data set, whatever the rank.
        corrupt: name and reason of each file that could not be read.
    """

    images: Tensor
    indices: Tensor
    corrupt: tuple[tuple[str, str], ...] = ()
