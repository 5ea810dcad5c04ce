"""The sampling design of a prompt, the keys of its noise, and the batches that carry both to a generator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from gendiv_lightning.records.prompts import Prompt


class NoiseKey(NamedTuple):
    """Identity of one sample.

    Its path noise is keyed by (prompt, paraphrase, path), its execution noise by (prompt, paraphrase, sample).

    Attributes:
        prompt: id of the prompt.
        paraphrase: number of the paraphrase, 0 for the original prompt.
        path: number of the sampler path.
        sample: number of the sample.
    """

    prompt: str
    paraphrase: int
    path: int
    sample: int


@dataclass(frozen=True)
class SampleDesign:
    """Sampling design of one prompt.

    Attributes:
        num_samples: images per prompt, over all of its paraphrases.
        num_paraphrases: number of paraphrases to spread the samples over; 0 uses the original prompt only.
        length: length class of these paraphrases; "mixed" draws evenly from the three classes, "any" takes them in
            order.
        num_paths: number of sampler paths shared by the samples of one paraphrase; 0 gives every sample its own path.
    """

    num_samples: int = 8
    num_paraphrases: int = 0
    length: str = "any"
    num_paths: int = 0


class PromptBatch(NamedTuple):
    """Whole prompts with all of their samples. One row is one image to generate.

    Attributes:
        seed: root seed of every noise stream.
        prompts: the P prompts.
        indices: (P,) index of each prompt in the prompt set.
        keys: (B,) noise key of each row.
        rows: (B,) index in `prompts` of each row's prompt.
    """

    seed: int
    prompts: tuple[Prompt, ...]
    indices: tuple[int, ...]
    keys: tuple[NoiseKey, ...]
    rows: tuple[int, ...]

    @property
    def texts(self) -> list[str]:
        """The text that each row is conditioned on."""
        return [self.prompts[row].wording(key.paraphrase) for row, key in zip(self.rows, self.keys, strict=True)]
