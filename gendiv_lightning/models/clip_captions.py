"""Captions to the hidden states of a CLIP text encoder, padded to its context as in training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ClipTokenizer:
    """A CLIP tokenizer: every caption gets the context's length, the rest is cut off and the end token kept.

    Args:
        folder: tokenizer in the Hugging Face layout.
        context: tokens that the text encoder reads, 77 in CLIP.
    """

    def __init__(self, folder: Path, context: int) -> None:
        self.folder, self.context = folder, context

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Loaded on first use."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.folder)

    def __call__(self, text: str) -> Tensor:
        """Token ids (1, context)."""
        return self.tokenizer(
            text, padding="max_length", max_length=self.context, truncation=True, return_tensors="pt"
        ).input_ids

    def warnings(self, texts: Sequence[str]) -> list[str]:
        """One line about captions that are cut, if there are any."""
        lengths = [len(ids) for ids in self.tokenizer(list(texts), verbose=False)["input_ids"]] if texts else []
        cut = [text for text, n in zip(texts, lengths, strict=True) if n > self.context]
        what = f"{len(cut)} of {len(texts)} wordings are longer than {self.context} tokens and are cut"
        return [f"{what}; the first: {cut[0]!r}"] if cut else []


def spread(features: Sequence[Tensor], rows: Sequence[int]) -> Tensor:
    """Features (1, ...) of some texts to (B, ...), row i being that of text `rows[i]`."""
    return torch.cat([features[row] for row in rows])
