"""H_total = H_path + H_exec as a table: a row a lens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from gendiv_lightning.console.tables import few_prompts, format_table
from gendiv_lightning.metrics.decomposition import UNSEEN
from gendiv_lightning.records.estimate import Estimate

MOST_UNSEEN = 0.2


class Lens(NamedTuple):
    """Names of one lens's numbers in `metrics.json`; empty for what it cannot see."""

    title: str
    unit: str
    total: str
    execution: str
    sampler_path: str
    prompt_path: str


def find_lenses(estimates: Mapping[str, Estimate]) -> list[Lens]:
    """The lenses that a run has numbers of: A, its counts and plug-in, B, and C for each distance."""
    token = [
        Lens(f"A tokens{title}", "bits/token", *(f"{part}/token{suffix}" for part in _PARTS))
        for title, suffix in (("", ""), (", counts", "/counts"), (", plug-in", "/plugin"))
    ]
    sequence = Lens("B sequences", "bits/image", "h_total/sequence", "h_exec/sequence", "", "h_prompt_path/sequence")
    bases = [name.removesuffix("/exec") for name in estimates if name.endswith("/exec")]
    perceptual = [
        Lens(f"C {base.split('/')[-1]}", "distance", base, *(f"{base}/{part}" for part in _DISTANCE_PARTS))
        for base in bases
    ]
    return [lens for lens in (*token, sequence, *perceptual) if _is_defined(estimates.get(lens.execution))]


_PARTS = ("h_total", "h_exec", "h_sampler_path", "h_prompt_path")
_DISTANCE_PARTS = ("exec", "sampler_path", "prompt_path")


def residual(estimates: Mapping[str, Estimate], lens: Lens) -> float:
    """H_total - H_exec - H_path, which is rounding; NaN where the lens has no total."""
    parts = [estimates[name].value for name in lens[3:] if name in estimates]
    known = [part for part in parts if not math.isnan(part)]
    return estimates[lens.total].value - sum(known)


def format_decomposition(estimates: Mapping[str, Estimate]) -> str:
    """An aligned table with intervals; empty for a run that tells no path from execution."""
    lenses = find_lenses(estimates)
    if not lenses:
        return ""
    rows: list[tuple[str, ...]] = [
        ("lens", "unit", "H_total", "= H_exec", "+ H_path, sampler", "+ H_path, prompt", "path share")
    ]
    for lens in lenses:
        cells = [_cell(estimates.get(name)) for name in lens[2:]]
        total, execution = estimates[lens.total].value, estimates[lens.execution].value
        share = "n/a" if math.isnan(total) or total == 0 else f"{100 * (1 - execution / total):.1f} %"
        rows.append((lens.title, lens.unit, *cells, share))
    residuals = [abs(residual(estimates, lens)) for lens in lenses]
    worst = max((r for r in residuals if not math.isnan(r)), default=math.nan)
    first = estimates[lenses[0].execution]
    size = f"{first.num_prompts} prompts, {first.num_paths} paths, {first.num_samples} samples"
    true = estimates.get("postcards/h_total_true_bits")
    truth = "" if true is None else f"\nA perfect generator: H_total {_cell(true)} bits/image, no prompt path."
    return (
        f"{format_table(rows)}\n{size}; 95 % BCa intervals over prompts; H_total - H_exec - H_path is at most "
        f"{worst:.1e}.{truth}{_what_is_too_few(estimates, lenses)}"
    )


def _what_is_too_few(estimates: Mapping[str, Estimate], lenses: list[Lens]) -> str:
    """Lines that say what these prompts and samples cannot tell."""
    told = []
    for lens in lenses:
        ends = {"sampler": estimates.get(lens.sampler_path), "prompt": estimates.get(lens.prompt_path)}
        words = [path for path, estimate in ends.items() if estimate is not None and estimate.low < 0 < estimate.high]
        told += [f"{lens.title} ({', '.join(words)})"] if words else []
    lines = []
    if told:
        lines.append(
            f"Paths that are not told from 0: {'; '.join(told)}.\nHow many prompts it takes: gendiv plan --pilot RUN "
            "--metric METRIC --number PART --width WIDTH"
        )
    unseen = estimates.get(UNSEEN)
    if unseen is not None and unseen.value > MOST_UNSEEN and any("counts" in lens.title for lens in lenses):
        lines.append(
            "TOO FEW SAMPLES for counts: one more would show an entry that is new to its prompt and position with "
            f"probability {unseen.value:.2f} (Good-Turing), at most {MOST_UNSEEN} is relied on: more samples a prompt."
        )
    return "".join(f"\n{line}" for line in lines) + few_prompts(estimates[lenses[0].execution].num_prompts).rstrip()


def _is_defined(estimate: Estimate | None) -> bool:
    return estimate is not None and estimate.num_prompts > 0


def _cell(estimate: Estimate | None) -> str:
    if estimate is None or not _is_defined(estimate):
        return "-"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
