"""The functions of the public API: `load` a generator, `read_prompts`, `evaluate` images."""

from __future__ import annotations

import html
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from gendiv_lightning.console.tables import format_estimates, format_methods
from gendiv_lightning.errors import ConfigValueError, ImageError, ImageSizeError, MetricInputError
from gendiv_lightning.features.base import check_device
from gendiv_lightning.generators.base import Generator
from gendiv_lightning.generators.generate import Samples
from gendiv_lightning.generators.registry import Source, make_generator
from gendiv_lightning.images.by_prompt import find_images, load_prompts
from gendiv_lightning.images.decode import CorruptImages, to_rgb, to_tensor
from gendiv_lightning.metrics.base import SampleMetric, compute_metrics
from gendiv_lightning.metrics.registry import make_metrics, split_names
from gendiv_lightning.prompts import files
from gendiv_lightning.prompts.prompt_set import collect_prompts
from gendiv_lightning.records import Prompt, PromptSamples, split_by_prompt
from gendiv_lightning.records.estimate import Estimate
from gendiv_lightning.runs.folder import RunFolder, to_plain
from gendiv_lightning.storage.codebook_counts import read_usage
from gendiv_lightning.storage.named_files import expand

MAX_CORRUPT = 0.01  # largest share of unreadable images in a folder, as in `gendiv measure`
Images = Tensor | np.ndarray | Sequence[Tensor | np.ndarray | Image.Image]


def load(source: Source, **settings: Any) -> Generator:
    """Load a generator with its weights, on the CPU and ready to sample; `.to("cuda")` moves it.

    Args:
        source: a registered name such as "toy/llamagen" (see `gendiv list generators`), the config file of a generator
            or a run such as "configs/llamagen.yaml", a class, or the import path of a class.
        settings: constructor arguments that override those of the config, such as `guidance_scale=1.0`.

    Raises:
        ValueError: the generator does not exist, a setting is invalid, or weights are missing.
    """
    generator = make_generator(source, **settings)
    generator.locate()
    generator.load()
    return generator.eval()


def read_prompts(path: str | Path, limit: int | None = None, column: str | None = None) -> list[Prompt]:
    """Read the prompts of a file with their ids and paraphrases, as a run does: empty and duplicate ones are skipped.

    Args:
        path: a .jsonl, .json, .csv, .tsv, .parquet, .txt or .tar file, or a registered file such as
            "toy:postcards.jsonl".
        limit: number of prompts to keep, from the start; None keeps all.
        column: column of the prompt; None looks for prompt, caption, text and short_caption.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file cannot be parsed or contains no prompt.
    """
    file = expand(str(path))
    prompts = files.read_prompts(file, column=column)
    return list(collect_prompts(prompts, name=file.stem, source=str(path), limit=limit).prompts)


