"""`CodebookCounts`: counts the tokens of a set of validation images over all ranks, and writes the counts."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from gendiv_lightning.console.tables import format_estimates
from gendiv_lightning.datamodules import ImageModule
from gendiv_lightning.metrics.codebook import CodebookUsage
from gendiv_lightning.records import ImageBatch, PromptSamples
from gendiv_lightning.runs.environment import environment
from gendiv_lightning.runs.folder import RunFolder, to_plain
from gendiv_lightning.storage.codebook_counts import write_usage


class CodebookCounts(Callback):
    """Writes `usage.safetensors` to the run folder: counts of each codebook entry over images, with provenance.

    Each image counts once, on any number of ranks. Entropy, perplexity and coverage, with intervals over images, are
    written to `metrics.json` and to the header of the file.

    Args:
        protocol: everything that can change the counts, as plain values.
        codebook_size: size of the generator's codebook.
        data: the images.
        folder: the run folder.
    """

    def __init__(self, protocol: dict[str, Any], codebook_size: int, data: ImageModule, folder: RunFolder) -> None:
        self.protocol, self.codebook_size, self.data, self.folder = protocol, codebook_size, data, folder

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Create the metric and the run folder."""
        self.metric = CodebookUsage(self.codebook_size).to(trainer.strategy.root_device)
        if trainer.is_global_zero:
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
        for index, image, tokens in zip(batch.indices.tolist(), batch.images, outputs["tokens"], strict=True):
            self.metric.update(PromptSamples(image[None], tokens[None], place=index))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Sum the counts over ranks and write them."""
        estimates = self.metric.compute()
        with self.metric.sync_context():
            counts = self.metric.counts.clone()
        if trainer.is_global_zero:
            provenance = {**self.protocol, **self.data.outcome(), "estimates": to_plain(estimates)}
            self.folder.write("usage.safetensors", lambda path: write_usage(path, counts, provenance))
            self.folder.write_metrics(estimates)
            rank_zero_info(
                f"\n{format_estimates(estimates)}\n\nCodebook counts: {self.folder.path / 'usage.safetensors'}"
            )


class WriteUsage(Callback):
    """Does nothing, since `validate` always counts the codebook. Kept for configs of version 0.1."""
