"""Captions to the hidden states of a CLIP text encoder, padded to its context as in training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from gendiv_lightning.errors import WrongWeightsError
from gendiv_lightning.text.lengths import CaptionCounter, TextLengths

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
        self._counter = CaptionCounter(folder, lambda: self.tokenizer)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Loaded on first use; ValueError if the folder does not hold one."""
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(self.folder)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise WrongWeightsError(f"{self.folder} does not hold the tokenizer of captions: {reason}") from error

    def __call__(self, text: str) -> Tensor:
        """Token ids (1, context)."""
        return self.tokenizer(
            text, padding="max_length", max_length=self.context, truncation=True, return_tensors="pt"
        ).input_ids

    def lengths(self, texts: Sequence[str]) -> TextLengths:
        """Tokens of each caption before anything is cut, start and end included."""
        return TextLengths(texts, self._counter.count(texts), self.context)
