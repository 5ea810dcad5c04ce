"""`Measure`: feeds the samples of each prompt to metrics, on every rank. It computes and writes nothing itself."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torchmetrics import Metric

from gendiv_lightning.batch import SampleBatch, split_by_prompt
from gendiv_lightning.functional.estimate import Estimate
from gendiv_lightning.generators.base import Generator
from gendiv_lightning.metrics.base import PromptMetric
from gendiv_lightning.metrics.codebook import CodebookUsage


class Measure(Callback):
    """Metrics of the samples of a run; codebook usage is always among them.

    Args:
        metrics: such as `gendiv_lightning.metrics.LPIPS`; each is updated with all samples of one prompt at a time.
    """

    def __init__(self, metrics: list[Metric]) -> None:
        self.metrics = torch.nn.ModuleList(metrics)
        self.usage: CodebookUsage | None = None

    def identity(self) -> list[str]:
        """Names of the numbers, which name their backbones."""
        return [name for metric in self.metrics for name in getattr(metric, "names", (type(metric).__name__,))]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Add codebook usage, load backbones (rank zero first: it may download them), move to the rank's device."""
        assert isinstance(pl_module, Generator), "samples are measured of generators"
        if self.usage is None:
            self.usage = CodebookUsage(pl_module.codebook_size)
            self.metrics.append(self.usage)
        for is_turn in (trainer.is_global_zero, not trainer.is_global_zero):
            for metric in self.metrics if is_turn else []:
                if isinstance(metric, PromptMetric):
                    metric.load()
            trainer.strategy.barrier("backbones are loaded")
        self.metrics.to(trainer.strategy.root_device)

    def add(self, batch: SampleBatch) -> None:
        """Measure all prompts of a batch."""
        for samples in split_by_prompt(batch):
            for metric in self.metrics:
                assert isinstance(metric, Metric), "metrics are all that is in the list"
                metric.update(samples)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measure what was just sampled."""
        self.add(outputs)

    def compute(self) -> tuple[dict[str, Estimate], pa.Table]:
        """Estimates, and a row of numbers a prompt, over all ranks: every rank must call it."""
        estimates: dict[str, Estimate] = {}
        columns: dict[str, Any] = {}
        for metric in self.metrics:
            assert isinstance(metric, Metric), "metrics are all that is in the list"
            metric.sync_on_compute = False  # the rows are wanted too, in the same exchange
            with metric.sync_context():
                estimates |= metric.compute()
                if isinstance(metric, PromptMetric):
                    order, rows = metric.per_prompt()
                    columns["prompt_index"] = order.numpy()
                    columns |= {name: column.numpy() for name, column in zip(metric.names, rows.T, strict=True)}
        return estimates, pa.table(columns)
