"""Expand a study, a YAML file, into cells; each is a config of `gendiv predict`.

    generators: {NAME: {config: FILE, usage: FILE}}     a config without probes, next to the study's file or shipped
    probes: {NAME: {PROBE: {argument: value}, ...}}     probes applied together; none for the baseline
    seeds: [0]
    metrics: [NAME, ...]                                replace those of the configs
    settings: {data.limit: 32, ...}                     any keys of the configs; in the entry of a probe, for its cells

A list as an argument of a probe is swept, with one cell per value. `usage` is passed to codebook subsets by frequency.
If some probes or metrics do not apply to a generator, list those that do as `probes` and `metrics` in its entry.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from gendiv_lightning.analysis.paper_claims import takes_counts
from gendiv_lightning.errors import ConfigKeyError, ConfigValueError
from gendiv_lightning.storage.config_files import find_config, read_yaml

_KEYS = ("generators", "probes", "seeds", "metrics", "settings")
_GENERATOR_KEYS = ("config", "usage", "probes", "metrics")
Probes = dict[str, dict[str, Any]]


class Cell(NamedTuple):
    """One run of a study.

    Attributes:
        name: name of the cell and of its run folder.
        generator: name of the generator in the study.
        probe: name of the probe entry in the study.
        probes: arguments by name of the probe.
        seed: root seed.
        config: complete config of `gendiv predict`.
    """

    name: str
    generator: str
    probe: str
    probes: Probes
    seed: int
    config: dict[str, Any]

    @property
    def text(self) -> str:
        """The config as YAML."""
        return yaml.safe_dump(self.config, sort_keys=False, width=120)

    @property
    def sha256(self) -> str:
        """Hash of the config."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def read_study(path: Path) -> list[Cell]:
    """The cells of a study, grouped by generator, with seeds and probes in the order of the file.

    Raises:
        ValueError: a key is unknown or missing, a value is of the wrong type, or two cells have the same name.
        OSError: the file, or a config that it names, cannot be read.
    """
    study = _mapping(read_yaml(path), str(path), _KEYS)
    seeds = study.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise ConfigValueError(f"{path}: seeds must be a list of integers, got {seeds!r}. Write for example [0]")
    cells: dict[str, Cell] = {}
    for generator, seed in product(_named(path, study, "generators"), seeds):
        for probe in _probes_of(path, study, generator):
            for cell in _cells(path, study, generator, probe, seed):
                if cell.name in cells:
                    raise ConfigValueError(f"{path}: two cells have the name {cell.name}. Sweep different values")
                cells[cell.name] = cell
    return list(cells.values())


def _probes_of(path: Path, study: dict[str, Any], generator: str) -> list[str]:
    """The probes of a generator: all probes of the study, or those that its entry lists."""
    probes = list(_named(path, study, "probes"))
    entry = study["generators"][generator]
    chosen = entry.get("probes", probes) if isinstance(entry, dict) else probes
    unknown = [name for name in chosen if name not in probes] if isinstance(chosen, list) else [chosen]
    if unknown or not chosen:
        raise ConfigValueError(
            f"{path}: generators.{generator}.probes must be a list of the study's probes, got {unknown or chosen!r}. "
            f"Choose from {', '.join(probes)}"
        )
    return [name for name in probes if name in chosen]


