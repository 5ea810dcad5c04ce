"""Convert configs, protocols and command lines of version 0.1 to this version."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

_FILES = {"gendiv_lightning/zoo/postcards.jsonl": "toy:postcards.jsonl"}
_MODEL: dict[str, dict[str, str | None]] = {
    "gpt": {"tiny": "toy:llamagen_gpt.json"},
    "vq": {"tiny": "toy:llamagen_vq.json"},
    "size": {"tiny": None},
}
_PROBE_ARGUMENTS = ("score_wordings",)  # now requested by the metrics


def upgrade_config(config: dict[str, Any]) -> dict[str, Any]:
    """The `config.yaml` of a run, without arguments that no longer exist."""
    config = _rename_files(config)
    data, model = (_arguments(config[part]) for part in ("data", "model"))
    for name, now in _MODEL.items():
        if isinstance(model.get(name), str) and model[name] in now:
            model[name] = now[model[name]]
    data.pop("record_marginals", None)  # now requested by the metrics
    if (
        data.get("path") is not None and data.get("split") == "train"
    ):  # the former default, which had no effect on a file
        del data["split"]
    callbacks = config.get("trainer", {}).get("callbacks")
    for callback in callbacks if isinstance(callbacks, list) else []:
        for name in _PROBE_ARGUMENTS:
            _arguments(callback).pop(name, None)
    return config


def _arguments(part: Any) -> dict[str, Any]:
    """The `init_args` of a part of a config; empty if there are none. A malformed part is left to the parser."""
    arguments = part.get("init_args") if isinstance(part, dict) else None
    return arguments if isinstance(arguments, dict) else {}


@contextmanager
def upgraded_configs(words: Sequence[str]) -> Iterator[list[str]]:
    """A command line whose `--config` files of runs are as this version has them; copies exist in the block only.

    A config that names other files, which a run's own never does, is left alone: paths in it are relative to it.
    """
    with TemporaryDirectory() as folder:
        upgraded = list(words)
        for place, option, config in _configs(words):
            upgraded[place] = f"{option}{_upgraded_copy(config, Path(folder) / str(place))}"
        yield upgraded


def _configs(words: Sequence[str]) -> Iterator[tuple[int, str, Path]]:
    """The config files of a command line: the place of the word, the option in it if it is there, and the file."""
    for place, (before, word) in enumerate(pairwise(("", *words))):
        if word.startswith("--config="):
            yield place, "--config=", Path(word.removeprefix("--config="))
        elif before == "--config":
            yield place, "", Path(word)


def _upgraded_copy(config: Path, folder: Path) -> Path:
    """A copy of a config in a folder of the same name, or the config itself if there is nothing to upgrade."""
    there = _read(config)
    parts = [there.get(part) for part in ("model", "data", "trainer")]
    if not all(isinstance(part, dict) for part in parts) or isinstance(there.get("measure"), str):
        return config
    now = upgrade_config(there)
    if now == there:
        return config
    copy = folder / config.resolve().parent.name / config.name
    copy.parent.mkdir(parents=True)
    copy.write_text(yaml.safe_dump(now, sort_keys=False), encoding="utf-8")
    return copy


def _read(config: Path) -> dict[str, Any]:
    """A config, empty if it cannot be read as one: the parser will say what is wrong with it."""
    try:
        found = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _rename_files(value: Any) -> Any:
    """A copy of a part of a config with the current names of the toy's files."""
    if isinstance(value, dict):
        return {key: _rename_files(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rename_files(item) for item in value]
    return re.sub("^zoo:", "toy:", _FILES.get(value, value)) if isinstance(value, str) else value


def upgrade_protocol(protocol: dict[str, Any]) -> dict[str, Any]:
    """The protocol of a run, without arguments that no longer exist."""
    probes = [{k: v for k, v in probe.items() if k not in _PROBE_ARGUMENTS} for probe in protocol.get("probes", [])]
    return {**protocol, **({"probes": probes} if "probes" in protocol else {})}


def upgrade_words(words: Sequence[str]) -> list[str]:
    """Convert `--trainer.callbacks.KEY`, for a probe or `Measure`, to `--probes.KEY` or `--measure.KEY`.

    Words are unchanged if the config has callbacks of its own, and after a callback that the command line adds.
    """
    upgraded = []
    adds = any(_has_callbacks(config) for _, _, config in _configs(words))
    for word in words:
        option = word.partition("=")[0]
        if option.startswith("--trainer.callbacks.") and not adds:
            key = option.removeprefix("--trainer.callbacks.")
            group = "measure" if key in ("metrics", "reference") else "probes"
            word = f"--{group}.{key}{word.removeprefix(option)}"
        adds = adds or option.rstrip("+") == "--trainer.callbacks"
        upgraded.append(word)
    return upgraded


def _has_callbacks(config: Path) -> bool:
    trainer = _read(config).get("trainer")
    return isinstance(trainer, dict) and bool(trainer.get("callbacks"))
