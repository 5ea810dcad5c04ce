"""The token-marginal decomposition during sampling: entropies of each token's distribution given path and paraphrase.

Counting tokens cannot estimate p_i(k | x, path), because a codebook has many entries and there are few samples. But
each token was drawn from a known distribution of the network. The mean of these over the samples of a path is an
unbiased estimate of p_i (Rao-Blackwell) with far less noise. It is a running sum, so memory does not depend on the
number of samples.

Notation: Q paraphrases, Z paths, 2 halves of a path's samples, L positions, K codebook entries; P prompts, B rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from gendiv_lightning.functional.decomposition import NAMES, marginal_entropies
from gendiv_lightning.functional.entropy import chao_wang_jost_entropy
from gendiv_lightning.recorders.base import Recordable, Recorder
from gendiv_lightning.records import PromptBatch, TokenSamples
from gendiv_lightning.sampling.sampler import Draw, Observer, Sampler

NUM_BLOCKS = 4


class TokenMarginals(Recorder, Observer):
    """(P, M) float64, bits per token: entropies of token marginals, in the order of `functional.decomposition.NAMES`.

    Accumulates the distributions that tokens were drawn from, by group of samples, position and codebook entry.

    Groups are the two halves of the samples of each path of a paraphrase. If paths are crossed with equally many
    executions, there are also groups with one sample of each path, see `marginal_entropies`. If every sample has its
    own path, blocks of samples replace paths, and only the total entropy is identified.

    All prompts must have the same number of samples per paraphrase. If a loop draws a token more than once, the last
    draw counts; this needs an additional (B, L, K) tensor, as large as the network's logits.
    """

    name = "marginal_bits"
    scope = "prompt"

    @classmethod
    def applies(cls, generator: Recordable, batch: PromptBatch) -> bool:
        """Whether the generator draws tokens."""
        return generator.codebook_size > 0

    def __init__(self, generator: Recordable, batch: PromptBatch) -> None:
        self.num_tokens, self.codebook_size = math.prod(generator.grid), generator.codebook_size
        self.rewrites = generator.rewrites_tokens
        self._sums: Tensor | None = None
        self._prompt = list(batch.rows)
        self._left = [batch.rows.count(prompt) for prompt in range(len(batch.prompts))]
        self._groups: list[list[int]] = []
        self._shape: tuple[int, ...] = ()
        for prompt in range(len(batch.prompts)):
            keys = [key for key, row in zip(batch.keys, batch.rows, strict=True) if row == prompt]
            groups, self._shape = group_samples([key.paraphrase for key in keys], [key.path for key in keys])
            self._groups += groups
        self._open: dict[int, Tensor] = {}
        self._results = torch.full((len(batch.prompts), len(NAMES)), math.nan, dtype=torch.float64)

    def begin(self, rows: Sequence[int], num_padded: int) -> Observer:
        """Prepare for the draws of these rows."""
        self._rows, self._num_padded = list(rows), num_padded
        self._prompts = sorted({self._prompt[row] for row in rows})
        self._sums = None
        return self

    def observe(self, draw: Draw) -> None:
        """Add distributions (N, K) to the sums of their groups; if tokens can be redrawn, store the latest ones."""
        if self._sums is None:
            self._start(draw.probs.device)
        assert self._sums is not None
        rows, positions, probs = draw.rows, draw.positions, draw.probs
        if self._num_padded:
            real = rows < len(self._rows)
            rows, positions, probs = rows[real], positions[real], probs[real]
        if self.rewrites:
            self._last[rows, positions] = probs
        else:
            for offsets in self._offsets:
                self._sums.index_add_(0, offsets[rows] + positions, probs)

    def end(self, drawn: TokenSamples, sampler: Sampler) -> None:
        """Compute the results of prompts whose rows are all done."""
        assert self._sums is not None, "no token was drawn"
        if self.rewrites:
            for offsets in self._offsets:
                for offset, row in zip(offsets.tolist(), self._last, strict=True):
                    self._sums[offset : offset + self.num_tokens] += row
            del self._last
        for row in self._rows:
            self._left[self._prompt[row]] -= 1
        for prompt, sums in zip(self._prompts, self._sums.chunk(len(self._prompts)), strict=True):
            if self._left[prompt]:
                self._open[prompt] = sums
            else:
                shaped = sums.view(*self._shape, self.num_tokens, self.codebook_size)
                self._results[prompt] = marginal_entropies(shaped)
        self._sums = None

    def results(self) -> Tensor:
        """(P, len(NAMES)) bits per token; NaN for what the samples cannot identify."""
        return self._results

    def _start(self, device: torch.device) -> None:
        size = math.prod(self._shape) * self.num_tokens
        parts = [
            self._open.pop(prompt) if prompt in self._open else torch.zeros(size, self.codebook_size, device=device)
            for prompt in self._prompts
        ]
        self._sums = parts[0] if len(parts) == 1 else torch.cat(parts)
        first = {prompt: number * size for number, prompt in enumerate(self._prompts)}
        starts = torch.tensor([first[self._prompt[row]] for row in self._rows], device=device)
        groups = torch.tensor([self._groups[row] for row in self._rows], device=device)
        self._offsets = (starts[:, None] + groups * self.num_tokens).unbind(1)
        if self.rewrites:
            self._last = torch.zeros(len(starts), self.num_tokens, self.codebook_size, device=device)


def group_samples(paraphrases: Sequence[int], paths: Sequence[int]) -> tuple[list[list[int]], tuple[int, ...]]:
    """Group numbers of each sample of a prompt, and the shape (V, Q, n, halves) of the groups.

    See `marginal_entropies` for the shape. All paraphrases must have the same number of samples.
    """
    cells, texts = set(zip(paraphrases, paths, strict=True)), sorted(set(paraphrases))
    num_paraphrases, shared = len(texts), len(cells) < len(paths)
    num_paths = len(cells) // num_paraphrases if shared else NUM_BLOCKS
    crossed = shared and num_paths > 1 and len(cells) * num_paths == len(paths)
    groups, seen = [], Counter[tuple[int, int]]()
    for text, path in zip(paraphrases, paths, strict=True):
        paraphrase, cell = texts.index(text), (text, path if shared else 0)
        turn = seen[cell]
        seen[cell] += 1
        if not shared:
            groups.append([paraphrase * num_paths + turn % NUM_BLOCKS])
            continue
        numbers = [(paraphrase * num_paths + path) * 2 + turn % 2]
        if crossed:
            numbers.append(((num_paraphrases + paraphrase) * num_paths + turn) * 2 + path % 2)
        groups.append(numbers)
    return groups, (1 + crossed, num_paraphrases, num_paths, 1 + shared)


def count_entropies(tokens: Tensor, paraphrases: Tensor, paths: Tensor) -> Tensor:
    """`marginal_entropies` (6,) from the tokens (N, L) of a prompt, each taken as a one-hot distribution.

    The pool's entropy is estimated as in Chao, Wang and Jost (2013). Requires no recording, but many samples: in a
    large codebook few tokens occur twice, and the estimate is then too low.
    """
    used, entries = tokens.unique(return_inverse=True)
    one_hot = torch.nn.functional.one_hot(entries, len(used)).double()
    pool = chao_wang_jost_entropy(one_hot.sum(0).long()).mean().item() if len(tokens) > 1 else math.nan
    return marginal_entropies(sum_by_group(one_hot, paraphrases, paths), pool)


def sum_by_group(probs: Tensor, paraphrases: Tensor, paths: Tensor) -> Tensor:
    """Sums of distributions (N, L, K) of a prompt's samples in the groups of `marginal_entropies`."""
    groups, shape = group_samples(paraphrases.tolist(), paths.tolist())
    sums = probs.new_zeros(math.prod(shape), *probs.shape[1:])
    for view in torch.tensor(groups).unbind(1):
        sums.index_add_(0, view, probs)
    return sums.view(*shape, *probs.shape[1:])
