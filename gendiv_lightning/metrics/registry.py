"""Metrics by name, for configs and `gendiv measure`: `ssim`, `lpips[vgg]`, `vendi[inception,q=2]`, `fd[tiny-clip]`.

In brackets stand the backbone, where it is not the default one, and options: the arguments of the metric's class and of
its backbone's, as `name=value` in YAML. So a metric with options is one string, wherever metrics are listed.
"""

from __future__ import annotations

import re
from argparse import ArgumentError
from collections.abc import Callable, Container, Sequence
from inspect import signature
from typing import Any, get_args

from jsonargparse import ArgumentParser

from gendiv_lightning.features.base import ImageFeatures
from gendiv_lightning.features.dinov2 import DINOv2Features
from gendiv_lightning.features.inception import InceptionFeatures
from gendiv_lightning.features.lpips import Net
from gendiv_lightning.features.pooled import ClipImages, TinyFeatures
from gendiv_lightning.metrics.base import SampleMetric
from gendiv_lightning.metrics.clip import CLIPIQA, CLIPCosine, CLIPScore
from gendiv_lightning.metrics.codebook import CodebookUsage
from gendiv_lightning.metrics.decomposition import SequenceEntropy, TokenEntropy
from gendiv_lightning.metrics.distribution import FrechetDistance, KernelDistance, PrecisionRecall
from gendiv_lightning.metrics.diversity import LPIPS, SSIM, FeatureCosine, PixelCosine
from gendiv_lightning.metrics.vendi import Pixels, SmallPixels, Vendi, VendiSet
from gendiv_lightning.toy.metric import PostcardTruth

METRICS: dict[str, type[SampleMetric]] = {
    "lpips": LPIPS,
    "pixel_cosine": PixelCosine,
    "ssim": SSIM,
    "cosine": FeatureCosine,
    "clip_cosine": CLIPCosine,
    "vendi": Vendi,
    "vendi_set": VendiSet,
    "clip_score": CLIPScore,
    "clip_iqa": CLIPIQA,
    "fid": FrechetDistance,
    "fd": FrechetDistance,
    "kid": KernelDistance,
    "kd": KernelDistance,
    "precision_recall": PrecisionRecall,
    "codebook": CodebookUsage,
    "token_entropy": TokenEntropy,
    "sequence_entropy": SequenceEntropy,
    "postcard_truth": PostcardTruth,
}
FEATURES: dict[str, type[ImageFeatures]] = {
    "inception": InceptionFeatures,
    "dinov2": DINOv2Features,
    "tiny": TinyFeatures,
    "pixels": Pixels,
    "small-pixels": SmallPixels,
}
_DEFAULTS = {"cosine": "dinov2", "vendi": "pixels", "vendi_set": "small-pixels"}  # of others: inception
_NAME = re.compile(r"(?P<metric>[a-z_]+)(\[(?P<inside>.+)\])?")
_OPTION = re.compile(r"(?P<key>[a-z_]+)=(?P<value>.*)", re.DOTALL)


def make_metric(name: str, reference: str | None = None, codebook_size: int | None = None) -> SampleMetric:
    """The metric of a name, with its backbone and options in brackets.

    Args:
        name: see `METRICS`; without a backbone it is the one of the metric's papers (AlexNet, Inception, CLIP
            ViT-L/14), for `cosine` DINOv2, for `vendi` pixels.
        reference: reference file of the metrics that need one.
        codebook_size: of the generator, for `codebook`.

    Raises:
        ValueError: there is no such metric, backbone or option, or what it needs is not given.
    """
    match = _NAME.fullmatch(name.strip())
    if match is None or match["metric"] not in METRICS:
        raise ValueError(
            f"metric {name!r} is unknown; there are {', '.join(METRICS)}, a backbone in brackets: gendiv measure --help"
        )
    what, metric = f"metric {name!r}", match["metric"]
    backbone, options = _parse(match["inside"] or "", what)
    takes = signature(METRICS[metric]).parameters
    settings: dict[str, Any] = {}
    if "reference" in takes:
        settings["reference"] = _checked_reference(metric, backbone, reference, what)
    if "codebook_size" in takes:
        settings["codebook_size"] = _checked_size(codebook_size, what)
    if "features" in takes:
        backbone_class, named = _features_class(backbone or _DEFAULTS.get(metric, "inception"))
        theirs = {key: value for key, value in options.items() if key in signature(backbone_class).parameters}
        options = {key: value for key, value in options.items() if key not in theirs}
        settings["features"] = _call(backbone_class, theirs, named, what)
    elif backbone:
        settings |= _named_backbone(backbone, takes, what)
    return _call(METRICS[metric], options, settings, what)