def _cells(path: Path, study: dict[str, Any], generator: str, probe: str, seed: int) -> Iterator[Cell]:
    source = _mapping(study["generators"][generator], f"{path}: generators.{generator}", _GENERATOR_KEYS)
    if "config" not in source:
        raise ConfigKeyError(
            f"{path}: generators.{generator} must have the key config. Add the file of a config without probes"
        )
    arms = dict(_mapping(study["probes"][probe] or {}, f"{path}: probes.{probe}"))
    settings = {
        **_mapping(study.get("settings", {}), f"{path}: settings"),
        **_mapping(arms.pop("settings", {}), f"{path}: probes.{probe}.settings"),
        "data.seed": seed,
    }
    metrics = source.get("metrics", study.get("metrics"))
    given = {name: _mapping(arms[name] or {}, f"{path}: probes.{probe}.{name}") for name in arms}
    for swept, probes in _sweep(given):
        for name, arguments in probes.items():
            if "usage" in source and takes_counts(name, arguments):
                arguments.setdefault("usage", source["usage"])
        if not isinstance(source["config"], str):
            raise ConfigValueError(f"{path}: generators.{generator}.config must be a file, got {source['config']!r}")
        config = _config(_base_of(path, source["config"]), metrics, settings, probes)
        yield Cell("-".join([generator, probe, *swept, f"seed{seed}"]), generator, probe, probes, seed, config)


def _base_of(path: Path, name: str) -> Path:
    """The config that a study names: next to it, in the working directory, or shipped with the package."""
    beside, elsewhere = path.parent / name, find_config(name)
    return elsewhere if elsewhere.exists() and not beside.exists() else beside


def _sweep(arms: Probes) -> Iterator[tuple[list[str], Probes]]:
    """Each combination of one value for every list among the arguments, with the chosen values as texts."""
    lists = [(name, key, value) for name, given in arms.items() for key, value in given.items()]
    lists = [entry for entry in lists if isinstance(entry[2], list)]
    for name, key, value in lists:
        if not value:
            raise ConfigValueError(f"{name}.{key} is swept over an empty list. Give at least one value")
    for values in product(*(value for *_, value in lists)):
        chosen = deepcopy(arms)
        for (name, key, _), value in zip(lists, values, strict=True):
            chosen[name][key] = value
        yield [re.sub(r"[^\w.]+", "_", str(value)) for value in values], chosen


def _config(base: Path, metrics: list[str] | None, settings: dict[str, Any], probes: Probes) -> dict[str, Any]:
    """A base config with its fragments included and the changes of a cell applied."""
    config = _mapping(read_yaml(base), str(base))
    for part in ("model", "data", "measure", "probes"):
        if isinstance(config.get(part), str):
            config[part] = read_yaml(base.parent / config[part])
    for key, value in settings.items():
        _set(config, key, value)
    if metrics is not None:
        _measure_of(config)["metrics"] = list(metrics)
    config["probes"] = [
        *config.get("probes", []),
        *({"class_path": name, **({"init_args": given} if given else {})} for name, given in probes.items()),
    ]
    return config


def _measure_of(config: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the `Measure` of a config."""
    for callback in config.get("trainer", {}).get("callbacks") or []:
        if callback["class_path"] in ("Measure", "gendiv_lightning.callbacks.Measure"):
            return callback.setdefault("init_args", {})
    return config.setdefault("measure", {})


def _set(config: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for name in parents:
        config = config.setdefault(name, {})
        if not isinstance(config, dict):
            raise ConfigKeyError(
                f"settings: {key} must not go below {name}, which has the value {config!r}. Correct the key"
            )
        config = config.setdefault("init_args", {}) if "class_path" in config else config
    config[last] = value


def _named(path: Path, study: dict[str, Any], key: str) -> dict[str, Any]:
    entries = _mapping(study.get(key), f"{path}: {key}")
    wrong = [name for name in entries if not re.fullmatch(r"\w+", str(name))]
    if wrong or not entries:
        raise ConfigValueError(
            f"{path}: {key} must have names of letters, digits and underscores, got {wrong or 'none'}. Rename them"
        )
    return entries


def _mapping(value: Any, where: str, keys: tuple[str, ...] | None = None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigValueError(f"{where} must be a mapping of names, got {value!r}. Correct it")
    unknown = [key for key in value if keys is not None and key not in keys]
    if unknown:
        raise ConfigKeyError(f"{where}: unknown key {unknown[0]!r}. Choose from {', '.join(keys or ())}")
    return value
