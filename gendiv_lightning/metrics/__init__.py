"""Metrics: torchmetrics classes whose `update` takes all samples of one prompt."""

from gendiv_lightning.metrics.clip import CLIPIQA, CLIPCosine, CLIPScore
from gendiv_lightning.metrics.codebook import CodebookUsage
from gendiv_lightning.metrics.common_codebook import CommonCodebook
from gendiv_lightning.metrics.decomposition import SequenceEntropy, TokenEntropy
from gendiv_lightning.metrics.distribution import FID, KID, FrechetDistance, KernelDistance, PrecisionRecall
from gendiv_lightning.metrics.diversity import DISTS, LPIPS, SSIM, FeatureCosine, PixelCosine
from gendiv_lightning.metrics.kernel_entropy import KernelEntropy
from gendiv_lightning.metrics.vendi import ConditionalVendi, Vendi, VendiSet
from gendiv_lightning.metrics.vqa_score import VQAScore

__all__ = [
    "CLIPIQA",
    "DISTS",
    "FID",
    "KID",
    "LPIPS",
    "SSIM",
    "CLIPCosine",
    "CLIPScore",
    "CodebookUsage",
    "CommonCodebook",
    "ConditionalVendi",
    "FeatureCosine",
    "FrechetDistance",
    "KernelDistance",
    "KernelEntropy",
    "PixelCosine",
    "PrecisionRecall",
    "SequenceEntropy",
    "TokenEntropy",
    "VQAScore",
    "Vendi",
    "VendiSet",
]
