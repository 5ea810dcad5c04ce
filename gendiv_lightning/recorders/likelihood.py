"""Likelihood of each sample under every paraphrase of its prompt, for the sequence decomposition."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gendiv_lightning.recorders.base import Recordable, Recorder
from gendiv_lightning.records import PromptBatch, TokenSamples
from gendiv_lightning.sampling.sampler import Sampler


class ParaphraseLikelihood(Recorder):
    """(B, Q) float32, bits: log2-probability of each row's tokens under the Q paraphrases of its prompt, in order.

    Costs one additional network pass per sample and paraphrase. Applies to generators with a likelihood
    (`score_tokens`) whose prompts are sampled with more than one paraphrase.
    """

    name = "paraphrase_log2_prob"
    scope = "sample"

    @classmethod
    def applies(cls, generator: Recordable, batch: PromptBatch) -> bool:
        """Whether the generator has a likelihood and a prompt has more than one paraphrase."""
        return generator.has_likelihood and any(len(numbers) > 1 for numbers in _paraphrases(batch))

    def __init__(self, generator: Recordable, batch: PromptBatch) -> None:
        self.generator, self.batch, self.paraphrases = generator, batch, _paraphrases(batch)
        self._scores: list[Tensor] = []

    def begin(self, rows: Sequence[int], num_padded: int) -> None:
        """Store the rows, with the last one repeated for the padding."""
        self._num_rows = len(rows)
        self._rows = [*rows, *[rows[-1]] * num_padded]

    def end(self, drawn: TokenSamples, sampler: Sampler) -> None:
        """Score the drawn tokens under each paraphrase."""
        owners = [self.batch.rows[row] for row in self._rows]
        columns = []
        for number in range(len(self.paraphrases[0])):
            texts = [self.batch.prompts[owner].wording(self.paraphrases[owner][number]) for owner in owners]
            conditions = self.generator.encode_prompts(texts)
            columns.append(self.generator.score_tokens(conditions, drawn.tokens, sampler).sum(1))
        self._scores.append(torch.stack(columns, 1)[: self._num_rows].cpu())

    def results(self) -> Tensor:
        """(B, Q) log2-probabilities, bits."""
        return torch.cat(self._scores)


def _paraphrases(batch: PromptBatch) -> list[list[int]]:
    """Paraphrase numbers that each prompt is sampled with."""
    return [sorted({key.paraphrase for key in batch.keys if key.prompt == prompt.id}) for prompt in batch.prompts]
