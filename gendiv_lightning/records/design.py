"""Which samples a prompt gets, what names their noise, and the batches that carry both to a generator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from gendiv_lightning.records.prompts import Prompt


class NoiseKey(NamedTuple):
    """Name of one sample.

    Its path noise is keyed by (prompt, paraphrase, path), its execution noise by (prompt, paraphrase, sample).
    """

    prompt: str
    paraphrase: int
    path: int
    sample: int


@dataclass(frozen=True)
class SampleDesign:
    """Which samples a prompt gets.

    Attributes:
        num_samples: images per prompt, over all of its wordings.
        num_paraphrases: wordings to spread the samples over; 0 uses the base prompt alone.
        length: length class of these paraphrases; "mixed" draws evenly from the three, "any" takes them in order.
        num_paths: paths that the samples of a wording are spread over, evenly; 0: each sample has a path of its own.
    """

    num_samples: int = 8
    num_paraphrases: int = 0
    length: str = "any"
    num_paths: int = 0


class PromptBatch(NamedTuple):
    """Whole prompts and all of their samples: a row is one image to make.

    Attributes:
        seed: root seed of every noise stream.
        prompts: the prompts, whole.
        indices: place of each prompt in the prompt set.
        keys: one name a row.
        rows: place in `prompts` of each row's prompt.
    """

    seed: int
    prompts: tuple[Prompt, ...]
    indices: tuple[int, ...]
    keys: tuple[NoiseKey, ...]
    rows: tuple[int, ...]

    @property
    def texts(self) -> list[str]:
        """The wording that each row is conditioned on."""
        return [self.prompts[row].wording(key.paraphrase) for row, key in zip(self.rows, self.keys, strict=True)]
