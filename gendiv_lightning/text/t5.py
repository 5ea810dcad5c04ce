"""T5 features of captions, each encoded once and cached on disk."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gendiv_lightning.functional.finite import check_finite
from gendiv_lightning.storage.feature_cache import FeatureCache
from gendiv_lightning.text.cleaning import clean_caption
from gendiv_lightning.text.lengths import CaptionCounter, TextLengths
from gendiv_lightning.weights.hash import sha256
from gendiv_lightning.weights.load import load_pretrained

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, T5EncoderModel


class CaptionFeatures:
    """Last hidden states of a T5 encoder for cleaned captions, cached on disk by (encoder, dtype, caption).

    Captions are encoded one at a time and without padding, so that features do not depend on the batch. The encoder is
    loaded only when a caption is not in the cache.

    Args:
        folder: encoder and tokenizer in the Hugging Face layout.
        max_tokens: maximum caption length in tokens, including `</s>`; longer captions are truncated.
        dtype: dtype of the encoder and the features.
    """

    def __init__(self, folder: Path, max_tokens: int, dtype: torch.dtype) -> None:
        self.folder, self.max_tokens, self.dtype = folder, max_tokens, dtype
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._encoder: T5EncoderModel | None = None
        self._counter = CaptionCounter(folder, lambda: self.tokenizer, clean_caption)
        self._cache = FeatureCache("caption_features", f"{sha256(folder)} {dtype} {max_tokens}")

    def lengths(self, texts: Sequence[str]) -> TextLengths:
        """Length of each caption in tokens after cleaning and before truncation, including `</s>`."""
        return TextLengths(texts, self._counter.count(texts), self.max_tokens)

    def encode(self, texts: Sequence[str], device: torch.device) -> list[Tensor]:
        """Features (n, D) of each caption, where n is its number of tokens.

        Raises:
            NonFiniteError: the encoder returned NaN or infinity.
        """
        captions = [clean_caption(text) for text in texts]
        return [self._cache.get(text, partial(self._compute, text, device)).to(device) for text in captions]

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, loaded on first use."""
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            self._tokenizer = AutoTokenizer.from_pretrained(self.folder)
        return self._tokenizer

    def _load_encoder(self) -> T5EncoderModel:
        from transformers import T5EncoderModel

        return load_pretrained(T5EncoderModel, self.folder, self.dtype)

    @torch.inference_mode()
    def _compute(self, caption: str, device: torch.device) -> Tensor:
        if self._encoder is None:
            self._encoder = self._load_encoder()
            self._encoder.to(device)  # type: ignore[arg-type]
        ids = self.tokenizer(caption, max_length=self.max_tokens, truncation=True, return_tensors="pt").input_ids
        states = self._encoder(input_ids=ids.to(device)).last_hidden_state[0]
        return check_finite(states, "the text encoder's features")
