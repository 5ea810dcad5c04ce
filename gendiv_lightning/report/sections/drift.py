"""What do the pictures show? Confusion of concepts under a probe, from the files of `gendiv drift`."""

from __future__ import annotations

import math
from typing import NamedTuple

from gendiv_lightning.analysis.drift import TOLERANCE, AttributeDrift, Entropies
from gendiv_lightning.analysis.drift_file import DriftFile
from gendiv_lightning.analysis.effects import Interval
from gendiv_lightning.console.drift import largest_flows
from gendiv_lightning.report.charts import confusion_maps
from gendiv_lightning.report.context import Study, about
from gendiv_lightning.report.document import Cell, Figure, Number, Section, Table
from gendiv_lightning.runs.load import Family, Setting

TITLE = "What do the pictures show?"
NUM_FLOWS = 5  # per generator
RULE = (
    "A scorer reads from the images what their prompts state. Fidelity is the probability of the stated value, drift "
    "the fidelity that a probe loses against its baseline, both paired by prompt. Beyond noise is the fidelity lost "
    "against a control: a run without the probe, at a temperature of equal token entropy."
)
BLEEDING = "Bleeding is the share of the lost mass that a single other value gains; n/a where no drift is certain."
FLOWS = "Where the lost mass goes, by the mass moved: the gain of a value times the prompts that state another one."


class _Shown(NamedTuple):
    """A file of `gendiv drift`, with the setting of its probe."""

    family: Family
    setting: Setting
    file: DriftFile


def section(study: Study) -> Section:
    """Drift of all files, and the matrices of the largest drift of each generator; empty without files."""
    settings = {
        run.label.fingerprint: (family, setting)
        for family in study.families
        for setting in family.settings
        for run in setting.runs
    }
    everything = [_Shown(*settings[file.runs["probe"]], file) for file in study.drifts]
    if not everything:
        return Section("drift", TITLE)
    everything.sort(key=lambda shown: (study.families.index(shown.family), _order(shown)))
    largest: dict[str, _Shown] = {}
    for shown in everything:
        before = largest.setdefault(shown.family.name, shown)
        if shown.file.drift.overall.drift.value > before.file.drift.overall.drift.value:
            largest[shown.family.name] = shown
    used = [settings[run][1] for shown in everything for run in shown.file.runs.values()]
    notes = about(study, used)
    words = (RULE, *map(_words, largest.values()))
    figures = tuple(_figure(shown, number, study) for number, shown in enumerate(largest.values(), 1))
    tables = (_overview(everything, notes), *_details(list(largest.values()), notes))
    return Section("drift", TITLE, words, (*figures, *tables))


def _order(shown: _Shown) -> tuple[int, str]:
    return shown.family.settings.index(shown.setting), shown.file.scorer


def _words(shown: _Shown) -> str:
    """The drift of a file in two sentences."""
    found, entropies = shown.file.drift.overall, shown.file.drift.entropies
    before, after = (_share(found.fidelity[run]).text for run in ("baseline", "probe"))
    sentence = (
        f"{shown.family.name}, {shown.setting.name}: images show what the prompt states with a probability of {after}, "
        f"by {shown.file.scorer}, and of {before} without the probe. The drift is {_share(found.drift)}."
    )
    if math.isnan(found.beyond.value):
        advice = " Compare it with noise: `gendiv drift --control`." if entropies else ""
        return f"{sentence}{advice}"
    if entropies and not entropies.is_matched:
        caution = f" Their token entropies differ by more than {100 * TOLERANCE:g} %, so noise is not isolated."
    else:
        caution = ""
    outcome = "more" if found.beyond.low > 0 else "less" if found.beyond.high < 0 else "not detectably more"
    loss = _share(found.beyond, is_change=True)
    return f"{sentence} It is {outcome} than under the control of equal token entropy: {loss}.{caution}"


def _figure(shown: _Shown, number: int, study: Study) -> Figure:
    """The matrices of the attribute that drifts most."""
    found = max(shown.file.drift.attributes, key=lambda each: each.drift.value)
    caption = (
        f"{shown.family.name}, {shown.setting.name}, {found.name}: probability in percent of each seen value (columns) "
        f"by stated value (rows), read by {shown.file.scorer}. {found.num_prompts} prompts state a value; it is the "
        f"attribute with the largest drift. {about(study, [shown.setting])}"
    )
    return Figure(f"drift-{number}", confusion_maps(found.values, found.matrices), caption)


def _overview(everything: list[_Shown], notes: str) -> Table:
    """A row per file, over all attributes."""
    header = ("generator", "probe", "scorer", "baseline shows", "probe shows", "control shows", "drift", "beyond noise")
    entropies = ("bits per token, probe", "bits per token, control")
    rows = tuple(
        (
            shown.family.name,
            shown.setting.short,
            shown.file.scorer,
            *(_fidelity(shown.file.drift.overall, run) for run in ("baseline", "probe", "control")),
            *_losses(shown.file.drift.overall),
            *(_bits(shown.file.drift.entropies, run) for run in ("probe", "control")),
        )
        for shown in everything
    )
    table = Table("drift", "Stated values shown, over all attributes", (*header, *entropies), rows, notes)
    return table.without_empty_columns()


def _details(largest: list[_Shown], notes: str) -> tuple[Table, ...]:
    """The attributes, and the largest flows, of the largest drift of each generator."""
    attributes: list[tuple[Cell, ...]] = []
    flows: list[tuple[Cell, ...]] = []
    for shown in largest:
        setting = f"{shown.family.name}, {shown.setting.short}"
        for found in shown.file.drift.attributes:
            shares = (_fidelity(found, run) for run in ("baseline", "probe", "control"))
            bleeding = _share(found.bleeding) if math.isfinite(found.bleeding.value) else "n/a"
            attributes.append((setting, found.name, *shares, *_losses(found), bleeding, str(found.num_prompts)))
        for name, flow in largest_flows(shown.file.drift, NUM_FLOWS):
            control = "" if math.isnan(flow.control) else _share(Interval(flow.control), is_change=True)
            moved = f"{name}: {flow.stated} \u2192 {flow.seen}"
            flows.append((setting, moved, _share(flow.gain, is_change=True), control, str(flow.num_prompts)))
    shows = ("setting", "attribute", "baseline shows", "probe shows", "control shows", "drift", "beyond noise")
    header, title = (*shows, "bleeding", "prompts"), "Drift by attribute"
    tables = [Table("drift-attributes", title, header, tuple(attributes), f"{BLEEDING} {notes}")]
    if flows:
        moves, title = ("setting", "stated \u2192 seen", "gain, probe", "gain, control", "prompts"), "The largest flows"
        tables.append(Table("drift-flows", title, moves, tuple(flows), f"{FLOWS} {notes}"))
    return tuple(table.without_empty_columns() for table in tables)


def _fidelity(found: AttributeDrift, run: str) -> Cell:
    return _share(found.fidelity[run]) if run in found.fidelity else ""


def _losses(found: AttributeDrift) -> tuple[Cell, Cell]:
    beyond = "" if math.isnan(found.beyond.value) else _share(found.beyond, is_change=True)
    return _share(found.drift, is_change=True), beyond


def _bits(found: Entropies | None, run: str) -> Cell:
    return Number(*found.by_run[run], digits=2) if found and run in found.by_run else ""


def _share(interval: Interval, *, is_change: bool = False) -> Number:
    return Number(*interval, digits=1, percent=True, is_change=is_change)
