"""A cache of computed tensors on disk, by key; a damaged entry is recomputed with a warning."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gendiv_lightning.storage.atomic import cache_folder, write_atomically


class FeatureCache:
    """A folder of safetensors files, each with a checksum of its tensor.

    Args:
        kind: folder in the cache, such as "caption_features".
        name: identifies the computation, including everything that can change a tensor.
    """

    def __init__(self, kind: str, name: str) -> None:
        self.folder = cache_folder() / kind / hashlib.sha256(f"{name} checked".encode()).hexdigest()[:16]

    def get(self, key: str, compute: Callable[[], Tensor]) -> Tensor:
        """The tensor of a key, on the CPU; computed if it is missing or damaged."""
        digest = hashlib.sha256(key.encode()).hexdigest()
        path = self.folder / digest[:2] / f"{digest}.safetensors"
        if path.exists():
            try:
                return _read(path)
            except (SafetensorError, OSError, ValueError) as error:
                warnings.warn(f"{path} is damaged and is recomputed: {error}", stacklevel=2)
        features = compute().detach().cpu().contiguous()
        write_atomically(path, lambda p: save_file({"features": features}, p, metadata={"sha256": _digest(features)}))
        return features


def _read(path: Path) -> Tensor:
    with safe_open(path, framework="pt") as file:
        features, expected = file.get_tensor("features"), (file.metadata() or {}).get("sha256")
    if _digest(features) != expected:
        raise ValueError("its checksum differs")
    return features


def _digest(features: Tensor) -> str:
    shape = f"{features.dtype} {tuple(features.shape)}".encode()
    return hashlib.sha256(shape + features.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
