"""The answer in words, derived from the numbers by rule, and the whole report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from tqdm import tqdm

from gendiv_lightning.analysis.effects import Interval, share_left, share_within
from gendiv_lightning.analysis.paper_claims import argmax_of, enhanced, find_profile, find_verdict, mixed_paraphrases
from gendiv_lightning.analysis.verdict import Verdict
from gendiv_lightning.report.charts import source_bars
from gendiv_lightning.report.context import (
    Study,
    about,
    listed,
    measured,
    moved,
    share,
    sources_of,
)
from gendiv_lightning.report.document import Answer, Cell, Number, Report, Section, Table
from gendiv_lightning.report.sections import (
    branch,
    browse,
    codebook,
    decomposition,
    drift,
    effects,
    frontier,
    paper,
    plane,
    profile,
    runs,
    samples,
    subset,
    verdict,
)
from gendiv_lightning.runs.load import Family, Setting

TITLE = "Where does the diversity come from?"
SECTIONS = (
    samples,
    verdict,
    profile,
    decomposition,
    effects,
    branch,
    subset,
    drift,
    frontier,
    plane,
    codebook,
    paper,
    browse,
    runs,
)
ANSWER_RULE = (
    "How the answers are made: execution (the token draws, or the noise of the sampling steps) gives most of the "
    "diversity alone if two samples on one path are more than half as far apart as two samples of one text. The path "
    "gives most of it alone if argmax, which switches execution off, leaves more than half. The whole 95 % interval "
    "must lie on one side."
)
UNDECIDED, UNKNOWN = "undecided: an interval includes one half", "not measured yet"
WITHOUT_INTERVAL = "undecided: there are too few prompts for an interval"
TOY = (
    "Embedded toy models on 48-pixel postcards. These numbers show that the instrument works. They are never those of "
    "the real models, nor the paper's."
)


class _Case(NamedTuple):
    """What answers the question for a family.

    Attributes:
        family: the family.
        execution: share of the diversity of one text that execution gives without the path; None if not measured.
        path: the same of the path without execution.
        verdict: by the rule; None if not measured.
    """

    family: Family
    execution: Interval | None
    path: Interval | None
    verdict: Verdict | None


def write_report(study: Study) -> Report:
    """The report of a study."""
    made = [part.section(study) for part in tqdm(SECTIONS, desc="Report", unit="section", delay=2)]
    sections = (*(section._replace(missing=()) for section in made if section.blocks or section.paragraphs),)
    cases = [_Case(family, *_alone(study, family), find_verdict(family, study.distance)) for family in study.families]
    answers, warning = tuple(map(_answer_of, cases)), TOY if study.is_toy else ""
    numbers = _numbers(study, cases)
    return Report(TITLE, _answer(cases), answers, numbers, ANSWER_RULE, warning, (*sections, *_missing(made)))


def _missing(sections: Sequence[Section]) -> tuple[Section, ...]:
    """What no run shows yet, of all sections, each command once."""
    missing: dict[str, list[str]] = {}
    for section in sections:
        for words in section.missing:
            missing.setdefault(words, []).append(section.title)
    if not missing:
        return ()
    lines = tuple(f"{words} ({', '.join(titles)})" for words, titles in sorted(missing.items()))
    return (Section("missing", "What is not measured yet", (), (), lines),)


def _alone(study: Study, family: Family) -> tuple[Interval | None, Interval | None]:
    """What execution, and what the path, gives of the diversity of one text without the other."""
    if not family.generator.has_execution:
        return Interval(0.0), Interval(1.0)
    plain, argmax, _ = find_profile(family)
    within = f"{study.distance}/within"
    draws = None if plain is None else share_within(plain, f"{study.distance}/exec", within)
    if plain is not None and argmax is not None:
        return draws, share_left(argmax, plain, within)
    alone = argmax_of(family)
    baseline = family.baseline_of(alone) if alone else None
    return draws, share_left(alone, baseline, study.distance) if alone and baseline else None


def _answer(cases: Sequence[_Case]) -> str:
    """One sentence: generators by the source of their diversity."""
    groups: dict[str, list[str]] = {}
    for case in cases:
        groups.setdefault(_source(case)[0], []).append(case.family.name)
    parts = [f"in {listed(names)} {source}" for source, names in groups.items()]
    sentence = "; ".join(parts) + "."
    return sentence[0].upper() + sentence[1:]


def _source(case: _Case) -> tuple[str, str]:
    """The source of a family's diversity, as the end of a sentence and as a sentence, see `ANSWER_RULE`."""
    execution, path = sources_of(case.family)
    if not case.family.generator.has_execution:
        return f"from {path}", f"Its diversity comes from {path}."
    if case.execution is None or case.path is None or math.isnan(case.execution.value + case.path.value):
        return f"it is {UNKNOWN}", f"Where its diversity comes from is {UNKNOWN}."
    match _is_most(case.execution), _is_most(case.path):
        case (True, False):
            return f"from {execution}", f"Its diversity comes from {execution}."
        case (False, True):
            return f"from {path}", f"Its diversity comes from {path}."
        case (True, True):
            return (
                f"from either, {execution} or {path}: each alone gives most of it",
                f"Either source alone gives most of its diversity: {execution} or {path}.",
            )
        case (False, False):
            return (
                f"from {execution} and {path} together: neither alone gives most of it",
                f"Its diversity takes both {execution} and {path}: neither alone gives most of it.",
            )
    undecided = WITHOUT_INTERVAL if math.isnan(case.execution.low + case.path.low) else UNDECIDED
    return f"it is {undecided}", f"Where its diversity comes from is {undecided}."


