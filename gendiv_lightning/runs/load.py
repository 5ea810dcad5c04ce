"""Runs as a report sees them: seeds of one setting together, and the settings of one generator around its baseline."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gendiv_lightning.functional.bootstrap import bootstrap_mean
from gendiv_lightning.records.estimate import Estimate
from gendiv_lightning.runs.folder import RunFolder
from gendiv_lightning.runs.labels import BASELINE, RunLabel, label_of, setting_of, short_of
from gendiv_lightning.runs.protocol import differences

DISTANCES = ("diversity/lpips", "diversity/lpips[tiny]", "diversity/pixel_cosine", "diversity/ssim")


class Run(NamedTuple):
    """A finished run: its folder, label, protocol, numbers, and columns (P,) by the prompts' places."""

    folder: RunFolder
    label: RunLabel
    protocol: dict[str, Any]
    estimates: dict[str, Estimate]
    columns: dict[str, Tensor]


class Setting(NamedTuple):
    """Runs that differ in nothing but their seed; numbers are means over them.

    Attributes:
        runs: by seed.
        estimates: by name.
        columns: (P,) by name.
    """

    runs: tuple[Run, ...]
    estimates: dict[str, Estimate]
    columns: dict[str, Tensor]

    @property
    def label(self) -> RunLabel:
        """Of the first run."""
        return self.runs[0].label

    @property
    def probes(self) -> list[dict[str, Any]]:
        """With their settings, as in the protocol."""
        return self.runs[0].protocol["probes"]

    @property
    def name(self) -> str:
        """The probes in words."""
        return setting_of(self.probes)

    @property
    def short(self) -> str:
        """The probes in a word or two."""
        return short_of(self.probes)

    @property
    def fingerprints(self) -> str:
        """Ids of the runs."""
        return ", ".join(run.label.fingerprint for run in self.runs)

    @property
    def size(self) -> str:
        """Numbers of prompts and samples, in words."""
        data = self.runs[0].protocol["data"]
        num_samples = self.estimates["codebook/entropy_bits"].num_samples
        return f"{data['num_prompts']} prompts, {num_samples} samples"

    def value(self, name: str) -> float:
        """A number; NaN where it was not measured."""
        return self.estimates[name].value if name in self.estimates else math.nan

    def has(self, *probes: str) -> bool:
        """Whether these are its probes, and no others."""
        return self.label.probe == (" + ".join(sorted(probes)) or BASELINE)


class Family(NamedTuple):
    """The settings of one generator.

    Attributes:
        name: of the generator, for people.
        identity: of the generator, from the protocol.
        settings: the baseline first.
    """

    name: str
    identity: dict[str, Any]
    settings: tuple[Setting, ...]

    def find(self, *probes: str) -> list[Setting]:
        """Settings of these probes and no others."""
        return [setting for setting in self.settings if setting.has(*probes)]

    def first(self, *probes: str) -> Setting | None:
        """The first of `find`; None where there is none."""
        return next(iter(self.find(*probes)), None)

    def baseline_of(self, setting: Setting) -> Setting | None:
        """The setting without probes that is comparable to one: same prompts, samples, metrics, versions and seeds.

        A run of `Decompose` has samples of its own, so its baseline is `Decompose` alone.
        """
        design = [probe for probe in setting.probes if probe["probe"] == "Decompose"]
        if setting.probes == design:
            return None
        seeds = [run.label.seed for run in setting.runs]
        for other in self.settings:
            mine = tuple(run for run in other.runs if run.label.seed in seeds)
            if (
                other.probes == design
                and len(mine) == len(seeds)
                and _conditions(mine[0]) == _conditions(setting.runs[0])
            ):
                return other if len(mine) == len(other.runs) else _merge(mine)
        return None

    @property
    def baseline(self) -> Setting | None:
        """The first setting without probes."""
        return self.first()


