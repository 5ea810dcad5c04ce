"""`Recorder`: records data that exist only during the sampling loop. Metrics request the recorders that they need."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor

from gendiv_lightning.records import PromptBatch
from gendiv_lightning.sampling.sampler import Observer, Sampler


class Recordable(Protocol):
    """The part of a generator that recorders use; see `generators.base.TokenGenerator`."""

    codebook_size: int
    grid: tuple[int, int]
    rewrites_tokens: bool
    has_likelihood: bool

    def encode_prompts(self, texts: Sequence[str]) -> Any:
        """Conditions with one row per text."""

    def score_tokens(self, conditions: Any, tokens: Tensor, sampler: Any) -> Tensor:
        """Log2-probability (B, L) of given tokens."""


class Recorder(ABC):
    """Records one batch of whole prompts while it is sampled in micro-batches.

    `Generator.sample` creates one recorder per batch for every requested class that `applies`, calls `begin` and `end`
    around the loop of each micro-batch, and stores `results` with the samples. A recorder never changes a sample.

    Attributes:
        name: name of the results in `PromptSamples.per_prompt` or `per_sample`, and of their stored column.
        scope: whether `results` has one row per prompt or one per sample.
    """

    name: ClassVar[str]
    scope: ClassVar[Literal["prompt", "sample"]]

    @classmethod
    def applies(cls, generator: Recordable, batch: PromptBatch) -> bool:
        """Whether there is anything to record for these prompts and this generator."""
        return True

    @abstractmethod
    def __init__(self, generator: Recordable, batch: PromptBatch) -> None: ...

    def begin(self, rows: Sequence[int], num_padded: int) -> Observer | None:
        """Called before the loop of a micro-batch.

        Args:
            rows: rows of the batch to be sampled.
            num_padded: number of padding rows after them.

        Returns:
            An observer of the loop's draws, or None.
        """
        return None

    @abstractmethod
    def end(self, drawn: Any, sampler: Sampler) -> None:
        """Called after the loop, with its output for the rows and the padding and the sampler that it used."""

    @abstractmethod
    def results(self) -> Tensor:
        """(P, ...) or (B, ...) depending on `scope`, on the CPU."""
