"""Weights into a module, whole or not at all: from a checkpoint file, or a model of transformers or diffusers."""

from __future__ import annotations

import argparse
import pickle
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from gendiv_lightning.errors import MissingWeightsError, WrongWeightsError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_WRAPPERS = ("model", "module", "state_dict")
_PREFIX = re.compile(r"^(?:_orig_mod\.|module\.)+")
# Left behind by training or by generation; no parameters.
_EXTRAS = re.compile(r"freqs_cis$|causal_mask$|kv_cache\.[kv]_cache$")
_BLOCKED_CLASS = re.compile(r"GLOBAL (\S+)")  # in the message of torch's safe unpickler
# What an unpickler raises on bytes that are not a pickle, or not a whole one.
_DAMAGED = (
    *(pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, LookupError, ValueError, TypeError),
    *(AttributeError, ArithmeticError, AssertionError, struct.error),
)
_UNREADABLE = (OSError, ValueError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError, SafetensorError)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors or PyTorch file, zip or legacy, by their official names.

    The wrappers `model`, `module` and `state_dict` are opened, in this order, and the prefixes of torch.compile and DDP
    are stripped.

    Raises:
        ValueError: it is not a file of weights, is damaged, holds objects that could run code, or holds no tensors
            where a model's are expected; then the message names what it holds.
    """
    content = _read(path)
    if not isinstance(content, Mapping):
        raise WrongWeightsError(
            f"{path} must hold a dictionary of tensors; got a {type(content).__name__}. Save a module's state_dict()"
        )
    wrapper = next((key for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
    state = content[wrapper] if wrapper else content
    tensors = {_PREFIX.sub("", key): value for key, value in state.items() if isinstance(value, Tensor)}
    parameters = {key: value for key, value in tensors.items() if not _EXTRAS.search(key)}
    if not parameters:
        raise WrongWeightsError(_no_parameters(path, content))
    return parameters


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], path: Path, dtype: torch.dtype) -> None:
    """Put a checkpoint's tensors into a module (meta device allowed), cast to `dtype`; every key must match.

    Raises:
        ValueError: keys or shapes differ; they are listed. The module is unchanged.
    """
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in state.items()}
    reshaped = [
        f"{key} {given[key]}, not {expected[key]}"
        for key in sorted(expected)
        if given.get(key, expected[key]) != expected[key]
    ]
    _require_whole(
        f"{path} does not hold this model's weights",
        missing=expected.keys() - given.keys(),
        unexpected=given.keys() - expected.keys(),
        of_another_shape=reshaped,
    )
    cast = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    module.load_state_dict(cast, strict=True, assign=True)
    module.requires_grad_(False).eval()


def load_pretrained(
    model_class: Any,
    source: str | Path,
    dtype: torch.dtype | Literal["auto"] = torch.float32,
    optional: Sequence[str] = (),
) -> Any:
    """A model of a class of transformers or diffusers, frozen and for evaluation.

    The libraries initialise missing tensors at random without an error; here they are one. Tensors that the class does
    not use (a decoder beside an encoder) are ignored, and named where others are missing.

    Args:
        model_class: the class, or an Auto class of transformers.
        source: a folder, or `OWNER/REPO` on the Hub.
        dtype: of the parameters; "auto" keeps that of the files (transformers only).
        optional: parts of names of tensors that nobody asks for; these may be missing.

    Raises:
        ValueError: weights are missing, of another shape, or (in a folder) cannot be read.
        OSError: the Hub's repository can neither be found in the local cache nor downloaded.
    """
    # A tensor of another shape is to be reported like a missing one, by its name.
    options: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    if model_class.__module__.startswith("transformers."):
        options |= {"dtype": dtype}
    else:
        options |= {"torch_dtype": dtype, "low_cpu_mem_usage": False}
    try:
        with torch.random.fork_rng(devices=[]):  # parameters are drawn before they are read
            model, report = model_class.from_pretrained(source, **options)
    except _UNREADABLE as error:
        if isinstance(error, OSError) and not Path(source).is_dir():
            raise
        raise WrongWeightsError(f"{source} does not hold a {model_class.__name__}: {first_line(error)}") from error
    missing = [key for key in report["missing_keys"] if not any(part in key for part in optional)]
    _require_whole(
        f"{source} does not hold a whole {model_class.__name__}",
        missing=missing,
        of_another_shape=[name for name, *_ in report["mismatched_keys"]],
        unused=report["unexpected_keys"],
    )
    return model.requires_grad_(False).eval()


@contextmanager
def reading(what: str, name: str, advice: str) -> Iterator[None]:
    """Turn whatever goes wrong while a network is read into one line.

    Raises:
        FileNotFoundError: it is neither here nor could it be downloaded; `advice` says what to do.
        ValueError: the files are not those of such a network.
    """
    from huggingface_hub.errors import HTTPError  # an OSError in some versions only

    try:
        yield
    except (OSError, HTTPError) as error:
        raise MissingWeightsError(f"the {what} {name!r} could not be loaded: {first_line(error)}. {advice}") from error
    except _UNREADABLE as error:
        raise WrongWeightsError(f"{name!r} cannot be used as {what}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """First line of an error's message, with its type unless that is ValueError."""
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return f"{kind}{error}".strip().partition("\n")[0]


def _read(path: Path) -> object:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Official training checkpoints hold their command-line arguments too.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except _DAMAGED as error:
        raise WrongWeightsError(f"{path} cannot be read as weights: {_reason(path, error)}") from error


def _is_zip(path: Path) -> bool:
    """Whether torch.save wrote it in the format of today; legacy files, such as torchvision's, cannot be mapped."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _reason(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        start = file.read(32)
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS. Run `git lfs pull` where it comes from"
    if blocked := _BLOCKED_CLASS.search(str(error)):
        return (
            f"it holds {blocked[1]} besides tensors, and loading it could run code. Save its tensors alone, as "
            "safetensors or with torch.save(model.state_dict(), FILE)"
        )
    return f"it is damaged, or another kind of file ({first_line(error)}). Download or save it again"


def _no_parameters(path: Path, content: Mapping[Any, object]) -> str:
    """What is wrong with a checkpoint without a model's tensors, such as one with EMA weights only."""
    if not content:
        return f"{path} must hold a model's tensors; it holds an empty dictionary. Choose another file"
    sizes = {
        str(key): sum(isinstance(tensor, Tensor) for tensor in value.values()) if isinstance(value, Mapping) else 0
        for key, value in content.items()
    }
    found = _listed([f"{key} ({num} tensors)" if num else key for key, num in sizes.items()])
    most = max(sizes, key=lambda key: sizes[key])
    save = f"To use {most!r}: torch.save(torch.load(FILE)[{most!r}], NEW_FILE)" if sizes[most] else "Choose another"
    return f"{path} must hold a model's tensors, at its top or under {', '.join(_WRAPPERS)}; it holds {found}. {save}"


def _require_whole(message: str, *, unused: Iterable[str] = (), **problems: Iterable[str]) -> None:
    """Raise ValueError where a kind of problem has keys; `unused` ones alone are allowed, but point to the cause."""
    kinds = {kind.replace("_", " "): sorted(map(str, keys)) for kind, keys in problems.items()}
    if not any(kinds.values()):
        return
    kinds["not used"] = sorted(map(str, unused))
    lists = "; ".join(f"{kind} ({len(keys)}): {_listed(keys)}" for kind, keys in kinds.items() if keys)
    raise WrongWeightsError(f"{message}: {lists}. Choose the weights that belong to the model's settings")


def _listed(keys: Sequence[str], most: int = 8) -> str:
    return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")
