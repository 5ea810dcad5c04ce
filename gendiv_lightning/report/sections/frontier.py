"""Diversity against quality, including the enhancement."""

from __future__ import annotations

from gendiv_lightning.analysis.paper_claims import PAPER, command_for, enhanced
from gendiv_lightning.report.charts import arms_key, frontier
from gendiv_lightning.report.context import Study, about, comparable, shown_in, with_settings
from gendiv_lightning.report.document import Figure, Section


def section(study: Study) -> Section:
    """Diversity against quality, including the enhancement."""
    title, shown = "Diversity against quality", with_settings(study).families
    panels = [panel for quality in study.qualities for panel in frontier(shown, comparable, study.diversity, quality)]
    qualities = ", ".join(quality.words for quality in study.qualities)
    caption = (
        f"{study.diversity[1]} to the right, better quality ({qualities}) upwards: axes of distances are reversed. The "
        f"line joins the settings that no other setting beats in both. {about(study, shown_in(study))}"
    )
    blocks = (Figure("frontier", tuple(panels), caption, len(shown), arms_key(shown_in(study))),) if panels else ()
    missing = [
        f"{family.name}, {PAPER}'s enhancement: {command_for(family, 'the enhancement')}"
        for family in study.families
        if enhanced(family) is None and family.draws_tokens
    ]
    if not study.qualities:
        missing.append("a quality in all runs: add `clip_score` or `fid` to the metrics")
    return Section("frontier", title, (), blocks, tuple(missing))
