"""`CodebookUsage`: how much of its codebook a generator uses, over all prompts and within one prompt."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from gendiv_lightning.errors import ConfigValueError, MetricInputError
from gendiv_lightning.functional.bootstrap import bootstrap_mean
from gendiv_lightning.functional.entropy import chao_wang_jost_entropy, coverage, gini, plugin_entropy
from gendiv_lightning.metrics.base import PromptRows, RowMetric
from gendiv_lightning.records import PromptSamples
from gendiv_lightning.records.estimate import Estimate

NUM_REPLICATES = 200
MAX_UNSEEN = 0.2
# Per prompt: number of tokens, distinct entries, entries seen once, entropy, plug-in entropy, Gini coefficient.
_NUM_COLUMNS = 6


class CodebookUsage(RowMetric):
    """Entropy, perplexity, coverage and Gini coefficient of overall token frequencies, with intervals over prompts.

    The same numbers within single prompts, with all samples and positions pooled, are averaged over prompts:
    `codebook/prompt_entropy_bits`, `.../prompt_entries` (distinct entries) and so on. `codebook/information_bits` is
    the information of a token about its prompt: I(X; C) = H(C) - H(C|X), where X is one of the measured prompts,
    weighted by its number of tokens, and C is one of its tokens. It is at most log2 of the number of prompts.

    **Assumptions of the information.** Positions are ignored: C is a token at an unknown position. Counts are corrected
    as if a prompt's tokens were independent. They are not, because the tokens of an image are correlated: H(C|X) stays
    too low and the information too high, the more so the fewer images per prompt. On Postcards (36 tokens per image,
    16 prompts, 0.86 bits with 200 images per prompt) it is too high by 0.08 bits with 8 images, 0.18 with 4, 0.37 with
    2; without the correction by 0.34, 0.61 and 0.96. The interval, which is over prompts, does not include this error.
    There is no estimate if more than a fifth of the next tokens would be entries new to their prompt (Good-Turing).

    The interval is a Poisson bootstrap, which can be streamed: in each replicate a prompt has a Poisson(1) weight that
    depends on the prompt's index only. Replicates therefore add up over batches and ranks like the counts, in any
    order. Each prompt must have a unique index, or the interval is wrong; if usage is close to uniform it is too wide.
    Source: Chamandy et al., "Estimating Uncertainty for Massive Data Streams" (2012).

    Args:
        codebook_size: number of entries K, at least 1.
    """

    title = "use of the codebook"
    short = "codebook entropy"
    needs = ("tokens",)
    num_columns = _NUM_COLUMNS
    counts: Tensor
    replicates: Tensor
    totals: Tensor

    def __init__(self, codebook_size: int) -> None:
        super().__init__()
        if codebook_size < 1:
            raise ConfigValueError(f"codebook_size must be at least 1, got {codebook_size}")
        self.codebook_size = codebook_size
        replicates = torch.zeros(NUM_REPLICATES, codebook_size, dtype=torch.int32)
        self.add_state("counts", torch.zeros(codebook_size, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("replicates", replicates, dist_reduce_fx="sum")
        self.add_state("totals", torch.zeros(3, dtype=torch.int64), dist_reduce_fx="sum")  # prompts, paths, samples

    @property
    @override
    def names(self) -> tuple[str, ...]:
        of_all, of_prompts = _statistics(self.counts), _prompt_statistics(torch.zeros(0, _NUM_COLUMNS), 1)
        return (*of_all, *of_prompts, "codebook/information_bits")

    @override
    def identity(self) -> dict[str, object]:
        return {"names": "codebook/...", "codebook_size": self.codebook_size}

    @override
    def update(self, samples: PromptSamples) -> None:
        """Add all tokens of one prompt; ValueError if there are none or one is outside 0..K - 1."""
        if samples.tokens is None:
            raise MetricInputError(
                "samples.tokens must be (N, L) tokens, got None. Codebook usage requires a token generator"
            )
        used, counts = samples.tokens.to(self.device, torch.int64).unique(return_counts=True)
        if len(used) and not 0 <= used[0] <= used[-1] < self.codebook_size:
            raise ConfigValueError(
                f"tokens must be in 0..{self.codebook_size - 1} (codebook_size {self.codebook_size}), got "
                f"{used[0]}..{used[-1]}. Pass the codebook size of the generator's tokenizer"
            )
        weights = _prompt_weights(samples.place).to(self.device)
        self.counts[used] += counts
        self.replicates[:, used] += (weights[:, None] * counts).to(self.replicates.dtype)
        self.totals += torch.tensor([1, samples.num_paths, len(samples.tokens)], device=self.device)
        if len(used):
            entropies = chao_wang_jost_entropy(counts), plugin_entropy(counts)
            inequality = gini(F.pad(counts, (0, self.codebook_size - len(used))))
            row = (counts.sum(), len(used), (counts == 1).sum(), *entropies, inequality)
            numbers = torch.tensor([[float(number) for number in row]], dtype=self.row_dtype)
            self.add_rows(samples, numbers, len(samples.tokens))

    @override
    def compute(self) -> dict[str, Estimate]:
        """All estimates; NaN without tokens, no interval for fewer than two prompts."""
        totals = self.totals.tolist()
        values, replicates = _statistics(self.counts.cpu()), _statistics(self.replicates.cpu())
        estimates = {
            name: _estimate(value.item(), replicates[name][0], most, totals, method)
            for name, (value, most, method) in values.items()
        }
        (entropy, *_), (entropies, *_) = values["codebook/entropy_bits"], replicates["codebook/entropy_bits"]
        prompts = self.per_prompt()
        return {
            **estimates,
            **_per_prompt(prompts.rows, self.codebook_size, totals),
            "codebook/information_bits": _information(entropy, entropies, prompts, totals),
        }

    @override
    def columns(self) -> dict[str, Tensor]:
        """Usage per prompt."""
        with self.sync_context():
            rows = self.per_prompt().rows
        return {name: column for name, (column, _) in _prompt_statistics(rows, self.codebook_size).items()}


def _statistics(counts: Tensor) -> dict[str, tuple[Tensor, float, str]]:
    """Each number (...) of counts (..., K), with its maximum and the description of its estimator."""
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
    """Each number per prompt (P,), with the description of its estimator."""
    entropy, entries, grows = rows[:, 3], rows[:, 1], "of a prompt, grows with the number of tokens"
    return {
        "codebook/prompt_entropy_bits": (entropy, "Chao-Wang-Jost (2013) entropy of a prompt's tokens"),
        "codebook/prompt_perplexity": (entropy.exp2(), "2^H with the Chao-Wang-Jost (2013) entropy of a prompt"),
        "codebook/prompt_entries": (entries, f"distinct entries {grows}"),
        "codebook/prompt_coverage": (entries / num_entries, f"share of entries {grows}"),
        "codebook/prompt_gini": (rows[:, 5], "Gini coefficient of all entries' counts in a prompt"),
    }


def _per_prompt(rows: Tensor, num_entries: int, totals: list[int]) -> dict[str, Estimate]:
    """Usage of one prompt, mean over prompts."""
    _, num_paths, num_samples = totals
    return {
        name: Estimate(
            *bootstrap_mean(column), len(rows), num_paths, num_samples, f"{method}; BCa bootstrap over prompts"
        )
        for name, (column, method) in _prompt_statistics(rows, num_entries).items()
    }


def _information(entropy: Tensor, entropies: Tensor, prompts: PromptRows, totals: list[int]) -> Estimate:
    """I(X; C) from H(C), its replicates (R,) and the prompts' rows; see `CodebookUsage`."""
    rows = prompts.rows
    tokens, _, seen_once, conditional, plugin, _ = rows.T
    unseen = (seen_once.sum() / tokens.sum()).item()
    if not unseen <= MAX_UNSEEN:
        reason = (
            f"too few tokens a prompt: the next one would be an entry new to its prompt with probability {unseen:.2f} "
            f"(Good-Turing), at most {MAX_UNSEEN} is accepted: draw more samples a prompt"
        )
        num_prompts, num_paths, num_samples = totals
        reason = reason if len(rows) else "no tokens"
        return Estimate(math.nan, math.nan, math.nan, num_prompts, num_paths, num_samples, reason)
    shares = tokens / tokens.sum()
    method = (
        f"H(C) - H(C|X) of a token at an unknown position, X one of {len(rows)} prompts, Chao-Wang-Jost (2013) for "
        "both; too high, as tokens of an image depend on each other (the correction of H(C|X) is "
        f"{(conditional - plugin) @ shares:.2f} bits)"
    )
    weights = torch.stack([_prompt_weights(index) for index in prompts.order.tolist()]) * tokens[:, None]
    replicates = entropies - conditional @ weights / weights.sum(0)
    return _estimate((entropy - conditional @ shares).item(), replicates, math.log2(len(rows)), totals, method)


def _estimate(value: float, replicates: Tensor, most: float, totals: list[int], method: str) -> Estimate:
    """Value +- 1.96 standard deviations of the replicates, clamped to [0, most]; empty replicates are left out."""
    num_prompts, num_paths, num_samples = totals
    replicates = replicates[~replicates.isnan()]
    half = 1.96 * replicates.std().item() if num_prompts > 1 else math.nan
    method = f"{method}; +- 1.96 standard deviations of a Poisson bootstrap over prompts ({NUM_REPLICATES} replicates)"
    # In this order NaN stays NaN. The estimate itself may be outside [0, most].
    low, high = min(max(value - half, 0.0), value), max(min(value + half, most), value)
    return Estimate(value, low, high, num_prompts, num_paths, num_samples, method)


def _prompt_weights(index: int) -> Tensor:
    """(R,) Poisson(1) weight of the prompt in each replicate."""
    generator = torch.Generator().manual_seed(index)
    return torch.poisson(torch.ones(NUM_REPLICATES), generator=generator).long()
