"""Metrics by name, for configs and `gendiv measure`: `ssim`, `lpips[vgg]`, `vendi[inception,q=2]`, `fd[dinov2]`.

Brackets hold the backbone, if it is not the default one, and options: the arguments of the metric's class and of its
backbone's, as `name=value` in YAML. So a metric with options is one string, wherever metrics are listed.

Names are entry points, of metrics in `gendiv.metrics` and of backbones in `gendiv.features`; a metric's class says by
its constructor what it takes: `backbone` (a CLIP's name), `net` (a network of LPIPS), `features` (an `ImageFeatures`),
`reference` (a reference file), `codebook_size` (of the generator); all other arguments are options.
"""

from __future__ import annotations

import re
from argparse import ArgumentError
from collections import Counter
from collections.abc import Callable, Sequence
from inspect import Parameter, signature
from typing import Any, get_args, get_type_hints

from jsonargparse import ArgumentParser

from gendiv_lightning import plugins
from gendiv_lightning.errors import (
    ConfigKeyError,
    ConfigValueError,
    MetricInputError,
    OptionConflictError,
    UnknownNameError,
    restated,
)
from gendiv_lightning.features.base import ImageFeatures
from gendiv_lightning.features.registry import features_of
from gendiv_lightning.metrics.base import SampleMetric

_NAME = re.compile(r"(?P<metric>[\w/-]+)(\[(?P<inside>.+)\])?", re.DOTALL)
_OPTION = re.compile(r"(?P<key>[a-z_]+)=(?P<value>.*)", re.DOTALL)
_GIVEN = ("reference", "codebook_size", "features", "net", "backbone")  # arguments that are not options
_WORDS = {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}


def make_metric(name: str, reference: str | None = None, codebook_size: int | None = None) -> SampleMetric:
    """The metric of a name, with its backbone and options in brackets.

    Args:
        name: a registered name; without a backbone it is the one of the metric's papers (AlexNet, Inception, CLIP
            ViT-L/14), for `cosine` DINOv2, for `vendi` pixels.
        reference: reference file of the metrics that need one.
        codebook_size: of the generator, for `codebook`.

    Raises:
        ValueError: there is no such metric, backbone or option, or what it needs is not given.
    """
    what = f"metric {name!r}"
    metric_class, backbone, options = _parse(name)
    takes = signature(metric_class).parameters
    settings: dict[str, Any] = {}
    if "reference" in takes:
        if reference is None:
            raise MetricInputError(
                f"{what} compares with real images. Give a reference file; `gendiv reference` makes one"
            )
        settings["reference"] = reference
    if "codebook_size" in takes:
        if codebook_size is None:
            raise MetricInputError(
                f"{what} counts a generator's tokens. Measure a finished run's folder; a run itself measures it unasked"
            )
        settings["codebook_size"] = codebook_size
    if "features" in takes:
        network = backbone or getattr(metric_class, "default_features", None)
        if network is None or (backbone is None and takes["features"].default is Parameter.empty):
            raise MetricInputError(
                f"{what} needs a feature network in brackets, such as dinov2. `gendiv list features` shows all; "
                "the distances of Inception are fid and kid"
            )
        makes = features_of(network)
        theirs = {key: options.pop(key) for key in [*options] if key in signature(makes).parameters}
        settings["features"] = _call(makes, theirs, {}, what)
    elif backbone:
        argument = next((name for name in ("backbone", "net") if name in takes), None)
        if argument is None:
            raise ConfigValueError(f"{what} has no backbone; got {backbone!r}. Leave it out")
        settings[argument] = backbone
    return _call(metric_class, options, settings, what)


def make_metrics(
    names: Sequence[str | SampleMetric], reference: str | None = None, codebook_size: int | None = None
) -> list[SampleMetric]:
    """The metrics of a list, by name or as they are.

    Raises:
        ValueError: as in `make_metric`; two give the same number; or a reference file is given and none needs it.
    """
    metrics = [make_metric(name, reference, codebook_size) if isinstance(name, str) else name for name in names]
    counts = Counter(number for metric in metrics for number in metric.names)
    number, times = max(counts.items(), key=lambda item: item[1], default=("", 0))
    if times > 1:
        raise ConfigValueError(f"metrics must be named once each; {times} of them give {number}. Leave the others out")
    if reference is not None and not any(map(needs_reference, metrics)):
        raise OptionConflictError(
            f"reference {reference!r} is used by none of the metrics, which do not compare with real images. Leave it "
            "out, or add fid, kid, precision_recall, fd[...] or kd[...]"
        )
    return metrics


