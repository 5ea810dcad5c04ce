"""What a prompt must be to come into a set: by source, length and language, and no near-duplicate of another."""

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

# Common words of captions; none of the other languages' is an English word too.
COMMON_WORDS = {
    "English": "the an of and with on at by is are its it this that from to his her their while there which two into",
    "German": "der das den dem des ein eine einen einem einer und mit auf von im ist sind vor zur zum über unter neben",
    "Dutch": "het een van naar zijn met op voor niet aan bij uit onder naast",
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
        sources: texts of which one must stand in the prompt's source, whatever the case; none lets all pass.
        min_words: fewest words.
        max_words: most words.
        english: leave out what is not English, see `looks_english`.
    """

    sources: tuple[str, ...] = ()
    min_words: int | None = None
    max_words: int | None = None
    english: bool = False

    def reason(self, prompt: Prompt) -> str | None:
        """Why a prompt is left out, one of `DROPPED`; None lets it pass."""
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
    """Whether a text may be English, by its letters and its commonest words. Rough, but the same everywhere.

    It is not, where more than a tenth of the letters are not Latin, or where two words or more are among the commonest
    of one other language, and more than are among those of English. So a text of few words in another language that
    uses Latin letters may pass ("Ein roter Hund"), and so do languages that are not looked for.
    """
    letters = [letter for letter in text if letter.isalpha()]
    latin = sum(letter.isascii() or "LATIN" in unicodedata.name(letter, "") for letter in letters)
    if latin < 0.9 * len(letters):
        return False
    words = re.findall(r"\w+", text.lower())
    met = {name: sum(word in common for word in words) for name, common in LANGUAGES.items()}
    most = max(met.values())
    return most < 2 or most == met["English"]


class NearDuplicates:
    """Texts met so far; finds out whether another is nearly one of them.

    Two texts are near-duplicates if the Jaccard similarity of their sets of 5 characters in a row is `threshold` or
    more, case and punctuation aside. MinHash (Broder, 1997) with locality-sensitive hashing proposes the pairs, and the
    sets themselves decide. Of pairs as similar as the threshold at most one in a thousand is missed, fewer above.

    Args:
        threshold: similarity in [0.1, 1]; 1 means the same set.

    Raises:
        ValueError: for another threshold.
    """

    def __init__(self, threshold: float) -> None:
        if not 0.1 <= threshold <= 1:
            raise ConfigValueError(f"the similarity of near-duplicates must be in [0.1, 1], got {threshold}")
        self.threshold = threshold
        rows = max(rows for rows in range(1, NUM_PERMUTATIONS // 2) if _missed(threshold, rows) <= 0.001)
        self._hashes = MinHashLSH(num_perm=NUM_PERMUTATIONS, params=(NUM_PERMUTATIONS // rows, rows))
        self._sketch = MinHash(NUM_PERMUTATIONS)
        self._sets: list[set[bytes]] = []

    def add(self, text: str) -> bool:
        """Remember a text, unless it is nearly one of those remembered: then False."""
        shingles = _shingles(text)
        sketch = self._sketch.copy()  # to draw the permutations again would take longer than the rest
        sketch.update_batch(list(shingles))
        if any(_jaccard(shingles, self._sets[place]) >= self.threshold for place in self._hashes.query(sketch)):
            return False
        self._hashes.insert(len(self._sets), sketch)
        self._sets.append(shingles)
        return True


def _missed(similarity: float, rows: int) -> float:
    """Chance that two texts agree in no band of so many rows."""
    return (1 - similarity**rows) ** (NUM_PERMUTATIONS // rows)


def _shingles(text: str) -> set[bytes]:
    plain = " ".join(re.findall(r"\w+", text.lower())) or text
    return {plain[start : start + SHINGLE].encode() for start in range(max(1, len(plain) - SHINGLE + 1))}


def _jaccard(one: set[bytes], other: set[bytes]) -> float:
    return len(one & other) / len(one | other)
