"""Load finished runs, and group them: seeds of one setting, and settings of one generator."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
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
        folder: the run folder.
        label: short names.
        protocol: everything that can change its numbers.
        description: generator, probes and metrics in words.
        estimates: estimates by name.
        columns: per-prompt values (P,) by name, in the order of the prompt set.
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
        indices = {prompt: index for index, prompt in enumerate(self.prompts)}
        rows = torch.tensor([indices[prompt] for prompt in prompts], dtype=torch.int64)
        return {name: column[rows] for name, column in self.columns.items()}


def read_run(path: Path | str | RunFolder) -> Run:
    """Read a finished run, with all files checked except the samples.

    Raises:
        MissingRunError: the folder contains no run.
        UnfinishedRunError: the run is not finished.
        DamagedRunError: a file is missing or malformed.
    """
    folder = path if isinstance(path, RunFolder) else RunFolder(path)
    protocol, description = read_header(folder)
    folder.check_whole()
    table = folder.read_per_prompt()
    if len(table) != protocol["data"]["num_prompts"]:
        raise DamagedRunError(
            f"{folder.path / 'per_prompt.parquet'} is damaged: it has {len(table)} rows, but the run has "
            f"{protocol['data']['num_prompts']} prompts. Run the command again with --overwrite true"
        )
    names = [name for name in table.column_names if name not in PER_PROMPT]
    columns = {name: torch.from_numpy(table[name].to_numpy().astype("float64")) for name in names}
    label = label_of(protocol, description)
    prompts = tuple(table[PROMPT_ID].to_pylist())
    return Run(folder, label, protocol, description, folder.read_metrics(), columns, prompts)


def read_header(folder: RunFolder) -> tuple[dict[str, Any], Description]:
    """Protocol and description of a run, finished or not.

    Raises:
        MissingRunError: the folder contains no run with samples.
        DamagedRunError: one of the two files is malformed.
    """
    protocol = folder.read_protocol()
    check_run_protocol(folder.path / "fingerprint.json", protocol)
    return protocol, read_description(folder.checked(NAME), protocol)


class Setting(NamedTuple):
    """Runs that differ only in their seed; numbers are means over them.

    Attributes:
        runs: runs, sorted by seed.
        estimates: estimates by name.
        columns: per-prompt values (P,) by name.
    """

    runs: tuple[Run, ...]
    estimates: dict[str, Estimate]
    columns: dict[str, Tensor]

    @property
    def label(self) -> RunLabel:
        """Label of the first run."""
        return self.runs[0].label

    @property
    def probes(self) -> list[dict[str, Any]]:
        """The probes with their settings, as in the protocol."""
        return self.runs[0].protocol["probes"]

    @property
    def design(self) -> list[dict[str, Any]]:
        """The probes that cross sampler paths with executions, and so change the samples of a prompt."""
        return [probe for probe in self.probes if "num_paths" in probe]

    @property
    def prompts(self) -> str:
        """Hash of the prompt set."""
        found: str = self.runs[0].protocol["data"]["prompts_sha256"]
        return found

    @property
    def description(self) -> Description:
        """Description of the first run."""
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
        """The value of a number; NaN if it was not measured."""
        return self.estimates[name].value if name in self.estimates else math.nan

    def has(self, *probes: str) -> bool:
        """Whether the setting has exactly these probes."""
        return self.label.probe == (" + ".join(sorted(probes)) or BASELINE)


class Family(NamedTuple):
    """The settings of one generator.

    Attributes:
        name: display name of the generator.
        identity: identity of the generator, from the protocol.
        settings: the settings, starting with the baseline.
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
        """Whether the generator draws tokens from a codebook; such runs store codebook counts."""
        return any((run.folder.path / "usage.safetensors").exists() for s in self.settings for run in s.runs)

    def find(self, *probes: str) -> list[Setting]:
        """Settings with exactly these probes."""
        return [setting for setting in self.settings if setting.has(*probes)]

    def first(self, *probes: str) -> Setting | None:
        """The first setting of `find`; None if there is none."""
        return next(iter(self.find(*probes)), None)

    def baseline_of(self, setting: Setting) -> Setting | None:
        """The baseline of a setting: no probes, with the same prompts, samples, metrics, versions and seeds.

        A design that crosses paths with executions changes the samples, so the baseline has the same design.
        """
        design = setting.design
        if setting.probes == design:
            return None
        seeds = [run.label.seed for run in setting.runs]
        for other in self.settings:
            matching = tuple(run for run in other.runs if run.label.seed in seeds)
            if (
                other.probes == design
                and len(matching) == len(seeds)
                and _conditions(matching[0]) == _conditions(setting.runs[0])
            ):
                return other if len(matching) == len(other.runs) else setting_of(matching)
        return None

    @property
    def baseline(self) -> Setting | None:
        """The first setting without probes."""
        return self.first()


