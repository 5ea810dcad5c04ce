"""How often codebook entries are used, by rank."""

from __future__ import annotations

from gendiv_lightning.analysis.paper_claims import arm_of, quarter_of
from gendiv_lightning.report.charts import rank_frequency
from gendiv_lightning.report.context import Study, about, baselines_in_words, comparable, with_tokens
from gendiv_lightning.report.document import Figure, Section
from gendiv_lightning.runs.load import Family, Setting


def section(study: Study) -> Section:
    """How often entries are used, by rank, for the families with tokens."""
    title = "How the codebook is used"
    if not with_tokens(study).families:
        return Section("codebook", title)
    study = with_tokens(study)

    def shown(family: Family) -> list[Setting]:
        subset = quarter_of(family)
        return [s for s in comparable(family) if not s.probes or arm_of(s) == "argmax" or s is subset]

    used = [setting for family in study.families for setting in shown(family)]
    if not used:
        return Section("codebook", title, missing=("a baseline of each generator",))
    caption = (
        "Share of all sampled tokens by the rank of the codebook entry. Dotted: every entry equally often. "
        f"{baselines_in_words(study)} {about(study, used)}"
    )
    panels = rank_frequency(study.families, shown)
    return Section("codebook", title, (), (Figure("rank-frequency", panels, caption),))
