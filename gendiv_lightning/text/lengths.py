"""How long captions are in a text encoder's tokens, and how many of them it cuts off. It counts, and loads no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


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
