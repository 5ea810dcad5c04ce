"""How many texts of a prompt set a text encoder would cut, by its tokenizer alone: for the set's card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gendiv_lightning.errors import ConfigValueError, MissingWeightsError
from gendiv_lightning.text.cleaning import clean_caption
from gendiv_lightning.text.lengths import TextLengths

MOST = 100_000  # a tokenizer that has no limit says a number beyond all


class TokenCounter:
    """Counts texts in the tokens of a tokenizer of transformers.

    T5's texts are cleaned as LlamaGen cleans captions, since it is LlamaGen that reads them.

    Args:
        name: folder or Hub name, and behind a colon the limit where the tokenizer's own is another
            (`google/flan-t5-xl:120`, as LlamaGen reads; `openai/clip-vit-large-patch14`, whose own is 77).

    Raises:
        ValueError: there is no such tokenizer, or no limit is known.
    """

    def __init__(self, name: str) -> None:
        from transformers import AutoTokenizer

        source, _, told = name.rpartition(":") if name.rpartition(":")[2].isdecimal() else (name, "", "")
        folder = Path(source).expanduser()
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(str(folder) if folder.is_dir() else source)
        except (OSError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise MissingWeightsError(f"--count-tokens {name}: the tokenizer cannot be had: {reason}") from error
        self.label = f"{folder.resolve().name if folder.is_dir() else source}{f':{told}' if told else ''}"
        self.limit = int(told or self._tokenizer.model_max_length)
        if not 1 <= self.limit <= MOST:
            raise ConfigValueError(f"--count-tokens {name}: this tokenizer has no limit of its own, give it: {name}:77")
        self._is_t5 = "T5" in type(self._tokenizer).__name__

    def count(self, texts: Sequence[str]) -> TextLengths:
        """Lengths of texts, start and end tokens included."""
        read = [clean_caption(text) for text in texts] if self._is_t5 else list(texts)
        encoded = self._tokenizer(read, verbose=False)["input_ids"] if read else []
        return TextLengths(texts, [len(ids) for ids in encoded], self.limit)

    def facts(self, kinds: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """For a card: the limit, and of each kind of texts how many there are, how many are cut, and the longest."""
        return {"limit": self.limit, **{kind: self.count(texts).facts() for kind, texts in kinds.items()}}
