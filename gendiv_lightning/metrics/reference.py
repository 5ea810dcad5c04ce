"""The reference file: what a distance between distributions needs to know of real images, and where they come from."""

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
        statistics: of the features of all images.
        features: (N, D) float32, if they were kept.
        provenance: the data set, its number of images, and the identity of the network that made the features, with its
            resize rule; plain values.
    """

    statistics: Statistics
    features: Tensor | None
    provenance: dict[str, Any]


def reference_statistics(
    images: Iterable[Tensor], features: ImageFeatures, dataset: str, *, keep_features: bool = True
) -> Reference:
    """Stream a set of images through a network.

    Args:
        images: batches (B, 3, H, W) uint8, of any sizes, on the device to work on.
        features: the network.
        dataset: name of the set, with all that can be chosen about it: version, split, crop, size.
        keep_features: keep the features (8 KB per image for Inception). Kernel distance, precision and recall need
            them; without them memory does not grow with the set.

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
            f"a reference needs at least 2 images; {dataset!r} has {total.num_rows if total else 0}. Add images"
        )
    provenance = {"dataset": dataset, "num_images": total.num_rows, "features": features.identity()}
    return Reference(
        Statistics(total.num_rows, total.mean.cpu(), total.scatter.cpu()), torch.cat(kept) if kept else None, provenance
    )


def merge_references(parts: Sequence[Reference]) -> Reference:
    """One reference of its parts, in any order: statistics and features are those of all images, in their order.

    Raises:
        ValueError: they are not the parts of one whole, each once.
    """
    numbers = [reference.provenance.get("part", "") for reference in parts]
    expected = [f"{number + 1}/{len(parts)}" for number in range(len(parts))]
    if sorted(numbers) != sorted(expected):
        raise ReferenceFileError(
            f"the parts of a reference must be {', '.join(expected)}; got {', '.join(map(repr, numbers))}. Name each"
        )
    ordered = [parts[numbers.index(number)] for number in expected]
    shared = [{k: v for k, v in part.provenance.items() if k not in _OF_A_PART} for part in ordered]
    if any(provenance != shared[0] for provenance in shared):
        raise ReferenceFileError("the parts were made of different images, or by different features. Make them again")
    corrupt = [name for part in ordered for name in part.provenance.get("corrupt", ())]
    total = reduce(merge, (part.statistics for part in ordered))
    features = [part.features for part in ordered if part.features is not None]
    if features and len(features) < len(ordered):
        raise ReferenceFileError(
            "some parts hold the features of their images, and some do not. Make all of them with --keep-features"
        )
    provenance = {**shared[0], "num_images": total.num_rows, **({"corrupt": corrupt} if corrupt else {})}
    return Reference(total, torch.cat(features) if features else None, provenance)


def write_reference(path: Path, reference: Reference) -> None:
    """Write a reference as safetensors, with its provenance as JSON in the file's header; whole or not at all."""
    num_rows, mean, scatter = reference.statistics
    tensors = {"num_rows": torch.tensor(num_rows), "mean": mean, "scatter": scatter}
    if reference.features is not None:
        tensors["features"] = reference.features
    metadata = {"provenance": json.dumps(reference.provenance)}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))


def read_provenance(path: Path) -> dict[str, Any]:
    """Provenance of a reference file; only its header is read.

    Raises:
        ValueError: it is not a reference file.
    """
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
            f"{path} is not a reference file: it must hold statistics with provenance. `gendiv reference` makes one"
        )
    return {**provenance, "has_features": "features" in names}


def check_provenance(path: Path, features: ImageFeatures, *, needs_features: bool, fewest: int = 2) -> None:
    """Raise ValueError unless a reference file was made by this network and holds what is needed, by its header."""
    provenance = read_provenance(path)
    theirs, mine = provenance["features"], json.loads(json.dumps(features.identity()))
    differing = sorted(key for key in theirs.keys() | mine.keys() if theirs.get(key) != mine.get(key))
    if differing:
        lines = "; ".join(f"{key}: {theirs.get(key)!r} there, {mine.get(key)!r} here" for key in differing)
        raise ReferenceFileError(
            f"{path} was not made by the features that the metric uses ({lines}): their numbers are not "
            "comparable. Choose the same features, or make the reference again with `gendiv reference`"
        )
    if "part" in provenance:
        raise ReferenceFileError(
            f"{path} is part {provenance['part']} of a reference. Merge the parts first; see `gendiv reference --help`"
        )
    if needs_features and not provenance["has_features"]:
        raise ReferenceFileError(
            f"{path} holds statistics only, and the metric needs the features of its images. Make it again with "
            "`gendiv reference --keep-features`"
        )
    if provenance["num_images"] < fewest:
        raise ReferenceFileError(
            f"{path} holds {provenance['num_images']} images; the metric needs {fewest} or more. Make a larger one"
        )


def read_reference(path: Path) -> Reference:
    """Read a reference file.

    Raises:
        ValueError: it is not a reference file, or a number in it is not finite.
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
            f"{path} is damaged: its numbers must be finite, and those of two images or more. Make it again"
        )
    return Reference(Statistics(int(num_rows), mean.double(), scatter.double()), features, provenance)
