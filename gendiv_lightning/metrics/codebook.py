"""`CodebookUsage`: how much of its codebook a generator uses, over all prompts and in one, and their difference."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.utilities import dim_zero_cat

from gendiv_lightning.functional.bootstrap import bootstrap_mean
from gendiv_lightning.functional.entropy import chao_wang_jost_entropy, coverage, gini, plugin_entropy
from gendiv_lightning.metrics.base import SampleMetric
from gendiv_lightning.records import PromptSamples
from gendiv_lightning.records.estimate import Estimate

NUM_REPLICATES = 200
MAX_UNSEEN = 0.2
# Of a prompt: place, tokens, distinct entries, entries seen once, entropy, plug-in entropy, inequality.
_NUM_COLUMNS = 7


class CodebookUsage(SampleMetric):
    """Entropy, perplexity, coverage and inequality of the tokens' overall frequencies, with intervals over prompts.

    Beside them stands the usage of one prompt, all its samples and positions pooled: `codebook/prompt_entropy_bits`,
    `.../prompt_entries` (distinct ones) and the same three, means over prompts; and what a token tells of its prompt,
    `codebook/information_bits`: I(X; C) = H(C) - H(C|X), where X is one of the measured prompts, each as often as its
    tokens, and C one token of it. It is at most log2 of the number of prompts.

    **What the information assumes.** Positions are forgotten: C is a token at a place not known. Counts are corrected
    as if a prompt's tokens were independent. They are not, since an image repeats itself: H(C|X) stays too low and the
    information too high, the more so the fewer images a prompt has. On postcards (36 tokens an image, 16 prompts,
    0.86 bits with 200 images a prompt) it is too high by 0.08 bits with 8 images, 0.18 with 4, 0.37 with 2; without the
    correction by 0.34, 0.61 and 0.96. The interval is about prompts and knows nothing of that. Where more than a fifth
    of the next tokens would be entries that their prompt has not shown (Good-Turing), there is no estimate.

    A Poisson bootstrap streams: in each replicate a prompt counts as often as a Poisson(1) variate says, which is drawn
    from the prompt's `place` alone. So replicates add up over batches and ranks like the counts, in any order. Prompts
    must have places of their own, or the interval is wrong; where usage is close to uniform it is too wide. Source:
    Chamandy et al., "Estimating Uncertainty for Massive Data Streams" (2012).

    Args:
        codebook_size: number of entries K.
    """

    counts: Tensor
    replicates: Tensor
    sizes: Tensor
    rows: list[Tensor]

    def __init__(self, codebook_size: int) -> None:
        super().__init__()
        if codebook_size < 1:
            raise ValueError(f"codebook_size must be at least 1; got {codebook_size}")
        self.codebook_size = codebook_size
        replicates = torch.zeros(NUM_REPLICATES, codebook_size, dtype=torch.int32)
        self.add_state("counts", torch.zeros(codebook_size, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("replicates", replicates, dist_reduce_fx="sum")
        self.add_state("sizes", torch.zeros(3, dtype=torch.int64), dist_reduce_fx="sum")  # prompts, paths, samples
        self.add_state("rows", default=[], dist_reduce_fx="cat")  # (1, _NUM_COLUMNS) float64 each

    def identity(self) -> dict[str, object]:
        """What is counted."""
        return {"names": "codebook/...", "codebook_size": self.codebook_size}

    def update(self, samples: PromptSamples) -> None:
        """Add all tokens of one prompt; ValueError where there are none or one is outside 0..K - 1."""
        if samples.tokens is None:
            raise ValueError(
                "samples.tokens must be (N, L) tokens; got None: codebook usage needs a generator with tokens"
            )
        used, counts = samples.tokens.to(self.device, torch.int64).unique(return_counts=True)
        if len(used) and not 0 <= used[0] <= used[-1] < self.codebook_size:
            raise ValueError(
                f"tokens must lie in 0..{self.codebook_size - 1} (codebook_size {self.codebook_size}); got "
                f"{used[0]}..{used[-1]}: give the codebook size of the generator's tokenizer"
            )
        weights = _prompt_weights(samples.place).to(self.device)
        self.counts[used] += counts
        self.replicates[:, used] += (weights[:, None] * counts).to(self.replicates.dtype)
        self.sizes += torch.tensor([1, samples.num_paths, len(samples.tokens)], device=self.device)
        if len(used):
            entropies = chao_wang_jost_entropy(counts), plugin_entropy(counts)
            inequality = gini(F.pad(counts, (0, self.codebook_size - len(used))))
            row = (samples.place, counts.sum(), len(used), (counts == 1).sum(), *entropies, inequality)
            self.rows.append(torch.tensor([[float(number) for number in row]], dtype=torch.float64, device=self.device))

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather over all ranks; one that measured no prompt takes part with no rows of the same shape."""
        if not len(self.rows):
            self.rows = [torch.zeros(0, _NUM_COLUMNS, dtype=torch.float64, device=self.device)]
        super().sync(*args, **kwargs)

    def compute(self) -> dict[str, Estimate]:
        """`codebook/entropy_bits` and more; NaN without tokens, no interval for fewer than two prompts."""
        sizes = self.sizes.tolist()
        values, replicates = _statistics(self.counts.cpu()), _statistics(self.replicates.cpu())
        estimates = {
            name: _estimate(value.item(), replicates[name][0], most, sizes, method)
            for name, (value, most, method) in values.items()
        }
        (entropy, *_), (entropies, *_) = values["codebook/entropy_bits"], replicates["codebook/entropy_bits"]
        rows = self._sorted_rows()
        return {
            **estimates,
            **_per_prompt(rows, self.codebook_size, sizes),
            "codebook/information_bits": _information(entropy, entropies, rows, sizes),
        }

    def columns(self) -> dict[str, Tensor]:
        """Usage of each prompt with tokens."""
        with self.sync_context():
            rows = self._sorted_rows()
        return {name: column for name, (column, _) in _prompt_statistics(rows, self.codebook_size).items()}

    def _sorted_rows(self) -> Tensor:
        """(P, _NUM_COLUMNS), a row a prompt with tokens, by place: the result does not depend on who measured it."""
        rows = dim_zero_cat(self.rows).cpu() if len(self.rows) else torch.zeros(0, _NUM_COLUMNS, dtype=torch.float64)
        return rows[rows[:, 0].argsort(stable=True)]


