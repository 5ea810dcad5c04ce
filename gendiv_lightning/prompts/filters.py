"""Filters of prompts: by source, length and language, and near-duplicates."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from datasketch import MinHash, MinHashLSH

from gendiv_lightning.errors import ConfigValueError
from gendiv_lightning.records import Prompt

SHINGLE = 5  # characters
NUM_PERMUTATIONS = 128
DROPPED = ("empty", "source", "too_short", "too_long", "language")

# Common words of captions. No word of another language is also an English word.
COMMON_WORDS = {
    "English": "the an of and with on at by is are its it this that from to his her their while there which two into",
    "German": "der das den dem des ein eine einen einem einer und mit auf von im ist sind vor zur zum über unter neben",
    "Dutch": "het een van naar zijn frequent op voor niet aan bij uit onder naast",
    "French": "le les du des une un et avec dans sur sous est sont au aux pour près devant qui",
    "Spanish": "el los las del una unos unas y con en sobre bajo junto por para que está están",
    "Portuguese": "os uma uns umas com em na nas dos das ao pelo pela para sobre está estão",
    "Italian": "il lo gli della delle degli di e con nel nella sul sulla che uno una accanto sotto",
}
LANGUAGES = {name: frozenset(words.split()) for name, words in COMMON_WORDS.items()}


@dataclass(frozen=True)
class PromptFilter:
    """Which prompts may be drawn.

    Attributes:
        sources: the source of a prompt must contain one of these texts, in any case; empty accepts all sources.
        min_words: minimum number of words.
        max_words: maximum number of words.
        english: drop prompts that are not English, see `looks_english`.
    """

    sources: tuple[str, ...] = ()
    min_words: int | None = None
    max_words: int | None = None
    english: bool = False

    def reason(self, prompt: Prompt) -> str | None:
        """The reason why a prompt is dropped, one of `DROPPED`; None if it is kept."""
        num_words = len(prompt.text.split())
        if num_words == 0:
            return "empty"
        if self.sources and not any(source.lower() in prompt.source.lower() for source in self.sources):
            return "source"
        if self.min_words is not None and num_words < self.min_words:
            return "too_short"
        if self.max_words is not None and num_words > self.max_words:
            return "too_long"
        return "language" if self.english and not looks_english(prompt.text) else None


def looks_english(text: str) -> bool:
    """Whether a text may be English, judged by its letters and most frequent words. Rough, but deterministic.

    A text is not English if more than a tenth of its letters are not Latin, or if at least two words are frequent words
    of another language and more than are frequent in English. Short texts in another language may therefore pass ("Ein
    roter Hund"), as do languages without a word list.
    """
    letters = [letter for letter in text if letter.isalpha()]
    latin = sum(letter.isascii() or "LATIN" in unicodedata.name(letter, "") for letter in letters)
    if latin < 0.9 * len(letters):
        return False
    words = re.findall(r"\w+", text.lower())
    frequent = {name: sum(word in common for word in words) for name, common in LANGUAGES.items()}
    most = max(frequent.values())
    return most < 2 or most == frequent["English"]


class NearDuplicates:
    """The texts seen so far, with a test whether another text is a near-duplicate of one of them.

    Two texts are near-duplicates if the Jaccard similarity of their sets of 5-character shingles, ignoring case and
    punctuation, is at least `threshold`. MinHash (Broder, 1997) with locality-sensitive hashing proposes pairs, which
    are then compared exactly. At most one in a thousand pairs at the threshold is missed, and fewer above it.

    Args:
        threshold: similarity in [0.1, 1]; 1 means equal sets.

    Raises:
        ConfigValueError: for another threshold.
    """

    def __init__(self, threshold: float) -> None:
        if not 0.1 <= threshold <= 1:
            raise ConfigValueError(
                f"the similarity of near-duplicates must be in [0.1, 1], got {threshold}. The default is 0.8"
            )
        self.threshold = threshold
        rows = max(rows for rows in range(1, NUM_PERMUTATIONS // 2) if _missed(threshold, rows) <= 0.001)
        self._hashes = MinHashLSH(num_perm=NUM_PERMUTATIONS, params=(NUM_PERMUTATIONS // rows, rows))
        self._sketch = MinHash(NUM_PERMUTATIONS)
        self._sets: list[set[bytes]] = []

    def add(self, text: str) -> bool:
        """Store a text and return True, or return False if it is a near-duplicate of a stored one."""
        shingles = _shingles(text)
        sketch = self._sketch.copy()  # drawing new permutations would take longer than the rest
        sketch.update_batch(list(shingles))
        if any(_jaccard(shingles, self._sets[index]) >= self.threshold for index in self._hashes.query(sketch)):
            return False
        self._hashes.insert(len(self._sets), sketch)
        self._sets.append(shingles)
        return True


def _missed(similarity: float, rows: int) -> float:
    """Probability that two texts agree in no band of `rows` rows."""
    return (1 - similarity**rows) ** (NUM_PERMUTATIONS // rows)


def _shingles(text: str) -> set[bytes]:
    plain = " ".join(re.findall(r"\w+", text.lower())) or text
    return {plain[start : start + SHINGLE].encode() for start in range(max(1, len(plain) - SHINGLE + 1))}


def _jaccard(one: set[bytes], other: set[bytes]) -> float:
    return len(one & other) / len(one | other)
