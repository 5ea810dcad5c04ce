"""Shared by all sections of a report: the numbers that the runs have in common, and how they are formatted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

from gendiv_lightning.analysis.drift_file import DriftFile
from gendiv_lightning.analysis.effects import Interval, change
from gendiv_lightning.errors import NotComparableError
from gendiv_lightning.report.document import Number, number
from gendiv_lightning.runs.load import DISTANCES, Family, Setting, first_of


class Quality(NamedTuple):
    """A measure of quality, shown next to diversity."""

    name: str
    words: str
    lower_is_better: bool


class Study(NamedTuple):
    """The runs and numbers of a report.

    Attributes:
        families: settings by generator.
        distance: the diversity that all runs have, the first of `DISTANCES`.
        qualities: the costs that all runs have.
        num_browsed: prompts per generator whose samples can be browsed.
        drifts: results of `gendiv drift` on these runs.
    """

    families: tuple[Family, ...]
    distance: str
    qualities: tuple[Quality, ...]
    num_browsed: int = 0
    drifts: tuple[DriftFile, ...] = ()

    @property
    def is_toy(self) -> bool:
        """Whether the models are toys."""
        return self.families[0].settings[0].label.embedded

    @property
    def diversity(self) -> tuple[str, str]:
        """Name and words of the distance."""
        return self.distance, self.distance.split("/")[-1].replace("lpips", "LPIPS").replace("ssim", "1 \u2212 SSIM")

    @property
    def numbers(self) -> list[tuple[str, str]]:
        """The diversity and the qualities, by name and in words."""
        return [self.diversity, *((quality.name, quality.words) for quality in self.qualities)]


def make_study(families: Sequence[Family], num_browsed: int = 0, drifts: Iterable[DriftFile] = ()) -> Study:
    """Find the numbers that all runs share.

    Args:
        families: settings by generator.
        num_browsed: prompts per generator whose samples can be browsed.
        drifts: results of `gendiv drift` on these runs.

    Raises:
        NotComparableError: the runs share no distance.
    """
    settings = [setting for family in families for setting in family.settings]
    distance = first_of(DISTANCES, settings)
    if distance is None:
        raise NotComparableError(
            f"the runs have none of {', '.join(DISTANCES)} in common. Measure one of them in all runs: "
            "`gendiv measure RUN --metrics ssim`"
        )
    shared: list[str] = sorted(set.intersection(*(set(setting.estimates) for setting in settings)))
    clip = [Quality(n, f"CLIP score{_backbone(n)}", False) for n in shared if n.split("[")[0] == "quality/clip_score"]
    frechet = [
        Quality(n, f"{n.split('/')[1].split('[')[0].upper()}{_backbone(n)}", True)
        for n in shared
        if n.split("[")[0] in ("quality/fid", "quality/fd") and not n.endswith("/infinity")
    ]
    described = settings[0].description.metrics
    others = [
        Quality(name, words.short, not words.higher_is_better)
        for name, words in described.items()
        if name in shared and not name.startswith("quality/") and words.higher_is_better is not None
    ]
    return Study(tuple(families), distance, (*clip[:1], *frechet[:1], *others), num_browsed, tuple(drifts))


def _backbone(name: str) -> str:
    return f" [{name.split('[')[1].rstrip(']')}]" if "[" in name else ""


def comparable(family: Family) -> list[Setting]:
    """The baseline and the settings compared with it; without a baseline, all settings without a crossed design."""
    plain = [setting for setting in family.settings if not setting.design]
    if family.baseline is None:
        return plain
    return [s for s in plain if s is family.baseline or family.baseline_of(s)]


def with_settings(study: Study) -> Study:
    """The families that have settings to compare."""
    return study._replace(families=tuple(family for family in study.families if comparable(family)))


def with_tokens(study: Study) -> Study:
    """The families with tokens, and therefore with numbers of codebook usage."""
    names = ("codebook/entropy_bits", "codebook/prompt_entropy_bits")
    drawing = [
        family
        for family in study.families
        if all(name in setting.estimates for setting in family.settings for name in names)
    ]
    return study._replace(families=tuple(drawing))


class Sources(NamedTuple):
    """The two sources of the diversity of a family, in words."""

    execution: str
    path: str


def sources_of(family: Family) -> Sources:
    """Token draws and the path; for continuous generators their own names of the noise."""
    if family.draws_tokens:
        return Sources("the token draws", "the path")
    chance = family.generator.chance
    return Sources(chance.get("execution") or "execution noise", chance.get("path") or "the path")


def about(study: Study, settings: Iterable[Setting]) -> str:
    """The end of a caption: numbers of prompts and samples, run ids, and a note about toy models."""
    shown = list(settings)
    sizes = " or ".join(dict.fromkeys(setting.size for setting in shown))
    ids = ", ".join(dict.fromkeys(run.label.fingerprint for setting in shown for run in setting.runs))
    toy = "Toy models on postcards, never the paper's numbers. " if study.is_toy else ""
    return f"{toy}{sizes} per run. Runs {ids}."


def share(interval: Interval) -> Number:
    """A ratio, in percent."""
    return Number(*interval, digits=0, percent=True)


def measured(setting: Setting, name: str) -> Number:
    """A number of a setting."""
    return number(setting.estimates.get(name), digits_of(name))


def moved(setting: Setting, baseline: Setting, name: str) -> Number:
    """The paired difference of a number from the baseline."""
    return Number(*change(setting, baseline, name), digits_of(name), is_change=True)


def digits_of(name: str) -> int:
    """Number of digits to print after the decimal point."""
    return 1 if "clip_score" in name else 3


def listed(names: Sequence[str]) -> str:
    """Names as in a sentence: "A", "A and B", "A, B and C"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def qualities_in_words(setting: Setting, study: Study) -> str:
    """The qualities of a setting: "CLIP score 31.2, FID 24.1"."""
    parts = [f"{quality.words} {measured(setting, quality.name).text}" for quality in study.qualities]
    return ", ".join(parts) or "no quality measured"


def baselines_in_words(study: Study) -> str:
    """Diversity and qualities of the baselines, for figures of other numbers."""
    parts = [
        f"{family.name} {study.diversity[1]} {measured(family.baseline, study.distance).text}, "
        f"{qualities_in_words(family.baseline, study)}"
        for family in study.families
        if family.baseline is not None
    ]
    return f"Baselines: {'; '.join(parts)}." if parts else "There is no baseline."


def costs_in_words(setting: Setting, baseline: Setting, study: Study) -> str:
    """How the qualities change: both means and, if known, the interval of the paired difference."""
    parts = []
    for quality in study.qualities:
        by = moved(setting, baseline, quality.name)
        interval = f" ({by})" if by.interval else ""
        before, after = (measured(s, quality.name).text for s in (baseline, setting))
        parts.append(f"{quality.words} changes from {before} to {after}{interval}")
    return ", ".join(parts) or "no quality was measured"


def shown_in(study: Study) -> list[Setting]:
    """All comparable settings."""
    return list(chain.from_iterable(map(comparable, study.families)))
