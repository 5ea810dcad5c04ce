"""Lens A while the loop runs: how the distribution of each token, over samples, splits into path and execution.

Counting tokens cannot tell p_i(k | x, path): there are many codebook entries and few samples. But each token was drawn
from a distribution that the network gave, and the mean of these over the samples of a path is an unbiased estimate of
p_i (Rao-Blackwell) with far less noise. It is a running sum: memory does not depend on the number of samples.

Letters: Q wordings, Z paths, 2 halves of a path's samples, L positions, K codebook entries; P prompts, B rows.
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

    Sums of the distributions that tokens were drawn from, by group of samples, position and codebook entry.

    Groups are the halves of each path of a wording. If paths are crossed with as many executions there are as many
    groups with one sample of each path, see `marginal_entropies`. Where samples have paths of their own, blocks of
    them stand for paths, and only their total can be told.

    All prompts have the same number of samples per paraphrase. Where tokens may be drawn more than once the last draw
    counts, which costs one more (B, L, K) tensor, as large as the network's own logits.
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
            mine = [key for key, row in zip(batch.keys, batch.rows, strict=True) if row == prompt]
            groups, self._shape = group_samples([key.paraphrase for key in mine], [key.path for key in mine])
            self._groups += groups
        self._open: dict[int, Tensor] = {}
        self._results = torch.full((len(batch.prompts), len(NAMES)), math.nan, dtype=torch.float64)

    def begin(self, rows: Sequence[int], num_padded: int) -> Observer:
        """The next draws are of these rows of the batch, and of so many rows after them that fill up the loop."""
        self._rows, self._num_padded = list(rows), num_padded
        self._prompts = sorted({self._prompt[row] for row in rows})
        self._sums = None
        return self

    def observe(self, draw: Draw) -> None:
        """Add distributions (N, K) to the sums of their groups, or keep them until they are the last ones."""
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
            for place in self._places:
                self._sums.index_add_(0, place[rows] + positions, probs)

    def end(self, drawn: TokenSamples, sampler: Sampler) -> None:
        """The rows are done: prompts with no rows left get their results."""
        assert self._sums is not None, "no token was drawn"
        if self.rewrites:
            for places in self._places:
                for place, row in zip(places.tolist(), self._last, strict=True):
                    self._sums[place : place + self.num_tokens] += row
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
        """(P, len(NAMES)) bits a token; NaN for what the samples cannot tell."""
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
        self._places = (starts[:, None] + groups * self.num_tokens).unbind(1)
        if self.rewrites:
            self._last = torch.zeros(len(starts), self.num_tokens, self.codebook_size, device=device)


def group_samples(wordings: Sequence[int], paths: Sequence[int]) -> tuple[list[list[int]], tuple[int, ...]]:
    """Numbers of the groups that each sample of a prompt is in, and their shape (V, Q, n, halves).

    See `marginal_entropies` for the shape. All wordings have the same number of samples.
    """
    cells, texts = set(zip(wordings, paths, strict=True)), sorted(set(wordings))
    num_wordings, shared = len(texts), len(cells) < len(paths)
    num_paths = len(cells) // num_wordings if shared else NUM_BLOCKS
    crossed = shared and num_paths > 1 and len(cells) * num_paths == len(paths)
    groups, seen = [], Counter[tuple[int, int]]()
    for text, path in zip(wordings, paths, strict=True):
        wording, cell = texts.index(text), (text, path if shared else 0)
        turn = seen[cell]
        seen[cell] += 1
        if not shared:
            groups.append([wording * num_paths + turn % NUM_BLOCKS])
            continue
        mine = [(wording * num_paths + path) * 2 + turn % 2]
        if crossed:
            mine.append(((num_wordings + wording) * num_paths + turn) * 2 + path % 2)
        groups.append(mine)
    return groups, (1 + crossed, num_wordings, num_paths, 1 + shared)


def count_entropies(tokens: Tensor, wordings: Tensor, paths: Tensor) -> Tensor:
    """The same from the tokens (N, L) of a prompt alone, each a distribution that is certain; (6,) as there.

    The pool's entropy is by Chao, Wang and Jost (2013). Needs no recording and asks nothing of the sampler, but many
    samples: in a large codebook few tokens are seen twice, and then it is too low.
    """
    used, entries = tokens.unique(return_inverse=True)
    one_hot = torch.nn.functional.one_hot(entries, len(used)).double()
    pool = chao_wang_jost_entropy(one_hot.sum(0).long()).mean().item() if len(tokens) > 1 else math.nan
    return marginal_entropies(sum_by_group(one_hot, wordings, paths), pool)


def sum_by_group(probs: Tensor, wordings: Tensor, paths: Tensor) -> Tensor:
    """Sums of distributions (N, L, K) of a prompt's samples in the groups of `marginal_entropies`."""
    groups, shape = group_samples(wordings.tolist(), paths.tolist())
    sums = probs.new_zeros(math.prod(shape), *probs.shape[1:])
    for view in torch.tensor(groups).unbind(1):
        sums.index_add_(0, view, probs)
    return sums.view(*shape, *probs.shape[1:])
