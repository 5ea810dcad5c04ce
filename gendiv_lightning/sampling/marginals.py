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

from gendiv_lightning.batch import PromptBatch
from gendiv_lightning.functional.entropy import chao_wang_jost_entropy
from gendiv_lightning.sampling.sampler import Draw, Observer

# Bits a token: what a prompt's row of marginals holds, first corrected for the number of samples, then as they are.
NAMES = ("exec", "wording", "pool", "exec_plugin", "wording_plugin", "pool_plugin")
NUM_BLOCKS = 4


class MarginalSums(Observer):
    """Sums of the distributions that tokens were drawn from, by group of samples, position and codebook entry.

    Groups are the halves of each path of a wording. If paths are crossed with as many executions there are as many
    groups with one sample of each path, see `marginal_entropies`. Where samples have paths of their own, blocks of
    them stand for paths, and only their total can be told.

    Args:
        batch: whole prompts; all have the same number of samples a wording.
        num_tokens: L.
        codebook_size: K.
        rewrites: tokens may be drawn more than once, and the last time counts. This costs one more (B, L, K) tensor,
            as large as the network's own logits.
    """

    def __init__(self, batch: PromptBatch, num_tokens: int, codebook_size: int, rewrites: bool) -> None:
        self.num_tokens, self.codebook_size, self.rewrites = num_tokens, codebook_size, rewrites
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

    def begin(self, rows: Sequence[int], num_padded: int = 0) -> None:
        """The next draws are of these rows of the batch, and of so many rows after them that fill up the loop."""
        self._rows, self._num_padded = list(rows), num_padded
        self._prompts = sorted({self._prompt[row] for row in rows})
        self._sums: Tensor | None = None

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

    def end(self) -> None:
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


def marginal_entropies(sums: Tensor, pool: float | None = None) -> Tensor:
    """Entropy of the mean token, given path and wording, given the wording, and of the pool of wordings.

    With p_qz the mean distribution of a position in wording q on path z, and H the mean over positions of the entropy:
        exec  mean_qz H[p_qz]        wording  mean_q H[mean_z p_qz]        pool  H[mean_qz p_qz]
    H_exec is the first, the sampler path the step from the first to the second, the prompt path that to the third.

    Entropy is concave: the mean of few distributions has too little of it, by about a constant over their number. So
    the pool's is extrapolated to infinitely many, and the steps down from it are taken between groups of one size, from
    which the lack falls out: the prompt path between the samples of one wording and as many of all of them; the sampler
    path between n samples of one path and n samples of a path each. Without a path both steps are 0 on average, for any
    n. What few *paths* still lack in the second step is extrapolated over halves of its groups, so that it speaks of
    new paths. Wordings are a given set.

    Args:
        sums: (V, Q, n, halves, L, K) sums of distributions. V = 2: n paths with n samples each; then n groups with one
            sample of each path. V = 1 with two halves: paths, without such groups. One half: no two samples share a
            path, and any n blocks of samples will do.
        pool: the pool's entropy, if it is known better than by leaving out paths one at a time (jackknife, Quenouille
            1956).

    Returns:
        (6,) float64, bits a token, in the order of `NAMES`: corrected, then plug-in. NaN for what cannot be told.
    """
    num_views, num_wordings, _, num_halves = sums.shape[:4]
    counts = sums[..., :1, :].sum(-1, keepdim=True).round()  # each distribution adds up to one
    groups, parts = sums.sum(3) / counts.sum(3), sums / counts
    paths = groups[0]
    if num_halves == 1:
        paths = paths[:, (counts[0, :, :, 0, 0, 0] > 0).all(0)]
    one_path = paths.shape[1] == 1 and num_halves == 2
    units = parts[0, :, 0] if one_path else paths
    plugin = [_mean_entropy(paths), _mean_entropy(paths.mean(1)), _mean_entropy(paths.mean((0, 1)))]
    pool = _leave_one_out(units) if pool is None else pool
    prompt_path = sampler_path = math.nan
    if num_wordings == 1:
        prompt_path = 0.0
    elif units.shape[1] % num_wordings == 0:
        mixed = units.unflatten(1, (num_wordings, -1)).mean((0, 2))
        prompt_path = _mean_entropy(mixed) - plugin[1]
    if num_views == 2:
        step = _mean_entropy(groups[1]) - plugin[0]
        sampler_path = 2 * step - (_mean_entropy(parts[1]) - _mean_entropy(parts[0]))
    elif one_path:
        sampler_path = 0.0
    if num_halves == 1:
        plugin[0] = math.nan
    wording = pool - prompt_path
    return torch.tensor([wording - sampler_path, wording, pool, *plugin], dtype=torch.float64)


def _leave_one_out(units: Tensor) -> float:
    """Jackknife over the units of (Q, U, L, K) of the entropy of the mean over both; NaN for one unit."""
    size, means = units.shape[1], units.mean(0)
    if size < 2:
        return math.nan
    whole = means.sum(0)
    less = [_mean_entropy(((whole - means[out]) / (size - 1)).clamp(min=0)) for out in range(size)]
    return size * _mean_entropy(whole / size) - (size - 1) / size * sum(less)


def count_entropies(tokens: Tensor, wordings: Tensor, paths: Tensor) -> Tensor:
    """The same from the tokens (N, L) of a prompt alone, each a distribution that is certain; (6,) as there.

    The pool's entropy is by Chao, Wang and Jost (2013). Needs no recording and asks nothing of the sampler, but many
    samples: in a large codebook few tokens are seen twice, and then it is too low.
    """
    used, entries = tokens.unique(return_inverse=True)
    groups, shape = group_samples(wordings.tolist(), paths.tolist())
    num_samples, num_tokens = tokens.shape
    sums = torch.zeros(math.prod(shape), num_tokens, len(used), dtype=torch.float64)
    one_hot = torch.nn.functional.one_hot(entries, len(used)).double()
    for view in torch.tensor(groups).unbind(1):
        sums.index_add_(0, view, one_hot)
    pool = chao_wang_jost_entropy(one_hot.sum(0).long()).mean().item() if num_samples > 1 else math.nan
    return marginal_entropies(sums.view(*shape, num_tokens, len(used)), pool)


def _mean_entropy(probs: Tensor) -> float:
    """Mean entropy of distributions (..., K), bits; a few at a time, since K may be large."""
    flat = probs.flatten(0, -2)
    return sum(torch.special.entr(part).sum(dtype=torch.float64).item() for part in flat.split(4096)) / (
        len(flat) * math.log(2)
    )
