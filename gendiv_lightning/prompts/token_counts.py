"""Count the texts of a prompt set that a text encoder would truncate, with its tokenizer alone, for the metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gendiv_lightning.errors import ConfigValueError, MissingWeightsError
from gendiv_lightning.text.cleaning import clean_caption
from gendiv_lightning.text.lengths import TextLengths

MOST = 100_000  # a tokenizer without a limit reports a huge number


class TokenCounter:
    """Counts the tokens of texts with a tokenizer of transformers.

    Texts for T5 are cleaned first, as LlamaGen does.

    Args:
        name: folder or Hub name, optionally followed by a colon and a limit that replaces the tokenizer's own:
            `google/flan-t5-xl:120` is LlamaGen's limit; `openai/clip-vit-large-patch14` has its own limit, 77.

    Raises:
        MissingWeightsError: there is no such tokenizer.
        ConfigValueError: no limit is known.
    """

    def __init__(self, name: str) -> None:
        from transformers import AutoTokenizer

        source, _, limit = name.rpartition(":") if name.rpartition(":")[2].isdecimal() else (name, "", "")
        folder = Path(source).expanduser()
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(str(folder) if folder.is_dir() else source)
        except (OSError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise MissingWeightsError(f"--count-tokens {name}: the tokenizer could not be loaded: {reason}") from error
        self.label = f"{folder.resolve().name if folder.is_dir() else source}{f':{limit}' if limit else ''}"
        self.limit = int(limit or self._tokenizer.model_max_length)
        if not 1 <= self.limit <= MOST:
            raise ConfigValueError(
                f"--count-tokens {name}: the tokenizer has no limit of its own. Add one, as in {name}:77"
            )
        self._is_t5 = "T5" in type(self._tokenizer).__name__

    def count(self, texts: Sequence[str]) -> TextLengths:
        """Lengths of texts, start and end tokens included."""
        read = [clean_caption(text) for text in texts] if self._is_t5 else list(texts)
        encoded = self._tokenizer(read, verbose=False)["input_ids"] if read else []
        return TextLengths(texts, [len(ids) for ids in encoded], self.limit)

    def facts(self, kinds: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """For metadata: the limit, and for each kind of text the count, the number truncated, and the longest."""
        return {"limit": self.limit, **{kind: self.count(texts).facts() for kind, texts in kinds.items()}}
