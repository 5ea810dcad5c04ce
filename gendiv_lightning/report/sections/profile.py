"""A table per generator: diversity with its paired difference, and the cost in quality."""

from __future__ import annotations

import torch

from gendiv_lightning.analysis.effects import p_value
from gendiv_lightning.analysis.paper_claims import command_for
from gendiv_lightning.functional.comparison import holm
from gendiv_lightning.report.context import Study, about, comparable, measured, moved, with_settings
from gendiv_lightning.report.document import Cell, Section, Table, number
from gendiv_lightning.runs.load import Family

UP, DOWN = "\u2191", "\u2193"


def section(study: Study) -> Section:
    """The table of each generator: diversity with its paired difference, and the cost in quality."""
    shown = with_settings(study).families
    tables = tuple(_profile_table(study, family, place) for place, family in enumerate(shown))
    missing = [f"{f.name}: {command_for(f, 'baseline')}" for f in study.families if f.baseline is None]
    words = (
        "Each number has its 95 % interval over prompts. Differences to the baseline are paired by prompt, and by "
        "noise where the text is the same. P-values come from sign flips and are Holm-corrected over the table. Broken "
        "samples look diverse, too: read each diversity with the costs to its right."
    )
    return Section("profile", "All settings in numbers", (words,) if tables else (), tables, tuple(missing))


def _profile_table(study: Study, family: Family, place: int) -> Table:
    (name, words), settings = study.diversity, comparable(family)
    baselines = [family.baseline_of(setting) for setting in settings]
    p_values = [p_value(s, b, name) for s, b in zip(settings, baselines, strict=True) if b is not None]
    corrected = iter(holm(torch.tensor(p_values)).tolist())
    rows: list[tuple[Cell, ...]] = []
    for setting, baseline in zip(settings, baselines, strict=True):
        numbers: list[Cell] = []
        for each, _ in study.numbers:
            numbers += [measured(setting, each), moved(setting, baseline, each) if baseline else ""]
            if each == name:
                numbers.append(_p(next(corrected)) if baseline else "")
        perplexity, coverage = (setting.estimates.get(f"codebook/{each}") for each in ("perplexity", "coverage"))
        numbers += [number(perplexity, 1) if perplexity else "", number(coverage, 2) if coverage else ""]
        rows.append((setting.name, *numbers, setting.fingerprints))
    header = ["setting", words, "difference", "p"]
    for quality in study.qualities:
        header += [f"{quality.words} {DOWN if quality.lower_is_better else UP}", "difference"]
    header += ["perplexity", "coverage", "run"]
    table = Table(f"profile-{place + 1}", family.name, tuple(header), tuple(rows), about(study, settings))
    return table.without_empty_columns()


def _p(value: float) -> str:
    return "<\u202f0.001" if value < 0.001 else f"{value:.3f}"
