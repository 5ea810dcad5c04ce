"""Diversity at equal quality: the sweeps of a study, and what one setting or sweep gains over another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gendiv_lightning.analysis.effects import Interval
from gendiv_lightning.functional.frontier import gain_at_equal_quality, mean_gain
from gendiv_lightning.runs.load import Family, Setting, setting_of


class Sweep(NamedTuple):
    """Settings of one generator, over one prompt set, that differ in one number, the baseline among them.

    Attributes:
        name: of the number, such as "Temperature" or "eta".
        settings: in any order.
    """

    name: str
    settings: tuple[Setting, ...]

    @property
    def generator(self) -> str:
        """Title of the generator."""
        return self.settings[0].label.generator

    @property
    def fixed(self) -> dict[str, Any]:
        """The generator without its numbers: weights, scheduler and the like."""
        identity = _flatten(self.settings[0].runs[0].protocol["generator"])
        return {key: value for key, value in identity.items() if not _is_number(value)}

    @property
    def prompts(self) -> str:
        """Hash of the prompt set."""
        return self.settings[0].prompts

    def column(self, name: str) -> Tensor:
        """(S, P) a number of each setting."""
        return torch.stack([setting.columns[name] for setting in self.settings])

    def has(self, *names: str) -> bool:
        """Whether all settings have a number of each prompt by these names."""
        return all(name in setting.columns for setting in self.settings for name in names)


def sweeps_of(family: Family) -> list[Sweep]:
    """Sweeps of one probe around the family's baseline: those of the sampler's own settings first."""
    baseline = family.baseline
    if baseline is None:
        return []
    single = [
        setting
        for setting in family.settings
        if len(setting.probes) == 1
        and not setting.design
        and setting.prompts == baseline.prompts
        and family.baseline_of(setting)
    ]
    found: dict[str, list[Setting]] = {}
    for setting in single:
        name = " ".join(filter(None, (setting.label.probe, setting.label.select)))
        found.setdefault(name, []).append(setting)
    named = [Sweep(name, (baseline, *settings)) for name, settings in found.items() if _is_swept(settings)]
    # What a probe gains is compared with what plain settings of the sampler reach, so these come first.
    return sorted(named, key=lambda sweep: (not _is_plain(sweep.settings[1]), sweep.name))


def _is_swept(settings: Sequence[Setting]) -> bool:
    """Whether the probe has a number that may be swept, so that argmax and paraphrases make no sweep."""
    return _is_plain(settings[0]) or any(setting.label.ratio is not None for setting in settings)


def _is_plain(setting: Setting) -> bool:
    """Whether the probe replaces one of the generator's own settings, such as the temperature."""
    own = setting.runs[0].protocol["generator"]
    names = set(setting.probes[0]) - {"probe"}
    return any(name in own or name.removesuffix("_scale") in own for name in names)


def generator_sweeps(families: Sequence[Family]) -> list[Sweep]:
    """Sweeps of one setting of a generator, such as a scheduler's eta: baselines of families that share the rest."""
    flat = [(family.baseline, _flatten(family.identity)) for family in families if family.baseline is not None]
    keys = {key for _, values in flat for key, value in values.items() if _is_number(value)}
    sweeps = []
    for key in sorted(keys):
        having = [(baseline, values) for baseline, values in flat if _is_number(values.get(key))]

        def rest(pair: tuple[Setting, dict[str, Any]], key: str = key) -> str:
            others = {k: v for k, v in pair[1].items() if k != key}
            return json.dumps([pair[0].prompts, others], sort_keys=True)

        for _, group in groupby(sorted(having, key=rest), key=rest):
            baselines = tuple(baseline for baseline, _ in group)
            if len(baselines) > 1:
                sweeps.append(Sweep(key.split(".")[-1], baselines))
    return sweeps


def sweep_of_runs(name: str, runs: Sequence[Any], prompts: Sequence[str]) -> Sweep:
    """Runs as a sweep, over prompts by their ids."""
    settings = [setting_of([run])._replace(columns=run.select(prompts)) for run in runs]
    return Sweep(name, tuple(settings))


def gain_of(
    setting: Setting, reference: Sweep, diversity: str, quality: str, *, lower_is_better: bool = False
) -> Interval:
    """Diversity of a setting minus that of a sweep's frontier at the setting's quality."""
    sign = -1 if lower_is_better else 1
    return Interval(
        *gain_at_equal_quality(
            sign * setting.columns[quality],
            setting.columns[diversity],
            sign * reference.column(quality),
            reference.column(diversity),
        )
    )


def area_between(
    sweep: Sweep, reference: Sweep, diversity: str, quality: str, *, lower_is_better: bool = False
) -> Interval:
    """Mean difference of two sweeps' frontiers over the qualities that both reach."""
    sign = -1 if lower_is_better else 1
    return Interval(
        *mean_gain(
            sign * sweep.column(quality),
            sweep.column(diversity),
            sign * reference.column(quality),
            reference.column(diversity),
        )
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {prefix: values}
    return {
        name: leaf
        for key, value in values.items()
        for name, leaf in _flatten(value, f"{prefix}.{key}" if prefix else key).items()
    }
