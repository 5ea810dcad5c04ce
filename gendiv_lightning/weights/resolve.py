"""Resolves the name of weights to a local file or folder, downloading from the Hub if necessary."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from gendiv_lightning.errors import ConfigValueError, MissingWeightsError, WrongWeightsError
from gendiv_lightning.storage.named_files import expand

_HUB_NAME = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(?::(?P<file>[\w./-]+))?")
_WEIGHT_FILE = re.compile(r"\.(?:pt|pth|ckpt|bin|safetensors)$")
# The files in which transformers looks for a model, in its order of preference.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# Alternative copies of the same weights, which are not downloaded.
_VARIANTS = ["*.fp16.*", "*.non_ema.*", "*flax*", "*onnx*", "*safety_checker*"]


def resolve(name: str, key: str, *, advice: str = "", parts: Sequence[str] = (), folder: bool | None = None) -> Path:
    """Local file or folder for the name of weights; Hub repositories are downloaded unless they are in the cache.

    Args:
        name: a path, `PREFIX:FILE` (in a registered folder, such as `toy:t5`), `OWNER/REPO:FILE` (one file on the
            Hugging Face Hub) or `OWNER/REPO` (a repository without its alternative weight formats).
        key: the configuration key of the name, for the error.
        advice: alternatives for the user, for the error.
        parts: the subfolders of a repository that is a pipeline; tokenizer and scheduler have no weights.
        folder: True requires a folder, False a file; None accepts both.

    Raises:
        MissingWeightsError: the weights cannot be found.
        ValueError: the name is empty, or it is a folder instead of a file or vice versa.
    """
    if not name.strip():
        raise ConfigValueError(f"{key} must not be empty. Give a path, or OWNER/REPO on the Hub")
    path = expand(name)
    if path.exists():
        if folder is not None and path.is_dir() != folder:
            kinds = ("a folder", "a file") if folder else ("a file", "a folder")
            raise ConfigValueError(f"{key} must be {kinds[0]}, but {path} is {kinds[1]}. Give the path of {kinds[0]}")
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
        patterns = ["*.json", "*.jinja", "*.model", "*.safetensors", "*.txt", *more]
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
        model_info(repo, timeout=5)  # without a network this fails within seconds, a download only after minutes
        path = fetch(local_files_only=False)
        if file or _is_whole(path, parts):
            return path
        return fetch(False, "*.bin")  # an older repository
    except HTTPError as error:  # an OSError in some versions only
        raise ConnectionError(f"{type(error).__name__}: {error}") from error


def _is_whole(folder: Path, parts: Sequence[str]) -> bool:
    """Whether all weights of a Hub repository are present; an interrupted download leaves only some of them."""
    if parts:
        models = [folder / part for part in parts if part not in ("tokenizer", "scheduler")]
        return all(any(part.glob("*.safetensors")) or any(part.glob("*.bin")) for part in models)
    index = folder / "model.safetensors.index.json"
    files = json.loads(index.read_text())["weight_map"].values() if index.exists() else ["model.safetensors"]
    return all((folder / file).exists() for file in files)


def fetch_one_of(repo: str, files: Sequence[str]) -> None:
    """Download the first of these files that a Hub repository has, unless one is in the local cache.

    Raises:
        OSError: the Hub cannot be reached; raised within seconds, where a download would retry for minutes.
        ValueError: the repository has none of them.
    """
    from huggingface_hub import hf_hub_download, model_info, try_to_load_from_cache

    if any(isinstance(try_to_load_from_cache(repo, file), str) for file in files):
        return
    available = {sibling.rfilename for sibling in model_info(repo, timeout=5).siblings or ()}
    file = next((file for file in files if file in available), None)
    if file is None:
        raise WrongWeightsError(f"the Hub repository {repo} contains none of {', '.join(files)}")
    hf_hub_download(repo, file)
