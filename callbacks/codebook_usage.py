"""`WriteUsage`: counts the tokens of a validation image set, over all ranks, and writes the usage file."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from gendiv_lightning.batch import ImageBatch, PromptSamples
from gendiv_lightning.generators.base import Generator
from gendiv_lightning.metrics.codebook import CodebookUsage
from gendiv_lightning.report.tables import format_estimates
from gendiv_lightning.run_folder import RunFolder
from gendiv_lightning.usage import write_usage


class WriteUsage(Callback):
    """`usage.safetensors` in the run folder: counts of each codebook entry over a validation set, with provenance.

    Each image counts once on any number of ranks. Entropy, perplexity and coverage go to `metrics.json`, with intervals
    over images, and into the file.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start counting."""
        assert isinstance(pl_module, Generator), "codebook usage is of a generator's tokenizer"
        self.metric = CodebookUsage(pl_module.codebook_size).to(trainer.strategy.root_device)
        self.folder = RunFolder(trainer.default_root_dir)
        if trainer.is_global_zero:
            data = trainer.datamodule  # type: ignore[attr-defined]
            self.provenance = {"what": "validation images", "generator": pl_module.identity(), "data": data.identity()}
            self.folder.start(self.provenance, {})

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
        self.metric.sync_on_compute = False
        with self.metric.sync_context():
            estimates, counts = self.metric.compute(), self.metric.counts.clone()
        if trainer.is_global_zero:
            summary = {name: estimate._asdict() for name, estimate in estimates.items()}
            path = self.folder.path / "usage.safetensors"
            write_usage(path, counts, {**self.provenance, "estimates": summary})
            self.folder.write_metrics(estimates)
            rank_zero_info(f"\n{format_estimates(estimates)}\n\nUsage file: {path}")
