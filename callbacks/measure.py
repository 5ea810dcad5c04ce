"""`Measure`: updates metrics with the samples of each prompt, on every rank."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from gendiv_lightning.generators.base import Generator, TokenGenerator
from gendiv_lightning.metrics.base import SampleMetric, compute_metrics
from gendiv_lightning.metrics.codebook import CodebookUsage
from gendiv_lightning.metrics.registry import make_metrics, needs_reference
from gendiv_lightning.recorders import Recorder
from gendiv_lightning.records import SampleBatch, split_by_prompt
from gendiv_lightning.records.estimate import Estimate


class Measure(Callback):
    """The metrics of a run. For generators with tokens, codebook usage is always measured in addition.

    Args:
        metrics: names such as `ssim`, `lpips[vgg]`, `vendi[inception,q=2]` (see `gendiv measure --help`), or objects of
            `gendiv_lightning.metrics`; each is updated with all samples of one prompt at a time.
        reference: reference file for named metrics that compare with real images, see `gendiv reference`.

    Attributes:
        unused_reference: the reference, if no metric compares with real images. This is not an error, since a config
            may set it for metrics that the command line or a study replaces.
    """

    usage: CodebookUsage | None = None

    def __init__(self, metrics: list[str | SampleMetric], reference: str | None = None) -> None:
        self.unused_reference = None
        if reference is not None and not any(map(needs_reference, metrics)):
            self.unused_reference, reference = reference, None
        self.metrics = make_metrics(metrics, reference)

    def identity(self) -> list[dict[str, object]]:
        """For each metric, everything that can change a number."""
        return [metric.identity() for metric in self.metrics]

    @property
    def recorders(self) -> tuple[type[Recorder], ...]:
        """The recorders that the metrics need, each once."""
        return tuple(dict.fromkeys(recorder for metric in self.metrics for recorder in metric.recorders))

    def load(self) -> None:
        """Load the feature networks; raises OSError if one is not available."""
        for metric in self.metrics:
            metric.load()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Reset the metrics and load their networks, first on rank zero, which may download them."""
        assert isinstance(pl_module, Generator), "only samples of generators are measured"
        for is_turn in (trainer.is_global_zero, not trainer.is_global_zero):
            if is_turn:
                self.load()
            trainer.strategy.barrier("backbones are loaded")
        has_tokens = isinstance(pl_module, TokenGenerator)
        self.usage = CodebookUsage(pl_module.codebook_size) if has_tokens else None
        for metric in self._all:
            metric.to(trainer.strategy.root_device).reset()

    def add(self, batch: SampleBatch) -> None:
        """Measure all prompts of a batch."""
        for samples in split_by_prompt(batch):
            for metric in self._all:
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
        """Measure the samples of the batch."""
        self.add(outputs)

    @property
    def _all(self) -> list[SampleMetric]:
        return [*self.metrics, *([] if self.usage is None else [self.usage])]

    def compute(self) -> tuple[dict[str, Estimate], dict[str, Tensor], Tensor | None]:
        """Estimates, columns (P,) of per-prompt values by prompt index, and codebook counts (K,), if any.

        The results are combined over all ranks, so every rank must call this.
        """
        estimates, columns = compute_metrics(self._all)
        if self.usage is None:
            return estimates, columns, None
        with self.usage.sync_context():
            counts = self.usage.counts.clone()
        return estimates, columns, counts