def _statistics(counts: Tensor) -> dict[str, tuple[Tensor, float, str]]:
    """Each number of counts (..., K), shape (...), the most that it can be, and its estimator in words."""
    entropy, num_entries = chao_wang_jost_entropy(counts), counts.shape[-1]
    bits = math.log2(num_entries)
    return {
        "codebook/entropy_bits": (entropy, bits, "Chao-Wang-Jost (2013)"),
        "codebook/entropy_plugin_bits": (plugin_entropy(counts), bits, "plug-in, biased low"),
        "codebook/perplexity": (entropy.exp2(), num_entries, "2^H with the Chao-Wang-Jost (2013) entropy"),
        "codebook/coverage": (coverage(counts), 1, "share of entries seen, grows with the number of tokens"),
        "codebook/gini": (gini(counts), 1, "Gini coefficient of all entries' counts, high by chance with few tokens"),
    }


def _prompt_statistics(rows: Tensor, num_entries: int) -> dict[str, tuple[Tensor, str]]:
    """Each number of the prompts (P,), and its estimator in words."""
    entropy, entries, grows = rows[:, 4], rows[:, 2], "of a prompt, grows with the number of tokens"
    return {
        "codebook/prompt_entropy_bits": (entropy, "Chao-Wang-Jost (2013) entropy of a prompt's tokens"),
        "codebook/prompt_perplexity": (entropy.exp2(), "2^H with the Chao-Wang-Jost (2013) entropy of a prompt"),
        "codebook/prompt_entries": (entries, f"distinct entries {grows}"),
        "codebook/prompt_coverage": (entries / num_entries, f"share of entries {grows}"),
        "codebook/prompt_gini": (rows[:, 6], "Gini coefficient of all entries' counts in a prompt"),
    }


def _per_prompt(rows: Tensor, num_entries: int, sizes: list[int]) -> dict[str, Estimate]:
    """Usage of one prompt, mean over prompts."""
    _, num_paths, num_samples = sizes
    return {
        name: Estimate(
            *bootstrap_mean(column), len(rows), num_paths, num_samples, f"{method}; BCa bootstrap over prompts"
        )
        for name, (column, method) in _prompt_statistics(rows, num_entries).items()
    }


def _information(entropy: Tensor, entropies: Tensor, rows: Tensor, sizes: list[int]) -> Estimate:
    """I(X; C) from H(C), its replicates (R,) and the prompts' rows; see `CodebookUsage`."""
    places, tokens, _, seen_once, conditional, plugin, _ = rows.T
    unseen = (seen_once.sum() / tokens.sum()).item()
    if not unseen <= MAX_UNSEEN:
        reason = (
            f"too few tokens a prompt: the next one would be an entry new to its prompt with probability {unseen:.2f} "
            f"(Good-Turing), at most {MAX_UNSEEN} is accepted: draw more samples a prompt"
        )
        num_prompts, num_paths, num_samples = sizes
        reason = reason if len(rows) else "no tokens"
        return Estimate(math.nan, math.nan, math.nan, num_prompts, num_paths, num_samples, reason)
    shares = tokens / tokens.sum()
    method = (
        f"H(C) - H(C|X) of a token at an unknown position, X one of {len(rows)} prompts, Chao-Wang-Jost (2013) for "
        "both; too high, as tokens of an image depend on each other (the correction of H(C|X) is "
        f"{(conditional - plugin) @ shares:.2f} bits)"
    )
    weights = torch.stack([_prompt_weights(int(place)) for place in places]) * tokens[:, None]
    replicates = entropies - conditional @ weights / weights.sum(0)
    return _estimate((entropy - conditional @ shares).item(), replicates, math.log2(len(rows)), sizes, method)


def _estimate(value: float, replicates: Tensor, most: float, sizes: list[int], method: str) -> Estimate:
    """Value +- 1.96 standard deviations of the replicates, in [0, most]; replicates without a prompt are left out."""
    num_prompts, num_paths, num_samples = sizes
    replicates = replicates[~replicates.isnan()]
    half = 1.96 * replicates.std().item() if num_prompts > 1 else math.nan
    method = f"{method}; +- 1.96 standard deviations of a Poisson bootstrap over prompts ({NUM_REPLICATES} replicates)"
    # In this order a NaN stays one. The estimate itself may lie outside of [0, most].
    low, high = min(max(value - half, 0.0), value), max(min(value + half, most), value)
    return Estimate(value, low, high, num_prompts, num_paths, num_samples, method)


def _prompt_weights(index: int) -> Tensor:
    """(R,) how often the prompt counts in each replicate."""
    generator = torch.Generator().manual_seed(index)
    return torch.poisson(torch.ones(NUM_REPLICATES), generator=generator).long()
