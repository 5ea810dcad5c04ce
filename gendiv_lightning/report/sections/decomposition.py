"""H_total = H_path + H_exec by each lens."""

from __future__ import annotations

from gendiv_lightning.analysis.lenses import find_lenses
from gendiv_lightning.analysis.paper_claims import command_for, find_profile
from gendiv_lightning.report.charts import decomposition_bars
from gendiv_lightning.report.context import Study, about, qualities_in_words
from gendiv_lightning.report.document import Cell, Figure, Section, Table, number


def section(study: Study) -> Section:
    """H_total = H_path + H_exec by each lens."""
    found = [(family, find_profile(family).plain) for family in study.families]
    there = [(family, plain) for family, plain in found if plain is not None]
    missing = [f"{f.name}: {command_for(f, 'decompose')}" for f, plain in found if plain is None]
    if not there:
        return Section("decomposition", "Path and execution", missing=tuple(missing))
    panels = decomposition_bars(there)
    used = [plain for _, plain in there]
    told = ", ".join(f"{family.name} {qualities_in_words(plain, study)}" for family, plain in there)
    caption = (
        "H_total split into execution (which token), the sampler's path (which positions change when) and the "
        "wording's path, as shares of each lens's total: A token marginals, B whole sequences, C distances. Shares "
        f"estimated as negative are drawn as none. Quality of these samples: {told}. {about(study, used)}"
    )
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (family.name, lens.title, lens.unit, *[number(plain.estimates.get(part)) for part in lens[2:]])
        for family, plain in there
        for lens in find_lenses(plain.estimates)
    )
    header = ("generator", "lens", "unit", "H_total", "H_exec", "H_path, sampler", "H_path, wording")
    table = Table("decomposition", "H_total = H_exec + H_path", header, rows, about(study, used))
    return Section(
        "decomposition", "Path and execution", (), (Figure("decomposition", panels, caption), table), tuple(missing)
    )
