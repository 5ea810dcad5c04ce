"""Strict loading of weights: from a checkpoint file, or as a model of transformers or diffusers."""

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

from gendiv_lightning.errors import MissingWeightsError, WrongWeightsError, listed

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_WRAPPERS = ("model", "module", "state_dict")
_PREFIX = re.compile(r"^(?:_orig_mod\.|module\.)+")
# Buffers left over from training or generation, which are not parameters.
_EXTRAS = re.compile(r"freqs_cis$|causal_mask$|kv_cache\.[kv]_cache$")
_BLOCKED_CLASS = re.compile(r"GLOBAL (\S+)")  # in the message of torch's safe unpickler
# Errors that an unpickler raises on bytes that are not a complete pickle.
_DAMAGED = (
    *(pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, LookupError, ValueError, TypeError),
    *(AttributeError, ArithmeticError, AssertionError, struct.error),
)
_UNREADABLE = (OSError, ValueError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError, SafetensorError)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors or PyTorch file (zip or legacy format), by their official names.

    The wrappers `model`, `module` and `state_dict` are unwrapped, in this order of preference, and the prefixes of
    torch.compile and DDP are removed.

    Raises:
        ValueError: the file is not a weight file, is damaged, contains objects that could run code, or contains no
            tensors of a model; in the last case the message lists its content.
    """
    content = _read(path)
    if not isinstance(content, Mapping):
        raise WrongWeightsError(
            f"{path} must contain a dictionary of tensors, got a {type(content).__name__}. Save a module's state_dict()"
        )
    wrapper = next((key for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
    state = content[wrapper] if wrapper else content
    tensors = {_PREFIX.sub("", key): value for key, value in state.items() if isinstance(value, Tensor)}
    parameters = {key: value for key, value in tensors.items() if not _EXTRAS.search(key)}
    if not parameters:
        raise WrongWeightsError(_no_parameters(path, content))
    return parameters


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], path: Path, dtype: torch.dtype) -> None:
    """Load a checkpoint's tensors into a module (meta device allowed), cast to `dtype`; every key must match.

    Raises:
        ValueError: keys or shapes differ; the message lists them, and the module is unchanged.
    """
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in state.items()}
    reshaped = [
        f"{key} {given[key]}, not {expected[key]}"
        for key in sorted(expected)
        if given.get(key, expected[key]) != expected[key]
    ]
    _require_complete(
        f"{path} does not contain the weights of this model",
        missing=expected.keys() - given.keys(),
        unexpected=given.keys() - expected.keys(),
        of_another_shape=reshaped,
    )
    cast = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    module.load_state_dict(cast, strict=True, assign=True)
    module.requires_grad_(False).eval()


def construct(model_class: Any, config: Mapping[str, Any]) -> Any:
    """A transformers model from its configuration; its random initial parameters leave the global state alone."""
    with torch.random.fork_rng(devices=[]):
        return model_class(model_class.config_class(**config))


def load_pretrained(
    model_class: Any,
    source: str | Path,
    dtype: torch.dtype | Literal["auto"] = torch.float32,
    optional: Sequence[str] = (),
) -> Any:
    """Load a transformers or diffusers model strictly, frozen and in evaluation mode. No code of it is executed.

    The libraries initialise missing tensors randomly without an error; this function raises one. Tensors that the
    class does not use (such as a decoder beside an encoder) are ignored, but listed if others are missing.

    Args:
        model_class: a model class of diffusers or transformers, or an Auto class of transformers.
        source: a folder, or `OWNER/REPO` on the Hub.
        dtype: dtype of the parameters; "auto" keeps that of the files (transformers only).
        optional: substrings of the names of tensors that are not used and may be missing.

    Raises:
        ValueError: weights are missing, have another shape, or (in a folder) cannot be read.
        OSError: the Hub repository is not in the local cache and could not be downloaded.
    """
    # Tensors of another shape are reported by name, like missing ones.
    options: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    if model_class.__module__.startswith("transformers."):
        options |= {"dtype": dtype, "trust_remote_code": False}
    else:
        options |= {"torch_dtype": dtype, "low_cpu_mem_usage": False}
    try:
        with torch.random.fork_rng(devices=[]):  # parameters are initialised randomly before they are read
            model, report = model_class.from_pretrained(source, **options)
    except _UNREADABLE as error:
        if isinstance(error, OSError) and not Path(source).is_dir():
            raise
        raise WrongWeightsError(f"{source} does not contain a {model_class.__name__}: {first_line(error)}") from error
    missing = [key for key in report["missing_keys"] if not any(part in key for part in optional)]
    _require_complete(
        f"{source} does not contain a complete {model_class.__name__}",
        missing=missing,
        of_another_shape=[name for name, *_ in report["mismatched_keys"]],
        unused=report["unexpected_keys"],
    )
    return model.requires_grad_(False).eval()


@contextmanager
def reading(what: str, name: str, advice: str) -> Iterator[None]:
    """Context that turns any error of loading a network into a one-line error.

    Args:
        what: kind of network, for the message.
        name: name of the network.
        advice: what the user can do, for the message.

    Raises:
        FileNotFoundError: the network is not on this machine and could not be downloaded.
        ValueError: the files do not belong to such a network.
    """
    from huggingface_hub.errors import HTTPError  # an OSError in some versions only

    try:
        yield
    except (OSError, HTTPError) as error:
        raise MissingWeightsError(f"the {what} {name!r} could not be loaded: {first_line(error)}. {advice}") from error
    except _UNREADABLE as error:
        raise WrongWeightsError(f"{name!r} cannot be used as a {what}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """First line of an error's message, with its type unless that is ValueError."""
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return f"{kind}{error}".strip().partition("\n")[0]


