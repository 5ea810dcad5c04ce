"""Metrics by name, for configs and `gendiv measure`: `ssim`, `lpips[vgg]`, `vendi[inception,q=2]`, `fd[dinov2]`.

Brackets contain the backbone, if it is not the default, and options: constructor arguments of the metric and of its
backbone, as `name=value` in YAML. A metric with options is therefore a single string.

Names are entry points: of metrics in `gendiv.metrics`, of backbones in `gendiv.features`. Some constructor arguments of
a metric have a special meaning: `backbone` (name of a CLIP), `net` (LPIPS network), `features` (an `ImageFeatures`),
`scorer` (an `ImageScorer`), `tokenizer` (an `ImageTokenizer`), `reference` (a reference file), `codebook_size` (of the
generator). All other arguments are options.
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
from gendiv_lightning.scorers.base import ImageScorer
from gendiv_lightning.scorers.registry import scorer_of

_NAME = re.compile(r"(?P<metric>[\w/-]+)(\[(?P<inside>.+)\])?", re.DOTALL)
_OPTION = re.compile(r"(?P<key>[a-z_]+)=(?P<value>.*)", re.DOTALL)
_GIVEN = ("reference", "codebook_size", "features", "scorer", "net", "backbone")  # arguments that are not options
_WORDS = {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}


def make_metric(name: str, reference: str | None = None, codebook_size: int | None = None) -> SampleMetric:
    """Construct a metric from its name, with backbone and options in brackets.

    Args:
        name: a registered name. The default backbone is that of the metric's paper (AlexNet, Inception, CLIP ViT-L/14);
            for `cosine` it is DINOv2, for `vendi` pixels.
        reference: reference file, for metrics that require one.
        codebook_size: codebook size of the generator, for `codebook`.

    Raises:
        ValueError: the metric, backbone or option does not exist, or a required argument is missing.
    """
    what = f"metric {name!r}"
    metric_class, backbone, options = _parse(name)
    if backbone and metric_class.with_tokenizer is not None:
        metric_class = metric_class.with_tokenizer
    takes = signature(metric_class).parameters
    settings: dict[str, Any] = {}
    if "reference" in takes:
        if reference is None:
            raise MetricInputError(
                f"{what} requires a reference of real images. Pass a file made by `gendiv reference`"
            )
        settings["reference"] = reference
    if "codebook_size" in takes:
        if codebook_size is None:
            raise MetricInputError(
                f"{what} requires a generator's tokens. Measure the folder of a finished run, read its metrics.json, "
                "or name a tokenizer for the images of any generator, as in codebook[llamagen-vq16]"
            )
        settings["codebook_size"] = codebook_size
    if "tokenizer" in takes and backbone:
        makes = plugins.load("tokenizers", backbone)
        settings["tokenizer"] = _call(makes, options, {}, what)
        return _call(metric_class, {}, settings, what)
    if "features" in takes:
        network = backbone or getattr(metric_class, "default_features", None)
        if network is None or (backbone is None and takes["features"].default is Parameter.empty):
            raise MetricInputError(
                f"{what} requires a feature network in brackets, such as dinov2. `gendiv list features` shows all; "
                "for Inception use fid or kid"
            )
        settings["features"] = _call_with_its_options(features_of(network), options, what)
    elif "scorer" in takes:
        if backbone is None:
            raise MetricInputError(
                f"{what} requires a scorer in brackets, such as {name.strip()}[endpoint,model=NAME]. "
                "`gendiv list scorers` shows all"
            )
        settings["scorer"] = _call_with_its_options(scorer_of(backbone), options, what)
    elif backbone:
        argument = next((name for name in ("backbone", "net") if name in takes), None)
        if argument is None:
            raise ConfigValueError(f"{what} takes no backbone, got {backbone!r}. Leave it out")
        settings[argument] = backbone
    return _call(metric_class, options, settings, what)


def make_metrics(
    names: Sequence[str | SampleMetric], reference: str | None = None, codebook_size: int | None = None
) -> list[SampleMetric]:
    """Construct the metrics of a list of names; metric objects are used as they are.

    Raises:
        ValueError: see `make_metric`; or two metrics have a number in common, or no metric uses the reference file.
    """
    metrics = [make_metric(name, reference, codebook_size) if isinstance(name, str) else name for name in names]
    counts = Counter(number for metric in metrics for number in metric.names)
    number, times = max(counts.items(), key=lambda item: item[1], default=("", 0))
    if times > 1:
        raise ConfigValueError(f"metrics must not be repeated, but {times} of them compute {number}. Keep one of them")
    if reference is not None and not any(map(needs_reference, metrics)):
        raise OptionConflictError(
            f"none of the metrics uses the reference {reference!r}. Leave it out, or add fid, kid, precision_recall, "
            "fd[...] or kd[...]"
        )
    return metrics


def needs_reference(metric: str | SampleMetric) -> bool:
    """Whether a metric, given by name or as an object, compares with real images.

    Raises:
        ValueError: there is no metric with that name.
    """
    return "reference" in (_parse(metric)[0] if isinstance(metric, str) else metric).needs


def make_features(name: str) -> ImageFeatures:
    """Construct a feature network from its name, as in the brackets of a metric: a registered name, or any CLIP.

    Raises:
        ValueError: the network or option does not exist.
    """
    found: ImageFeatures = _make_named("backbone", "features", features_of, name)
    return found


def make_scorer(name: str) -> ImageScorer:
    """Construct a scorer from its name, as in the brackets of a metric: a registered name with options, or any CLIP.

    Raises:
        ValueError: the scorer or option does not exist.
    """
    found: ImageScorer = _make_named("scorer", "scorers", scorer_of, name)
    return found


def _make_named(kind: str, group: str, constructor_of: Callable[[str], Callable[..., Any]], name: str) -> Any:
    what = f"{kind} {name!r}"
    first, options = _parse_brackets(name, what)
    if first is None:
        known = ", ".join(plugins.registered(group))
        raise UnknownNameError(f"{what} must start with a name. Choose one of {known}, or the name of a CLIP")
    return _call(constructor_of(first), options, {}, what)


def split_names(names: str) -> list[str]:
    """Split names at commas, except for commas in brackets or braces."""
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
        known = ", ".join(plugins.registered("metrics")) or "none (reinstall gendiv, its entry points are missing)"
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
            raise ConfigValueError(f"{what}: expected the backbone first, then options as name=value; got {part!r}")
        if option["key"] in options:
            raise ConfigValueError(f"{what}: option {option['key']!r} must not be repeated. Keep one of them")
        options[option["key"]] = option["value"]
    return backbone, options


def _call_with_its_options(constructor: Callable[..., Any], options: dict[str, str], what: str) -> Any:
    """Call a constructor with those options that it takes, and remove them from `options`."""
    own = {key: options.pop(key) for key in [*options] if key in signature(constructor).parameters}
    return _call(constructor, own, {}, what)


def _call(constructor: Callable[..., Any], options: dict[str, str], settings: dict[str, Any], what: str) -> Any:
    """Call a constructor with settings, and with options converted to its declared types."""
    known = [key for key in signature(constructor).parameters if key not in _GIVEN]
    unknown = [key for key in options if key not in known]
    if unknown:
        raise ConfigKeyError(f"{what} has no option {unknown[0]!r}. Its options: {', '.join(known) or 'none'}")
    parameters = signature(constructor).parameters.values()
    missing = [p.name for p in parameters if p.default is Parameter.empty and p.name not in {*options, *settings}]
    if missing:
        raise ConfigKeyError(f"{what} requires the option {missing[0]!r}. Pass it in brackets, as {missing[0]}=VALUE")
    typed = {key: _convert(constructor, key, value, what) for key, value in options.items()}
    try:
        return constructor(**settings, **typed)
    except ValueError as error:
        raise restated(error, f"{what}: {error}") from error


def _convert(constructor: Any, key: str, value: str, what: str) -> Any:
    """Convert a YAML value to the type that a class or function declares for an argument."""
    is_class = isinstance(constructor, type)
    function = constructor.__init__ if is_class else getattr(constructor, "func", constructor)
    try:
        hint = get_type_hints(function)[key]
    except (NameError, KeyError) as error:
        raise ConfigValueError(f"{what}: the type of {key} is unknown in {function.__module__} ({error})") from error
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        return parser.parse_args([f"--value={value}"]).value
    except ArgumentError as error:
        raise ConfigValueError(f"{what}: {key} must be {_in_words(hint)}, got {value!r}") from error


def _in_words(hint: Any) -> str:
    """Description of a type: "a number", "one of cut, chunks", "Sequence[str]"."""
    choices = get_args(hint)
    if choices and all(isinstance(choice, str) for choice in choices):
        return f"one of {', '.join(choices)}"
    return _WORDS.get(hint) or str(hint).replace("typing.", "").replace("collections.abc.", "")
