"""Compare two sides prompt by prompt. A side is one run, or runs of one setting with several seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from gendiv_lightning.errors import NotComparableError, UnknownNameError, listed
from gendiv_lightning.functional.comparison import Equivalence, compare_all, equivalence, holm
from gendiv_lightning.runs.load import Run, mean_columns, mean_estimates
from gendiv_lightning.runs.protocol import Difference, differences

# Keys that must agree. Probes and generators may differ: they are compared.
MUST_AGREE = (
    "data.prompts_sha256",
    "data.num_prompts",
    "data.num_samples",
    "generator.embedded",
    "metrics",
    "versions",
)
MAY_DIFFER_IN_A_SIDE = ("data.seed", "metrics")
SAMPLES = "total number of samples"
NUM_SAMPLES = (SAMPLES, "data.num_samples")  # keys in which runs with different numbers of samples differ


class Obstacle(NamedTuple):
    """A reason why runs are not comparable.

    Attributes:
        difference: the key, with the value of the first run and of another one.
        side: "A" or "B" if runs of one side differ, "" if the sides differ.
    """

    difference: Difference
    side: Literal["", "A", "B"] = ""

    def __str__(self) -> str:
        key, first, other = self.difference
        return f"{key} ({first!r} and {other!r}{f', within {self.side}' if self.side else ''})"


class ComparedNumber(NamedTuple):
    """A number of both sides.

    Attributes:
        name: name of the number.
        a: mean of side A over the prompts that all runs have, or the value of a number of the whole set.
        b: the same for side B.
        difference: b - a.
        low: lower end of its 95 % interval; NaN for a number of the whole set, which is not tested.
        high: upper end.
        p_value: two-sided p-value by sign flips, Holm-corrected over all numbers.
        effect_size: d_z, see `functional.comparison.Comparison`.
        num_prompts: number of prompts used.
    """

    name: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    p_value: float
    effect_size: float
    num_prompts: int


class ShownEquivalence(NamedTuple):
    """Result of an equivalence test: is a difference within +- margin? `found` is None for a margin of 0."""

    name: str
    margin: float
    found: Equivalence | None


class RunComparison(NamedTuple):
    """All numbers of two sides.

    Attributes:
        numbers: the numbers, starting with those that have values per prompt.
        pairs: columns (P,) of both sides by name, for the numbers with an interval.
    """

    numbers: tuple[ComparedNumber, ...]
    pairs: dict[str, tuple[Tensor, Tensor]]

    @property
    def num_prompts(self) -> int:
        """Smallest number of prompts of any number."""
        return min((number.num_prompts for number in self.numbers if number.name in self.pairs), default=0)


def find_obstacles(a: Sequence[Run], b: Sequence[Run]) -> list[Obstacle]:
    """All reasons why two sides are not comparable, or why a side is not one setting; empty if there are none."""
    found = [Obstacle(difference) for difference in _differing([*a, *b]) if difference.is_below(*MUST_AGREE)]
    numbers = list(dict.fromkeys(_num_samples(run) for run in (*a, *b)))
    found += [Obstacle(Difference(SAMPLES, numbers[0], other)) for other in numbers[1:]]
    sides: tuple[tuple[Literal["A", "B"], Sequence[Run]], ...] = (("A", a), ("B", b))
    for side, runs in sides:
        mixed = [d for d in _differing(runs) if not d.is_below(*MAY_DIFFER_IN_A_SIDE, *MUST_AGREE)]
        found += [Obstacle(difference, side) for difference in mixed]
    return found


def compare_runs(a: Sequence[Run], b: Sequence[Run], prefix: str = "") -> RunComparison:
    """Paired differences b - a of all numbers that both sides have, over the prompts that all runs have.

    Args:
        a: runs of one setting, whose numbers are averaged over seeds.
        b: runs of the other setting.
        prefix: compare only numbers whose names start with it.

    Raises:
        NotComparableError: the runs have no prompt in common.
        UnknownNameError: no number starts with the prefix.
    """
    shared = set.intersection(*(set(run.prompts) for run in (*a, *b)))
    prompts = [prompt for prompt in a[0].prompts if prompt in shared]
    if not prompts:
        raise NotComparableError("these runs have no prompt in common. Give runs over the same prompt set")
    columns = [mean_columns([run.select(prompts) for run in side]) for side in (a, b)]
    values = [mean_estimates([run.estimates for run in side]) for side in (a, b)]
    of_prompts = [name for name in columns[0] if name in columns[1]]
    of_sets = [name for name in values[0] if name in values[1] and name not in columns[0]]
    if not any(name.startswith(prefix) for name in (*of_prompts, *of_sets)):
        known = dict.fromkeys("/".join(name.split("/")[:2]) for name in (*of_prompts, *of_sets))
        raise UnknownNameError(
            f"--only: no number of both sides starts with {prefix!r}. Choose from: {listed(sorted(known))}"
        )
    pairs = {name: (columns[0][name], columns[1][name]) for name in of_prompts if name.startswith(prefix)}
    numbers = _compare_columns(pairs)
    for name in of_sets:
        if name.startswith(prefix):
            first, other = values[0][name], values[1][name]
            nan, difference = math.nan, other.value - first.value
            numbers.append(
                ComparedNumber(name, first.value, other.value, difference, nan, nan, nan, nan, first.num_prompts)
            )
    tested = {number.name: pairs[number.name] for number in numbers if number.name in pairs}
    return RunComparison(tuple(numbers), tested)


def show_equivalences(comparison: RunComparison, margin: float, *, is_share: bool) -> list[ShownEquivalence]:
    """Test each number for equivalence with two one-sided tests, without correction.

    Args:
        comparison: comparison of two sides.
        margin: largest difference that counts as none, in the unit of the numbers.
        is_share: whether the margin is a share of A's mean instead.
    """
    found = []
    for number in comparison.numbers:
        if number.name in comparison.pairs:
            own = margin * abs(number.a) if is_share else margin
            result = equivalence(*comparison.pairs[number.name], own) if own else None
            found.append(ShownEquivalence(number.name, own, result))
    return found


def _compare_columns(pairs: dict[str, tuple[Tensor, Tensor]]) -> list[ComparedNumber]:
    """Compare the numbers that are defined for at least two prompts."""
    compared = compare_all(list(pairs.values()), watch=_watch)
    known = {name: result for name, result in zip(pairs, compared, strict=True) if result.num_prompts > 1}
    corrected = holm(torch.tensor([result.p_value for result in known.values()], dtype=torch.float64)).tolist()
    numbers = []
    for (name, result), p_value in zip(known.items(), corrected, strict=True):
        a, b = pairs[name]
        both = ~(a.isnan() | b.isnan())
        mean_a, mean_b = (column[both].mean().item() for column in (a, b))
        difference, low, high, _, size, num_prompts = result
        numbers.append(ComparedNumber(name, mean_a, mean_b, difference, low, high, p_value, size, num_prompts))
    return numbers


def _watch(steps: list[int]) -> Iterable[int]:
    return tqdm(steps, desc="Comparing", unit="step", delay=2, leave=False)


def _differing(runs: Sequence[Run]) -> list[Difference]:
    """Keys in which some run differs from the first; only metrics that both have are compared."""
    first, *others = (_by_metric(run.protocol) for run in runs)
    found: dict[str, Difference] = {}
    for other in others:
        shared = first["metrics"].keys() & other["metrics"].keys()
        before, now = ({**p, "metrics": {name: p["metrics"][name] for name in shared}} for p in (first, other))
        found |= {str(difference): difference for difference in differences(before, now)}
    return [found[words] for words in sorted(found)]


def _by_metric(protocol: dict[str, Any]) -> dict[str, Any]:
    """A protocol with its metrics as a mapping, by the name of their first number."""
    return {**protocol, "metrics": {str(metric.get("names", [metric])[0]): metric for metric in protocol["metrics"]}}


def _num_samples(run: Run) -> int:
    """Total number of samples; a design may change the number per prompt that the data request."""
    return max((estimate.num_samples for estimate in run.estimates.values()), default=0)
