"""The answer in words, derived from the numbers by rule."""

from __future__ import annotations

from tqdm import tqdm

from gendiv_lightning.analysis.effects import Interval, share_left, share_within
from gendiv_lightning.analysis.paper_claims import argmax_of, enhanced, find_profile, find_verdict, mixed_paraphrases
from gendiv_lightning.report.context import Study, measured, moved, share
from gendiv_lightning.report.document import Report
from gendiv_lightning.report.sections import (
    branch,
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
SECTIONS = (samples, verdict, profile, decomposition, effects, branch, subset, frontier, plane, codebook, paper, runs)
ANSWER_RULE = (
    "How the sentence above is made: token draws give most of it alone if two samples on one path are more than half "
    "as far apart as two of one wording; paths give most of it alone if argmax, which switches the draws off, leaves "
    "more than half. The whole 95 % interval must lie on one side."
)
ANSWERS = {  # by whether draws, and paths, give most of it alone
    (True, False): "from the token draws",
    (False, True): "from the path",
    (True, True): "from either, the token draws or the path: each alone gives most of it",
    (False, False): "from token draws and path together: neither alone gives most of it",
}
UNDECIDED, UNKNOWN = "it is undecided: an interval holds one half", "it is not measured yet"
TOY = (
    "Embedded toy models on 48-pixel postcards. These numbers show that the instrument works. They are never those of "
    "the real models, nor the paper's."
)


def write_report(study: Study) -> Report:
    """The report of a study."""
    summary = tuple(_about(study, family) for family in study.families)
    made = [part.section(study) for part in tqdm(SECTIONS, desc="Report", unit="section", delay=2)]
    sections = tuple(section for section in made if section.paragraphs or section.blocks or section.missing)
    whole = tuple(part for part in sections if part.blocks or part.paragraphs or part.missing)
    return Report(TITLE, _answer(study), ANSWER_RULE, summary, TOY if study.is_toy else "", whole)


def _answer(study: Study) -> str:
    """One sentence: generators by the source of their diversity."""
    groups: dict[str, list[str]] = {}
    for family in study.families:
        groups.setdefault(_source(study, family), []).append(family.name)
    told = [f"in {_listed(names)} {source}" for source, names in groups.items()]
    sentence = "; ".join(told) + "."
    return sentence[0].upper() + sentence[1:]


def _source(study: Study, family: Family) -> str:
    """See `ANSWER_RULE`."""
    draws, paths = _alone(study, family)
    if draws is None or paths is None:
        return UNKNOWN
    sides = [_is_most(part) for part in (draws, paths)]
    return UNDECIDED if None in sides else ANSWERS[bool(sides[0]), bool(sides[1])]


def _is_most(part: Interval) -> bool | None:
    return True if part.low > 0.5 else False if part.high < 0.5 else None


def _alone(study: Study, family: Family) -> tuple[Interval | None, Interval | None]:
    """What token draws, and what paths, give of the diversity of one wording without the other."""
    plain, argmax, _ = find_profile(family)
    within = f"{study.distance}/within"
    draws = None if plain is None else share_within(plain, f"{study.distance}/exec", within)
    if plain is not None and argmax is not None:
        return draws, share_left(argmax, plain, within)
    alone = argmax_of(family)
    baseline = family.baseline_of(alone) if alone else None
    return draws, share_left(alone, baseline, study.distance) if alone and baseline else None


def _about(study: Study, family: Family) -> tuple[str, str]:
    """The generator, and what the probes do to it, each diversity with its cost."""
    told = []
    argmax = argmax_of(family)
    draws, paths = _alone(study, family)
    if draws is not None and paths is not None:
        told.append(
            f"Of the {study.diversity[1]} of one wording, token draws alone give {share(draws)}, "
            f"paths alone {share(paths)}."
        )
    for setting, action in (
        (argmax, f"{argmax.short.capitalize()} leaves" if argmax else ""),
        (mixed_paraphrases(family), "Several wordings bring it to"),
        (enhanced(family), "Dropping the most frequent entries, with mixed paraphrases, brings it to"),
    ):
        baseline = family.baseline_of(setting) if setting is not None else None
        if setting is not None and baseline is not None:
            left = share(share_left(setting, baseline, study.distance))
            told.append(f"{action} {left} of the baseline's; {_first_cost(study, setting, baseline)}.")
    found = find_verdict(family, study.distance)
    if found is not None:
        told.append(f"The rule says: {found.kind} ({100 * found.certainty:.0f} % of the resamples).")
    return family.name, " ".join(told) or "No probe was run beside the baseline."


def _first_cost(study: Study, setting: Setting, baseline: Setting) -> str:
    if not study.qualities:
        return "no quality was measured"
    name, words, _ = study.qualities[0]
    before, after = (measured(s, name).text for s in (baseline, setting))
    return f"{words} {before} becomes {after} ({moved(setting, baseline, name)})"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
