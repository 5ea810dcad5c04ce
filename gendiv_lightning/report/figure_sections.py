"""The sections of pictures: path and execution, probes' effects, the subset curve, quality, the plane, usage."""

from __future__ import annotations

from gendiv_lightning.analysis import paper_claims as claims
from gendiv_lightning.analysis.effects import (
    KNEE_RULE,
    Knee,
    find_knee,
    find_profile,
    quarter_of,
    share_left,
    subset_curve,
)
from gendiv_lightning.console.decomposition import find_lenses
from gendiv_lightning.report import charts as figures
from gendiv_lightning.report.context import (
    Study,
    about,
    baselines_in_words,
    comparable,
    costs_in_words,
    measured,
    qualities_in_words,
    shown_in,
)
from gendiv_lightning.report.document import Cell, Figure, Section, Table, number
from gendiv_lightning.report.missing_runs import command_for
from gendiv_lightning.runs.load import Family, Setting


def plane(study: Study) -> Section:
    """The information bottleneck plane."""
    words = (
        "H(C) is the entropy of all tokens pooled: compression keeps it low. H(C|X) is that of one prompt's tokens: "
        "diversity keeps it high. Their difference is I(X; C), what a token tells of its prompt. A probe moves a model "
        "on this plane."
    )
    caption = (
        "Entropy of the codebook's use over all prompts and in one prompt (Chao-Wang-Jost estimates, positions "
        f"forgotten), with 95 % intervals over prompts. {baselines_in_words(study)} {about(study, shown_in(study))}"
    )
    panels = figures.ib_plane(study.families, comparable)
    return Section("plane", "The information bottleneck plane", (words,), (Figure("ib-plane", panels, caption),))


def decomposition(study: Study) -> Section:
    """H_total = H_path + H_exec by each lens."""
    found = [(family, find_profile(family).plain) for family in study.families]
    there = [(family, plain) for family, plain in found if plain is not None]
    missing = [f"{f.name}: {command_for(f.identity, 'decompose')}" for f, plain in found if plain is None]
    if not there:
        return Section("decomposition", "Path and execution", missing=tuple(missing))
    panels = figures.decomposition_bars(there)
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


def subset(study: Study) -> Section:
    """The subset-ratio curve with its knee, and what it costs."""
    name, words = study.diversity
    curves = [subset_curve(family) for family in study.families]
    knees = [find_knee(curve, name) for curve in curves]
    missing = [
        f"{family.name}, three ratios or more: {command_for(family.identity, 'subset')}"
        for family, curve in zip(study.families, curves, strict=True)
        if len(curve) < 4
    ]
    used = [setting for curve in curves for _, setting in curve]
    if not used:
        return Section("subset", "How much of the codebook does it need?", missing=tuple(missing))
    panels = figures.subset_curves(study.families, study.numbers, knees)
    caption = (
        f"{words} and its costs ({', '.join(q.words for q in study.qualities)}) when only the most frequent "
        f"entries may be drawn; rings mark the knee. {KNEE_RULE} {about(study, used)}"
    )
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            family.name,
            f"{100 * ratio:.3g}\u202f%" + _knee_mark(knee, ratio),
            *[measured(setting, each) for each, _ in study.numbers],
            share_left(setting, curve[-1][1], name),
            setting.fingerprints,
        )
        for family, curve, knee in zip(study.families, curves, knees, strict=True)
        for ratio, setting in curve
    )
    header = ("generator", "codebook allowed", *(each for _, each in study.numbers), "diversity left", "run")
    table = Table("subset", "Subset ratio, diversity and costs", header, rows, about(study, used))
    told = [_knee_words(f, c, k, study) for f, c, k in zip(study.families, curves, knees, strict=True) if k is not None]
    return Section(
        "subset",
        "How much of the codebook does it need?",
        tuple(told),
        (Figure("subset", panels, caption), table),
        tuple(missing),
    )


