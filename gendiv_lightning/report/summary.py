"""The answer in words, derived from the numbers by rule, and the whole report."""

from __future__ import annotations

from collections.abc import Sequence

from tqdm import tqdm

from gendiv_lightning.analysis.effects import Interval, share_left, share_within
from gendiv_lightning.analysis.paper_claims import argmax_of, enhanced, find_profile, find_verdict, mixed_paraphrases
from gendiv_lightning.report.charts import source_bars
from gendiv_lightning.report.context import (
    Study,
    about,
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
NO_EXECUTION = "none, by construction"
TOY = (
    "Embedded toy models on 48-pixel postcards. These numbers show that the instrument works. They are never those of "
    "the real models, nor the paper's."
)


def write_report(study: Study) -> Report:
    """The report of a study."""
    made = [part.section(study) for part in tqdm(SECTIONS, desc="Report", unit="section", delay=2)]
    sections = (
        *(section._replace(missing=()) for section in made if section.blocks or section.paragraphs),
        *_missing(made),
    )
    answers = tuple(_answer_of(study, family) for family in study.families)
    warning = TOY if study.is_toy else ""
    return Report(TITLE, _answer(study), answers, _numbers(study), ANSWER_RULE, warning, sections)


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


def _answer(study: Study) -> str:
    """One sentence: generators by the source of their diversity."""
    groups: dict[str, list[str]] = {}
    for family in study.families:
        groups.setdefault(_source(study, family)[0], []).append(family.name)
    parts = [f"in {_listed(names)} {source}" for source, names in groups.items()]
    sentence = "; ".join(parts) + "."
    return sentence[0].upper() + sentence[1:]


def _source(study: Study, family: Family) -> tuple[str, str]:
    """The source of a family's diversity, as the end of a sentence and as a sentence, see `ANSWER_RULE`."""
    execution, path = sources_of(family)
    if not family.generator.has_execution:
        return f"from {path}", f"Its diversity comes from {path}."
    alone = _alone(study, family)
    if None in alone:
        return f"it is {UNKNOWN}", f"Where its diversity comes from is {UNKNOWN}."
    match tuple(_is_most(part) for part in alone if part is not None):
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
    return f"it is {UNDECIDED}", f"Where its diversity comes from is {UNDECIDED}."


def _is_most(part: Interval) -> bool | None:
    return True if part.low > 0.5 else False if part.high < 0.5 else None


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


def _answer_of(study: Study, family: Family) -> Answer:
    """Two sentences: the source, and what that makes of the model."""
    found = find_verdict(family, study.distance)
    if not family.generator.has_execution:
        then = "Its sampler adds no noise, so there is no execution noise by construction."
    elif found is not None:
        then = f"By the rule below it is {found.kind}."
    elif family.draws_tokens:
        then = "The verdict needs a decomposition, also under argmax and under a subset."
    else:
        then = "It draws no tokens, so the rule below, which needs a codebook, does not apply."
    draws, paths = _alone(study, family)
    chart = source_bars(share(draws), share(paths)) if draws and paths else ""
    return Answer(family.name, f"{_source(study, family)[1]} {then}", chart)


def _numbers(study: Study) -> Table | None:
    """The numbers behind the answers: a row per generator, each diversity with its first cost."""
    choices = (("argmax", argmax_of), ("paraphrases", mixed_paraphrases), ("enhancement", enhanced))
    shown = [(name, choose) for name, choose in choices if any(map(choose, study.families))]
    cost = study.qualities[0] if study.qualities else None
    header = ["generator", "execution alone", "path alone"]
    for name, _ in shown:
        header += [f"left, {name}", *([f"{cost.words}, {name}"] if cost else [])]
    rows: list[tuple[Cell, ...]] = []
    used: list[Setting] = []
    for family in study.families:
        draws, paths = _alone(study, family)
        row: list[Cell] = [family.name, share(draws) if draws else "", share(paths) if paths else ""]
        if not family.generator.has_execution:
            row[1:] = [NO_EXECUTION, "all, by construction"]
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
        found = find_verdict(family, study.distance)
        rows.append(
            (*row, found.kind if found else "", Number(found.certainty, digits=0, percent=True) if found else "")
        )
    if not used:
        return None
    notes = (
        f"Alone: share of the {study.diversity[1]} of one text that one source gives without the other. Left: share of "
        "the baseline's that is left under the probe, and beside it the change of a cost. Certainty: share of the "
        f"bootstrap resamples with this verdict. {_baselines(study)}{about(study, used)}"
    )
    title = f"The numbers behind the answers, by {study.diversity[1]}"
    return Table("answer", title, (*header, "verdict", "certainty"), tuple(rows), notes)


def _baselines(study: Study) -> str:
    numbers = [
        f"{family.name} {', '.join(measured(family.baseline, name).text for name, _ in study.numbers[:2])}"
        for family in study.families
        if family.baseline
    ]
    words = " and ".join(words for _, words in study.numbers[:2])
    return f"Baselines have {words} of {'; '.join(numbers)}. " if numbers else ""


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
