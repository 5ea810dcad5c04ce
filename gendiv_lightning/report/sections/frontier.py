"""Diversity against quality, including the enhancement."""

from __future__ import annotations

from itertools import combinations

from gendiv_lightning.analysis.equal_quality import Sweep, area_between, gain_of, generator_sweeps, sweeps_of
from gendiv_lightning.analysis.paper_claims import PAPER, command_for, enhanced
from gendiv_lightning.report.charts import arms_key, frontier
from gendiv_lightning.report.context import Quality, Study, about, comparable, shown_in, with_settings
from gendiv_lightning.report.document import Cell, Figure, Number, Section, Table

EQUAL_QUALITY = (
    "At equal quality: the settings of a sweep, and mixtures of two of them, reach a highest diversity at a quality. "
    "A gain is the diversity of a setting minus what the sweep reaches at the setting's quality or a higher one; it is "
    "n/a where the sweep reaches no such quality. For a sweep it is the mean over the qualities that both reach. "
    "Both are corrected for the optimism of the highest of several noisy points; where the sweep is a straight line, "
    "gains still look smaller by up to 0.4 standard errors. Intervals are bootstrapped over prompts."
)


def section(study: Study) -> Section:
    """Diversity against quality, including the enhancement."""
    title, shown = "Diversity against quality", with_settings(study).families
    panels = [panel for quality in study.qualities for panel in frontier(shown, comparable, study.diversity, quality)]
    qualities = ", ".join(quality.words for quality in study.qualities)
    caption = (
        f"{study.diversity[1]} to the right, better quality ({qualities}) upwards: axes of distances are reversed. The "
        f"line joins the settings that no other setting beats in both. {about(study, shown_in(study))}"
    )
    figures = (Figure("frontier", tuple(panels), caption, len(shown), arms_key(shown_in(study))),) if panels else ()
    tables = tuple(filter(None, (_gains(study, quality) for quality in study.qualities)))
    missing = [
        f"{family.name}, {PAPER}'s enhancement: {command_for(family, 'the enhancement')}"
        for family in study.families
        if enhanced(family) is None and family.draws_tokens
    ]
    if not study.qualities:
        missing.append("a quality in all runs: add `clip_score` or `fid` to the metrics")
    paragraphs = (*((EQUAL_QUALITY,) if tables else ()), *(_left_out(study) if study.qualities else ()))
    return Section("frontier", title, paragraphs, (*figures, *tables), tuple(missing))


def _left_out(study: Study) -> tuple[str, ...]:
    """A line that names what is not compared at equal quality because its prompts are others; nothing if all are."""
    names = [
        f"{family.name}, {setting.name}"
        for family in study.families
        for setting in comparable(family)
        if family.baseline and setting.prompts != family.baseline.prompts
    ]
    names += [
        f"{first.generator}, the sweeps of {first.name} and {second.name}"
        for first, second in _pairs(study)
        if first.prompts != second.prompts
    ]
    return (f"Not compared at equal quality, because their prompts differ: {'; '.join(names)}.",) if names else ()


def _pairs(study: Study) -> list[tuple[Sweep, Sweep]]:
    """Pairs of sweeps over one generator's own numbers."""
    pairs = combinations(generator_sweeps(study.families), 2)
    return [(first, second) for first, second in pairs if first.fixed == second.fixed]


def _gains(study: Study, quality: Quality) -> Table | None:
    """What settings gain over a sweep of their generator at equal quality, and sweeps over each other."""
    rows: list[tuple[Cell, ...]] = []
    falls = {"lower_is_better": quality.lower_is_better}
    for family in study.families:
        own = [sweep for sweep in sweeps_of(family) if sweep.has(study.distance, quality.name)]
        reference = next(iter(own), None)
        if reference is None:
            continue
        for sweep in own[1:]:
            mean = area_between(sweep, reference, study.distance, quality.name, **falls)
            rows.append(
                (family.name, reference.name, f"{sweep.name}, mean of the sweep", Number(*mean, is_change=True))
            )
        for setting in comparable(family):
            is_new = all(setting is not each for each in reference.settings) and setting.prompts == reference.prompts
            if is_new and {study.distance, quality.name} <= setting.columns.keys():
                gain = gain_of(setting, reference, study.distance, quality.name, **falls)
                rows.append((family.name, reference.name, setting.name, Number(*gain, is_change=True)))
    for first, second in _pairs(study):
        if first.prompts == second.prompts and all(s.has(study.distance, quality.name) for s in (first, second)):
            mean = area_between(second, first, study.distance, quality.name, **falls)
            rows.append((first.generator, first.name, f"{second.name}, mean", Number(*mean, is_change=True)))
    if not rows:
        return None
    name = f"equal-{quality.name.split('/')[-1].split('[')[0].replace('_', '-')}"
    header = ("generator", "compared with the sweep", "setting", f"{study.diversity[1]} gained")
    return Table(name, f"Diversity gained at equal {quality.words}", header, tuple(rows), about(study, shown_in(study)))