def find_runs(paths: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """All finished runs in or below folders, each once and in an order of their own; and why others are left out.

    Of a study's folder, what its `study.json` does not name as a cell, or names as failed, is not taken.

    Raises:
        ValueError: there is none, or embedded and real models are among them.
    """
    runs: dict[str, Run] = {}
    left_out = []
    for path in map(Path, paths):
        cells = _cells_of(path)
        for file in sorted(path.rglob("fingerprint.json")):
            folder = RunFolder(file.parent)
            if "probes" not in folder.read_protocol():
                continue  # codebook usage of images
            if cells is not None and folder.path.parent == path and folder.path.name not in cells:
                left_out.append(f"{folder.path} is no cell of the study, or one that failed")
            elif not folder.is_finished:
                left_out.append(f"{folder.path} is not finished: the same `gendiv fit-free predict` goes on with it")
            else:
                run = _read(folder)
                runs.setdefault(run.label.fingerprint, run)
    if not runs:
        places = ", ".join(map(str, paths))
        raise ValueError(f"no finished run in {places}: `gendiv fit-free predict` or `gendiv study` makes them")
    if len({run.label.embedded for run in runs.values()}) > 1:
        raise ValueError("these are runs of embedded (toy) and of real models: make a report of each")
    return sorted(runs.values(), key=_order), left_out


def _cells_of(path: Path) -> set[str] | None:
    """Run folders of a study's cells that did not fail; None where no study is."""
    index = path / "study.json"
    if not index.exists():
        return None
    return {cell["run_dir"] for cell in json.loads(index.read_text())["cells"] if cell["status"] != "failed"}


def families_of(runs: Sequence[Run]) -> list[Family]:
    """Runs by generator and setting, in the order of `find_runs`."""
    found = []
    for identity, of_generator in groupby(sorted(runs, key=_generator), key=_generator):
        of_setting = groupby(sorted(of_generator, key=lambda r: (_order(r), _setting(r))), key=_setting)
        settings = tuple(_merge(tuple(group)) for _, group in of_setting)
        found.append(Family(settings[0].label.generator, json.loads(identity), settings))
    found.sort(key=lambda family: (_order(family.settings[0].runs[0])[0], json.dumps(family.identity)))
    return _name_apart(found)


def first_of(names: Sequence[str], settings: Iterable[Setting]) -> str | None:
    """The first of some names that all settings have numbers of."""
    shared: set[str] = set.intersection(*(set(s.estimates) for s in settings))
    return next((name for name in names if name in shared), None)


def _read(folder: RunFolder) -> Run:
    table, protocol = folder.read_per_prompt(), folder.read_protocol()
    columns = {
        name: torch.tensor(table[name].to_pylist(), dtype=torch.float64)
        for name in table.column_names
        if name not in ("prompt_id", "prompt")
    }
    return Run(folder, label_of(protocol), protocol, folder.read_metrics(), columns)


_FAMILIES = ("llamagen", "amused", "vqdiffusion")


def _order(run: Run) -> tuple[Any, ...]:
    """Generators in the paper's order; then without probes, then one probe, then more."""
    kind = run.protocol["generator"]["generator"]
    place = _FAMILIES.index(kind) if kind in _FAMILIES else len(_FAMILIES)
    label = run.label
    is_decomposed = any(probe["probe"] == "Decompose" for probe in run.protocol["probes"])
    settings = label.select or "", label.ratio or 0.0, label.paraphrase_length or ""
    probes = is_decomposed, len(run.protocol["probes"]), label.probe
    return (place, label.generator), probes, settings, setting_of(run.protocol["probes"]), label.seed, label.fingerprint


def _generator(run: Run) -> str:
    return json.dumps(run.protocol["generator"], sort_keys=True)


def _conditions(run: Run) -> dict[str, Any]:
    """What runs must share to be compared prompt by prompt."""
    data = {key: value for key, value in run.protocol["data"].items() if key != "seed"}
    return {"data": data, "metrics": run.protocol["metrics"], "versions": run.protocol["versions"]}


def _setting(run: Run) -> str:
    return json.dumps([run.protocol["probes"], _conditions(run)], sort_keys=True)


def _merge(runs: tuple[Run, ...]) -> Setting:
    runs = tuple(sorted(runs, key=lambda run: run.label.seed))
    if len(runs) == 1:
        return Setting(runs, runs[0].estimates, runs[0].columns)
    columns = {name: torch.stack([run.columns[name] for run in runs]).mean(0) for name in runs[0].columns}
    estimates = {name: _mean([run.estimates[name] for run in runs], columns.get(name)) for name in runs[0].estimates}
    return Setting(runs, estimates, columns)


def _mean(estimates: list[Estimate], column: Tensor | None) -> Estimate:
    """Over seeds. Means over prompts get an interval anew; of others the ends are averaged, to be on the safe side."""
    first = estimates[0]
    if column is None:
        ends = torch.tensor([[e.value, e.low, e.high] for e in estimates], dtype=torch.float64)
        means = ends.mean(0).tolist()
    else:
        means = list(bootstrap_mean(column[~column.isnan()]))
    value, low, high = means
    num_paths, num_samples = sum(e.num_paths for e in estimates), sum(e.num_samples for e in estimates)
    method = f"{first.method}; mean over {len(estimates)} seeds"
    return Estimate(value, low, high, first.num_prompts, num_paths, num_samples, method)


def _name_apart(families: list[Family]) -> list[Family]:
    """Generators of one name get what differs between them added to it."""
    named = []
    for family in families:
        others = [other for other in families if other.name == family.name and other is not family]
        own = {d.key: d.before for other in others for d in differences(family.identity, other.identity)}
        settings = [f"{key} {str(value)[:8]}" for key, value in sorted(own.items())]
        named.append(family._replace(name=", ".join([family.name, *settings])))
    return named
