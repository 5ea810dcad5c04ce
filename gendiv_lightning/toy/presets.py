"""The toy models by name: `toy/llamagen` is the generator of `configs/models/tiny_llamagen.yaml`."""

from __future__ import annotations

from typing import Any

from gendiv_lightning.generators.base import Generator
from gendiv_lightning.generators.registry import make_generator
from gendiv_lightning.storage.config_files import config_folder


def llamagen(**settings: Any) -> Generator:
    """LlamaGen at toy size, trained on postcards (autoregressive)."""
    return _make("llamagen", settings)


def amused(**settings: Any) -> Generator:
    """AMUSEd at toy size, trained on postcards (masked image model)."""
    return _make("amused", settings)


def vq_diffusion(**settings: Any) -> Generator:
    """VQ-Diffusion at toy size, trained on postcards (discrete diffusion)."""
    return _make("vq_diffusion", settings)


def latent_diffusion(**settings: Any) -> Generator:
    """Stable Diffusion at toy size, trained on postcards (continuous latents)."""
    return _make("latent_diffusion", settings)


def _make(name: str, settings: dict[str, Any]) -> Generator:
    return make_generator(config_folder() / "models" / f"tiny_{name}.yaml", **settings)
