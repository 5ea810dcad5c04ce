"""When is the picture decided? The curves of `Branch`."""

from __future__ import annotations

from gendiv_lightning.analysis.branch import Decided, branch_curve, decided_at
from gendiv_lightning.report.charts import branch_curves
from gendiv_lightning.report.context import Study, about
from gendiv_lightning.report.document import Cell, Figure, Section, Table
from gendiv_lightning.runs.load import Family, Setting

TITLE = "When is the picture decided?"


def branches_of(family: Family) -> dict[int, Setting]:
    """The family's runs of `Branch` alone, by step."""
    return {int(setting.probes[0]["step"]): setting for setting in family.settings if setting.has("Branch")}


def section(study: Study) -> Section:
    """The share of the diversity that is decided by each step; empty without runs of `Branch`."""
    found = {family.name: branches_of(family) for family in study.families}
    found = {name: runs for name, runs in found.items() if 0 in runs and len(runs) > 1}
    if not found:
        return Section("branch", TITLE)
    name, words = study.diversity
    curves = {
        family: branch_curve({step: setting.columns[name] for step, setting in runs.items()})
        for family, runs in found.items()
    }
    used = [setting for runs in found.values() for setting in runs.values()]
    caption = (
        f"share(t) = 1 - E(t) / D by {words}: D is the mean distance of independent samples, E(t) that of samples that "
        f"share all noise until step t. Intervals are bootstrapped over prompts. {about(study, used)}"
    )
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (family, str(point.step), _share(point)) for family, points in curves.items() for point in points
    )
    told = tuple(_half(family, points) for family, points in curves.items())
    table = Table("branch", TITLE, ("generator", "step", "decided"), rows, about(study, used))
    return Section("branch", TITLE, told, (Figure("branch", (branch_curves(curves),), caption), table))


def _share(point: Decided) -> str:
    return f"{100 * point.share:.1f} % [{100 * point.low:.1f}, {100 * point.high:.1f}]"


def _half(family: str, points: list[Decided]) -> str:
    half = decided_at(points)
    if half != half:
        return f"{family}: half of the diversity is not decided within steps {points[0].step} to {points[-1].step}."
    return f"{family}: half of the diversity is decided by step {half:.1f}."
