"""Base classes of the recipes: optimiser, schedule, identified checkpoints, and captioned images."""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning import LightningModule
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from gendiv_lightning.errors import OutputError
from gendiv_lightning.generators.llamagen.tokenizer import VQModel
from gendiv_lightning.generators.vqgan import from_uint8
from gendiv_lightning.storage.atomic import write_atomically
from gendiv_lightning.toy import captions, postcards
from gendiv_lightning.toy.files import TINY_VQ, WEIGHTS, load_float, seeded
from gendiv_lightning.weights.hash import sha256


class Recipe(LightningModule, ABC):
    """Training of one toy model: AdamW, linear warm-up, cosine decay to zero over `num_steps`."""

    batch_size: int
    learning_rate: float
    weight_decay: float = 0.01

    def __init__(self, num_steps: int, seed: int, work: Path, weights: Path = WEIGHTS) -> None:
        super().__init__()
        self.num_steps, self.seed, self.work, self.weights = num_steps, seed, work, weights

    @abstractmethod
    def loss(self, step: int) -> dict[str, Tensor]:
        """Losses and figures of a step; "loss" is minimised."""

    @abstractmethod
    def export(self, folder: Path) -> None:
        """Write the trained weights for use."""

    def identity(self) -> dict[str, object]:
        """Settings that a checkpoint and the training that resumes from it must have in common."""
        return {"seed": self.seed}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the identity of the training in the checkpoint."""
        checkpoint["recipe"] = self.identity()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise ValueError for a checkpoint of another training."""
        if checkpoint["recipe"] != self.identity():
            raise OutputError(
                f"{self.work} contains a training of {checkpoint['recipe']}, but this is a training of "
                f"{self.identity()}. Choose another --work, or delete the checkpoint"
            )

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Run one step; the data loader only counts, and the data depend on the step number."""
        figures = self.loss(self.global_step)
        self.log_dict(figures, prog_bar=True)
        return figures["loss"]

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine decay."""
        optimizer = torch.optim.AdamW(
            self.parameters(), self.learning_rate, betas=(0.9, 0.98), weight_decay=self.weight_decay
        )

        def scale(step: int) -> float:
            return min(1.0, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.num_steps)))

        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, scale), "interval": "step"},
        }

    def train_dataloader(self) -> Iterable[Any]:
        """Step numbers."""
        # A range is a valid map-style dataset, although the loader's type does not include it.
        return DataLoader(range(self.num_steps), batch_size=None)  # type: ignore[arg-type]


class GeneratorRecipe(Recipe):
    """Training of a generator on captioned token grids.

    Attributes:
        sources: weight files that it builds on, by name; they are part of the identity of a checkpoint.
    """

    sources: ClassVar[dict[str, str]] = {"tokenizer": "llamagen_vq.safetensors"}

    def __init__(self, num_steps: int, seed: int, work: Path, weights: Path = WEIGHTS) -> None:
        super().__init__(num_steps, seed, work, weights)
        self.grids, self.images = torch.empty(0), training_images()

    def identity(self) -> dict[str, object]:
        """Seed and hashes of the sources."""
        return {"seed": self.seed, **{name: sha256(self.weights / file)[:8] for name, file in self.sources.items()}}

    def setup(self, stage: str) -> None:
        """Encode the token grids of all images once, and store them beside the checkpoints."""
        self.grids = token_grids(self.work / f"grids-{self.identity()['tokenizer']}.safetensors", self.weights)


def training_images() -> Tensor:
    """Indices of the training images of generators and text encoders: all that are not held out."""
    allowed = torch.ones(postcards.NUM_IMAGES, dtype=torch.bool)
    allowed[captions.held_out()] = False
    return allowed.nonzero()[:, 0]


def captioned(pool: Tensor, batch_size: int, seed: int, step: int) -> tuple[Tensor, list[str]]:
    """Draw images from `pool`, with a caption of each; one length class per step, which reduces padding."""
    rng = random.Random(seed * 1_000_003 + step)
    images = pool[torch.randint(len(pool), (batch_size,), generator=seeded(seed, step))]
    length = rng.choices(("short", "medium", "long"), (0.5, 0.35, 0.15))[0]
    texts = []
    for image in images.tolist():
        meaning = captions.meaning(image, rng.choices((1, 2, 3, 4, 5), (3, 3, 4, 2, 4))[0], rng)
        texts.append(captions.make_caption(meaning, length, rng))
    return images, texts


def load_tokenizer(weights: Path) -> VQModel:
    """Load the trained tokenizer in float32 and evaluation mode."""
    model = VQModel(TINY_VQ).eval()
    load_float(model, weights / "llamagen_vq.safetensors")
    return model


@torch.no_grad()
def token_grids(path: Path, weights: Path) -> Tensor:
    """Tokens (52500, 36) of all images, read from `path`, or computed and written there."""
    if path.exists():
        return load_file(path)["tokens"].long()
    model = load_tokenizer(weights)
    chunks = tqdm(torch.arange(postcards.NUM_IMAGES).split(500), desc="Encoding all postcards", unit="500 images")
    grids = torch.cat([model.encode(from_uint8(postcards.render(chunk))) for chunk in chunks])
    write_atomically(path, lambda p: save_file({"tokens": grids.short()}, p))
    return grids