def _is_most(part: Interval) -> bool | None:
    return True if part.low > 0.5 else False if part.high < 0.5 else None


def _answer_of(case: _Case) -> Answer:
    """Two sentences: the source, and what that makes of the model."""
    if not case.family.generator.has_execution:
        then = "Its sampler adds no noise, so there is no execution noise by construction."
    elif case.verdict is not None:
        then = f"By the rule below it is {case.verdict.kind}."
    elif case.family.draws_tokens:
        then = "The verdict needs a decomposition, also under argmax and under a subset."
    else:
        then = "It draws no tokens, so the rule below, which needs a codebook, does not apply."
    known = case.execution is not None and case.path is not None
    chart = source_bars(_share(case.execution), _share(case.path)) if known else ""
    return Answer(case.family.name, f"{_source(case)[1]} {then}", chart)


def _share(part: Interval | None) -> Number:
    return share(part or Interval(math.nan))


def _numbers(study: Study, cases: Sequence[_Case]) -> Table | None:
    """The numbers behind the answers: a row per generator, each diversity with its first cost."""
    choices = (("argmax", argmax_of), ("paraphrases", mixed_paraphrases), ("enhancement", enhanced))
    shown = [(name, choose) for name, choose in choices if any(map(choose, study.families))]
    cost = study.qualities[0] if study.qualities else None
    header = ["generator", "execution alone", "path alone"]
    for name, _ in shown:
        header += [f"left, {name}", *([f"{cost.words}, {name}"] if cost else [])]
    rows: list[tuple[Cell, ...]] = []
    used: list[Setting] = []
    for family, execution, path, found in cases:
        row: list[Cell] = [family.name, share(execution) if execution else "", share(path) if path else ""]
        if not family.generator.has_execution:
            row[1:] = ["none, by construction", "all, by construction"]
        used += [setting for setting in find_profile(family)[:2] if setting]
        for _, choose in shown:
            setting = choose(family)
            baseline = family.baseline_of(setting) if setting else None
            used += [each for each in (baseline, setting) if each]
            if setting is None or baseline is None:
                row += ["", *([""] if cost else [])]
                continue
            row.append(share(share_left(setting, baseline, study.distance)))
            row += [moved(setting, baseline, cost.name)] if cost else []
        row += [found.kind, Number(found.certainty, digits=0, percent=True)] if found else ["", ""]
        rows.append(tuple(row))
    if not used:
        return None
    notes = (
        f"Alone: share of the {study.diversity[1]} of one text that one source gives without the other. Left: share of "
        "the baseline's that is left under the probe, and beside it the change of a cost. Certainty: share of the "
        f"bootstrap resamples with this verdict. {_baselines(study)}{about(study, used)}"
    )
    title = f"The numbers behind the answers, by {study.diversity[1]}"
    table = Table("answer", title, (*header, "verdict", "certainty"), tuple(rows), notes)
    return table.without_empty_columns()


def _baselines(study: Study) -> str:
    numbers = [
        f"{family.name} {', '.join(measured(family.baseline, name).text for name, _ in study.numbers[:2])}"
        for family in study.families
        if family.baseline
    ]
    words = " and ".join(words for _, words in study.numbers[:2])
    return f"Baselines have {words} of {'; '.join(numbers)}. " if numbers else ""
