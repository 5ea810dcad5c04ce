"""Tokenization of captions for CLIP text encoders, padded to the context length as in training."""

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
    """A CLIP tokenizer that pads or truncates every caption to the context length and keeps the end token.

    Args:
        folder: tokenizer in the Hugging Face layout.
        context: context length of the text encoder in tokens, 77 for CLIP.
    """

    def __init__(self, folder: Path, context: int) -> None:
        self.folder, self.context = folder, context
        self._counter = CaptionCounter(folder, lambda: self.tokenizer)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, loaded on first use; ValueError if the folder does not contain one."""
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(self.folder)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise WrongWeightsError(f"{self.folder} does not contain the caption tokenizer: {reason}") from error

    def __call__(self, text: str) -> Tensor:
        """Token ids (1, context)."""
        return self.tokenizer(
            text, padding="max_length", max_length=self.context, truncation=True, return_tensors="pt"
        ).input_ids

    def lengths(self, texts: Sequence[str]) -> TextLengths:
        """Length of each caption in tokens before truncation, including the start and end tokens."""
        return TextLengths(texts, self._counter.count(texts), self.context)
