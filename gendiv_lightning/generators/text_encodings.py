"""Text encodings of a diffusers pipeline: each text is encoded once and cached on disk for later runs."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from gendiv_lightning.generators.keyed_pipeline import replaced
from gendiv_lightning.generators.pipeline_rows import map_rows, repeat_rows
from gendiv_lightning.storage.feature_cache import FeatureCache

FORMAT = 1  # of `_pack`; part of the key of a cache


@contextmanager
def remembered_encodings(pipeline: Any, memory: dict[str, Any], cache: FeatureCache | None = None) -> Iterator[None]:
    """Context in which `encode_prompt` is computed once for equal arguments on one kind of device.

    The number of images per prompt is among the arguments where an encoding has a row for each. A call with tensors or
    other objects is computed each time.

    Args:
        pipeline: pipeline of diffusers.
        memory: holds the last result.
        cache: cache on disk for all results, or None.
    """
    if not hasattr(pipeline, "encode_prompt"):
        yield
        return

    def remember(encode: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(encode)
        def remembering(*args: Any, **kwargs: Any) -> Any:
            given = inspect.signature(encode).bind(*args, **kwargs).arguments
            if not _is_plain(given):
                return encode(*args, **kwargs)
            device = torch.device(given.get("device") or pipeline._execution_device)
            key = repr([device.type, *sorted(given.items())])
            if key not in memory:
                compute = functools.partial(encode, *args, **kwargs)
                if cache is None:
                    encoded = compute()
                else:
                    encoded = _from_disk(cache, key, given.get("num_images_per_prompt") or 1, device, compute)
                memory.clear()
                memory[key] = encoded
            return memory[key]

        return remembering

    with replaced(pipeline, "encode_prompt", remember):
        yield


def _is_plain(value: Any) -> bool:
    """Whether the `repr` of a value shows all of it."""
    if isinstance(value, dict):
        return all(_is_plain(part) for item in value.items() for part in item)
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | bool | int | float | torch.device | torch.dtype)


def _from_disk(cache: FeatureCache, key: str, num_rows: int, device: Any, compute: Callable[[], Any]) -> Any:
    """Return the result of `compute`, from the cache if possible; only encodings of plain tensors are cached."""
    fresh: list[Any] = []

    def pack() -> Tensor:
        fresh.append(compute())
        return _pack(fresh[0], num_rows)

    try:
        packed = cache.get(key, pack)
    except _NotPackableError:
        return fresh[0]
    return fresh[0] if fresh else _unpack(packed, num_rows, device)


class _NotPackableError(TypeError):
    """Raised for an encoding that contains other objects than tensors, lists, tuples and None."""


def _pack(encoded: Any, num_rows: int) -> Tensor:
    """Serialize an encoding as bytes (N,) uint8 of a safetensors file; equal rows are stored once."""
    tensors: dict[str, Tensor] = {}

    def layout(value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, Tensor):
            tensors[str(len(tensors))] = value.detach().cpu().clone().contiguous()
            return len(tensors) - 1
        if isinstance(value, list | tuple):
            return [type(value).__name__, *map(layout, value)]
        raise _NotPackableError(type(value).__name__)

    one = map_rows(encoded, num_rows, lambda rows: rows[:1]) if num_rows > 1 else encoded
    is_cut = num_rows > 1 and _equal(_repeated(one, num_rows), encoded)
    content = json.dumps({"is_cut": is_cut, "layout": layout(one if is_cut else encoded)}).encode()
    tensors["layout"] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return torch.frombuffer(bytearray(save(tensors)), dtype=torch.uint8)


def _unpack(packed: Tensor, num_rows: int, device: Any) -> Any:
    tensors = load(packed.numpy().tobytes())
    content = json.loads(tensors.pop("layout").numpy().tobytes())

    def build(layout: Any) -> Any:
        if layout is None:
            return None
        if isinstance(layout, int):
            return tensors[str(layout)].to(device)
        return {"list": list, "tuple": tuple}[layout[0]](map(build, layout[1:]))

    encoded = build(content["layout"])
    return _repeated(encoded, num_rows) if content["is_cut"] else encoded


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return one is other


def _repeated(encoded: Any, num_rows: int) -> Any:
    return map_rows(encoded, 1, lambda rows: repeat_rows(rows, num_rows))