def _read(path: Path) -> object:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Official training checkpoints also contain their command-line arguments.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except _DAMAGED as error:
        raise WrongWeightsError(f"{path} cannot be read as weights: {_reason(path, error)}") from error


def _is_zip(path: Path) -> bool:
    """Whether the file has torch.save's zip format; legacy files, such as torchvision's, cannot be memory-mapped."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _reason(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        start = file.read(32)
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer. Run `git lfs pull` in its repository"
    if blocked := _BLOCKED_CLASS.search(str(error)):
        return (
            f"it contains {blocked[1]} besides tensors, and loading it could run code. Save only its tensors, as "
            "safetensors or with torch.save(model.state_dict(), FILE)"
        )
    return f"it is damaged or of another type ({first_line(error)}). Download or save it again"


def _no_parameters(path: Path, content: Mapping[Any, object]) -> str:
    """Error message for a checkpoint without model tensors, such as one that contains EMA weights only."""
    if not content:
        return f"{path} must contain the tensors of a model, got an empty dictionary. Choose another file"
    sizes = {
        str(key): sum(isinstance(tensor, Tensor) for tensor in value.values()) if isinstance(value, Mapping) else 0
        for key, value in content.items()
    }
    entries = listed([f"{key} ({num} tensors)" if num else key for key, num in sizes.items()])
    most = max(sizes, key=lambda key: sizes[key])
    save = f"To use {most!r}: torch.save(torch.load(FILE)[{most!r}], NEW_FILE)" if sizes[most] else "Choose another"
    return (
        f"{path} must contain the tensors of a model, at the top level or under {', '.join(_WRAPPERS)}; it contains "
        f"{entries}. {save}"
    )


def _require_complete(message: str, *, unused: Iterable[str] = (), **problems: Iterable[str]) -> None:
    """Raise ValueError if any kind of problem has keys. `unused` keys alone are allowed, but are listed as a hint."""
    kinds = {kind.replace("_", " "): sorted(map(str, keys)) for kind, keys in problems.items()}
    if not any(kinds.values()):
        return
    kinds["not used"] = sorted(map(str, unused))
    lists = "; ".join(f"{kind} ({len(keys)}): {listed(keys)}" for kind, keys in kinds.items() if keys)
    raise WrongWeightsError(f"{message}: {lists}. Choose weights that match the model's settings")
