"""Semantic drift in the terminal: a table of attributes, the largest flows, and matrices as heat tables."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gendiv_lightning.console.tables import format_table

if TYPE_CHECKING:
    from torch import Tensor

    from gendiv_lightning.analysis.drift import AttributeDrift, Drift, Entropies, Flow
    from gendiv_lightning.analysis.effects import Interval

SHADES = " \u2591\u2592\u2593\u2588"
FIDELITY = (
    "Fidelity is the probability of the stated value, mean over prompts. Drift is the fidelity that the probe loses "
    "against the baseline."
)
BEYOND = "Beyond (noise) is the fidelity that it loses against the control."
BLEEDING = (
    "Bleeding is the share of the lost mass that a single other value gains: {even} if it spreads evenly, 100 % if all "
    "of it goes to one value. P-values are Holm-corrected over the attributes."
)


def format_drift(found: Drift) -> str:
    """An aligned table with one row per attribute, and one for all if there are several."""
    has_control = "control" in found.overall.fidelity
    header = ["fidelity, %", *found.overall.fidelity, "drift", "95 % interval", "p"]
    header += ["beyond", "95 % interval", "p"] if has_control else []
    rows = [[*header, "bleeding", "prompts"]]
    rows += [_row(each, has_control) for each in found.attributes]
    rows += [_row(found.overall, has_control)] if len(found.attributes) > 1 else []
    return format_table(rows)


def format_legend(found: Drift) -> str:
    """What the columns of `format_drift` mean."""
    even = sorted({round(100 / (len(each.values) - 1)) for each in found.attributes})
    spread = f"{even[0]} %" if len(even) == 1 else f"{even[0]} to {even[-1]} %"
    control = [BEYOND] if "control" in found.overall.fidelity else []
    return textwrap.fill(" ".join([FIDELITY, *control, BLEEDING.format(even=spread)]), 110)


def _row(found: AttributeDrift, has_control: bool) -> list[str]:
    cells = [found.name, *(_points(interval.value) for interval in found.fidelity.values())]
    cells += [_points(found.drift.value, "+"), _ends(found.drift), f"{found.p_value:.4f}"]
    cells += (
        [_points(found.beyond.value, "+"), _ends(found.beyond), f"{found.beyond_p_value:.4f}"] if has_control else []
    )
    return [*cells, _points(found.bleeding.value), str(found.num_prompts)]


def _points(value: float, sign: str = "") -> str:
    return percent(value, sign).removesuffix(" %")


def percent(value: float, sign: str = "") -> str:
    """A share in percent with one digit; "n/a" for NaN."""
    return "n/a" if math.isnan(value) else f"{100 * value:{sign}.1f} %"


def _ends(interval: Interval) -> str:
    return "n/a" if math.isnan(interval.low) else f"[{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"


def format_unseen(found: Drift) -> str:
    """A line with the attributes that cannot show drift, because the baseline is not above chance; "" for none."""
    unseen = [
        f"{each.name} ({percent(each.fidelity['baseline'].value)}, chance {percent(1 / len(each.values))})"
        for each in found.attributes
        if not each.fidelity["baseline"].low > 1 / len(each.values)
    ]
    if not unseen:
        return ""
    words = (
        f"The baseline's fidelity is not above chance for {', '.join(unseen)}: the scorer cannot read the attribute, "
        "or the model does not show it. No drift there means nothing."
    )
    return textwrap.fill(words, 110)


def format_entropies(found: Entropies | None) -> str:
    """The token entropies of the runs in one line, and how far the control is from the probe in another."""
    if found is None:
        return "Token entropy: none, since not all of these runs draw tokens."
    known = (f"{run} {e.value:.3f} [{e.low:.3f}, {e.high:.3f}]" for run, e in found.by_run.items())
    line = f"Token entropy, bits per token: {', '.join(known)}"
    if "control" not in found.by_run:
        return line
    gap = found.mismatch
    share = 100 * gap.value / found.by_run["probe"].value if found.by_run["probe"].value else math.nan
    return f"{line}\ncontrol - probe: {gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}] ({share:+.1f} %)"


def format_flows(flows: Sequence[tuple[str, Flow]]) -> str:
    """An aligned table of flows, each with the name of its attribute."""
    has_control = any(not math.isnan(flow.control) for _, flow in flows)
    rows = [["stated -> seen", "gain", "95 % interval", *(["control"] if has_control else []), "prompts"]]
    for name, flow in flows:
        control = [percent(flow.control, sign="+")] if has_control else []
        moved = f"{name}: {flow.stated} -> {flow.seen}"
        rows.append([moved, percent(flow.gain.value, sign="+"), _ends(flow.gain), *control, str(flow.num_prompts)])
    return format_table(rows)


def largest_flows(found: Drift, most: int) -> list[tuple[str, Flow]]:
    """The gains that move the most mass, over all attributes, each with the name of its attribute."""
    flows = [(each.name, flow) for each in found.attributes for flow in each.flows if flow.gain.value > 0]
    return sorted(flows, key=lambda pair: -pair[1].gain.value * pair[1].num_prompts)[:most]


def format_matrices(found: AttributeDrift) -> str:
    """The matrices of an attribute as heat tables, and the change from the baseline to the probe."""
    tables = [_heat(run, found.values, matrix) for run, matrix in found.matrices.items()]
    change = found.matrices["probe"] - found.matrices["baseline"]
    return "\n\n".join([*tables, _heat("probe - baseline", found.values, change, sign="+")])


def _heat(title: str, values: Sequence[str], matrix: Tensor, sign: str = "") -> str:
    """Percentages with shades; rows are stated values, those that no prompt states are omitted."""
    rows = [[f"{title}, %", *values]]
    for value, row in zip(values, matrix.tolist(), strict=True):
        if not any(map(math.isnan, row)):
            percents = (round(100 * share) for share in row)
            rows.append(
                [value, *(f"{SHADES[round(min(100, abs(p)) / 25)]}{p:{sign if p else ''}5d}" for p in percents)]
            )
    return format_table(rows)