class Estimates(dict[str, Estimate]):
    """Estimates by name. Prints as a table with intervals and methods."""

    def __str__(self) -> str:
        return f"{format_estimates(self)}\n\n{format_methods(self)}"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain values, as in the `metrics.json` of a run; undefined numbers are None."""
        return to_plain(self)


class _Source(NamedTuple):
    """Samples to measure.

    Attributes:
        name: description for messages.
        texts: the text of each prompt.
        prompts: the samples of each prompt.
        has_tokens: whether a token generator made them.
        codebook_size: codebook size of that generator, if known.
    """

    name: str
    texts: Sequence[str]
    prompts: Iterable[PromptSamples]
    has_tokens: bool = False
    codebook_size: int | None = None


def evaluate(
    samples: Samples | str | Path | Mapping[str, Images],
    metrics: str | Sequence[str | SampleMetric],
    *,
    reference: str | None = None,
    device: str = "cpu",
) -> Estimates:
    """Measure samples, a run, or any images grouped by prompt.

    Args:
        samples: the result of `Generator.generate`; a run folder; a folder or file of images in any layout that
            `gendiv measure` reads; or a mapping from prompt to images: uint8 tensors (N, 3, H, W), uint8 arrays
            (N, H, W, 3), or a list of PIL images, tensors (3, H, W) or arrays (H, W, 3), of one size per prompt.
        metrics: metric objects, or names such as "lpips[vgg]" or "vendi[dinov2,q=2]" (see `gendiv list metrics`).
        reference: file of reference statistics for fid, kid and similar metrics, see `gendiv reference`.
        device: device of the feature networks.

    Returns:
        One `Estimate` per number, by name.

    Raises:
        OSError: a feature network or a file cannot be loaded.
        ValueError: a metric does not exist, requires data that the samples do not have, or is defined for none of
            them; or the samples cannot be read.
    """
    check_device(device)
    source = _find_source(samples)
    names = split_names(metrics) if isinstance(metrics, str) else list(metrics)
    metric_objects = make_metrics(names, reference, source.codebook_size)
    for name, metric in zip(names, metric_objects, strict=True):
        if "tokens" in metric.needs and not source.has_tokens:
            raise MetricInputError(
                f"metric {name!r} requires tokens, but {source.name} contains only images. Leave it out"
            )
    for metric in metric_objects:
        metric.load()
        metric.check_prompts(source.texts)
        metric.to(device)
    for prompt in tqdm(source.prompts, total=len(source.texts), desc="Measuring", unit="prompt", delay=2):
        for metric in metric_objects:
            metric.update(prompt)
    estimates, _ = compute_metrics(metric_objects)
    if not any(estimate.num_prompts for estimate in estimates.values()):
        raise MetricInputError(
            f"none of the metrics {', '.join(map(str, names))} is defined for {source.name}. A distance requires two "
            "images per prompt: add samples, or choose clip_score, clip_iqa or vendi_set"
        )
    return Estimates(estimates)


def _find_source(samples: Samples | str | Path | Mapping[str, Images]) -> _Source:
    if isinstance(samples, Samples):
        has_tokens = samples.tokens is not None
        texts = [prompt.text for prompt in samples.prompts]
        return _Source("these samples", texts, samples, has_tokens, samples.codebook_size or None)
    if isinstance(samples, Mapping):
        return _Source("the mapping", list(samples), [_to_samples(n, *item) for n, item in enumerate(samples.items())])
    if not isinstance(samples, str | Path):
        raise ConfigValueError(
            f"samples must be Samples, a path, or a mapping from prompt to images, got {type(samples).__name__}. For a "
            'list of images of one prompt, pass {"the prompt": images}'
        )
    path = expand(str(samples))
    return _find_run(path) if RunFolder(path).shards() else _find_folder(path)


def _find_run(path: Path) -> _Source:
    folder = RunFolder(path)
    counts = path / "usage.safetensors"  # present in a finished run
    codebook_size = len(read_usage(counts)[0]) if counts.is_file() else None
    prompts = (prompt for batch in folder.read_samples() for prompt in split_by_prompt(batch))
    return _Source(str(path), folder.prompt_texts(), prompts, codebook_size != 0, codebook_size)


def _find_folder(path: Path) -> _Source:
    images = find_images(path)
    for note in images.notes:
        warnings.warn(note, stacklevel=4)
    corrupt = CorruptImages(MAX_CORRUPT)
    corrupt.num_images = images.num_images
    corrupt.add(images.unreadable)
    return _Source(str(path), list(images.groups), _read_images(images, corrupt))


def _read_images(images: Any, corrupt: CorruptImages) -> Iterator[PromptSamples]:
    yield from load_prompts(images, corrupt)
    if corrupt.images:
        warnings.warn(corrupt.in_words(), stacklevel=2)


def _to_samples(index: int, prompt: str, images: Images) -> PromptSamples:
    """Convert the images of a prompt, in any form, to (N, 3, H, W) uint8."""
    what = f"images of the prompt {prompt[:60]!r}"
    if not len(images):
        raise ConfigValueError(f"{what} must not be empty. Leave the prompt out")
    tensors = [_to_tensor(image, what) for image in images]
    sizes = sorted({tuple(tensor.shape) for tensor in tensors})
    if len(sizes) > 1:
        raise ImageSizeError(f"{what} must have the same size, got {sizes[0]} and {sizes[1]}. Resize them first")
    return PromptSamples(torch.stack(tensors), prompt=prompt, place=index)


def _to_tensor(image: Tensor | np.ndarray | Image.Image, what: str) -> Tensor:
    if isinstance(image, Image.Image) and not image.mode.startswith(("I", "F")):
        return to_tensor(to_rgb(image))
    if isinstance(image, Image.Image):
        raise ImageError(f"{what} must have 8 bits per channel, got PIL mode {image.mode}. Convert them first")
    tensor = image if isinstance(image, Tensor) else torch.from_numpy(np.ascontiguousarray(image)).movedim(-1, 0)
    if tensor.dtype != torch.uint8 or tensor.ndim != 3 or len(tensor) != 3:
        raise ImageError(
            f"{what} must be uint8 in 0..255, as tensors (3, H, W) or arrays (H, W, 3), got {tensor.dtype} "
            f"{tuple(image.shape)}. Convert them first"
        )
    return tensor.cpu()
