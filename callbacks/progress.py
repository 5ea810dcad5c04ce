"""The progress bar of a run, in samples a second."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar


class SamplesPerSecond(TQDMProgressBar):
    """Lightning's bar over batches of prompts, with the samples a second over all ranks."""

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        super().on_predict_start(trainer, pl_module)
        self.started, self.num_samples = time.monotonic(), 0

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count samples; other ranks are taken to be as fast as this one."""
        super().on_predict_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        self.num_samples += len(outputs.images) * trainer.world_size
        rate = self.num_samples / (time.monotonic() - self.started)
        self.predict_progress_bar.set_postfix_str(f"{rate:.1f} samples/s")
