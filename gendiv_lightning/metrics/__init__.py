"""Metrics: torchmetrics classes that work alone, fed with all samples of a prompt at a time."""

from gendiv_lightning.metrics.clip import CLIPIQA, CLIPCosine, CLIPScore
from gendiv_lightning.metrics.codebook import CodebookUsage
from gendiv_lightning.metrics.decomposition import SequenceEntropy, TokenEntropy
from gendiv_lightning.metrics.distribution import FrechetDistance, KernelDistance, PrecisionRecall
from gendiv_lightning.metrics.diversity import LPIPS, SSIM, FeatureCosine, PixelCosine
from gendiv_lightning.metrics.vendi import SmallPixels, Vendi, VendiSet
from gendiv_lightning.toy.metric import PostcardTruth

__all__ = [
    "CLIPIQA",
    "LPIPS",
    "SSIM",
    "CLIPCosine",
    "CLIPScore",
    "CodebookUsage",
    "FeatureCosine",
    "FrechetDistance",
    "KernelDistance",
    "PixelCosine",
    "PostcardTruth",
    "PrecisionRecall",
    "SequenceEntropy",
    "SmallPixels",
    "TokenEntropy",
    "Vendi",
    "VendiSet",
]
