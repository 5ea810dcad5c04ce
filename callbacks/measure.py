"""`Measure`: feeds the samples of each prompt to metrics, on every rank. It computes and writes nothing itself."""

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
    """Metrics of the samples of a run; where the generator draws tokens, codebook usage is always among them.

    Args:
        metrics: by name, such as `ssim`, `lpips[vgg]`, `vendi[inception,q=2]` (see `gendiv measure --help`), or as
            objects of `gendiv_lightning.metrics`; each is updated with all samples of one prompt at a time.
        reference: reference file of the metrics by name that compare with real images, see `gendiv reference`.

    Attributes:
        unused_reference: the reference, if no metric compares with real images. That is no error, since a config often
            names it for metrics that the command line or a study replaces.
    """

    usage: CodebookUsage | None = None

    def __init__(self, metrics: list[str | SampleMetric], reference: str | None = None) -> None:
        self.unused_reference = None
        if reference is not None and not any(map(needs_reference, metrics)):
            self.unused_reference, reference = reference, None
        self.metrics = make_metrics(metrics, reference)

    def identity(self) -> list[dict[str, object]]:
        """All that can change a number of each metric."""
        return [metric.identity() for metric in self.metrics]

    @property
    def recorders(self) -> tuple[type[Recorder], ...]:
        """What the metrics need of the sampling loop, each once."""
        return tuple(dict.fromkeys(recorder for metric in self.metrics for recorder in metric.recorders))

    def load(self) -> None:
        """Load backbones; raises OSError for one that cannot be had."""
        for metric in self.metrics:
            metric.load()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start from nothing, load backbones (rank zero first: it may download them), move to the rank's device."""
        assert isinstance(pl_module, Generator), "samples are measured of generators"
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
        """Measure what was just sampled."""
        self.add(outputs)

    @property
    def _all(self) -> list[SampleMetric]:
        return [*self.metrics, *([] if self.usage is None else [self.usage])]

    def compute(self) -> tuple[dict[str, Estimate], dict[str, Tensor], Tensor | None]:
        """Estimates, columns (P,) of numbers by the prompts' places, and counts (K,) of the codebook entries, if any.

        All three over all ranks: every rank must call it.
        """
        estimates, columns = compute_metrics(self._all)
        if self.usage is None:
            return estimates, columns, None
        with self.usage.sync_context():
            counts = self.usage.counts.clone()
        return estimates, columns, counts
