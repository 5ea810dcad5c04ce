"""When is the picture decided? The share of the diversity that is fixed by each step."""

from __future__ import annotations

from gendiv_lightning.analysis.branch import Decided, branch_curve, branches_of, decided_at
from gendiv_lightning.report.charts import branch_curves
from gendiv_lightning.report.context import Study, about
from gendiv_lightning.report.document import Cell, Figure, Number, Section, Table
from gendiv_lightning.runs.load import Family

TITLE = "When is the picture decided?"


def section(study: Study) -> Section:
    """The share of the diversity that is decided by each step; empty without runs that branch."""
    found = {family.name: branches_of(family) for family in study.families}
    found = {name: runs for name, runs in found.items() if runs}
    if not found:
        return Section("branch", TITLE)
    name, words = study.diversity
    curves = {
        family: branch_curve({step: setting.columns[name] for step, setting in runs.items()})
        for family, runs in found.items()
    }
    used = [setting for runs in found.values() for setting in runs.values()]
    caption = (
        f"share(t) = 1 \u2212 E(t) / D by {words}. D is the mean distance of independent samples, E(t) that of samples "
        f"that share all noise until step t. Intervals are bootstrapped over prompts. {about(study, used)}"
    )
    steps = sorted({point.step for points in curves.values() for point in points})
    decided = {(name, point.step): point for name, points in curves.items() for point in points}
    rows = tuple((str(step), *(_cell(decided.get((name, step))) for name in curves)) for step in steps)
    table = Table("branch", "Decided by each step", ("step", *curves), rows, about(study, used))
    halves = " ".join(_half(family, points) for family, points in curves.items())
    units = (
        "Steps depend on the family: tokens of an autoregressive model, steps of the loop of a masked or discrete "
        "diffusion model, the initial noise followed by the steps of a continuous sampler."
    )
    steps_in_words = ",".join(map(str, steps))
    missing = tuple(
        f"{family.name}: `gendiv branch {_config_of(family)} --steps {steps_in_words}`"
        for family in study.families
        if family.name not in curves
    )
    figure = Figure("branch", (branch_curves(curves),), caption)
    return Section("branch", TITLE, (halves, units), (figure, table), missing)


def _config_of(family: Family) -> str:
    """The config of the family's baseline; a placeholder where none is shipped."""
    folder = "configs/tiny" if family.identity.get("embedded") else "configs"
    return f"{folder}/{family.generator.config}.yaml" if family.generator.config else "CONFIG"


def _cell(point: Decided | None) -> Cell:
    return "" if point is None else Number(*point[1:], digits=1, percent=True)


def _half(family: str, points: list[Decided]) -> str:
    half = decided_at(points)
    if half != half:
        return f"{family} does not decide half of the diversity within steps {points[0].step} to {points[-1].step}."
    return f"{family} has decided half of the diversity by step {half:.1f}."
