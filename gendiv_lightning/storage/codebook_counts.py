"""Codebook counts: how often a tokenizer or generator uses each codebook entry, with the provenance of the counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gendiv_lightning.errors import FileFormatError
from gendiv_lightning.storage.atomic import write_atomically


def write_usage(path: Path, counts: Tensor, provenance: dict[str, Any]) -> None:
    """Write counts (K,) as safetensors, atomically, with their provenance as JSON in the header."""
    tensors, metadata = {"counts": counts.to(torch.int64).cpu()}, {"provenance": json.dumps(provenance)}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))


def read_usage(path: Path) -> tuple[Tensor, dict[str, Any]]:
    """Counts (K,) int64 and their provenance.

    Raises:
        FileFormatError: the file does not contain codebook counts.
    """
    try:
        with safe_open(path, framework="pt") as file:
            counts, metadata = file.get_tensor("counts"), file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise FileFormatError(
            f"{path} does not contain codebook counts ({error}). Make the file with `gendiv validate`"
        ) from error
    if counts.dim() != 1 or counts.is_floating_point() or (counts < 0).any():
        raise FileFormatError(
            f"{path} does not contain codebook counts: expected one number of at least 0 for each entry. Make the file "
            "with `gendiv validate`"
        )
    return counts, json.loads(metadata.get("provenance", "{}"))
