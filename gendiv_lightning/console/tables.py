"""Format estimates as text tables, or as plain numbers by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gendiv_lightning.console.text import printable
from gendiv_lightning.records.estimate import Estimate

FEWEST_PROMPTS = 8


def format_estimates(estimates: Mapping[str, Estimate]) -> str:
    """An aligned table: name, value, 95 % interval, prompts, samples. Numbers without any prompt are omitted."""
    header = ("metric", "value", "95 % interval", "prompts", "samples")
    defined = {name: estimate for name, estimate in estimates.items() if estimate.num_prompts}
    # With one paraphrase per prompt, "within" repeats the total.
    defined = {name: e for name, e in defined.items() if name.replace("/within", "/between") in defined}
    # In the order of measurement: diversity, followed by its cost in quality.
    rows = [header, *(_row(name, estimate) for name, estimate in defined.items())]
    return format_table(rows)


def format_truncation(facts: Mapping[str, Any]) -> str:
    """A line with the number of texts that a text encoder truncates, including zero; "" if texts are not captions.

    Args:
        facts: `text_encoder` of the prompt metadata: limit in tokens, and number of texts and of truncated texts by
            kind.
    """
    kinds = [f"{f['cut']} of {f['texts']} {kind}" for kind, f in facts.items() if isinstance(f, Mapping) and f["texts"]]
    return f"truncated to {facts['limit']} tokens: {', '.join(kinds)}" if kinds else ""


def format_methods(estimates: Mapping[str, Estimate]) -> str:
    """One line per method: the first number that uses it, and the method."""
    first: dict[str, str] = {}
    for name, estimate in estimates.items():
        if estimate.num_prompts:
            first.setdefault(estimate.method, name)
    return "\n".join(f"{name}: {method}" for method, name in first.items())


def scalars_of(estimates: Mapping[str, Estimate]) -> dict[str, float]:
    """Values and ends of intervals, by name."""
    scalars = {name: estimate.value for name, estimate in estimates.items()}
    scalars |= {f"{name}/low": e.low for name, e in estimates.items()}
    return scalars | {f"{name}/high": e.high for name, e in estimates.items()}


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Align rows in columns, the first to the left, the others to the right; each cell is one line."""
    rows = [[printable(text) for text in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if column == 0 else text.rjust(width) for column, (text, width) in enumerate(cells)
        ).rstrip()
        for row in rows
        for cells in [list(zip(row, widths, strict=True))]
    )


def few_prompts(num_prompts: int) -> str:
    """A warning if there are too few prompts for reliable intervals, otherwise an empty text."""
    if num_prompts >= FEWEST_PROMPTS:
        return ""
    return (
        f"\nTOO FEW PROMPTS ({num_prompts}): intervals over fewer than {FEWEST_PROMPTS} prompts miss the true value "
        "more "
        "often than 5 %. Find out how many are needed: gendiv power --pilot RUN --metric METRIC --width WIDTH\n"
    )


def _row(name: str, estimate: Estimate) -> tuple[str, str, str, str, str]:
    interval = "n/a" if math.isnan(estimate.low) else f"[{estimate.low:.4f}, {estimate.high:.4f}]"
    value = "n/a" if math.isnan(estimate.value) else f"{estimate.value:.4f}"
    return name, value, interval, str(estimate.num_prompts), str(estimate.num_samples)
