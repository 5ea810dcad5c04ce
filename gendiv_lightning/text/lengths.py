"""Caption lengths in tokens of a text encoder, and how many captions it truncates. Loads the tokenizer only."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gendiv_lightning.storage.atomic import cache_folder, write_atomically

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WORTH_KEEPING = 1000  # number of texts; smaller sets are counted faster than they are read from disk
_DIGEST = hashlib.sha256().digest_size
# The files of a tokenizer folder that determine its tokens.
_TOKENIZER_FILES = ("*token*.json", "vocab.*", "merges.txt", "*.model")


class TextLengths(NamedTuple):
    """Captions with their lengths.

    Attributes:
        texts: the captions.
        lengths: number of tokens of each before truncation, including start and end tokens.
        limit: context length of the text encoder in tokens.
    """

    texts: Sequence[str]
    lengths: Sequence[int]
    limit: int

    @property
    def cut(self) -> list[str]:
        """The captions that are truncated."""
        return [text for text, length in zip(self.texts, self.lengths, strict=True) if length > self.limit]

    def facts(self) -> dict[str, Any]:
        """Number of captions, number of truncated ones, and the longest length, for metadata files."""
        return {"texts": len(self.texts), "cut": len(self.cut), "longest": max(self.lengths, default=0)}

    def warnings(self) -> list[str]:
        """A one-line warning if captions are truncated, else nothing."""
        what = f"{len(self.cut)} of {len(self.texts)} texts are longer than {self.limit} tokens and are truncated"
        return [f"{what}; the first: {self.cut[0]!r}"] if self.cut else []


class CaptionCounter:
    """Counts the tokens of captions before truncation, including start and end tokens.

    Each caption is counted once per process. The counts of a large set are stored on disk under a hash of the
    tokenizer and the captions, with a checksum, so that a resumed run does not count again.

    Args:
        folder: the tokenizer, in the Hugging Face layout.
        tokenizer: function that loads the tokenizer.
        clean: function applied to a caption before it is tokenized.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: Callable[[], PreTrainedTokenizerBase],
        clean: Callable[[str], str] | None = None,
    ) -> None:
        self._folder, self._tokenizer, self._clean = folder, tokenizer, clean
        self._known: dict[str, int] = {}

    def count(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each caption."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        counts = self._look_up(new) if len(new) >= WORTH_KEEPING else self._count(new)
        self._known.update(zip(new, counts, strict=True))
        return [self._known[text] for text in texts]

    def _look_up(self, texts: Sequence[str]) -> list[int]:
        path = cache_folder() / "token_counts" / self._key(texts)
        kept = path.read_bytes() if path.is_file() else b""
        counts = np.frombuffer(kept[_DIGEST:], "<u4") if len(kept) == _DIGEST + 4 * len(texts) else None
        if counts is not None and hashlib.sha256(kept[_DIGEST:]).digest() == kept[:_DIGEST]:
            return counts.tolist()
        if kept:
            warnings.warn(f"{path} is damaged: the captions are counted again", stacklevel=2)
        new_counts = self._count(texts)
        data = np.array(new_counts, "<u4").tobytes()
        write_atomically(path, lambda unfinished: unfinished.write_bytes(hashlib.sha256(data).digest() + data))
        return new_counts

    def _count(self, texts: Sequence[str]) -> list[int]:
        if not texts:
            return []
        cleaned = [self._clean(text) for text in texts] if self._clean else list(texts)
        return [len(ids) for ids in self._tokenizer()(cleaned, verbose=False)["input_ids"]]

    def _key(self, texts: Sequence[str]) -> str:
        versions = {name: version(name) for name in ("gendiv_lightning", "tokenizers", "ftfy", "beautifulsoup4")}
        digest = hashlib.sha256(f"{versions} {getattr(self._clean, '__name__', None)}".encode())
        for file in sorted({path for pattern in _TOKENIZER_FILES for path in self._folder.glob(pattern)}):
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        for text in texts:
            data = text.encode()
            digest.update(len(data).to_bytes(8, "little") + data)
        return digest.hexdigest()
