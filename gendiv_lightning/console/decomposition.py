"""H_total = H_path + H_exec in the terminal: one row per decomposition, tests, effects and the verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gendiv_lightning.analysis.lenses import Lens, find_lenses, is_defined, residual
from gendiv_lightning.console.tables import few_prompts, format_table
from gendiv_lightning.records.estimate import Estimate
from gendiv_lightning.runs.schema import UNSEEN

if TYPE_CHECKING:
    from gendiv_lightning.analysis.decompose import CountEntropy, Effect, GroupTests
    from gendiv_lightning.analysis.verdict import Verdict

MOST_UNSEEN = 0.2
EFFECTS = {
    (0,): "path free, not frozen",
    (1,): "tokens drawn, not argmax",
    (2,): "paraphrases pooled, not one",
    (0, 1): "path x tokens",
    (0, 2): "path x paraphrases",
    (1, 2): "tokens x paraphrases",
    (0, 1, 2): "all three",
}


def format_decomposition(estimates: Mapping[str, Estimate]) -> str:
    """An aligned table with intervals; empty if the run does not separate path from execution."""
    lenses = find_lenses(estimates)
    if not lenses:
        return ""
    rows: list[tuple[str, ...]] = [
        ("decomposition", "unit", "H_total", "= H_exec", "+ H_path, sampler", "+ H_path, prompt", "path share")
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
        f"{worst:.1e}.{truth}{_warnings(estimates, lenses)}"
    )


def _warnings(estimates: Mapping[str, Estimate], lenses: list[Lens]) -> str:
    """Warnings about paths whose interval includes 0, and about small samples."""
    near_zero = []
    for lens in lenses:
        ends = {"sampler": estimates.get(lens.sampler_path), "prompt": estimates.get(lens.prompt_path)}
        words = [path for path, estimate in ends.items() if estimate is not None and estimate.low < 0 < estimate.high]
        near_zero += [f"{lens.title} ({', '.join(words)})"] if words else []
    lines = []
    if near_zero:
        lines.append(
            f"Paths that may be 0: {'; '.join(near_zero)}.\nFind out how many prompts are needed: gendiv power "
            "--pilot RUN "
            "--metric METRIC --number PART --width WIDTH"
        )
    unseen = estimates.get(UNSEEN)
    if unseen is not None and unseen.value > MOST_UNSEEN and any("counts" in lens.title for lens in lenses):
        lines.append(
            "TOO FEW SAMPLES for counts: one more sample would contain an entry that is new to its prompt and position "
            f"with probability {unseen.value:.2f} (Good-Turing). Above {MOST_UNSEEN}, use more samples per prompt."
        )
    return "".join(f"\n{line}" for line in lines) + few_prompts(estimates[lenses[0].execution].num_prompts).rstrip()


def _cell(estimate: Estimate | None) -> str:
    if estimate is None or not is_defined(estimate):
        return "-"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def format_count_entropies(found: Sequence[CountEntropy]) -> str:
    """An aligned table with one row per estimator; empty if there are none."""
    rows = [("H_total from counts, by", "bits/token", "95 % interval")]
    for estimator, (value, low, high) in found:
        rows.append((estimator.replace("_", "-"), f"{value:.3f}", f"[{low:.3f}, {high:.3f}]"))
    return format_table(rows) if found else ""


def format_group_tests(tests: GroupTests, distance: str) -> str:
    """An aligned table with one row per kind of group."""
    rows: list[tuple[str, ...]] = [(f"groups, by {distance}", "pseudo-F", "R^2", "p")]
    for name, found in (("paths of a paraphrase", tests.paths), ("paraphrases of a prompt", tests.paraphrases)):
        cells = ["-"] * 3 if found is None else [f"{number:.3f}" for number in found]
        rows.append((name, *cells))
    return format_table(rows)


def format_effects(effects: Sequence[Effect], distance: str) -> str:
    """An aligned table with one row per main effect or interaction."""
    rows = [(f"effect on {distance}", "mean", "95 % interval", "p (Holm)")]
    for switches, (mean, low, high), p_value in effects:
        rows.append((EFFECTS[switches], f"{mean:+.4f}", f"[{low:+.4f}, {high:+.4f}]", f"{p_value:.4f}"))
    return format_table(rows)


def format_verdict(verdict: Verdict, distance: str) -> str:
    """Two lines: the verdict, and the shares that decide it."""
    survives, kept, path, used = verdict.shares
    certainty = f"the same answer in {100 * verdict.certainty:.0f} % of the resamples"
    return (
        f"Verdict by {distance} within a paraphrase: {verdict.kind} ({certainty})\n"
        f"  {100 * survives:.1f} % remains under Argmax, {100 * kept:.1f} % under the subset, paths are "
        f"{100 * path:.1f} %, "
        f"perplexity {100 * used:.1f} % of the codebook"
    )
