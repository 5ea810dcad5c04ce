"""The sections of tables: the verdict, the profile, the paper's findings, the runs."""

from __future__ import annotations

import torch

from gendiv_lightning.analysis import paper_claims as claims
from gendiv_lightning.analysis.effects import find_profile, find_verdict, p_value, quarter_of, share_left, share_within
from gendiv_lightning.analysis.verdict import RULE
from gendiv_lightning.functional.comparison import holm
from gendiv_lightning.report.context import (
    Study,
    about,
    comparable,
    costs_in_words,
    measured,
    moved,
    qualities_in_words,
)
from gendiv_lightning.report.document import Cell, Number, Section, Table, number
from gendiv_lightning.report.missing_runs import command_for
from gendiv_lightning.runs.load import Family, Setting

UP, DOWN = "\u2191", "\u2193"


def verdicts(study: Study) -> Section:
    """What kind of model each is, by the printed rule, with the shares that decide it."""
    name, words = study.diversity
    rows: list[tuple[Cell, ...]] = []
    missing, used = [], []
    for family in study.families:
        plain, argmax, subset = find_profile(family)
        wanted = {"decompose": plain, "decompose under argmax": argmax, "decompose under subset": subset}
        lacking = [command_for(family.identity, run) for run, setting in wanted.items() if setting is None]
        missing += [f"{family.name}: {' and '.join(lacking)}"] if lacking else []
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
                share_left(argmax, plain, within),
                share_left(subset, plain, within),
                share_within(plain, f"{name}/sampler_path", within),
                Number(found.shares[3], digits=0, percent=True),
                *[moved(argmax, plain, quality.name) for quality in study.qualities],
            )
        )
    costs = [f"{quality.words}, change under argmax" for quality in study.qualities]
    header = ("generator", "verdict", "certainty", "left under argmax", "left under subset", "sampler path")
    table = Table(
        "verdicts",
        f"What kind of model is it? By {words} of two samples in one wording",
        (*header, "perplexity / K", *costs),
        tuple(rows),
        about(study, used) if used else "",
    )
    return Section("verdicts", "The verdict, and the rule", (RULE,), (table,) if rows else (), tuple(missing))


def profile(study: Study) -> Section:
    """The table of each generator: diversity with its paired difference, and its costs."""
    tables = tuple(_profile_table(study, family, place) for place, family in enumerate(study.families))
    missing = [f"{f.name}: {command_for(f.identity, 'baseline')}" for f in study.families if f.baseline is None]
    words = (
        "Each number with its 95 % interval over prompts. Differences to the baseline are paired by prompt, and by "
        "noise where the wording is the same; p-values are of sign flips, Holm-corrected over the table. Broken "
        "samples look diverse, too: read each diversity with the costs to its right."
    )
    return Section("profile", "The profile", (words,), tables, tuple(missing))


def _profile_table(study: Study, family: Family, place: int) -> Table:
    (name, words), settings = study.diversity, comparable(family)
    baselines = [family.baseline_of(setting) for setting in settings]
    p_values = [p_value(s, b, name) for s, b in zip(settings, baselines, strict=True) if b is not None]
    corrected = iter(holm(torch.tensor(p_values)).tolist())
    rows: list[tuple[Cell, ...]] = []
    for setting, baseline in zip(settings, baselines, strict=True):
        numbers: list[Cell] = []
        for each, _ in study.numbers:
            numbers += [measured(setting, each), moved(setting, baseline, each) if baseline else ""]
            if each == name:
                numbers.append(_p(next(corrected)) if baseline else "")
        perplexity, coverage = (setting.estimates.get(f"codebook/{each}") for each in ("perplexity", "coverage"))
        numbers += [number(perplexity, 1), number(coverage, 2)]
        rows.append((setting.name, *numbers, setting.fingerprints))
    header = ["setting", words, "difference", "p"]
    for quality in study.qualities:
        header += [f"{quality.words} {DOWN if quality.lower_is_better else UP}", "difference"]
    header += ["perplexity", "coverage", "run"]
    return Table(f"profile-{place + 1}", family.name, tuple(header), tuple(rows), about(study, settings))


def _p(value: float) -> str:
    return "<\u202f0.001" if value < 0.001 else f"{value:.3f}"


def paper(study: Study) -> Section:
    """What the paper reported, beside what was measured."""
    found = [(family, f) for family in study.families for f in claims.check_claims(family, study.distance)]
    rows = tuple(
        (family.name, f.claim.words, f.claim.criterion, f.number or "", f.outcome, _beside(study, family, f))
        for family, f in found
    )
    missing = tuple(
        f"{family.name}, {f.claim.words}: {command_for(family.identity, f.claim.needs)}"
        for family, f in found
        if f.outcome == "not measured"
    )
    header = ("generator", f"{claims.PAPER} reports", "as a number", "measured", "outcome", "quality beside it")
    notes = about(study, [setting for family in study.families for setting in family.settings])
    words = [
        f"{claims.RULE} The paper's numbers were not at hand when this was written: what is held against the "
        "measurements are its findings in words, and the thresholds are this project's."
    ]
    if study.is_toy:
        words.append(
            "These are toys: agreement or contradiction says what the toys do, and nothing about the models of the "
            "paper."
        )
    table = Table("claims", "Reported and measured", header, rows, notes)
    return Section("paper", "What the paper reported, and what was measured", tuple(words), (table,), missing)


def _beside(study: Study, family: Family, finding: claims.Finding) -> str:
    """Quality of the runs behind a number of diversity."""
    setting = {
        "argmax": family.first("Argmax"),
        "subset": quarter_of(family),
        "the enhancement": claims.enhanced(family),
        "decompose": find_profile(family).plain,
        "decompose under subset": find_profile(family).subset,
        "baseline": family.baseline,
    }[finding.claim.needs]
    if setting is None or finding.number is None:
        return ""
    baseline = family.baseline_of(setting)
    if baseline is None:
        return qualities_in_words(setting, study)
    return costs_in_words(setting, baseline, study)


def runs(study: Study) -> Section:
    """All runs, and how the numbers were made."""
    rows = tuple(
        (run.label.fingerprint, run.label.title, str(run.label.seed), *_counts(setting), setting.size)
        for family in study.families
        for setting in family.settings
        for run in setting.runs
    )
    table = Table("runs", "Runs", ("run", "what it is", "seed", "prompt set", "samples a prompt", "size"), rows)
    methods: dict[str, None] = {}
    for family in study.families:
        for setting in family.settings:
            for name, _ in (*study.numbers, ("codebook/entropy_bits", "")):
                methods.setdefault(f"`{name}`: {setting.runs[0].estimates[name].method}.")
    words = "A run is named by the first eight digits of its fingerprint, the hash of all that can change a number."
    return Section("runs", "Runs and methods", (words, *methods), (table,))


def _counts(setting: Setting) -> tuple[str, str]:
    data = setting.runs[0].protocol["data"]
    return str(data["prompt_set"]), str(data["num_samples"])
