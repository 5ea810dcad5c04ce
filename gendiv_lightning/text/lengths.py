"""How long captions are in a text encoder's tokens, and how many of them it cuts off. It counts, and loads no model."""

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

WORTH_KEEPING = 1000  # texts; fewer are counted faster than they are looked up
_DIGEST = hashlib.sha256().digest_size
# Of a tokenizer's folder: what decides its tokens.
_TOKENIZER_FILES = ("*token*.json", "vocab.*", "merges.txt", "*.model")


class TextLengths(NamedTuple):
    """Captions and their lengths.

    Attributes:
        texts: the captions.
        lengths: tokens of each before anything is cut, start and end tokens included.
        limit: tokens that the text encoder reads.
    """

    texts: Sequence[str]
    lengths: Sequence[int]
    limit: int

    @property
    def cut(self) -> list[str]:
        """The captions that are cut."""
        return [text for text, length in zip(self.texts, self.lengths, strict=True) if length > self.limit]

    def facts(self) -> dict[str, Any]:
        """How many there are, how many of them are cut, and the longest, for cards."""
        return {"texts": len(self.texts), "cut": len(self.cut), "longest": max(self.lengths, default=0)}

    def warnings(self) -> list[str]:
        """One line about captions that are cut, if there are any."""
        what = f"{len(self.cut)} of {len(self.texts)} wordings are longer than {self.limit} tokens and are cut"
        return [f"{what}; the first: {self.cut[0]!r}"] if self.cut else []


class CaptionCounter:
    """Tokens of captions, start and end included, before anything is cut.

    Each caption is counted once per process. The counts of a large set are kept on disk under a hash of the tokenizer
    and the captions, with a checksum, so that a resumed run does not count at all.

    Args:
        folder: the tokenizer, in the Hugging Face layout.
        tokenizer: loads it.
        clean: what is done to a caption before it is split into tokens.
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
        """Tokens of each caption."""
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
        found = self._count(texts)
        data = np.array(found, "<u4").tobytes()
        write_atomically(path, lambda unfinished: unfinished.write_bytes(hashlib.sha256(data).digest() + data))
        return found

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
