"""The curve of subset ratios with its knee, and the cost in quality."""

from __future__ import annotations

from gendiv_lightning.analysis.effects import KNEE_RULE, Knee, find_knee, share_left
from gendiv_lightning.analysis.paper_claims import NO_TOKENS, applies, command_for, subset_curve
from gendiv_lightning.report.charts import subset_curves
from gendiv_lightning.report.context import Study, about, costs_in_words, measured, share
from gendiv_lightning.report.document import Cell, Figure, Section, Table
from gendiv_lightning.runs.load import Family, Setting

TITLE = "How much of the codebook is needed?"


def section(study: Study) -> Section:
    """The curve of subset ratios with its knee, and the cost in quality."""
    name, words = study.diversity
    curves = [subset_curve(family) for family in study.families]
    knees = [find_knee(curve, name) for curve in curves]
    missing = [
        f"{family.name}, three ratios or more: {command_for(family, 'subset')}"
        for family, curve in zip(study.families, curves, strict=True)
        if len(curve) < 4 and applies(family, "subset")
    ]
    used = [setting for curve in curves for _, setting in curve]
    if not used:
        return Section("subset", TITLE, missing=tuple(missing))
    panels = subset_curves(study.families, study.numbers, knees)
    caption = (
        f"{words} and its costs ({', '.join(q.words for q in study.qualities)}) when only the most frequent "
        f"entries may be drawn. Rings mark the knee. {KNEE_RULE} {about(study, used)}"
    )
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            family.name,
            f"{100 * ratio:.3g}\u202f%" + _knee_mark(knee, ratio),
            *[measured(setting, each) for each, _ in study.numbers],
            share(share_left(setting, curve[-1][1], name)),
            setting.fingerprints,
        )
        for family, curve, knee in zip(study.families, curves, knees, strict=True)
        for ratio, setting in curve
    )
    header = ("generator", "codebook allowed", *(each for _, each in study.numbers), "diversity left", "run")
    table = Table("subset", "Subset ratio, diversity and costs", header, rows, about(study, used))
    sentences = [NO_TOKENS.format(family.name) for family in study.families if not applies(family, "subset")]
    sentences += [
        _knee_words(f, c, k, study) for f, c, k in zip(study.families, curves, knees, strict=True) if k is not None
    ]
    return Section(
        "subset",
        TITLE,
        tuple(sentences),
        (Figure("subset", panels, caption), table),
        tuple(missing),
    )


def _knee_words(family: Family, curve: list[tuple[float, Setting]], knee: Knee, study: Study) -> str:
    """Where the knee is, how certain it is, and the quality there."""
    whole, ratio = curve[-1][1], min(knee.ratio, curve[-2][0])
    setting = next(setting for share_allowed, setting in curve if share_allowed == ratio)
    share = f"{100 * ratio:.3g} % of the codebook"
    if knee.ratio == 1:
        found = f"has no knee: {share}, the largest share measured, already changes the diversity by more than 10 %"
    else:
        found = f"has its knee {'at or below' if setting is curve[0][1] else 'at'} {share}"
    sure = f"the same in {100 * knee.certainty:.0f} % of the resamples{'' if knee.is_sure else ', so undecided'}"
    return f"{family.name} {found} ({sure}). There, {costs_in_words(setting, whole, study)}."


def _knee_mark(knee: Knee | None, ratio: float) -> str:
    if knee is None or not ratio == knee.ratio < 1:
        return ""
    return ", knee" if knee.is_sure else ", knee?"
