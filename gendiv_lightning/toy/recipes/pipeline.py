"""Writes the toy diffusers models as folders in the layout of the official repositories, with 16-bit weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from gendiv_lightning.toy.files import save_half, write_tokenizer


def export_pipeline(
    folder: Path, scheduler: dict[str, Any], unconditional: Tensor | None = None, **models: Any
) -> None:
    """Write the parts of a pipeline.

    Args:
        folder: folder of the pipeline.
        scheduler: configuration of the scheduler.
        unconditional: VQ-Diffusion's learned embedding (context, D).
        models: models by part, such as transformer, text_encoder and vqvae, each with a `save_pretrained` method.
    """
    for part, model in models.items():
        model.half().save_pretrained(folder / part)
        model.float()
        config = folder / part / "config.json"
        # Remove the local path from which the part was loaded.
        _write_json(config, {k: v for k, v in json.loads(config.read_text()).items() if k != "_name_or_path"})
    write_tokenizer(folder / "tokenizer", kind="clip")
    _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    if unconditional is not None:
        learned = folder / "learned_classifier_free_sampling_embeddings"
        length, size = unconditional.shape
        _write_json(learned / "config.json", {"learnable": True, "hidden_size": size, "length": length})
        save_half({"embeddings": unconditional.detach()}, learned / "diffusion_pytorch_model.safetensors")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
