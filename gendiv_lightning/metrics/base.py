"""`SampleMetric`: fed with all samples of a prompt at a time; `PromptMetric`: a row of numbers per prompt, averaged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from typing_extensions import override

from gendiv_lightning.features.base import ImageFeatures
from gendiv_lightning.features.images import check_images
from gendiv_lightning.functional.bootstrap import bootstrap_mean
from gendiv_lightning.recorders import Recorder
from gendiv_lightning.records import PromptSamples
from gendiv_lightning.records.estimate import Estimate

Need = Literal["images", "prompt", "tokens", "entropy", "reference"]


class SampleMetric(Metric, ABC):
    """The protocol of metrics: fed prompt by prompt, on any rank, they compute `Estimate`s by name.

    Attributes:
        title: what it measures, for lists and tables.
        short: its first number in a word or two, for axes and columns; a backbone's tag is added in brackets.
        needs: fields of `PromptSamples` that it reads, and "reference" where it compares with real images.
        recorders: what it needs of the sampling loop, beside the samples.
        features: the network that it looks at images with; None for none.
        higher_is_better: of its first number; None where neither is, as for a diversity.
    """

    title: ClassVar[str]
    short: ClassVar[str]
    needs: ClassVar[tuple[Need, ...]] = ("images",)
    recorders: ClassVar[tuple[type[Recorder], ...]] = ()

    features: ImageFeatures | None
    full_state_update = False
    higher_is_better: bool | None = None
    is_differentiable = False

    def __init__(self) -> None:
        super().__init__()
        self.features = None

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Names of the numbers in `metrics.json`."""

    @abstractmethod
    def identity(self) -> dict[str, object]:
        """All that can change a number, for the run's fingerprint; a metric with weights adds their hash."""

    def describe(self) -> dict[str, dict[str, object]]:
        """Words for the numbers that reports show, by name: `short`, `title` and `higher_is_better`.

        That is the first number, with the backbone and options of its name. A metric with several numbers worth
        showing describes them all.
        """
        name = self.names[0]
        tag = name[name.index("[") :] if "[" in name else ""
        words = {"title": self.title, "higher_is_better": self.higher_is_better}
        return {name: {"short": f"{self.short} {tag}".strip(), **words}}

    def load(self) -> None:
        """Load what the metric needs, before anything expensive has happened; OSError if that is impossible."""
        if self.features is not None:
            self.features.load()

    def check_prompts(self, texts: Sequence[str]) -> None:
        """Raise ValueError if the metric cannot measure a prompt, before anything expensive has happened."""

    @abstractmethod
    def update(self, samples: PromptSamples) -> None:
        """Add all samples of one prompt."""

    @abstractmethod
    def compute(self) -> dict[str, Estimate]:
        """One `Estimate` per name."""

    def columns(self) -> dict[str, Tensor]:
        """Numbers (P,) of single prompts by name, ordered by index; over all ranks, so each must call it."""
        return {}

    def empty_states(self) -> dict[str, Tensor]:
        """For each state that is a list: no rows, in the shape and type that other ranks have theirs."""
        return {}

    @override
    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather over all ranks; one that measured no prompt takes part without rows."""
        for name, empty in self.empty_states().items():
            if not len(getattr(self, name)):
                setattr(self, name, [empty.to(self.device)])
        super().sync(*args, **kwargs)


class PromptRows(NamedTuple):
    """The rows of all prompts, ordered by the prompts' indices, on the CPU.

    Attributes:
        order: (P,) index of each prompt in its set.
        sizes: (P, 2) numbers of paths and samples.
        rows: (P, C) float64.
    """

    order: Tensor
    sizes: Tensor
    rows: Tensor


class RowMetric(SampleMetric):
    """A metric that keeps rows of numbers of each prompt, which merge exactly over ranks.

    Rows are ordered by the prompt's index in its set: the result does not depend on who measured which prompt.
    """

    rows: list[Tensor]
    order: list[Tensor]
    sizes: list[Tensor]
    row_dtype: ClassVar[torch.dtype] = torch.float64

    def __init__(self) -> None:
        super().__init__()
        self.add_state("rows", default=[], dist_reduce_fx="cat")  # (rows of a prompt, num_columns) each
        self.add_state("order", default=[], dist_reduce_fx="cat")  # (1,) int64 each
        self.add_state("sizes", default=[], dist_reduce_fx="cat")  # (1, 2) int64 each: paths, samples

    @property
    @abstractmethod
    def num_columns(self) -> int:
        """Numbers in a row."""

    def add_rows(self, samples: PromptSamples, rows: Tensor, num_samples: int) -> None:
        """Keep the rows (n, num_columns) of a prompt that has so many samples."""
        self.rows.append(rows.to(self.device, self.row_dtype))
        self.order.append(torch.tensor([samples.place], device=self.device))
        self.sizes.append(torch.tensor([[samples.num_paths, num_samples]], device=self.device))

    @override
    def empty_states(self) -> dict[str, Tensor]:
        return {
            "rows": torch.zeros(0, self.num_columns, dtype=self.row_dtype),
            "order": torch.zeros(0, dtype=torch.int64),
            "sizes": torch.zeros(0, 2, dtype=torch.int64),
        }

    def per_prompt(self) -> PromptRows:
        """The rows where each prompt has one, ordered."""
        if not len(self.rows):
            empty = self.empty_states()
            return PromptRows(empty["order"], empty["sizes"], empty["rows"])
        order, sizes, rows = (dim_zero_cat(state).cpu() for state in (self.order, self.sizes, self.rows))
        permutation = order.argsort(stable=True)
        return PromptRows(order[permutation], sizes[permutation], rows[permutation])


class PromptMetric(RowMetric):
    """A metric with one row of numbers per prompt and one `Estimate` per number, its interval a bootstrap over prompts.

    To add one, list the `names` and compute a row in `measure`; NaN in a row means "not defined for this prompt" (one
    sample, no free factor) and leaves the prompt out of that number.
    """

    @property
    @abstractmethod
    def method(self) -> str:
        """The estimator in words."""

    @abstractmethod
    def measure(self, samples: PromptSamples) -> list[float]:
        """The row of one prompt, in the order of `names`."""

    @property
    @override
    def num_columns(self) -> int:
        return len(self.names)

    @override
    def identity(self) -> dict[str, object]:
        """Names and method."""
        return {"names": list(self.names), "method": self.method}

    @override
    def update(self, samples: PromptSamples) -> None:
        """Add all samples of one prompt; ValueError unless its images are (N, 3, H, W) uint8, where they are needed."""
        if "images" in self.needs:
            check_images(samples.images)
        row = torch.tensor([self.measure(samples)], dtype=self.row_dtype)
        self.add_rows(samples, row, len(samples.images))

    @override
    def compute(self) -> dict[str, Estimate]:
        _, sizes, rows = self.per_prompt()
        estimates = {}
        for name, column in zip(self.names, rows.T, strict=True):
            defined = ~column.isnan()
            num_paths, num_samples = sizes[defined].sum(0).tolist()
            value, low, high = bootstrap_mean(column[defined])
            estimates[name] = Estimate(value, low, high, int(defined.sum()), num_paths, num_samples, self.method)
        return estimates

    @override
    def columns(self) -> dict[str, Tensor]:
        with self.sync_context():
            rows = self.per_prompt().rows
        return dict(zip(self.names, rows.T, strict=True))


def metric_name(base: str, tag: str | None = None, **options: float | None) -> str:
    """Name of a number: `base`, or `base[tag,option=value]` with the options that are not None."""
    inside = [*([tag] if tag else []), *(f"{key}={value:g}" for key, value in options.items() if value is not None)]
    return f"{base}[{','.join(inside)}]" if inside else base


def compute_metrics(metrics: Sequence[SampleMetric]) -> tuple[dict[str, Estimate], dict[str, Tensor]]:
    """Estimates by name, and columns (P,) of numbers by the prompts' indices; over all ranks, so each must call it."""
    estimates: dict[str, Estimate] = {}
    columns: dict[str, Tensor] = {}
    for metric in metrics:
        estimates |= metric.compute()
        columns |= metric.columns()
    return estimates, columns