def make_features(name: str) -> ImageFeatures:
    """The network of a name, as in a metric's brackets: one of `FEATURES`, tiny-clip, or a CLIP by name or path."""
    backbone, options = _parse(name, f"backbone {name!r}")
    if backbone is None:
        raise ValueError(f"backbone {name!r} must begin with a network: {', '.join(FEATURES)}, or a CLIP's name")
    backbone_class, named = _features_class(backbone)
    return _call(backbone_class, options, named, f"backbone {name!r}")


def clip_name(backbone: str) -> str:
    """What `ClipFeatures` calls the CLIP that stands in brackets."""
    return "tiny" if backbone == "tiny-clip" else backbone


def split_names(names: str) -> list[str]:
    """Names separated by commas; a comma in brackets or braces separates nothing."""
    parts, depth = [""], 0
    for letter in names:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _parse(inside: str, what: str) -> tuple[str | None, dict[str, str]]:
    """Backbone and options of what stands in brackets."""
    parts = [part for part in split_names(inside) if part]
    options = [_OPTION.fullmatch(part) for part in parts]
    backbone = parts[0] if parts and options[0] is None else None
    if any(option is None for option in options[1:]):
        raise ValueError(f"{what}: behind the backbone stand options, name=value")
    return backbone, {option["key"]: option["value"] for option in options if option}


def _checked_reference(metric: str, backbone: str | None, reference: str | None, what: str) -> str:
    if reference is None:
        raise ValueError(f"{what} compares with real images: give a reference file, see `gendiv reference`")
    if metric != "precision_recall" and (backbone is None) == (metric in ("fd", "kd")):
        raise ValueError(f"{what}: it is fid and kid of Inception, fd[...] and kd[...] of other features")
    return reference


def _checked_size(codebook_size: int | None, what: str) -> int:
    if codebook_size is None:
        raise ValueError(
            f"{what} counts a generator's tokens: measure a finished run's folder; a run itself measures it unasked"
        )
    return codebook_size


def _named_backbone(backbone: str, takes: Container[str], what: str) -> dict[str, str]:
    if "backbone" in takes:
        return {"backbone": clip_name(backbone)}
    if "net" not in takes:
        raise ValueError(f"{what} has no backbone, leave it out")
    if backbone not in get_args(Net):
        raise ValueError(f"{what}: the network is one of {', '.join(get_args(Net))}")
    return {"net": backbone}


def _features_class(backbone: str) -> tuple[type[ImageFeatures], dict[str, Any]]:
    return (FEATURES[backbone], {}) if backbone in FEATURES else (ClipImages, {"backbone": clip_name(backbone)})


def _call(makes: Callable[..., Any], options: dict[str, str], settings: dict[str, Any], what: str) -> Any:
    """Call a class with settings, and options brought to the types that it declares."""
    left = [key for key in signature(makes).parameters if key not in (*settings, "features", "net", "backbone")]
    unknown = [key for key in options if key not in left]
    if unknown:
        raise ValueError(f"{what} has no option {unknown[0]!r}; it has {_listed(left)}")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(makes, skip=set(signature(makes).parameters) - options.keys())
    try:
        typed = parser.parse_args([f"--{key}={value}" for key, value in options.items()])
    except ArgumentError as error:
        lines = [line.strip(" -") for line in str(error).splitlines()]
        wanted = next((line for line in lines if line.startswith("Expected")), lines[0])
        raise ValueError(f"{what}: {wanted}") from error
    return makes(**settings, **typed.as_dict())


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
