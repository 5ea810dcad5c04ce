"""Sampling designs: the paraphrases and paths of each prompt, and the noise keys of its samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace

from gendiv_lightning.errors import DesignError, ProbeError, TooLittleDataError
from gendiv_lightning.records import LENGTHS, NoiseKey, Prompt, PromptBatch, SampleDesign
from gendiv_lightning.sampling import Description


class Design(ABC):
    """Chooses the samples of each prompt, without changing the sampler."""

    @abstractmethod
    def design(self, design: SampleDesign) -> SampleDesign:
        """Return the design with some fields replaced.

        Raises:
            ValueError: another design has already set these fields.
        """

    @abstractmethod
    def identity(self, codebook_size: int) -> dict[str, object]:
        """All settings that can change a number, for the fingerprint of a run."""

    @abstractmethod
    def describe(self, codebook_size: int) -> Description:
        """The design and its settings in words."""


def apply_designs(design: SampleDesign, items: Iterable[object]) -> SampleDesign:
    """Apply all `Design`s among some objects, such as the callbacks of a trainer, in order."""
    for item in items:
        if isinstance(item, Design):
            design = item.design(design)
    return design


def share_paths(design: SampleDesign, num_paths: int) -> SampleDesign:
    """Spread the samples of a paraphrase over `num_paths` paths; ValueError if they already share paths."""
    if design.num_paths:
        raise ProbeError("FreezePath and Decompose both share paths. Use only one of them")
    return replace(design, num_paths=num_paths)


def check_design(design: SampleDesign) -> None:
    """Raise DesignError for a design whose numbers do not fit together."""
    num_samples, num_paraphrases = design.num_samples, design.num_paraphrases
    if num_samples < 1:
        raise DesignError(f"num_samples must be at least 1, got {num_samples}. Give a positive integer")
    if design.length not in (*LENGTHS, "mixed", "any"):
        raise DesignError(
            f"length must be one of {', '.join(LENGTHS)}, mixed, any; got {design.length!r}. Choose one of them"
        )
    if num_paraphrases < 0:
        raise DesignError(
            f"num_paraphrases must be at least 0, got {num_paraphrases}. Use 0 for the original prompt alone"
        )
    if num_paraphrases and (num_samples % num_paraphrases or num_samples < 2 * num_paraphrases):
        raise DesignError(
            f"num_samples must be a multiple of num_paraphrases with at least 2 samples per paraphrase, got "
            f"{num_samples} samples for {num_paraphrases} paraphrases. Try {2 * num_paraphrases}"
        )
    cells = design.num_paths * max(1, num_paraphrases)
    if design.num_paths and num_samples % cells:
        raise DesignError(
            f"num_samples must be a multiple of paths x paraphrases, got {num_samples} samples for "
            f"{design.num_paths} x {max(1, num_paraphrases)}. Try {cells}"
        )


def choose_paraphrases(prompt: Prompt, design: SampleDesign) -> list[int]:
    """Numbers of the paraphrases that a design samples: the first of its length class, or [0] for the original prompt.

    Raises:
        TooLittleDataError: the prompt has too few paraphrases of that length.
    """
    if design.num_paraphrases == 0:
        return [0]
    numbers = []
    for length, count in split_lengths(design.num_paraphrases, design.length).items():
        suitable = [n for n, p in enumerate(prompt.paraphrases, start=1) if length in ("any", p.length)]
        if len(suitable) < count:
            raise TooLittleDataError(
                f"prompt {prompt.id} ({prompt.text[:60]!r}) has {len(suitable)} paraphrases of length {length!r}, but "
                f"{count} are required. Choose fewer or another length, or add paraphrases to the prompt set"
            )
        numbers += suitable[:count]
    return numbers


def split_lengths(num_paraphrases: int, length: str) -> dict[str, int]:
    """Number of paraphrases of each length class; "mixed" splits them as evenly as possible, shorter classes first."""
    if length != "mixed":
        return {length: num_paraphrases}
    return {name: (num_paraphrases + len(LENGTHS) - 1 - index) // len(LENGTHS) for index, name in enumerate(LENGTHS)}


def name_samples(prompt: Prompt, design: SampleDesign) -> list[NoiseKey]:
    """Noise keys of the samples of a prompt: sample s = 0..N-1 cycles through the chosen paraphrases.

    The path of sample s is s or, if paths are shared, the next path of its paraphrase in turn. Every sample has its own
    execution noise: sharing it between paths would make samples of different paths more alike than by chance.

    Raises:
        DesignError: the numbers of the design do not fit together.
        TooLittleDataError: the prompt has too few paraphrases.
    """
    check_design(design)
    paraphrases, num_paths = choose_paraphrases(prompt, design), design.num_paths
    names = []
    for sample in range(design.num_samples):
        turn, which = divmod(sample, len(paraphrases))
        path = turn % num_paths if num_paths else sample
        names.append(NoiseKey(prompt.id, paraphrases[which], path, sample))
    return names


def make_batch(
    seed: int, prompts: Sequence[Prompt], design: SampleDesign, indices: Sequence[int] | None = None
) -> PromptBatch:
    """A batch of whole prompts with the keys of all their samples.

    Args:
        seed: root seed.
        prompts: the prompts.
        design: the samples of each prompt.
        indices: of the prompts in their prompt set; None for 0, 1, ...
    """
    rows, keys = [], []
    for row, prompt in enumerate(prompts):
        names = name_samples(prompt, design)
        keys += names
        rows += [row] * len(names)
    return PromptBatch(seed, tuple(prompts), tuple(indices or range(len(prompts))), tuple(keys), tuple(rows))
