"""`SampleMetric`, whose `update` takes all samples of a prompt, and `PromptMetric`, a mean over prompts."""

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
    """Base class of metrics, which are updated prompt by prompt, on any rank, and compute `Estimate`s by name.

    Attributes:
        title: the measured quantity, for lists and tables.
        short: one or two words for axes and columns of its first number; a backbone's tag is added in brackets.
        needs: the fields of `PromptSamples` that it reads, and "reference" if it compares with real images.
        recorders: recorders of the sampling loop that it requires.
        with_tokenizer: metric that is built for a name with a tokenizer in brackets, or None.
        features: the feature network that it uses; None if it uses none.
        higher_is_better: direction of its first number; None if neither direction is better, as for diversity.
    """

    title: ClassVar[str]
    short: ClassVar[str]
    needs: ClassVar[tuple[Need, ...]] = ("images",)
    recorders: ClassVar[tuple[type[Recorder], ...]] = ()
    with_tokenizer: ClassVar[type[SampleMetric] | None] = None

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
        """Everything that can change a number, for the run's fingerprint; a metric with weights adds their hash."""

    def describe(self) -> dict[str, dict[str, object]]:
        """`short`, `title` and `higher_is_better` of the numbers that reports show, by name.

        By default only the first number is shown, with its backbone and options. A metric with several important
        numbers overrides this method.
        """
        name = self.names[0]
        tag = name[name.index("[") :] if "[" in name else ""
        words = {"title": self.title, "higher_is_better": self.higher_is_better}
        return {name: {"short": f"{self.short} {tag}".strip(), **words}}

    def load(self) -> None:
        """Load everything that the metric requires, before any expensive work; OSError if that is impossible."""
        if self.features is not None:
            self.features.load()

    def check_prompts(self, texts: Sequence[str]) -> None:
        """Raise ValueError if the metric cannot measure a prompt; called before any expensive work."""

    @abstractmethod
    def update(self, samples: PromptSamples) -> None:
        """Add all samples of one prompt."""

    @abstractmethod
    def compute(self) -> dict[str, Estimate]:
        """One `Estimate` per name."""

    def columns(self) -> dict[str, Tensor]:
        """Numbers (P,) per prompt by name, ordered by prompt index; gathered over ranks, so every rank must call it."""
        return {}

    def empty_states(self) -> dict[str, Tensor]:
        """An empty tensor for each list state, with the shape and dtype that the state has on other ranks."""
        return {}

    @override
    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather over all ranks; a rank that measured no prompt contributes no rows."""
        for name, empty in self.empty_states().items():
            if not len(getattr(self, name)):
                setattr(self, name, [empty.to(self.device)])
        super().sync(*args, **kwargs)


class PromptRows(NamedTuple):
    """The rows of all prompts, ordered by prompt index, on the CPU.

    Attributes:
        order: (P,) index of each prompt in its set.
        sizes: (P, 2) number of paths and number of samples.
        rows: (P, C) float64.
    """

    order: Tensor
    sizes: Tensor
    rows: Tensor


class RowMetric(SampleMetric):
    """A metric that stores rows of numbers per prompt, which are gathered exactly over ranks.

    Rows are ordered by prompt index, so the result does not depend on which rank measured which prompt.
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
        """Number of columns of a row."""

    def add_rows(self, samples: PromptSamples, rows: Tensor, num_samples: int) -> None:
        """Store the rows (n, num_columns) of a prompt with `num_samples` samples."""
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
        """The ordered rows, for metrics with one row per prompt."""
        if not len(self.rows):
            empty = self.empty_states()
            return PromptRows(empty["order"], empty["sizes"], empty["rows"])
        order, sizes, rows = (dim_zero_cat(state).cpu() for state in (self.order, self.sizes, self.rows))
        permutation = order.argsort(stable=True)
        return PromptRows(order[permutation], sizes[permutation], rows[permutation])


class PromptMetric(RowMetric):
    """A metric with one row of numbers per prompt and one `Estimate` per number, with bootstrap intervals over prompts.

    To add one, list the `names` and compute a row in `measure`. NaN in a row means that the number is undefined for
    this prompt (for example because it has one sample); the prompt is then left out of that number.
    """

    @property
    @abstractmethod
    def method(self) -> str:
        """Description of the estimator."""

    @abstractmethod
    def measure(self, samples: PromptSamples) -> list[float]:
        """Compute the row of one prompt, in the order of `names`."""

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
        """Add all samples of one prompt; ValueError if the metric needs images and they are not (N, 3, H, W) uint8."""
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


def metric_name(base: str, tag: str | None = None, **options: float | str | None) -> str:
    """Name of a number: `base`, or `base[tag,option=value]` with all options that are not None."""
    words = {
        key: value if isinstance(value, str) else f"{value:g}" for key, value in options.items() if value is not None
    }
    inside = [*([tag] if tag else []), *(f"{key}={word}" for key, word in words.items())]
    return f"{base}[{','.join(inside)}]" if inside else base


def compute_metrics(metrics: Sequence[SampleMetric]) -> tuple[dict[str, Estimate], dict[str, Tensor]]:
    """Estimates, and columns (P,) of numbers per prompt, by name; gathered over ranks, so every rank must call it."""
    estimates: dict[str, Estimate] = {}
    columns: dict[str, Tensor] = {}
    for metric in metrics:
        estimates |= metric.compute()
        columns |= metric.columns()
    return estimates, columns
