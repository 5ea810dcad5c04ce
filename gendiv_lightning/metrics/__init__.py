"""Metrics: torchmetrics classes that work alone, fed with all samples of a prompt at a time."""

from gendiv_lightning.metrics.codebook import CodebookUsage
from gendiv_lightning.metrics.diversity import LPIPS, SSIM, PixelCosine
from gendiv_lightning.metrics.postcards import PostcardTruth

__all__ = ["LPIPS", "SSIM", "CodebookUsage", "PixelCosine", "PostcardTruth"]
