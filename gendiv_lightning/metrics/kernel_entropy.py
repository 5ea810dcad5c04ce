"""`KernelEntropy`: kernel-based Renyi entropy of a prompt's images and its parts, of order 2 and of order 1."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from typing_extensions import override

from gendiv_lightning.features.base import ImageFeatures
from gendiv_lightning.features.dinov2 import DINOv2Features
from gendiv_lightning.functional.kernel_entropy import (
    check_bandwidth,
    kernel_matrix,
    matched_entropies,
    mean_squared_kernel,
)
from gendiv_lightning.functional.pairwise import split, split_paths
from gendiv_lightning.metrics.base import PromptMetric, PromptRows, metric_name
from gendiv_lightning.records import PromptSamples

PARTS = ("h_total", "h_exec", "h_path", "h_sampler_path", "h_prompt_path")
ORDER_1 = "order1"


class KernelEntropy(PromptMetric):
    """Kernel decomposition: order-2 Renyi entropy of images given their prompt, and its parts, in bits.

    With k the kernel between two images, averaged over pairs of different samples and over prompts:

    - `h_total/kernel[...]`: -log2 mean k^2 over any two samples of a prompt.
    - `h_exec/kernel[...]`: -log2 mean k^2 over two samples with the same paraphrase and path.
    - `h_path/kernel[...]`: their difference, the sum of `h_sampler_path/...` and `h_prompt_path/...`.

    The means are unbiased for any number of samples. The logarithm is taken after averaging over prompts: by the chain
    rule of order 2, this is the entropy given the prompt (Conditional-RKE), or given the prompt and the path. Prompts
    with similar samples therefore have the largest weight. `.../order1` is the von Neumann entropy (log2 of the Vendi
    score), averaged over prompts. It grows with the number of samples, so its parts come from groups of equal size.

    The columns hold the contribution of each prompt. To first order, their mean is the entropy, so that intervals,
    paired differences and averages over seeds are computed as for any mean over prompts.

    Prompts with one sample are excluded. Path and execution are separated only if samples share paths. If k is 0 for
    all pairs, as may happen with the identity kernel, the entropy is NaN.

    Args:
        features: network whose features are compared. Default: DINOv2.
        bandwidth: bandwidth of a Gaussian kernel, in the unit of the features, see
            `functional.kernel_entropy.kernel_matrix`; 0 is the identity kernel. Default: the cosine of the features.
            `gendiv decompose RUN --kernel NAME` prints the median distance between samples of a baseline. Use the same
            bandwidth for all runs you compare.
    """

    features: ImageFeatures
    title = "entropy of a prompt's images at a kernel's resolution, and its parts"
    short = "kernel entropy"
    default_features = "dinov2"
    num_columns = 8  # see `measure`

    def __init__(self, features: ImageFeatures | None = None, bandwidth: float | None = None) -> None:
        super().__init__()
        check_bandwidth(bandwidth)
        self.features = DINOv2Features() if features is None else features
        self.bandwidth = bandwidth

    @property
    @override
    def names(self) -> tuple[str, ...]:
        name = metric_name("kernel", self.features.tag, bandwidth=self.bandwidth)
        return *(f"{part}/{name}" for part in PARTS), *(f"{part}/{name}/{ORDER_1}" for part in PARTS)

    @property
    @override
    def method(self) -> str:
        kernel = "cosine of features" if self.bandwidth is None else f"Gaussian kernel of bandwidth {self.bandwidth:g}"
        if self.bandwidth == 0:
            kernel = "identity kernel"
        return (
            f"-log2 of the mean squared kernel over pairs and prompts ({kernel}, {self.features.tag}); order1: von "
            "Neumann entropy of groups of one size, too low for few samples; BCa bootstrap over prompts, to first order"
        )

    @override
    def identity(self) -> dict[str, object]:
        return {**super().identity(), "bandwidth": self.bandwidth, "features": self.features.identity()}

    @override
    def measure(self, samples: PromptSamples) -> list[float]:
        """Compute the eight columns of one prompt.

        They are the mean k^2 of the prompt, of a paraphrase and of a path; the order-1 entropies of the same three; and
        the numbers of paths per paraphrase and of paraphrases.
        """
        kernel = kernel_matrix(self.features(samples.images.to(self.device)), self.bandwidth).cpu()
        groups = samples.groups
        cells, cell = groups.unique(dim=0, return_inverse=True)
        num_paraphrases = len(cells[:, 0].unique())
        if len(cells) < len(groups):
            paths = split_paths(mean_squared_kernel(kernel, cell), cells[:, 0])
            means = [paths.total, paths.within, paths.execution]
        else:
            total, within, _ = split(mean_squared_kernel(kernel, groups[:, 0]))
            means = [total, within, math.nan]
        execution, paraphrase, prompt = matched_entropies(kernel, *groups.T)
        return [*means, prompt, paraphrase, execution, len(cells) / num_paraphrases, num_paraphrases]

    @override
    def per_prompt(self) -> PromptRows:
        """Contribution of each prompt, in the order of `names`."""
        order, sizes, rows = super().per_prompt()
        means, entropies, (paths, paraphrases) = rows[:, :3], rows[:, 3:6], rows[:, 6:].T
        parts = [
            _parts(means, paths, paraphrases, _contributions),
            _parts(entropies, paths, paraphrases, lambda bits: bits),
        ]
        return PromptRows(order, sizes, torch.cat(parts, 1))


def _contributions(means: Tensor) -> Tensor:
    """Linearize -log2 of the mean (C,) of `means` (P, C): contributions whose mean it is; NaN if that is infinite.

    The contribution of a prompt deviates from their mean by its deviation from the overall mean, divided by that mean
    times -ln 2.
    """
    overall = means.nanmean(0)
    contributions = -overall.log2() + (overall - means) / (overall * math.log(2))
    return contributions.masked_fill(overall <= 0, math.nan)


def _parts(columns: Tensor, paths: Tensor, paraphrases: Tensor, bits: Callable[[Tensor], Tensor]) -> Tensor:
    """PARTS (P, 5) from columns (P, 3) of prompt, paraphrase and path, which `bits` turns into entropies.

    A difference is of the prompts where both of its columns are defined, so that it compares the same prompts.
    """

    def difference(more: int, less: int, is_undefined: Tensor) -> Tensor:
        left_out = columns[:, [more, less]].isnan().any(1) | is_undefined
        both = bits(columns.masked_fill(left_out[:, None], math.nan))
        return both[:, more] - both[:, less]

    total, _, execution = bits(columns).T
    path = difference(0, 2, torch.zeros_like(paths, dtype=torch.bool))
    return torch.stack([total, execution, path, difference(1, 2, paths == 1), difference(0, 1, paraphrases == 1)], 1)
