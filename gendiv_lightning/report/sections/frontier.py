"""Diversity against quality, with the enhancement's points."""

from __future__ import annotations

from gendiv_lightning.analysis.paper_claims import PAPER, command_for, enhanced
from gendiv_lightning.report.charts import frontier
from gendiv_lightning.report.context import Study, about, comparable, shown_in
from gendiv_lightning.report.document import Figure, Section


def section(study: Study) -> Section:
    """Diversity against quality, with the enhancement's points."""
    title = "Diversity and its price"
    panels = [
        panel for quality in study.qualities for panel in frontier(study.families, comparable, study.diversity, quality)
    ]
    qualities = ", ".join(quality.words for quality in study.qualities)
    caption = (
        f"{study.diversity[1]} to the right, quality ({qualities}) better upwards: axes of distances are turned. The "
        f"line joins what no other setting beats in both; stars are the enhancement. {about(study, shown_in(study))}"
    )
    blocks = (Figure("frontier", tuple(panels), caption, len(study.families)),) if panels else ()
    missing = [
        f"{family.name}, {PAPER}'s enhancement: {command_for(family, 'the enhancement')}"
        for family in study.families
        if enhanced(family) is None
    ]
    if not study.qualities:
        missing.append("no quality is measured in all runs: put `clip_score` or `fid` among the metrics")
    return Section("frontier", title, (), blocks, tuple(missing))
