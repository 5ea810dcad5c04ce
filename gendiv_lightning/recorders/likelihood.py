"""Likelihood of each sample under every paraphrase of its prompt, for the sequence decomposition."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gendiv_lightning.recorders.base import Recordable, Recorder
from gendiv_lightning.records import PromptBatch, TokenSamples
from gendiv_lightning.sampling.sampler import Sampler


class ParaphraseLikelihood(Recorder):
    """(B, Q) float32, bits: log2-probability of each row's tokens under its prompt's Q paraphrases, in their order.

    Costs one more pass of the network per sample and paraphrase. It applies to generators with a likelihood
    (`score_tokens`), where prompts are sampled with more than one paraphrase.
    """

    name = "paraphrase_log2_prob"
    scope = "sample"

    @classmethod
    def applies(cls, generator: Recordable, batch: PromptBatch) -> bool:
        """Whether there is a likelihood, and more than one paraphrase."""
        return generator.has_likelihood and any(len(numbers) > 1 for numbers in _paraphrases(batch))

    def __init__(self, generator: Recordable, batch: PromptBatch) -> None:
        self.generator, self.batch, self.paraphrases = generator, batch, _paraphrases(batch)
        self._scores: list[Tensor] = []

    def begin(self, rows: Sequence[int], num_padded: int) -> None:
        """Remember the rows, the last one repeated for the padding."""
        self._num_rows = len(rows)
        self._rows = [*rows, *[rows[-1]] * num_padded]

    def end(self, drawn: TokenSamples, sampler: Sampler) -> None:
        """Score the tokens under each paraphrase."""
        owners = [self.batch.rows[row] for row in self._rows]
        columns = []
        for number in range(len(self.paraphrases[0])):
            texts = [self.batch.prompts[owner].wording(self.paraphrases[owner][number]) for owner in owners]
            conditions = self.generator.encode_prompts(texts)
            columns.append(self.generator.score_tokens(conditions, drawn.tokens, sampler).sum(1))
        self._scores.append(torch.stack(columns, 1)[: self._num_rows].cpu())

    def results(self) -> Tensor:
        """(B, Q) bits."""
        return torch.cat(self._scores)


def _paraphrases(batch: PromptBatch) -> list[list[int]]:
    """Numbers of the paraphrases that each prompt is sampled with."""
    return [sorted({key.paraphrase for key in batch.keys if key.prompt == prompt.id}) for prompt in batch.prompts]