def needs_reference(metric: str | SampleMetric) -> bool:
    """Whether a metric, by name or as it is, compares with real images.

    Raises:
        ValueError: there is no metric of that name.
    """
    return "reference" in (_parse(metric)[0] if isinstance(metric, str) else metric).needs


def make_features(name: str) -> ImageFeatures:
    """The network of a name, as in a metric's brackets: a registered one, or a CLIP by name or path.

    Raises:
        ValueError: there is no such network or option.
    """
    what = f"backbone {name!r}"
    backbone, options = _parse_brackets(name, what)
    if backbone is None:
        known = ", ".join(plugins.registered("features"))
        raise UnknownNameError(f"{what} must begin with a network. Choose one of {known}, or a CLIP's name")
    return _call(features_of(backbone), options, {}, what)


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


def _parse(name: str) -> tuple[type[SampleMetric], str | None, dict[str, str]]:
    """Class, backbone and options of a metric's name."""
    match = _NAME.fullmatch(name.strip())
    if match is None or match["metric"] not in plugins.registered("metrics"):
        known = ", ".join(plugins.registered("metrics")) or "none: reinstall gendiv, its entry points are missing"
        raise UnknownNameError(
            f"metric {name!r} is unknown. Choose one of {known}, with a backbone in brackets; see gendiv measure --help"
        )
    return (
        plugins.load("metrics", match["metric"]),
        *_parse_brackets(match["inside"] or "", f"metric {name!r}"),
    )


def _parse_brackets(inside: str, what: str) -> tuple[str | None, dict[str, str]]:
    """Backbone and options inside brackets."""
    parts = [part for part in split_names(inside) if part]
    backbone = parts.pop(0) if parts and not _OPTION.fullmatch(parts[0]) else None
    options: dict[str, str] = {}
    for part in parts:
        option = _OPTION.fullmatch(part)
        if option is None:
            raise ConfigValueError(f"{what}: the backbone comes first, then options as name=value; got {part!r}")
        if option["key"] in options:
            raise ConfigValueError(f"{what}: option {option['key']!r} must be given once; got it twice")
        options[option["key"]] = option["value"]
    return backbone, options


def _call(makes: Callable[..., Any], options: dict[str, str], settings: dict[str, Any], what: str) -> Any:
    """Call a class with settings, and with options brought to the types that it declares."""
    known = [key for key in signature(makes).parameters if key not in _GIVEN]
    unknown = [key for key in options if key not in known]
    if unknown:
        raise ConfigKeyError(f"{what} has no option {unknown[0]!r}. Its options: {', '.join(known) or 'none'}")
    parameters = signature(makes).parameters.values()
    missing = [p.name for p in parameters if p.default is Parameter.empty and p.name not in {*options, *settings}]
    if missing:
        raise ConfigKeyError(f"{what} needs the option {missing[0]!r}. Give it in brackets, as {missing[0]}=VALUE")
    typed = {key: _convert(makes, key, value, what) for key, value in options.items()}
    try:
        return makes(**settings, **typed)
    except ValueError as error:
        raise restated(error, f"{what}: {error}") from error


def _convert(makes: Any, key: str, value: str, what: str) -> Any:
    """A value in YAML as the type that a class or function declares for an argument."""
    function = makes.__init__ if isinstance(makes, type) else getattr(makes, "func", makes)  # type: ignore[misc]
    try:
        hint = get_type_hints(function)[key]
    except (NameError, KeyError) as error:
        raise ConfigValueError(f"{what}: the type of {key} is unknown in {function.__module__} ({error})") from error
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        return parser.parse_args([f"--value={value}"]).value
    except ArgumentError as error:
        raise ConfigValueError(f"{what}: {key} must be {_in_words(hint)}; got {value!r}") from error


def _in_words(hint: Any) -> str:
    """What a type accepts: "a number", "one of cut, chunks", "Sequence[str]"."""
    choices = get_args(hint)
    if choices and all(isinstance(choice, str) for choice in choices):
        return f"one of {', '.join(choices)}"
    return _WORDS.get(hint) or str(hint).replace("typing.", "").replace("collections.abc.", "")
