"""Metrics by name, for configs and `gendiv measure`: `ssim`, `lpips[vgg]`, `clip_score[tiny-clip]`, `fd[tiny-clip]`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import get_args

from gendiv_lightning.features.base import ImageFeatures
from gendiv_lightning.features.inception import InceptionFeatures
from gendiv_lightning.features.lpips import Net
from gendiv_lightning.features.pooled import ClipImages, TinyFeatures
from gendiv_lightning.metrics.base import SampleMetric
from gendiv_lightning.metrics.clip import CLIPIQA, DEFAULT_BACKBONE, CLIPCosine, CLIPScore
from gendiv_lightning.metrics.decomposition import SequenceEntropy, TokenEntropy
from gendiv_lightning.metrics.distribution import DistributionMetric, FrechetDistance, KernelDistance, PrecisionRecall
from gendiv_lightning.metrics.diversity import LPIPS, SSIM, PixelCosine
from gendiv_lightning.metrics.postcards import PostcardTruth
from gendiv_lightning.metrics.vendi import Pixels, SmallPixels, Vendi, VendiSet

_NAME = re.compile(r"(?P<metric>[a-z_]+)(\[(?P<backbone>[^\[\]]+)\])?")
_PLAIN: dict[str, Callable[[], SampleMetric]] = {
    "pixel_cosine": PixelCosine,
    "ssim": SSIM,
    "token_entropy": TokenEntropy,
    "sequence_entropy": SequenceEntropy,
    "postcard_truth": PostcardTruth,
}
_CLIP: dict[str, Callable[[str], SampleMetric]] = {
    "clip_score": CLIPScore,
    "clip_iqa": CLIPIQA,
    "clip_cosine": CLIPCosine,
}
_VENDI = {"vendi": Vendi, "vendi_set": VendiSet}
_BESIDE_A_REFERENCE: dict[str, type[DistributionMetric]] = {
    "fid": FrechetDistance,
    "fd": FrechetDistance,
    "kid": KernelDistance,
    "kd": KernelDistance,
    "precision_recall": PrecisionRecall,
}
METRICS = ("lpips", *_PLAIN, *_CLIP, *_VENDI, *_BESIDE_A_REFERENCE)


def make_metric(name: str, reference: str | None = None) -> SampleMetric:
    """The metric of a name, its backbone in brackets.

    Args:
        name: see `METRICS`; without brackets the backbone is the one of the metric's papers (AlexNet, Inception, CLIP
            ViT-B/16), for `vendi` pixels.
        reference: reference file of the metrics that need one.

    Raises:
        ValueError: there is no such metric or backbone, or it needs a reference and there is none.
    """
    match = _NAME.fullmatch(name.strip())
    if match is None or match["metric"] not in METRICS:
        raise ValueError(
            f"metric {name!r} is unknown; there are {', '.join(METRICS)}, a backbone in brackets: gendiv measure --help"
        )
    metric, backbone = match["metric"], match["backbone"]
    if metric in _PLAIN:
        if backbone is not None:
            raise ValueError(f"metric {name!r} has no backbone, leave the brackets out")
        return _PLAIN[metric]()
    if metric == "lpips":
        nets: dict[str, Net] = {net: net for net in get_args(Net)}
        if (backbone or "alex") not in nets:
            raise ValueError(f"metric {name!r}: the network is one of {', '.join(nets)}")
        return LPIPS(nets[backbone or "alex"])
    if metric in _CLIP:
        return _CLIP[metric](clip_name(backbone or DEFAULT_BACKBONE))
    if metric in _VENDI:
        features = make_features(backbone) if backbone else Pixels() if metric == "vendi" else SmallPixels()
        return _VENDI[metric](features)
    if reference is None:
        raise ValueError(f"metric {name!r} compares with real images: give a reference file, see `gendiv reference`")
    if metric != "precision_recall" and (backbone is None) == (metric in ("fd", "kd")):
        raise ValueError(f"metric {name!r}: it is fid and kid of Inception, fd[...] and kd[...] of other features")
    return _BESIDE_A_REFERENCE[metric](reference, make_features(backbone or "inception"))


def make_features(name: str) -> ImageFeatures:
    """The network of a name: inception, tiny, pixels, tiny-clip, or a CLIP of open_clip by name or path."""
    plain: dict[str, type[ImageFeatures]] = {"inception": InceptionFeatures, "tiny": TinyFeatures, "pixels": Pixels}
    return plain[name]() if name in plain else ClipImages(clip_name(name))


def clip_name(backbone: str) -> str:
    """What `ClipFeatures` calls the CLIP that stands in brackets."""
    return "tiny" if backbone == "tiny-clip" else backbone
