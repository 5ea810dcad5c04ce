"""`CodebookUsage`: how much of its codebook a generator uses over all prompts, samples and positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics import Metric

from gendiv_lightning.batch import PromptSamples
from gendiv_lightning.functional.entropy import chao_wang_jost_entropy, coverage, plugin_entropy
from gendiv_lightning.functional.estimate import Estimate

NUM_REPLICATES = 200


class CodebookUsage(Metric):
    """Entropy, perplexity and coverage of the tokens' overall frequencies, with intervals over prompts.

    A Poisson bootstrap streams: in each replicate a prompt counts as often as a Poisson(1) variate says, which is drawn
    from the prompt's `place` alone. So replicates add up over batches and ranks like the counts, in any order. Prompts
    must have places of their own, or the interval is wrong; where usage is close to uniform it is too wide. Source:
    Chamandy et al., "Estimating Uncertainty for Massive Data Streams" (2012).

    Args:
        codebook_size: number of entries K.
    """

    full_state_update = False
    higher_is_better = None
    is_differentiable = False
    counts: Tensor
    replicates: Tensor
    sizes: Tensor

    def __init__(self, codebook_size: int) -> None:
        super().__init__()
        if codebook_size < 1:
            raise ValueError(f"codebook_size must be at least 1; got {codebook_size}")
        self.codebook_size = codebook_size
        replicates = torch.zeros(NUM_REPLICATES, codebook_size, dtype=torch.int32)
        self.add_state("counts", torch.zeros(codebook_size, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("replicates", replicates, dist_reduce_fx="sum")
        self.add_state("sizes", torch.zeros(3, dtype=torch.int64), dist_reduce_fx="sum")  # prompts, paths, samples

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

    def compute(self) -> dict[str, Estimate]:
        """`codebook/entropy_bits` and three more; NaN without tokens, no interval for fewer than two prompts."""
        sizes = self.sizes.tolist()
        replicates = _statistics(self.replicates.cpu())
        return {
            name: _estimate(value.item(), replicates[name][0], most, sizes, method)
            for name, (value, most, method) in _statistics(self.counts.cpu()).items()
        }


def _statistics(counts: Tensor) -> dict[str, tuple[Tensor, float, str]]:
    """Each number of counts (..., K), shape (...), the most that it can be, and its estimator in words."""
    entropy, num_entries = chao_wang_jost_entropy(counts), counts.shape[-1]
    bits = math.log2(num_entries)
    return {
        "codebook/entropy_bits": (entropy, bits, "Chao-Wang-Jost (2013)"),
        "codebook/entropy_plugin_bits": (plugin_entropy(counts), bits, "plug-in, biased low"),
        "codebook/perplexity": (entropy.exp2(), num_entries, "2^H with the Chao-Wang-Jost (2013) entropy"),
        "codebook/coverage": (coverage(counts), 1, "share of entries seen, grows with the number of tokens"),
    }


def _estimate(value: float, replicates: Tensor, most: float, sizes: list[int], method: str) -> Estimate:
    """Value +- 1.96 standard deviations of the replicates, in [0, most]; replicates without a prompt are left out."""
    num_prompts, num_paths, num_samples = sizes
    replicates = replicates[~replicates.isnan()]
    half = 1.96 * replicates.std().item() if num_prompts > 1 else math.nan
    method = f"{method}; +- 1.96 standard deviations of a Poisson bootstrap over prompts ({NUM_REPLICATES} replicates)"
    # In this order a NaN stays one. The estimate itself may exceed `most`.
    low, high = max(value - half, 0.0), max(min(value + half, most), value)
    return Estimate(value, low, high, num_prompts, num_paths, num_samples, method)


def _prompt_weights(index: int) -> Tensor:
    """(R,) how often the prompt counts in each replicate."""
    generator = torch.Generator().manual_seed(index)
    return torch.poisson(torch.ones(NUM_REPLICATES), generator=generator).long()
