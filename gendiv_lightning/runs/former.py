"""Convert configs, protocols and command lines of version 0.1 to this version."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
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
    data, model = config["data"]["init_args"], config["model"]["init_args"]
    for name, now in _MODEL.items():
        if model.get(name) in now:
            model[name] = now[model[name]]
    data.pop("record_marginals", None)  # now requested by the metrics
    if (
        data.get("path") is not None and data.get("split") == "train"
    ):  # the former default, which had no effect on a file
        del data["split"]
    for callback in config["trainer"].get("callbacks") or []:
        for name in _PROBE_ARGUMENTS:
            callback.get("init_args", {}).pop(name, None)
    return config


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
    adds = any(_has_callbacks(Path(file)) for option, file in pairwise(words) if option == "--config")
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
    try:
        trainer = (yaml.safe_load(config.read_text(encoding="utf-8")) or {}).get("trainer")
    except (OSError, ValueError, AttributeError, yaml.YAMLError):  # the parser reports the error
        return False
    return isinstance(trainer, dict) and bool(trainer.get("callbacks"))
