"""Networks in the layout of transformers: from the Hub or a folder, whole or with one clear error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


@contextmanager
def reading(what: str, name: str, advice: str) -> Iterator[None]:
    """Make one line of what can go wrong while a network is read.

    Raises:
        FileNotFoundError: it cannot be had; `advice` names the ways out.
        ValueError: what is there is no such network.
    """
    from huggingface_hub.errors import HTTPError  # an OSError in some versions only
    from safetensors import SafetensorError

    try:
        with torch.random.fork_rng(devices=[]):  # weights are drawn before they are read
            yield
    except (OSError, HTTPError) as error:
        raise FileNotFoundError(f"the {what} {name!r} cannot be had: {_first_line(error)}. {advice}") from error
    except (ValueError, RuntimeError, KeyError, SafetensorError, UnpicklingError) as error:
        raise ValueError(f"{name!r} cannot be used as {what}: {_first_line(error)}") from error


def read_pretrained(model_class: Any, name: str) -> Any:
    """A model of transformers from a folder or the Hub, float32; ValueError where a tensor lacks."""
    if not Path(name).expanduser().is_dir():
        fetch_one_of(name, WEIGHT_FILES)
    model, report = model_class.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
    lacking = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if lacking:  # they were drawn at random
        raise ValueError(f"{len(lacking)} tensors of a {model_class.__name__} lack, such as {lacking[0]}")
    return model


def fetch_one_of(repo: str, files: Sequence[str]) -> None:
    """The first of these files that there is; without a network this fails in seconds, a download in minutes."""
    from huggingface_hub import hf_hub_download, model_info, try_to_load_from_cache

    if any(isinstance(try_to_load_from_cache(repo, file), str) for file in files):
        return
    there = {sibling.rfilename for sibling in model_info(repo, timeout=5).siblings or ()}
    file = next((file for file in files if file in there), None)
    if file is None:
        raise ValueError(f"the Hub repository {repo} holds none of {', '.join(files)}")
    hf_hub_download(repo, file)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().partition("\n")[0]
