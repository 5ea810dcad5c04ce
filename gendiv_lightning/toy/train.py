"""`gendiv toy train NAME`: runs a recipe as a Lightning fit that can be interrupted and resumed.

The data of a step is a function of (seed, step), so a resumed training gives the same result as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from gendiv_lightning.toy.files import WEIGHTS
from gendiv_lightning.toy.recipes.amused import AmusedRecipe, AmusedTokenizerRecipe
from gendiv_lightning.toy.recipes.base import Recipe
from gendiv_lightning.toy.recipes.clip import ClipRecipe
from gendiv_lightning.toy.recipes.latent_diffusion import LatentAutoencoderRecipe, LatentDiffusionRecipe
from gendiv_lightning.toy.recipes.llamagen import LlamaGenRecipe
from gendiv_lightning.toy.recipes.perceptual import PerceptualRecipe
from gendiv_lightning.toy.recipes.tokenizer import TokenizerRecipe
from gendiv_lightning.toy.recipes.vq_diffusion import VQDiffusionRecipe

RECIPES: dict[str, tuple[Callable[..., Recipe], int]] = {
    "tokenizer": (TokenizerRecipe, 900),
    "tokenizer-local": (partial(TokenizerRecipe, local=True), 400),
    "perceptual": (PerceptualRecipe, 1500),
    "clip": (ClipRecipe, 1000),
    "llamagen": (LlamaGenRecipe, 5000),
    "amused-tokenizer": (AmusedTokenizerRecipe, 150),
    "amused": (AmusedRecipe, 4800),
    "amused-refine": (partial(AmusedRecipe, refines=True), 2400),
    "vq-diffusion": (VQDiffusionRecipe, 6000),
    "latent-autoencoder": (LatentAutoencoderRecipe, 450),
    "latent-diffusion": (LatentDiffusionRecipe, 4200),
}


def train(
    name: str, *, num_steps: int | None, seed: int, work: Path, export: Path, precision: str | None = None
) -> None:
    """Train one toy model, or resume its training, and export its weights and its log.

    Args:
        name: a key of `RECIPES`.
        num_steps: number of optimiser steps; None uses the recipe's default.
        seed: root seed.
        work: folder for checkpoints and logs.
        export: folder for the exported weights.
        precision: Lightning's training precision; None uses bfloat16 on machines with fast bfloat16. Weights are always
            exported as fp16.
    """
    recipe_class, default_steps = RECIPES[name]
    torch.manual_seed(seed)
    # Models that this one builds on are newly trained ones if there are any, else those of the package.
    weights = export if (export / "llamagen_vq.safetensors").exists() else WEIGHTS
    recipe = recipe_class(num_steps or default_steps, seed, work, weights)
    every = max(1, min(200, recipe.num_steps // 10))
    checkpoint = ModelCheckpoint(work, filename=name, every_n_train_steps=every, enable_version_counter=False)
    trainer = Trainer(
        max_steps=recipe.num_steps,
        max_epochs=-1,  # the steps end it; a finished training can be prolonged
        precision=precision or ("bf16-mixed" if _has_fast_bfloat16() else "32-true"),  # type: ignore[arg-type]
        logger=CSVLogger(work, name=name),  # a new version for each start keeps the complete log
        callbacks=[checkpoint],
        log_every_n_steps=20,
        gradient_clip_val=1.0,
        enable_model_summary=False,
    )
    last = work / f"{name}.ckpt"
    trainer.fit(recipe, ckpt_path=str(last) if last.exists() else None)
    recipe.export(export)
    _export_log(work / name, export / "logs" / f"{name}.csv")


def _has_fast_bfloat16() -> bool:
    # Emulated bfloat16 on an older CPU is twenty times slower than float32.
    cpu = Path("/proc/cpuinfo")  # without it, float32 is the safe choice
    return torch.cuda.is_available() or (cpu.exists() and "amx_bf16" in cpu.read_text())


def _export_log(versions: Path, path: Path) -> None:
    """Join the logs of all starts; steps that a resumed training repeated appear twice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    order = sorted(versions.glob("version_*/metrics.csv"), key=lambda p: int(p.parent.name.removeprefix("version_")))
    lines = [line for file in order for line in file.read_text().splitlines()]
    path.write_text("".join(f"{line}\n" for line in dict.fromkeys(lines)))
