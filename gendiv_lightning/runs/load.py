"""Runs as a report sees them: seeds of one setting together, and the settings of one generator around its baseline."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gendiv_lightning.errors import DamagedRunError, MissingRunError, NotComparableError
from gendiv_lightning.functional.bootstrap import bootstrap_mean
from gendiv_lightning.records.estimate import Estimate
from gendiv_lightning.runs.description import (
    BASELINE,
    NAME,
    Description,
    GeneratorDescription,
    rank_of,
    read_description,
)
from gendiv_lightning.runs.files import check_run_protocol, read_cells
from gendiv_lightning.runs.folder import RunFolder
from gendiv_lightning.runs.labels import RunLabel, label_of
from gendiv_lightning.runs.protocol import differences
from gendiv_lightning.runs.schema import PER_PROMPT, PROMPT_ID

DISTANCES = ("diversity/lpips", "diversity/lpips[tiny]", "diversity/pixel_cosine", "diversity/ssim")


class Run(NamedTuple):
    """A finished run.

    Attributes:
        folder: where it lies.
        label: its names.
        protocol: all that can change its numbers.
        description: its generator, probes and metrics in words.
        estimates: by name.
        columns: (P,) numbers of single prompts by name, in the order of the prompt set.
        prompts: ids of the P prompts.
    """

    folder: RunFolder
    label: RunLabel
    protocol: dict[str, Any]
    description: Description
    estimates: dict[str, Estimate]
    columns: dict[str, Tensor]
    prompts: tuple[str, ...]

    def select(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """The columns of some prompts, by their ids and in their order."""
        places = {prompt: place for place, prompt in enumerate(self.prompts)}
        rows = torch.tensor([places[prompt] for prompt in prompts], dtype=torch.int64)
        return {name: column[rows] for name, column in self.columns.items()}


def read_run(path: Path | str | RunFolder) -> Run:
    """A finished run, all its files checked but the samples.

    Raises:
        ValueError: the folder holds no run, an unfinished one, or a malformed file; the file is named.
    """
    folder = path if isinstance(path, RunFolder) else RunFolder(path)
    protocol, description = read_header(folder)
    folder.check_whole()
    table = folder.read_per_prompt()
    if len(table) != protocol["data"]["num_prompts"]:
        raise DamagedRunError(
            f"{folder.path / 'per_prompt.parquet'} is damaged: it has {len(table)} rows, and the run has "
            f"{protocol['data']['num_prompts']} prompts. Make the run again"
        )
    names = [name for name in table.column_names if name not in PER_PROMPT]
    columns = {name: torch.from_numpy(table[name].to_numpy().astype("float64")) for name in names}
    label = label_of(protocol, description)
    prompts = tuple(table[PROMPT_ID].to_pylist())
    return Run(folder, label, protocol, description, folder.read_metrics(), columns, prompts)


def read_header(folder: RunFolder) -> tuple[dict[str, Any], Description]:
    """Protocol and description of a run that need not be finished.

    Raises:
        ValueError: the folder holds no run with samples, or one of the two files is malformed.
    """
    protocol = folder.read_protocol()
    check_run_protocol(folder.path / "fingerprint.json", protocol)
    return protocol, read_description(folder.checked(NAME), protocol)


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
    def design(self) -> list[dict[str, Any]]:
        """Those of the probes that cross sampler paths with executions, and so give a prompt samples of its own."""
        return [probe for probe in self.probes if "num_paths" in probe]

    @property
    def description(self) -> Description:
        """Of the first run."""
        return self.runs[0].description

    @property
    def name(self) -> str:
        """The probes in words."""
        return self.description.setting

    @property
    def short(self) -> str:
        """The probes in a word or two."""
        return self.description.short

    @property
    def fingerprints(self) -> str:
        """Ids of the runs."""
        return ", ".join(run.label.fingerprint for run in self.runs)

    @property
    def size(self) -> str:
        """Numbers of prompts and samples, in words."""
        data = self.runs[0].protocol["data"]
        num_samples = max((estimate.num_samples for estimate in self.estimates.values()), default=0)
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

    @property
    def generator(self) -> GeneratorDescription:
        """The generator in words."""
        return self.settings[0].description.generator

    @property
    def draws_tokens(self) -> bool:
        """Whether it draws tokens from a codebook: such runs keep counts of them."""
        return any((run.folder.path / "usage.safetensors").exists() for s in self.settings for run in s.runs)

    def find(self, *probes: str) -> list[Setting]:
        """Settings of these probes and no others."""
        return [setting for setting in self.settings if setting.has(*probes)]

    def first(self, *probes: str) -> Setting | None:
        """The first of `find`; None where there is none."""
        return next(iter(self.find(*probes)), None)

    def baseline_of(self, setting: Setting) -> Setting | None:
        """The setting without probes that is comparable to one: same prompts, samples, metrics, versions and seeds.

        A run that crosses paths with executions has samples of its own, so its baseline is that design alone.
        """
        design = setting.design
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
                return other if len(mine) == len(other.runs) else setting_of(mine)
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
    paths = list(map(Path, paths))
    runs: dict[str, Run] = {}
    left_out = []
    for path in paths:
        index = path / "study.json"
        cells = {c["run_dir"] for c in read_cells(index) if c["status"] != "failed"} if index.exists() else None
        for folder in _run_folders(path):
            if cells is not None and folder.path.parent == path and folder.path.name not in cells:
                left_out.append(f"{folder.path} is no cell of the study, or one that failed")
            elif not folder.is_finished:
                left_out.append(f"{folder.path} is not finished: run the same `gendiv predict` again to resume it")
            else:
                run = read_run(folder)
                runs.setdefault(run.label.fingerprint, run)
    if not runs:
        places = ", ".join(map(str, paths))
        raise MissingRunError(f"no finished run in {places}: `gendiv predict` or `gendiv study` makes them")
    if len({run.label.embedded for run in runs.values()}) > 1:
        raise NotComparableError("these are runs of embedded (toy) and of real models: make a report of each")
    return sorted(runs.values(), key=_order), left_out


def _run_folders(path: Path) -> Iterator[RunFolder]:
    """Folders of runs in or below a folder, links followed, hidden folders and folders of codebook counts passed by."""
    found, seen = [], set()
    for folder, names, files in os.walk(path, followlinks=True):
        real = os.path.realpath(folder)
        if real not in seen and "fingerprint.json" in (*names, *files):
            found.append(Path(folder))
        names[:] = [] if real in seen else [name for name in names if not name.startswith(".")]
        seen.add(real)
    for each in sorted(found):
        run = RunFolder(each)
        if "probes" in run.read_protocol():
            yield run


def families_of(runs: Sequence[Run]) -> list[Family]:
    """Runs by generator and setting, in the order of `find_runs`."""
    found = []
    for identity, of_generator in groupby(sorted(runs, key=_generator), key=_generator):
        of_setting = groupby(sorted(of_generator, key=lambda r: (_order(r), _setting(r))), key=_setting)
        settings = tuple(setting_of(tuple(group)) for _, group in of_setting)
        found.append(Family(settings[0].label.generator, json.loads(identity), settings))
    found.sort(key=lambda family: (rank_of(family.generator), json.dumps(family.identity)))
    return _name_apart(found)


def first_of(names: Sequence[str], settings: Iterable[Setting]) -> str | None:
    """The first of some names that all settings have numbers of."""
    shared: set[str] = set.intersection(*(set(s.estimates) for s in settings))
    return next((name for name in names if name in shared), None)


def _order(run: Run) -> tuple[Any, ...]:
    """Generators in the paper's order; then without probes, then one probe, then more."""
    label, probes = run.label, run.protocol["probes"]
    is_crossed = any("num_paths" in probe for probe in probes)
    settings = label.select or "", label.ratio or 0.0, label.paraphrase_length or ""
    names = is_crossed, len(probes), label.probe
    return rank_of(run.description.generator), names, settings, run.description.setting, label.seed, label.fingerprint


