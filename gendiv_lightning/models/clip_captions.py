"""Captions to the hidden states of a CLIP text encoder, padded to its context as in training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

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
        """Loaded on first use; ValueError if the folder does not hold one."""
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(self.folder)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{self.folder} does not hold the tokenizer of captions: {reason}") from error

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
