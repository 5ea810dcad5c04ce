"""`WriteUsage`: counts the tokens of a validation image set, over all ranks, and writes the usage file."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from gendiv_lightning.console.tables import format_estimates
from gendiv_lightning.datamodules import ImageData, ImageModule
from gendiv_lightning.generators.base import Generator
from gendiv_lightning.metrics.codebook import CodebookUsage
from gendiv_lightning.records import ImageBatch, PromptSamples
from gendiv_lightning.runs.folder import RunFolder, environment, to_plain
from gendiv_lightning.storage.codebook_counts import write_usage


def usage_protocol(generator: Generator, data: LightningDataModule) -> dict[str, Any]:
    """Everything that can change the counts, as plain values; its hash is the run's fingerprint."""
    assert isinstance(data, ImageModule), "codebook usage is counted on images"
    return {"what": "validation images", "generator": generator.identity(), "data": data.identity()}


class WriteUsage(Callback):
    """`usage.safetensors` in the run folder: counts of each codebook entry over a validation set, with provenance.

    Each image counts once on any number of ranks. Entropy, perplexity and coverage go to `metrics.json`, with intervals
    over images, and into the file.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start counting.

        Raises:
            ValueError: the trainer would leave images out, or the folder holds another run.
        """
        assert isinstance(pl_module, Generator), "codebook usage is of a generator's tokenizer"
        if trainer.limit_val_batches != 1.0:
            raise ValueError(
                f"trainer.limit_val_batches must stay 1.0, got {trainer.limit_val_batches}: to count fewer images "
                "limit the data (--data.limit of a folder, --data.num_images of postcards)"
            )
        pl_module.locate()
        self.metric = CodebookUsage(pl_module.codebook_size).to(trainer.strategy.root_device)
        self.folder = RunFolder(trainer.default_root_dir)
        if trainer.is_global_zero:
            self.protocol = usage_protocol(pl_module, trainer.datamodule)  # type: ignore[attr-defined]
            self.folder.start(self.protocol, environment())

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the tokens of each image."""
        for place, image, tokens in zip(batch.indices.tolist(), batch.images, outputs["tokens"], strict=True):
            self.metric.update(PromptSamples(image[None], tokens[None], place=place))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Sum over ranks, write."""
        estimates = self.metric.compute()
        with self.metric.sync_context():
            counts = self.metric.counts.clone()
        if trainer.is_global_zero:
            path = self.folder.path / "usage.safetensors"
            data = trainer.datamodule  # type: ignore[attr-defined]
            corrupt = {"corrupt": data.corrupt.names} if isinstance(data, ImageData) else {}
            write_usage(path, counts, {**self.protocol, **corrupt, "estimates": to_plain(estimates)})
            self.folder.write_metrics(estimates)
            rank_zero_info(f"\n{format_estimates(estimates)}\n\nUsage file: {path}")