def _generator(run: Run) -> str:
    return json.dumps(run.protocol["generator"], sort_keys=True)


def _conditions(run: Run) -> dict[str, Any]:
    """What runs must share to be compared prompt by prompt."""
    data = {key: value for key, value in run.protocol["data"].items() if key != "seed"}
    return {"data": data, "metrics": run.protocol["metrics"], "versions": run.protocol["versions"]}


def _setting(run: Run) -> str:
    return json.dumps([run.protocol["probes"], _conditions(run)], sort_keys=True)


def setting_of(runs: Iterable[Run]) -> Setting:
    """Runs that differ in nothing but their seed, averaged over seeds."""
    runs = tuple(sorted(runs, key=lambda run: run.label.seed))
    if len(runs) == 1:
        return Setting(runs, runs[0].estimates, runs[0].columns)
    columns = mean_columns([run.columns for run in runs])
    return Setting(runs, mean_estimates([run.estimates for run in runs], columns), columns)


def mean_columns(runs: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """(P,) numbers that all runs of a setting have, averaged over its seeds prompt by prompt."""
    first, *others = runs
    return {
        name: torch.stack([columns[name] for columns in runs]).mean(0)
        for name in first
        if all(name in columns for columns in others)
    }


def mean_estimates(
    runs: Sequence[Mapping[str, Estimate]], columns: Mapping[str, Tensor] | None = None
) -> dict[str, Estimate]:
    """Estimates that all runs of a setting have, averaged over its seeds.

    Args:
        runs: the estimates of each seed.
        columns: of `mean_columns`: what has a column gets its interval from it. Of others the ends are averaged, which
            makes the interval rather too wide.
    """
    first, *others = runs
    return {
        name: _mean([estimates[name] for estimates in runs], (columns or {}).get(name))
        for name in first
        if all(name in estimates for estimates in others)
    }


def _mean(estimates: list[Estimate], column: Tensor | None) -> Estimate:
    first = estimates[0]
    if len(estimates) == 1:
        return first
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
