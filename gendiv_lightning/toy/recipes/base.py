"""What the recipes share: an optimiser, a schedule, checkpoints that know whose they are, and captioned images."""

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
from gendiv_lightning.toy import captions, world
from gendiv_lightning.toy.files import TINY_VQ, WEIGHTS, load_float, seeded
from gendiv_lightning.weights.hash import sha256


class Recipe(LightningModule, ABC):
    """One embedded model's training: AdamW, linear warm-up, cosine decay to zero over `num_steps`."""

    batch_size: int
    learning_rate: float
    weight_decay: float = 0.01

    def __init__(self, num_steps: int, seed: int, work: Path, weights: Path = WEIGHTS) -> None:
        super().__init__()
        self.num_steps, self.seed, self.work, self.weights = num_steps, seed, work, weights

    @abstractmethod
    def loss(self, step: int) -> dict[str, Tensor]:
        """Losses and figures of a step; "loss" is the one that is minimised."""

    @abstractmethod
    def export(self, folder: Path) -> None:
        """Write the trained weights for use."""

    def identity(self) -> dict[str, object]:
        """What a checkpoint must have in common with the training that goes on from it."""
        return {"seed": self.seed}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember whose checkpoint it is."""
        checkpoint["recipe"] = self.identity()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another training's checkpoint: going on from it would give neither of the two."""
        if checkpoint["recipe"] != self.identity():
            raise OutputError(
                f"{self.work} holds a training of {checkpoint['recipe']}, this one is of {self.identity()}: "
                "give another --work, or delete that checkpoint"
            )

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """A step; the data loader only counts, the data come from the step's number."""
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
        """Numbers of steps."""
        # Anything with a length and numbered items will do, whatever the loader's type says.
        return DataLoader(range(self.num_steps), batch_size=None)  # type: ignore[arg-type]


class GeneratorRecipe(Recipe):
    """A generator's training, on captioned token grids.

    Attributes:
        sources: files of weights that it is built on, by name; a checkpoint belongs to just these.
    """

    sources: ClassVar[dict[str, str]] = {"tokenizer": "llamagen_vq.safetensors"}

    def __init__(self, num_steps: int, seed: int, work: Path, weights: Path = WEIGHTS) -> None:
        super().__init__(num_steps, seed, work, weights)
        self.grids, self.images = torch.empty(0), training_images()

    def identity(self) -> dict[str, object]:
        """Seed and hashes of the sources."""
        return {"seed": self.seed, **{name: sha256(self.weights / file)[:8] for name, file in self.sources.items()}}

    def setup(self, stage: str) -> None:
        """Token grids of all images, encoded once and kept beside the checkpoints."""
        self.grids = token_grids(self.work / f"grids-{self.identity()['tokenizer']}.safetensors", self.weights)


def training_images() -> Tensor:
    """Numbers of the images that generators and text encoders may see: all but those held out."""
    allowed = torch.ones(world.NUM_IMAGES, dtype=torch.bool)
    allowed[captions.held_out()] = False
    return allowed.nonzero()[:, 0]


def captioned(pool: Tensor, batch_size: int, seed: int, step: int) -> tuple[Tensor, list[str]]:
    """Images drawn from `pool` and a caption of each; one length class a step, so that batches pad little."""
    rng = random.Random(seed * 1_000_003 + step)
    images = pool[torch.randint(len(pool), (batch_size,), generator=seeded(seed, step))]
    length = rng.choices(("short", "medium", "long"), (0.5, 0.35, 0.15))[0]
    texts = [
        captions.wording(captions.meaning(image, rng.choices((1, 2, 3, 4, 5), (3, 3, 4, 2, 4))[0], rng), length, rng)
        for image in images.tolist()
    ]
    return images, texts


def load_tokenizer(weights: Path) -> VQModel:
    """The trained tokenizer, float32, in evaluation mode."""
    model = VQModel(TINY_VQ).eval()
    load_float(model, weights / "llamagen_vq.safetensors")
    return model


@torch.no_grad()
def token_grids(path: Path, weights: Path) -> Tensor:
    """Tokens (52500, 36) of all images, read from `path` or made and written there."""
    if path.exists():
        return load_file(path)["tokens"].long()
    model = load_tokenizer(weights)
    chunks = tqdm(torch.arange(world.NUM_IMAGES).split(500), desc="Encoding all postcards", unit="500 images")
    grids = torch.cat([model.encode(from_uint8(world.render(chunk))) for chunk in chunks])
    write_atomically(path, lambda p: save_file({"tokens": grids.short()}, p))
    return grids
