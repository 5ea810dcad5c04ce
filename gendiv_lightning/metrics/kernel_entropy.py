"""`KernelEntropy`: order-2 Renyi entropy of a prompt's samples by a kernel, and its parts; order 1 beside it."""

from __future__ import annotations

import math

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

    With k the kernel of two images, and means over pairs of different samples and over prompts:

    - `h_total/kernel[...]`: -log2 mean k^2 of two draws from all that the prompt leaves open.
    - `h_exec/kernel[...]`: the same of two samples of one paraphrase and path.
    - `h_path/kernel[...]`: their difference, the sum of `h_sampler_path/...` and `h_prompt_path/...`.

    The means are unbiased in the number of samples. The logarithm is taken of the mean over prompts: by the chain rule
    of order 2 this is the entropy given the prompt (Conditional-RKE), and given the path too. Prompts whose samples are
    much alike therefore weigh most. `.../order1` is the von Neumann entropy (log2 of the Vendi score), averaged over
    prompts. It grows with the number of samples, so its parts come from groups of one size.

    Columns hold what each prompt contributes: their mean is the number, to first order in the prompts, so that
    intervals, paired differences and averages over seeds are those of any mean over prompts.

    A prompt with one sample is left out. Path and execution are separated where samples share paths. Where no two
    samples of any prompt are alike at all, as the identity kernel may have it, the entropy is NaN.

    Args:
        features: the network that images are compared by. Default: DINOv2.
        bandwidth: of a Gaussian kernel, in the unit of the features, see `functional.kernel_entropy.kernel_matrix`; 0
            is the identity kernel. Default: the cosine of the features. `gendiv decompose RUN --kernel NAME` prints
            the median distance of a baseline's samples: use one bandwidth for all runs that are compared.
    """

    features: ImageFeatures
    title = "entropy of a prompt's images at a kernel's resolution, and its parts"
    short = "kernel entropy"
    default_features = "dinov2"
    num_columns = 8  # mean k^2 and order-1 entropy, each in all, of a wording, of a path; numbers of paths and wordings

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
        """Of one prompt: mean k^2 in all, of a wording, of a path; the same entropies of order 1; paths, wordings."""
        kernel = kernel_matrix(self.features(samples.images.to(self.device)), self.bandwidth).cpu()
        groups = samples.groups
        cells, cell = groups.unique(dim=0, return_inverse=True)
        num_wordings = len(cells[:, 0].unique())
        if len(cells) < len(groups):
            found = split_paths(mean_squared_kernel(kernel, cell), cells[:, 0])
            means = [found.total, found.within, found.execution]
        else:
            total, within, _ = split(mean_squared_kernel(kernel, groups[:, 0]))
            means = [total, within, math.nan]
        execution, wording, pool = matched_entropies(kernel, *groups.T)
        return [*means, pool, wording, execution, len(cells) / num_wordings, num_wordings]

    @override
    def per_prompt(self) -> PromptRows:
        """Contributions of each prompt, in the order of `names`."""
        order, sizes, rows = super().per_prompt()
        means, entropies, (paths, wordings) = rows[:, :3], rows[:, 3:6], rows[:, 6:].T
        parts = [_parts(bits, paths, wordings) for bits in (_contributions(means), entropies)]
        return PromptRows(order, sizes, torch.cat(parts, 1))


def _contributions(means: Tensor) -> Tensor:
    """(P, C) numbers whose mean is -log2 of the mean (C,) of `means`, to first order; NaN where there is none.

    Their deviations from it are those of the means over ln 2 times the mean.
    """
    overall = means.nanmean(0)
    contributions = -overall.log2() + (overall - means) / (overall * math.log(2))
    return contributions.masked_fill(overall <= 0, math.nan)


def _parts(bits: Tensor, paths: Tensor, wordings: Tensor) -> Tensor:
    """(P, 5) total, execution, path, sampler path, prompt path from entropies (P, 3) in all, of a wording, a path."""
    total, wording, execution = bits.T
    sampler = (wording - execution).masked_fill(paths == 1, math.nan)
    prompt = (total - wording).masked_fill(wordings == 1, math.nan)
    return torch.stack([total, execution, total - execution, sampler, prompt], 1)
