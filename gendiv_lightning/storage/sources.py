"""Find and describe datasets: local files, or the Hugging Face Hub by name."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa

from gendiv_lightning.errors import DatasetError, MissingFileError
from gendiv_lightning.storage.files import list_folder


def describe_source(source: str, revision: str | None = None) -> dict[str, Any]:
    """Name, version and license of a dataset on the Hub or of local files.

    The version of local files is a hash of their names and sizes; the license is read from the dataset's README.

    Raises:
        MissingFileError: the path does not exist.
        DatasetError: the Hub has no such dataset, or cannot be reached.
    """
    from huggingface_hub import DatasetCard

    path = Path(source)
    if not path.exists():
        info = _find_on_hub(source, revision)
        return {"name": source, "version": info.sha, "license": info.card_data.license if info.card_data else None}
    found = list_folder(path).files if path.is_dir() else []
    listing = [(file.name, file.size) for file in found] or [(".", path.stat().st_size)]
    readme = path / "README.md"
    license_name = DatasetCard.load(readme).data.license if readme.is_file() else None
    return {"name": path.name, "version": hash_listing(listing), "license": license_name}


def hash_listing(listing: list[tuple[str, int]]) -> str:
    """Hash of the names and sizes of files, as their version."""
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def _find_on_hub(name: str, revision: str | None) -> Any:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # an OSError in some versions only

    if not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", name):
        raise MissingFileError(f"{name} is missing. Correct the path, which is relative to {Path.cwd()}")
    try:
        return HfApi().dataset_info(name, revision=revision, timeout=10)
    except (OSError, HTTPError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}".strip().partition("\n")[0]
        raise DatasetError(
            f"{name} is not a file or folder in {Path.cwd()}, and could not be loaded as a dataset from the Hugging "
            f"Face Hub ({reason}). Check the name and the network"
        ) from error


def dataset_name(name: str) -> str:
    """Name of a dataset: its Hub name, or the last part of a local folder, so that it does not change with its path."""
    return Path(name).name if Path(name).is_dir() else name


def data_files(name: str, config: str | None, split: str, revision: str | None) -> list[str]:
    """Addresses of the files of a dataset's split, if `datasets` knows them; raises ValueError if that fails."""
    from datasets import load_dataset_builder  # takes seconds to import

    if not Path(name).exists():
        _find_on_hub(name, revision)  # fails at once with a clear message; `datasets` retries for half a minute
    builder = load_dataset_builder(name, config, revision=revision)
    return list((builder.config.data_files or {}).get(split, ()))


def is_saved_dataset(folder: Path) -> bool:
    """Whether a folder was written by `datasets.save_to_disk`."""
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


def open_saved_dataset(folder: Path, split: str | None) -> Any:
    """A dataset written by `datasets.save_to_disk`, or one of its splits.

    Raises:
        DatasetError: it cannot be read, or has no such split.
    """
    from datasets import DatasetDict, load_from_disk

    try:
        dataset: Any = load_from_disk(str(folder))
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DatasetError(
            f"{folder} cannot be read as a folder of datasets.save_to_disk ({reason}). Save the dataset again"
        ) from error
    if not isinstance(dataset, DatasetDict):
        if split is not None and split != dataset.split:
            raise DatasetError(f"{folder} has no splits, but {split} was requested. Remove --split (in configs split)")
        return dataset
    if split is None and len(dataset) == 1:
        return next(iter(dataset.values()))
    if split not in dataset:
        raise DatasetError(f"{folder} has the splits {', '.join(dataset)}, not {split}. Choose one with --split")
    return dataset[split]
