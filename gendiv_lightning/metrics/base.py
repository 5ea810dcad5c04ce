"""`SampleMetric`: fed with all samples of a prompt at a time; `PromptMetric`: a row of numbers a prompt, their mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from gendiv_lightning.functional.bootstrap import bootstrap_mean
from gendiv_lightning.records import PromptSamples
from gendiv_lightning.records.estimate import Estimate


class SampleMetric(Metric, ABC):
    """What a run asks of a metric: it is fed prompt by prompt, on any rank, and gives `Estimate`s by name."""

    full_state_update = False
    higher_is_better = None
    is_differentiable = False

    @abstractmethod
    def identity(self) -> dict[str, object]:
        """All that can change a number, for the run's fingerprint; a metric with weights adds their hash."""

    def load(self) -> None:
        """Load what the metric needs, before anything expensive has happened; OSError if it cannot be had."""

    def check_prompts(self, texts: Sequence[str]) -> None:
        """Raise ValueError if the metric cannot measure a prompt, before anything expensive has happened."""

    @abstractmethod
    def update(self, samples: PromptSamples) -> None:
        """Add all samples of one prompt."""

    @abstractmethod
    def compute(self) -> dict[str, Estimate]:
        """One `Estimate` a name."""

    def columns(self) -> dict[str, Tensor]:
        """Numbers (P,) of single prompts by name, ordered by place; over all ranks, so each must call it."""
        return {}


class PromptMetric(SampleMetric):
    """A torchmetrics metric with one row of numbers a prompt and one `Estimate` a number.

    State is one small float64 row a prompt, so it merges exactly over ranks, and the interval is a bootstrap over
    prompts. Rows are ordered by the prompt's place in its set: the result does not depend on who measured which prompt.

    A metric is a subclass that lists its `names` and computes a row in `measure`; NaN in a row means "not defined for
    this prompt" (one sample, no free factor) and leaves the prompt out of that number.
    """

    rows: list[Tensor]
    order: list[Tensor]
    counts: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("rows", default=[], dist_reduce_fx="cat")  # (1, number of names) float64 each
        self.add_state("order", default=[], dist_reduce_fx="cat")  # (1,) int64 each
        self.add_state("counts", default=[], dist_reduce_fx="cat")  # (1, 2) int64 each: paths, samples

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Names of the numbers, as they stand in `metrics.json`."""

    @property
    @abstractmethod
    def method(self) -> str:
        """The estimator in words."""

    @abstractmethod
    def measure(self, samples: PromptSamples) -> list[float]:
        """The row of one prompt, in the order of `names`."""

    def identity(self) -> dict[str, object]:
        """Names and method."""
        return {"names": list(self.names), "method": self.method}

    def update(self, samples: PromptSamples) -> None:
        """Add all samples of one prompt."""
        self.rows.append(torch.tensor([self.measure(samples)], dtype=torch.float64, device=self.device))
        self.order.append(torch.tensor([samples.place], device=self.device))
        self.counts.append(torch.tensor([[samples.num_paths, len(samples.images)]], device=self.device))

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the rows of all ranks; one that measured no prompt takes part with no rows of the same shape."""
        if not len(self.rows):
            self.rows = [torch.zeros(0, len(self.names), dtype=torch.float64, device=self.device)]
            self.order = [torch.zeros(0, dtype=torch.int64, device=self.device)]
            self.counts = [torch.zeros(0, 2, dtype=torch.int64, device=self.device)]
        super().sync(*args, **kwargs)

    def per_prompt(self) -> tuple[Tensor, Tensor]:
        """Places of the prompts (P,) and their rows (P, number of names), sorted by place."""
        if not len(self.rows):
            return torch.zeros(0, dtype=torch.int64), torch.zeros(0, len(self.names), dtype=torch.float64)
        order, rows = dim_zero_cat(self.order).cpu(), dim_zero_cat(self.rows).cpu()
        permutation = order.argsort(stable=True)
        return order[permutation], rows[permutation]

    def compute(self) -> dict[str, Estimate]:
        """One `Estimate` a name."""
        _, rows = self.per_prompt()
        counts = dim_zero_cat(self.counts).cpu() if len(self.counts) else torch.zeros(0, 2, dtype=torch.int64)
        counts = counts[dim_zero_cat(self.order).cpu().argsort(stable=True)] if len(self.counts) else counts
        estimates = {}
        for name, column in zip(self.names, rows.T, strict=True):
            defined = ~column.isnan()
            num_paths, num_samples = counts[defined].sum(0).tolist() if len(counts) else (0, 0)
            value, low, high = bootstrap_mean(column[defined])
            estimates[name] = Estimate(value, low, high, int(defined.sum()), num_paths, num_samples, self.method)
        return estimates

    def columns(self) -> dict[str, Tensor]:
        """The rows as columns."""
        with self.sync_context():
            _, rows = self.per_prompt()
        return dict(zip(self.names, rows.T, strict=True))


def compute_metrics(metrics: Sequence[SampleMetric]) -> tuple[dict[str, Estimate], dict[str, Tensor]]:
    """Estimates by name, and columns (P,) of numbers by the prompts' places; over all ranks, so each must call it."""
    estimates: dict[str, Estimate] = {}
    columns: dict[str, Tensor] = {}
    for metric in metrics:
        estimates |= metric.compute()
        columns |= metric.columns()
    return estimates, columns
