"""H_total = H_path + H_exec by each decomposition."""

from __future__ import annotations

from gendiv_lightning.analysis.lenses import find_lenses
from gendiv_lightning.analysis.paper_claims import command_for, find_profile
from gendiv_lightning.report.charts import decomposition_bars
from gendiv_lightning.report.context import Study, about, listed, qualities_in_words
from gendiv_lightning.report.document import Cell, Figure, Section, Table, number
from gendiv_lightning.runs.load import Family


def section(study: Study) -> Section:
    """H_total = H_path + H_exec by each decomposition."""
    found = [(family, find_profile(family).plain) for family in study.families]
    there = [(family, plain) for family, plain in found if plain is not None]
    missing = [
        f"{f.name}: {command_for(f, 'decompose')}" for f, plain in found if plain is None and f.generator.has_execution
    ]
    if not there:
        return Section("decomposition", "Path and execution", missing=tuple(missing))
    panels = decomposition_bars(there)
    used = [plain for _, plain in there]
    qualities = "; ".join(f"{family.name} {qualities_in_words(plain, study)}" for family, plain in there)
    caption = (
        "H_total split into execution (which token, or the noise of the steps), the sampler's path (which positions "
        "change when, or the initial noise) and the paraphrase, as shares of each total: A token marginals, B whole "
        "sequences, C perceptual distances, K kernels. Shares that are estimated as negative are drawn as none. "
        f"Quality of these samples: {qualities}. {about(study, used)}"
    )
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (family.name, lens.title, lens.unit, *[number(plain.estimates.get(part)) for part in lens[2:]])
        for family, plain in there
        for lens in find_lenses(plain.estimates)
    )
    header = ("generator", "lens", "unit", "H_total", "H_exec", "H_path, sampler", "H_path, paraphrase")
    table = Table("decomposition", "H_total = H_exec + H_path", header, rows, about(study, used))
    names: dict[str, list[str]] = {}
    for family in study.families:
        names.setdefault(_chance(family), []).append(family.name)
    chances = tuple(f"{listed(alike)}: {words}." for words, alike in names.items() if words)
    return Section(
        "decomposition",
        "Path and execution",
        chances,
        (Figure("decomposition", panels, caption), table),
        tuple(missing),
    )


def _chance(family: Family) -> str:
    """The random decisions of a family by its own description; empty for runs of version 0.1, which have none."""
    chance = family.generator.chance
    if not chance:
        return ""
    path, execution = chance.get("path"), chance.get("execution")
    execution = f"execution is {execution}" if execution else "no execution noise by construction"
    return f"path is {path or 'nothing, by construction'}; {execution}"
