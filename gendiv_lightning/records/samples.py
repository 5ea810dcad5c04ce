"""Samples returned by a sampling loop and by `predict_step`, and `PromptSamples`, the input of metrics.

These are plain named tuples, which Lightning can move between devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from gendiv_lightning.records.design import PromptBatch


class TokenSamples(NamedTuple):
    """Output of a sampling loop over tokens, one row per image.

    Attributes:
        tokens: (B, L) int64, in the tokenizer's raster order.
        entropy: (B, L) float32, bits: entropy of the distribution that each token was drawn from, after guidance,
            codebook subset, temperature, top-k and top-p; 0 with execution noise off, because the mode is certain.
        log_prob: (B, L) float32, bits (<= 0): log2-probability of the token under that distribution.
    """

    tokens: Tensor
    entropy: Tensor
    log_prob: Tensor


class LatentSamples(NamedTuple):
    """Output of a sampling loop over continuous latents, one row per image.

    Attributes:
        latents: (B, ...) the final latents, in the shape of the decoder's input.
        images: (B, 3, H, W) uint8, decoded from the latents by the pipeline of the loop.
    """

    latents: Tensor
    images: Tensor


class SampleBatch(NamedTuple):
    """Output of `predict_step`: the rows of a `PromptBatch`, sampled and decoded.

    Attributes:
        batch: the prompts and the noise keys of the rows.
        samples: tokens with the statistics of their draws, or latents; on the CPU.
        images: (B, 3, H, W) uint8, on the CPU.
        per_prompt: recorder results per prompt, (P, ...) by the recorder's name.
        per_sample: recorder results per row, (B, ...) by the recorder's name.
    """

    batch: PromptBatch
    samples: TokenSamples | LatentSamples
    images: Tensor
    per_prompt: Mapping[str, Tensor] = {}
    per_sample: Mapping[str, Tensor] = {}


class PromptSamples(NamedTuple):
    """All samples of one prompt, the input of metrics. Only `images` is required.

    Attributes:
        images: (N, 3, H, W) uint8.
        tokens: (N, L) integer tokens; None for a generator without tokens.
        prompt: text of the original prompt.
        place: index of the prompt in its set, unique per prompt; it orders the results of all ranks.
        paraphrase: (N,) paraphrase number of each sample, 0 for the original prompt; None means one text for all.
        path: (N,) path number of each sample; None gives every sample its own path.
        entropy: (N, L) bits, see `TokenSamples`.
        texts: the text that each sample was generated from; empty if unknown.
        names: name of each image, such as its file; empty if it has none.
        per_prompt: recorder results for this prompt, by the recorder's name.
        per_sample: recorder results for each sample, (N, ...) by the recorder's name.
    """

    images: Tensor
    tokens: Tensor | None = None
    prompt: str = ""
    place: int = 0
    paraphrase: Tensor | None = None
    path: Tensor | None = None
    entropy: Tensor | None = None
    texts: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    per_prompt: Mapping[str, Tensor] = {}
    per_sample: Mapping[str, Tensor] = {}

    @property
    def groups(self) -> Tensor:
        """(N, 2) paraphrase number and path number of each sample."""
        num_samples = len(self.images)
        paraphrase = torch.zeros(num_samples, dtype=torch.int64) if self.paraphrase is None else self.paraphrase
        path = torch.arange(num_samples) if self.path is None else self.path
        return torch.stack([paraphrase, path], 1)

    @property
    def num_paths(self) -> int:
        """Number of distinct (paraphrase, path) among the samples."""
        return len(self.groups.unique(dim=0))

    def take(self, rows: Tensor) -> PromptSamples:
        """Select samples by index (n,). Results per prompt are dropped, because they cover all of the samples."""

        def select(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[rows]

        numbers = rows.tolist()
        return self._replace(
            images=self.images[rows],
            tokens=select(self.tokens),
            paraphrase=select(self.paraphrase),
            path=select(self.path),
            entropy=select(self.entropy),
            texts=tuple(self.texts[n] for n in numbers) if self.texts else (),
            names=tuple(self.names[n] for n in numbers) if self.names else (),
            per_prompt={},
            per_sample={name: values[rows] for name, values in self.per_sample.items()},
        )


def split_by_prompt(sampled: SampleBatch) -> list[PromptSamples]:
    """Split the rows of a batch into one `PromptSamples` per prompt."""
    batch, samples = sampled.batch, sampled.samples
    images = sampled.images.contiguous()  # the memory layout would change the last digits of metrics
    owners = torch.tensor(batch.rows)
    paraphrase = torch.tensor([key.paraphrase for key in batch.keys])
    path = torch.tensor([key.path for key in batch.keys])
    tokens, entropy = (samples.tokens, samples.entropy) if isinstance(samples, TokenSamples) else (None, None)
    prompts = []
    for number, (prompt, index) in enumerate(zip(batch.prompts, batch.indices, strict=True)):
        rows = owners == number
        prompts.append(
            PromptSamples(
                images=images[rows],
                tokens=None if tokens is None else tokens[rows],
                prompt=prompt.text,
                place=index,
                paraphrase=paraphrase[rows],
                path=path[rows],
                entropy=None if entropy is None else entropy[rows],
                texts=tuple(text for text, row in zip(batch.texts, batch.rows, strict=True) if row == number),
                per_prompt={name: values[number] for name, values in sampled.per_prompt.items()},
                per_sample={name: values[rows] for name, values in sampled.per_sample.items()},
            )
        )
    return prompts


class ImageBatch(NamedTuple):
    """Images of a validation set, for codebook counts.

    Attributes:
        images: (B, 3, S, S) uint8; B may be 0 where all files of a batch were corrupt.
        indices: (B,) int64, index of each image in its data set, regardless of the rank.
        corrupt: name and reason of each file that could not be read.
    """

    images: Tensor
    indices: Tensor
    corrupt: tuple[tuple[str, str], ...] = ()
