"""The reference file: feature statistics of real images for distances between distributions, with provenance."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gendiv_lightning.errors import ReferenceFileError, TooLittleDataError
from gendiv_lightning.features.base import ImageFeatures
from gendiv_lightning.functional.frechet import Statistics, merge, statistics
from gendiv_lightning.storage.atomic import write_atomically

_PROVENANCE = {"dataset": str, "num_images": int, "features": dict}
_OF_A_PART = ("part", "num_images", "corrupt")


class Reference(NamedTuple):
    """Features of a set of real images, or their statistics.

    Attributes:
        statistics: statistics of the features of all images.
        features: (N, D) float32, if they were stored.
        provenance: the data set, its number of images, and the identity of the feature network with its resize rule, as
            plain values.
    """

    statistics: Statistics
    features: Tensor | None
    provenance: dict[str, Any]


def reference_statistics(
    images: Iterable[Tensor], features: ImageFeatures, dataset: str, *, keep_features: bool = True
) -> Reference:
    """Compute a reference by streaming images through a feature network.

    Args:
        images: batches (B, 3, H, W) uint8, of any sizes, on the device to use.
        features: the feature network.
        dataset: name of the data set, including version, split, crop and size.
        keep_features: store the features (8 KB per image for Inception). Kernel distance, precision and recall require
            them; without them memory does not grow with the data set.

    Raises:
        ValueError: there are fewer than two images, or a feature is not finite.
    """
    total: Statistics | None = None
    kept = []
    for batch in images:
        rows = features(batch)
        part = statistics(rows)
        total = part if total is None else merge(total, part)
        if keep_features:
            kept.append(rows.cpu())
    if total is None or total.num_rows < 2:
        raise TooLittleDataError(
            f"a reference requires at least 2 images, but {dataset!r} has {total.num_rows if total else 0}. Add images"
        )
    provenance = {"dataset": dataset, "num_images": total.num_rows, "features": features.identity()}
    return Reference(
        Statistics(total.num_rows, total.mean.cpu(), total.scatter.cpu()), torch.cat(kept) if kept else None, provenance
    )


def merge_references(parts: Sequence[Reference]) -> Reference:
    """Merge the parts of a reference, given in any order; the result covers all images, in their original order.

    Raises:
        ValueError: a part is missing or repeated, or the parts do not belong together.
    """
    numbers = [reference.provenance.get("part", "") for reference in parts]
    expected = [f"{number + 1}/{len(parts)}" for number in range(len(parts))]
    if sorted(numbers) != sorted(expected):
        raise ReferenceFileError(
            f"the parts of a reference must be {', '.join(expected)}, got {', '.join(map(repr, numbers))}. Pass all"
        )
    ordered = [parts[numbers.index(number)] for number in expected]
    shared = [{k: v for k, v in part.provenance.items() if k not in _OF_A_PART} for part in ordered]
    if any(provenance != shared[0] for provenance in shared):
        raise ReferenceFileError(
            "the parts were made from different images or with different features. Make them again"
        )
    corrupt = [name for part in ordered for name in part.provenance.get("corrupt", ())]
    total = reduce(merge, (part.statistics for part in ordered))
    features = [part.features for part in ordered if part.features is not None]
    if features and len(features) < len(ordered):
        raise ReferenceFileError(
            "some parts contain the features of their images and some do not. Make all of them with --keep-features"
        )
    provenance = {**shared[0], "num_images": total.num_rows, **({"corrupt": corrupt} if corrupt else {})}
    return Reference(total, torch.cat(features) if features else None, provenance)


def write_reference(path: Path, reference: Reference) -> None:
    """Write a reference atomically as safetensors, with its provenance as JSON in the file's header."""
    num_rows, mean, scatter = reference.statistics
    tensors = {"num_rows": torch.tensor(num_rows), "mean": mean, "scatter": scatter}
    if reference.features is not None:
        tensors["features"] = reference.features
    metadata = {"provenance": json.dumps(reference.provenance)}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))


def read_provenance(path: Path) -> dict[str, Any]:
    """Provenance of a reference file; only its header is read.

    Raises:
        ValueError: the file is not a reference file.
    """
    if path.is_dir():
        raise ReferenceFileError(f"{path} is a folder, not a reference file. Make one with `gendiv reference {path}`")
    try:
        with safe_open(path, framework="pt") as file:
            metadata, names = file.metadata() or {}, set(file.keys())
    except (OSError, SafetensorError) as error:
        raise ReferenceFileError(f"{path} is not a reference file ({error}). `gendiv reference` makes one") from error
    try:
        provenance = json.loads(metadata.get("provenance", "null"))
    except ValueError:
        provenance = None
    is_known = isinstance(provenance, dict) and all(
        isinstance(provenance.get(key), kind) for key, kind in _PROVENANCE.items()
    )
    if not is_known or not {"num_rows", "mean", "scatter"} <= names:
        raise ReferenceFileError(
            f"{path} is not a reference file: it has no statistics with provenance. `gendiv reference` makes one"
        )
    return {**provenance, "has_features": "features" in names}


def check_provenance(path: Path, features: ImageFeatures, *, needs_features: bool, fewest: int = 2) -> None:
    """Check the header of a reference file.

    Args:
        path: the reference file.
        features: the features of the metric.
        needs_features: whether the file must contain features.
        fewest: minimum number of images.

    Raises:
        ValueError: the file was made with other features, is only a part, or does not contain what is required.
    """
    provenance = read_provenance(path)
    stored, current = provenance["features"], json.loads(json.dumps(features.identity()))
    differing = sorted(key for key in stored.keys() | current.keys() if stored.get(key) != current.get(key))
    if differing:
        lines = "; ".join(f"{key}: {stored.get(key)!r} there, {current.get(key)!r} here" for key in differing)
        raise ReferenceFileError(
            f"{path} was not made with the features of the metric ({lines}), so their numbers are not comparable. "
            "Choose the same features, or make the reference again with `gendiv reference`"
        )
    if "part" in provenance:
        raise ReferenceFileError(
            f"{path} is part {provenance['part']} of a reference. Merge the parts first; see `gendiv reference --help`"
        )
    if needs_features and not provenance["has_features"]:
        raise ReferenceFileError(
            f"{path} contains only statistics, but the metric requires the features of its images. Make it again with "
            "`gendiv reference --keep-features`"
        )
    if provenance["num_images"] < fewest:
        raise ReferenceFileError(
            f"{path} has {provenance['num_images']} images, but the metric needs at least {fewest}. Make a larger one"
        )


def read_reference(path: Path) -> Reference:
    """Read a reference file.

    Raises:
        ValueError: the file is not a reference file, or a number in it is not finite.
    """
    provenance = read_provenance(path)
    has_features = provenance.pop("has_features")
    with safe_open(path, framework="pt") as file:
        num_rows, mean, scatter = (file.get_tensor(name) for name in ("num_rows", "mean", "scatter"))
        features = file.get_tensor("features") if has_features else None
    size = mean.numel()
    shapes = [((), num_rows), ((size,), mean), ((size, size), scatter)]
    shapes += [] if features is None else [((int(num_rows.sum()), size), features)]
    if not all(shape == tensor.shape and tensor.isfinite().all() for shape, tensor in shapes) or num_rows < 2:
        raise ReferenceFileError(
            f"{path} is damaged: its numbers must be finite and come from at least two images. Make it again"
        )
    return Reference(Statistics(int(num_rows), mean.double(), scatter.double()), features, provenance)
