"""Rows of samples: the same noise with and without a probe."""

from __future__ import annotations

from gendiv_lightning.analysis.paper_claims import argmax_of, command_for, enhanced, mixed_paraphrases, quarter_of
from gendiv_lightning.report.context import Study, about, comparable, measured, qualities_in_words
from gendiv_lightning.report.document import Samples, Section
from gendiv_lightning.report.pictures import make_row
from gendiv_lightning.runs.load import Family, Setting

QUANTILES, NUM_SAMPLES = (0.75, 0.5, 0.25), 4


def typical_prompts(baseline: Setting, name: str) -> list[int]:
    """Indices of the prompts at the upper quartile, median and lower quartile of diversity: by rule, not by eye."""
    column = baseline.columns[name]
    order = column.nan_to_num(0).argsort(stable=True)
    places = [order[round(quantile * (len(order) - 1))].item() for quantile in QUANTILES]
    return [int(place) for place in dict.fromkeys(places)]


def section(study: Study) -> Section:
    """Samples of the baseline and the probes for the same prompts and noise."""
    blocks = tuple(
        _samples_of(study, family, place) for place, family in enumerate(study.families) if family.baseline is not None
    )
    words = (
        "The first samples of three prompts, chosen by rule: those at the quartiles of the baseline's diversity, the "
        "upper one first. A sample has the same noise as the baseline's sample above it wherever their texts are the "
        "same."
    )
    missing = tuple(f"{f.name}: {command_for(f, 'baseline')}" for f in study.families if f.baseline is None)
    return Section("samples", "The same noise, with and without a probe", (words,) if blocks else (), blocks, missing)


def _samples_of(study: Study, family: Family, place: int) -> Samples:
    baseline = family.baseline
    assert baseline is not None, "only called for families with a baseline"
    shown = _shown(family, baseline)
    places = typical_prompts(baseline, study.distance)
    found = [setting.runs[0].folder.read_pictures(places, NUM_SAMPLES) for setting in shown]
    groups = tuple(
        (
            found[0][place][0],
            tuple(make_row(setting.short, of[place][1]) for setting, of in zip(shown, found, strict=True)),
        )
        for place in places
    )
    numbers = "; ".join(
        f"{s.short}: {study.diversity[1]} {measured(s, study.distance).text}, {qualities_in_words(s, study)}"
        for s in shown
    )
    caption = f"{family.name}. {numbers}. {about(study, shown)}"
    return Samples(f"samples-{place + 1}", groups, caption)


def _shown(family: Family, baseline: Setting) -> list[Setting]:
    """The baseline, argmax, the subset closest to a quarter, paraphrases (mixed if available), the enhancement."""
    there = comparable(family)
    candidates = (
        baseline,
        argmax_of(family),
        quarter_of(family),
        mixed_paraphrases(family),
        enhanced(family),
    )
    return [setting for setting in candidates if setting is not None and setting in there]
