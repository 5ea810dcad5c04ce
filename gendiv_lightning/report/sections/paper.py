"""The claims of the paper, compared with the measurements."""

from __future__ import annotations

from gendiv_lightning.analysis.paper_claims import PAPER, RULE, Finding, check_claims, command_for, run_of
from gendiv_lightning.report.context import Study, about, costs_in_words, qualities_in_words, share
from gendiv_lightning.report.document import Section, Table
from gendiv_lightning.runs.load import Family


def section(study: Study) -> Section:
    """The claims of the paper, compared with the measurements."""
    found = [(family, f) for family in study.families for f in check_claims(family, study.distance)]
    rows = tuple(
        (
            family.name,
            f.claim.words,
            f.claim.criterion,
            share(f.share) if f.share else "",
            f.outcome,
            _quality(study, family, f),
        )
        for family, f in found
    )
    missing = tuple(
        f"{family.name}, {f.claim.words}: {command_for(family, f.claim.needs)}"
        for family, f in found
        if f.outcome == "not measured"
    )
    header = ("generator", f"{PAPER} reports", "as a number", "measured", "outcome", "quality")
    notes = about(study, [setting for family in study.families for setting in family.settings])
    words = [
        f"{RULE} The paper's numbers were not available when this was written. The measurements are compared with its "
        "findings in words, and the thresholds are this project's."
    ]
    if study.is_toy:
        words.append("These are toys: agreement or contradiction describes the toys, not the models of the paper.")
    table = Table("claims", "Reported and measured", header, rows, notes)
    return Section("paper", "The paper's claims and the measurements", tuple(words), (table,), missing)


def _quality(study: Study, family: Family, finding: Finding) -> str:
    """Quality of the runs from which a claim was measured."""
    setting = run_of(family, finding.claim.needs)
    if setting is None or finding.share is None:
        return ""
    baseline = family.baseline_of(setting)
    if baseline is None:
        return qualities_in_words(setting, study)
    return costs_in_words(setting, baseline, study)
