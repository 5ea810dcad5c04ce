"""Weights: from a name to a file, from a file to tensors, from tensors into a module, strictly."""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from gendiv_lightning.storage.atomic import cache_folder, write_atomically
from gendiv_lightning.storage.named_files import expand

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_WRAPPERS = ("model", "module", "state_dict")
_PREFIX = re.compile(r"^(?:_orig_mod\.|module\.)+")
_HUB_NAME = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(?::(?P<file>[\w./-]+))?")
_WEIGHT_FILE = re.compile(r"\.(?:pt|pth|ckpt|bin|safetensors)$")
# Copies of the same weights that are not loaded.
_VARIANTS = ["*.fp16.*", "*.non_ema.*", "*flax*", "*onnx*", "*safety_checker*"]
# Left behind by training or by generation; no parameters.
_EXTRAS = re.compile(r"freqs_cis$|causal_mask$|kv_cache\.[kv]_cache$")


class MissingWeightsError(ValueError):
    """Weights that are neither here nor to be had; its text says what is missing and the ways out."""


def resolve(name: str, key: str, *, advice: str = "", parts: Sequence[str] = ()) -> Path:
    """The local file or folder that a name of weights stands for; one on the Hub, but not in its cache, is downloaded.

    Args:
        name: a path, `PREFIX:FILE` (of a registered folder, such as `toy:t5`), `OWNER/REPO:FILE` (one file on the
            Hugging Face Hub) or `OWNER/REPO` (all of a repository but alternative weight formats).
        key: the configuration key that holds the name, for the error.
        advice: what else the user can do, for the error.
        parts: the folders of a repository that is a pipeline; tokenizer and scheduler have no weights.

    Raises:
        MissingWeightsError: it cannot be found.
    """
    path = expand(name)
    if path.exists():
        return path
    if not (match := _HUB_NAME.fullmatch(name)) or _WEIGHT_FILE.search(match["repo"]):
        raise MissingWeightsError(f"{key}: there is no file {name!r}. {advice}".rstrip())
    repo, file = match["repo"], match["file"]
    try:
        return _from_hub(repo, file, parts)
    except (OSError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        what = f"the file {file!r} of the Hub repository {repo!r}" if file else f"the Hub repository {repo!r}"
        local = f"{file or repo.split('/')[1]}"
        raise MissingWeightsError(
            f"{key}: {what} is neither in the Hub's local cache nor could it be downloaded ({reason}).\n"
            f"  to get it:   hf download {repo} {file or ''}".rstrip()
            + f"\n  or, with a copy on this machine:   --model.{key} /path/to/{local}\n{advice}".rstrip()
        ) from error


def _from_hub(repo: str, file: str | None, parts: Sequence[str]) -> Path:
    from huggingface_hub import hf_hub_download, model_info, snapshot_download
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

    def fetch(local_files_only: bool, *more: str) -> Path:
        if file:
            return Path(hf_hub_download(repo, file, local_files_only=local_files_only))
        patterns = ["*.json", "*.model", "*.safetensors", "*.txt", *more]
        return Path(
            snapshot_download(
                repo, allow_patterns=patterns, ignore_patterns=_VARIANTS, local_files_only=local_files_only
            )
        )

    try:
        path = fetch(local_files_only=True)
        if file or _is_whole(path, parts):
            return path
    except LocalEntryNotFoundError:
        pass
    try:
        model_info(repo, timeout=5)  # without a network this fails in seconds, a download in minutes
        path = fetch(local_files_only=False)
        if file or _is_whole(path, parts):
            return path
        return fetch(False, "*.bin")  # an older repository
    except HTTPError as error:  # an OSError in some versions only
        raise ConnectionError(f"{type(error).__name__}: {error}") from error


def _is_whole(folder: Path, parts: Sequence[str]) -> bool:
    """Whether all weights of a Hub repository are there; an interrupted download leaves a part of them."""
    if parts:
        models = [folder / part for part in parts if part not in ("tokenizer", "scheduler")]
        return all(any(part.glob("*.safetensors")) or any(part.glob("*.bin")) for part in models)
    index = folder / "model.safetensors.index.json"
    files = json.loads(index.read_text())["weight_map"].values() if index.exists() else ["model.safetensors"]
    return all((folder / file).exists() for file in files)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors or PyTorch file, official names: wrappers opened, compile and DDP prefixes stripped.

    Raises:
        ValueError: it is no file of weights, is damaged, or holds objects that could run code.
    """
    try:
        state: object = load_file(path) if path.suffix == ".safetensors" else _unpickle(path)
    except (pickle.UnpicklingError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as weights; fetch it again from its source ({error})") from error
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} must hold a dictionary of tensors, got a {type(state).__name__}")
    wrapper = next((key for key in _WRAPPERS if isinstance(state.get(key), Mapping)), None)
    state = state[wrapper] if wrapper else state
    tensors = {_PREFIX.sub("", key): value for key, value in state.items() if isinstance(value, Tensor)}
    return {key: value for key, value in tensors.items() if not _EXTRAS.search(key)}


def _unpickle(path: Path) -> object:
    # Official training checkpoints hold their command-line arguments too.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], path: Path, dtype: torch.dtype) -> None:
    """Put a checkpoint's tensors into a module (meta device allowed), cast to `dtype`; every key must match.

    Raises:
        ValueError: keys or shapes differ; they are listed.
    """
    wanted = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in state.items()}
    problems = {
        "missing": sorted(wanted.keys() - given.keys()),
        "unexpected": sorted(given.keys() - wanted.keys()),
        "of another shape": [
            f"{key} {given[key]}, not {wanted[key]}"
            for key in sorted(wanted)
            if given.get(key, wanted[key]) != wanted[key]
        ],
    }
    if any(problems.values()):
        lists = "; ".join(f"{kind} ({len(keys)}): {_some(keys)}" for kind, keys in problems.items() if keys)
        raise ValueError(f"{path} does not hold this model's weights: {lists}")
    cast = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    module.load_state_dict(cast, strict=True, assign=True)
    module.requires_grad_(False).eval()


def _some(keys: list[str], most: int = 8) -> str:
    return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")


@lru_cache
def sha256(path: Path) -> str:
    """SHA-256 of a file, or of the names and hashes of a folder's weight, configuration and tokenizer files.

    Remembered in the cache folder by path, size and time of change: a checkpoint of gigabytes is hashed once.
    """
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.suffix in (".safetensors", ".bin", ".json", ".model"))
        return hashlib.sha256("".join(f"{f.name} {sha256(f)}\n" for f in files).encode()).hexdigest()
    if re.fullmatch(r"[0-9a-f]{64}", path.resolve().name):  # the Hub's cache names large files by their hash
        return path.resolve().name
    stat = path.resolve().stat()
    stamp = hashlib.sha256(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()
    note = cache_folder() / "sha256" / stamp
    if note.exists():
        return note.read_text()
    with path.open("rb") as file:
        hasher = hashlib.sha256()
        while chunk := file.read(1 << 24):
            hasher.update(chunk)
        digest = hasher.hexdigest()
    if stat.st_size > 1 << 26:
        write_atomically(note, lambda temporary: temporary.write_text(digest))
    return digest
