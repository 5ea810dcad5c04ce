"""Comparisons beyond two runs, in the terminal: models with each other, and sweeps at equal quality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gendiv_lightning.console.tables import few_prompts, format_table

if TYPE_CHECKING:
    from gendiv_lightning.analysis.between import ModelDistances
    from gendiv_lightning.analysis.effects import Interval

EQUAL_QUALITY = (
    "A gain is the diversity of a setting of B minus that of A's frontier at the same quality, corrected for the\n"
    "optimism of a frontier. Where A is a straight line, gains look smaller by up to 0.4 standard errors."
)
HOMOGENEITY = (
    "Homogeneity is the mean distance of two samples of one model over that of two samples of different models.\n"
    "At 100 % the models are as alike as the samples of one of them; near 0 they show different images."
)


def format_models(found: ModelDistances, names: Sequence[str], distance: str) -> str:
    """Aligned tables of distances within and between models, and of homogeneity."""
    rows: list[tuple[str, ...]] = [(f"{distance} of two samples", "mean", "95 % interval", "homogeneity", "interval")]
    rows += [(f"of {name}", *_cells(interval), "", "") for name, interval in zip(names, found.within, strict=True)]
    for (a, b), mean, homogeneity in found.pairs:
        rows.append((f"of {names[a]} and {names[b]}", *_cells(mean), *_percent(homogeneity)))
    if len(found.pairs) > 1:
        rows.append(("of all different models", "", "", *_percent(found.homogeneity)))
    dropped = f" ({found.num_dropped} left out: a model has no two independent samples)" if found.num_dropped else ""
    size = f"{found.num_prompts} prompts{dropped}"
    return f"{format_table(rows)}\n{size}. {HOMOGENEITY}\n{few_prompts(found.num_prompts)}"


def _cells(interval: Interval) -> tuple[str, str]:
    value, low, high = interval
    return f"{value:.4f}", f"[{low:.4f}, {high:.4f}]"


def _percent(interval: Interval) -> tuple[str, str]:
    value, low, high = (100 * end for end in interval)
    return f"{value:.1f} %", f"[{low:.1f}, {high:.1f}]"


def format_gains(gains: Sequence[tuple[str, Interval]], distance: str, quality: str, mean: Interval | None) -> str:
    """An aligned table: what each setting of B gains at equal quality over A's frontier; and the sweeps' mean gain."""
    rows = [(f"gain in {distance} at equal {quality}", "B - A", "95 % interval")]
    for name, (value, low, high) in gains:
        rows.append((name, *_gain(value, low, high)))
    if mean is not None:
        rows.append(("mean over the qualities that both reach", *_gain(*mean)))
    return f"{format_table(rows)}\n{EQUAL_QUALITY}"


def _gain(value: float, low: float, high: float) -> tuple[str, str]:
    if value != value:
        return "n/a", "A reaches no such quality"
    return f"{value:+.4f}", f"[{low:+.4f}, {high:+.4f}]" if low == low else "n/a"
