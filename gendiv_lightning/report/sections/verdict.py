"""The kind of each model: the rule, and the shares that decide it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gendiv_lightning.analysis.effects import share_left, share_within
from gendiv_lightning.analysis.paper_claims import NO_TOKENS, command_for, find_profile, find_verdict
from gendiv_lightning.analysis.verdict import RULE
from gendiv_lightning.report.context import Study, about, listed, moved, share
from gendiv_lightning.report.document import Cell, Number, Section, Table
from gendiv_lightning.runs.load import Family, Setting


def section(study: Study) -> Section:
    """The kind of each model by the printed rule, with the shares that decide it."""
    name, words = study.diversity
    rows: list[tuple[Cell, ...]] = []
    missing: list[str] = []
    used: list[Setting] = []
    for family in study.families:
        if not family.draws_tokens:
            continue
        plain, argmax, subset = find_profile(family)
        runs = {"decompose": plain, "decompose under argmax": argmax, "decompose under subset": subset}
        missing += [f"{family.name}: {command_for(family, run)}" for run, setting in runs.items() if setting is None]
        found = find_verdict(family, name)
        if found is None or plain is None or argmax is None or subset is None:
            continue
        used += [plain, argmax, subset]
        within = f"{name}/within"
        rows.append(
            (
                family.name,
                found.kind,
                Number(found.certainty, digits=0, percent=True),
                share(share_left(argmax, plain, within)),
                share(share_left(subset, plain, within)),
                share(share_within(plain, f"{name}/sampler_path", within)),
                Number(found.shares[3], digits=0, percent=True),
                *[moved(argmax, plain, quality.name) for quality in study.qualities],
            )
        )
    costs = [f"{quality.words}, change under argmax" for quality in study.qualities]
    header = ("generator", "verdict", "certainty", "left under argmax", "left under subset", "sampler path")
    table = Table(
        "verdicts",
        f"What kind of model is it? By {words} of two samples of one text",
        (*header, "perplexity / K", *costs),
        tuple(rows),
        about(study, used) if used else "",
    )
    without = [family for family in study.families if not family.draws_tokens]
    paragraphs = (RULE, *_no_verdict(without)) if rows or without else ()
    return Section("verdicts", "The verdict, and the rule", paragraphs, (table,) if rows else (), tuple(missing))


def _no_verdict(families: Sequence[Family]) -> Iterator[str]:
    """Why the rule does not apply to generators without tokens."""
    if len(families) == 1:
        yield f"{NO_TOKENS.format(families[0].name)} The rule needs a codebook."
    elif families:
        names = listed([family.name for family in families])
        yield f"The rule needs a codebook, and these generators have continuous latents instead of tokens: {names}."
    ode = [family.name for family in families if not family.generator.has_execution]
    if ode:
        yield f"No execution noise by construction: {listed(ode)}."