def _knee_words(family: Family, curve: list[tuple[float, Setting]], knee: Knee, study: Study) -> str:
    """Where the knee is, how sure that is, and what quality does there."""
    whole, ratio = curve[-1][1], min(knee.ratio, curve[-2][0])
    setting = next(setting for place, setting in curve if place == ratio)
    share = f"{100 * ratio:.3g} % of the codebook"
    if knee.ratio == 1:
        found = f"has no knee: {share}, the most measured, already changes the diversity by more than 10 %"
    else:
        found = f"has its knee {'at or below' if setting is curve[0][1] else 'at'} {share}"
    sure = f"the same in {100 * knee.certainty:.0f} % of the resamples{'' if knee.is_sure else ', so undecided'}"
    return f"{family.name} {found} ({sure}); there {costs_in_words(setting, whole, study)}."


def _knee_mark(knee: Knee | None, ratio: float) -> str:
    if knee is None or not ratio == knee.ratio < 1:
        return ""
    return ", knee" if knee.is_sure else ", knee?"


def effects(study: Study) -> Section:
    """Argmax, paraphrases and the other probes: what is left of the diversity, and what it costs."""
    probes = ("Argmax", "PosteriorArgmax", "FreezePath", "Paraphrase")
    shown = {
        family.name: [s for probe in probes for s in family.find(probe) if family.baseline_of(s)]
        for family in study.families
    }
    missing = [
        f"{family.name}, {run}: {command_for(family.identity, run)}"
        for family in study.families
        for run, probe in (("argmax", "Argmax"), ("paraphrases", "Paraphrase"))
        if not any(setting.has(probe) for setting in shown[family.name])
    ]
    used = [setting for settings in shown.values() for setting in settings]
    title = "Without dice, and with other words"
    if not used:
        return Section("effects", title, missing=tuple(missing))
    name, words = study.diversity
    numbers = [(name, f"{words} left"), *((q.name, f"{q.words}, change") for q in study.qualities)]
    panels = figures.effect_panels(study.families, lambda family: shown[family.name], numbers)
    caption = (
        f"What argmax and paraphrases leave of the baseline's {words} (100 %: no change), and what they do to quality "
        "(0: no change), with 95 % intervals over prompts; set distances have no interval here. Paraphrases pool the "
        f"samples of several wordings. {about(study, used)}"
    )
    return Section("effects", title, (), (Figure("effects", panels, caption),), tuple(missing))


def quality_frontier(study: Study) -> Section:
    """Diversity against quality, with the enhancement's points."""
    title = "Diversity and its price"
    panels = [
        panel
        for quality in study.qualities
        for panel in figures.frontier(study.families, comparable, study.diversity, quality)
    ]
    qualities = ", ".join(quality.words for quality in study.qualities)
    caption = (
        f"{study.diversity[1]} to the right, quality ({qualities}) better upwards: axes of distances are turned. The "
        f"line joins what no other setting beats in both; stars are the enhancement. {about(study, shown_in(study))}"
    )
    blocks = (Figure("frontier", tuple(panels), caption, len(study.families)),) if panels else ()
    missing = [
        f"{family.name}, {claims.PAPER}'s enhancement: {command_for(family.identity, 'the enhancement')}"
        for family in study.families
        if claims.enhanced(family) is None
    ]
    if not study.qualities:
        missing.append("no quality is measured in all runs: put `clip_score` or `fid` among the metrics")
    return Section("frontier", title, (), blocks, tuple(missing))


def codebook(study: Study) -> Section:
    """How often the entries are used, by rank."""

    def shown(family: Family) -> list[Setting]:
        subset = quarter_of(family)
        return [s for s in comparable(family) if not s.probes or s.has("Argmax") or s is subset]

    used = [setting for family in study.families for setting in shown(family)]
    title = "Who uses the codebook"
    if not used:
        return Section("codebook", title, missing=("a baseline of each generator",))
    caption = (
        "Share of all sampled tokens by the rank of the codebook entry; dotted: every entry equally often. "
        f"{baselines_in_words(study)} {about(study, used)}"
    )
    panels = figures.rank_frequency(study.families, shown)
    return Section("codebook", title, (), (Figure("rank-frequency", panels, caption),))
