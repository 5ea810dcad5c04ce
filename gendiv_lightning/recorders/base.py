"""`Recorder`: keeps what only the sampling loop sees. A metric requests the recorders that it needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor

from gendiv_lightning.records import PromptBatch
from gendiv_lightning.sampling.sampler import Observer, Sampler


class Recordable(Protocol):
    """What recorders use of a generator; see `generators.base.TokenGenerator`."""

    codebook_size: int
    grid: tuple[int, int]
    rewrites_tokens: bool
    has_likelihood: bool

    def encode_prompts(self, texts: Sequence[str]) -> Any:
        """Conditions of one row per text."""

    def score_tokens(self, conditions: Any, tokens: Tensor, sampler: Any) -> Tensor:
        """Log2-probability (B, L) of given tokens."""


class Recorder(ABC):
    """One batch of whole prompts while it is sampled, a few rows at a time.

    `Generator.sample` makes one per batch for every requested class that `applies`, calls `begin` and `end` around the
    loop of each micro-batch, and stores `results` with the samples. A recorder changes no sample.

    Attributes:
        name: of the results in `PromptSamples.per_prompt` or `per_sample`, and of their stored column.
        scope: whether `results` has one row per prompt, or one per sample.
    """

    name: ClassVar[str]
    scope: ClassVar[Literal["prompt", "sample"]]

    @classmethod
    def applies(cls, generator: Recordable, batch: PromptBatch) -> bool:
        """Whether there is anything to record of these prompts with this generator."""
        return True

    @abstractmethod
    def __init__(self, generator: Recordable, batch: PromptBatch) -> None: ...

    def begin(self, rows: Sequence[int], num_padded: int) -> Observer | None:
        """The loop starts on these rows of the batch, and on so many more after them that only fill it up.

        Returns:
            An observer of the loop's draws, or None.
        """
        return None

    @abstractmethod
    def end(self, drawn: Any, sampler: Sampler) -> None:
        """The loop is done: what it returned for the rows and the padding, and the sampler that it asked."""

    @abstractmethod
    def results(self) -> Tensor:
        """(P, ...) or (B, ...) by `scope`, on the CPU."""