def find_runs(paths: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """All finished runs in or below folders, each once and in a fixed order, and the reasons why others are ignored.

    In the folder of a study, runs that `study.json` does not list as cells, or lists as failed, are ignored.

    Raises:
        MissingRunError: there are no finished runs.
        NotComparableError: there are runs of toy models and of real models.
    """
    paths = list(map(Path, paths))
    runs: dict[str, Run] = {}
    left_out = []
    for path in paths:
        index = path / "study.json"
        cells = {c["run_dir"] for c in read_cells(index) if c["status"] != "failed"} if index.exists() else None
        for folder in _run_folders(path):
            if cells is not None and folder.path.parent == path and folder.path.name not in cells:
                left_out.append(f"{folder.path} is not a cell of the study, or its cell failed")
            elif not folder.is_finished:
                left_out.append(f"{folder.path} is not finished. Run the same `gendiv predict` again to resume it")
            else:
                run = read_run(folder)
                runs.setdefault(run.label.fingerprint, run)
    if not runs:
        measured = [path for path in paths if (path / "metrics.json").is_file()]
        if measured and not left_out:
            raise MissingRunError(
                f"{measured[0]} has the numbers of `gendiv measure`, and no run. Read metrics.json, and pairs.png with "
                "--pairs; a report needs runs of `gendiv predict`"
            )
        searched = ", ".join(map(str, paths))
        raise MissingRunError(
            f"there is no finished run in {searched}. Make one with `gendiv predict` or `gendiv study`"
        )
    if len({run.label.embedded for run in runs.values()}) > 1:
        raise NotComparableError("the runs are of toy models and of real models. Make a separate report of each kind")
    return sorted(runs.values(), key=_order), left_out


def _run_folders(path: Path) -> Iterator[RunFolder]:
    """Run folders in or below a folder. Links are followed; hidden folders and codebook counts are ignored."""
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
    """Group runs by generator and setting, in the order of `find_runs`."""
    found = []
    for identity, of_generator in groupby(sorted(runs, key=_generator), key=_generator):
        of_setting = groupby(sorted(of_generator, key=lambda r: (_order(r), _setting(r))), key=_setting)
        settings = tuple(setting_of(tuple(group)) for _, group in of_setting)
        found.append(Family(settings[0].label.generator, json.loads(identity), settings))
    found.sort(key=lambda family: (rank_of(family.generator), json.dumps(family.identity)))
    return _name_apart(found)


def first_of(names: Sequence[str], settings: Iterable[Setting]) -> str | None:
    """The first of some names of numbers that all settings have."""
    shared: set[str] = set.intersection(*(set(s.estimates) for s in settings))
    return next((name for name in names if name in shared), None)


def _order(run: Run) -> tuple[Any, ...]:
    """Sort key of runs: generators in the order of the paper; no probes, then one probe, then more."""
    label, probes = run.label, run.protocol["probes"]
    is_crossed = any("num_paths" in probe for probe in probes)
    settings = label.select or "", label.ratio or 0.0, label.paraphrase_length or ""
    names = is_crossed, len(probes), label.probe
    parts = re.split(r"(\d+\.?\d*)", run.description.setting)
    natural = [float(part) if number % 2 else part for number, part in enumerate(parts)]  # step 2 before step 14
    return rank_of(run.description.generator), names, settings, natural, label.seed, label.fingerprint


def _generator(run: Run) -> str:
    return json.dumps(run.protocol["generator"], sort_keys=True)


def _conditions(run: Run) -> dict[str, Any]:
    """The values that runs must share to be compared prompt by prompt."""
    data = {key: value for key, value in run.protocol["data"].items() if key != "seed"}
    return {"data": data, "metrics": run.protocol["metrics"], "versions": run.protocol["versions"]}


def _setting(run: Run) -> str:
    return json.dumps([run.protocol["probes"], _conditions(run)], sort_keys=True)


def setting_of(runs: Iterable[Run]) -> Setting:
    """Combine runs that differ only in their seed, averaged over seeds."""
    runs = tuple(sorted(runs, key=lambda run: run.label.seed))
    if len(runs) == 1:
        return Setting(runs, runs[0].estimates, runs[0].columns)
    columns = mean_columns([run.columns for run in runs])
    return Setting(runs, mean_estimates([run.estimates for run in runs], columns), columns)


def mean_columns(runs: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Per-prompt values (P,) that all runs of a setting have, averaged over its seeds."""
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
        columns: result of `mean_columns`. An interval is computed from the column if there is one; otherwise the ends
            are averaged, which makes the interval too wide rather than too narrow.
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
    """Add the fewest settings that differ to the names of generators with the same name."""
    named = []
    for family in families:
        others = [other for other in families if other.name == family.name and other is not family]
        own = [{d.key: d.before for d in differences(family.identity, other.identity)} for other in others]
        settings = [f"{_last(key)} {str(value)[:40]}" for key, value in _fewest(own).items()]
        name = f"{family.name} ({', '.join(settings)})" if settings else family.name
        named.append(family._replace(name=name))
    return named


def _fewest(differing: list[dict[str, Any]]) -> dict[str, Any]:
    """A small set of settings of which each dictionary has one, chosen greedily; ties prefer informative values."""
    chosen: dict[str, Any] = {}
    left = differing
    while left:
        counts = Counter(key for each in left for key in each)
        values = {key: value for each in left for key, value in each.items()}
        best = min(counts, key=lambda key: (-counts[key], values[key] in (None, "", True, False), key))
        chosen[best] = values[best]
        left = [each for each in left if best not in each]
    return chosen


def _last(key: str) -> str:
    """The last part of a setting's name, or the last two of a class: "eta", "scheduler class"."""
    *parts, last = key.split(".")
    return f"{parts[-1]} {last}" if parts and last == "class" else last
