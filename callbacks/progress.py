"""The progress bar of a run, in samples per second."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

_FORMAT = "{desc} {percentage:3.0f}% |{bar:30}| {n_fmt}/{total_fmt} batches [{elapsed}<{remaining}{postfix}]"


class SamplesPerSecond(ProgressBar):
    """A bar over the batches of rank zero, on standard error, with the images per second over all ranks.

    Other ranks are assumed to be as fast as rank zero, so that no rank waits for the bar.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_enabled = True

    def enable(self) -> None:
        """Show the bar."""
        self.is_enabled = True

    def disable(self) -> None:
        """Hide the bar; Lightning calls this on all ranks except zero."""
        self.is_enabled = False

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start("Sampling", sum(trainer.num_predict_batches))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start("Encoding", sum(trainer.num_val_batches))

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count samples."""
        self._advance(len(outputs.images) * trainer.world_size, "samples")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count images."""
        self._advance(len(batch.images) * trainer.world_size, "images")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar, which stays visible."""
        self.bar.close()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar, which stays visible."""
        self.bar.close()

    def _start(self, what: str, num_batches: float) -> None:
        self.bar = tqdm(desc=what, total=num_batches, bar_format=_FORMAT, disable=not self.is_enabled)
        self.started, self.num_images = time.monotonic(), 0

    def _advance(self, num_images: int, unit: str) -> None:
        self.num_images += num_images
        rate = self.num_images / (time.monotonic() - self.started)
        self.bar.set_postfix_str(f"{rate:.1f} {unit}/s", refresh=False)
        self.bar.update()
