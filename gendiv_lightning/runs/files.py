"""Readers of the files in a run folder. A malformed file raises one DamagedRunError that names it.

Files are untrusted: nothing in them is executed, and no value is used before its type is checked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gendiv_lightning.errors import DamagedRunError, MissingRunError
from gendiv_lightning.records.estimate import Estimate
from gendiv_lightning.runs.schema import PER_PROMPT, PROMPT_ID

if TYPE_CHECKING:
    import pyarrow as pa

_KINDS = {str: "a text", int: "an integer", float: "a number", dict: "an object", list: "a list"}
_STATUSES = ("waiting", "running", "finished", "failed")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        DamagedRunError: the file is missing or unreadable, or is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DamagedRunError(
            f"{path} is missing. Copy the whole folder, or run the command again with --overwrite true"
        ) from error
    except OSError as error:
        raise DamagedRunError(f"{path} cannot be read ({error.strerror}). Restore the file") from error
    except (ValueError, RecursionError) as error:  # bytes that are not UTF-8, text that is not JSON
        raise malformed(path, f"it is not JSON ({' '.join(str(error).split())})") from error
    if not isinstance(value, dict):
        raise malformed(path, f"expected a JSON object, got {type(value).__name__}")
    return value


def malformed(path: Path, what: str) -> DamagedRunError:
    """The error for a damaged file, with the way out."""
    return DamagedRunError(
        f"{path} is damaged: {what}. Restore the file, or run the command again with --overwrite true"
    )


def field(path: Path, entry: Mapping[str, Any], key: str, kind: type, where: str = "") -> Any:
    """A value of a JSON object.

    Args:
        path: path of the file, for the message.
        entry: the object.
        key: key of the value.
        kind: str, int, float (includes integers), dict or list.
        where: path to the object in the file, such as `data.`.

    Raises:
        DamagedRunError: the key is missing, or its value is of another kind.
    """
    value = entry.get(key)
    kinds = (int, float) if kind is float else (kind,)
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise malformed(path, f"{where}{key} must be {_KINDS[kind]}, got {value!r:.80}")
    return value


def read_protocol(path: Path) -> dict[str, Any]:
    """The protocol in the `fingerprint.json` of a run or of codebook counts."""
    protocol: dict[str, Any] = field(path, read_json(path), "protocol", dict)
    return protocol


def check_run_protocol(path: Path, protocol: Mapping[str, Any]) -> None:
    """Raise DamagedRunError unless a protocol has all values that labels, comparisons and reports read."""
    if "probes" not in protocol:
        raise MissingRunError(
            f"{path.parent} contains codebook counts, not a run with samples. Give the folder of a run"
        )
    field(path, field(path, protocol, "generator", dict), "generator", str, "generator.")
    data = field(path, protocol, "data", dict)
    for key, kind in {"seed": int, "num_prompts": int, "num_samples": int, "prompt_set": str}.items():
        field(path, data, key, kind, "data.")
    field(path, protocol, "versions", dict)
    for key, name in (("probes", "probe"), ("metrics", None)):
        for index, entry in enumerate(field(path, protocol, key, list)):
            if not isinstance(entry, dict):
                raise malformed(path, f"{key}[{index}] must be an object, got {entry!r:.80}")
            if name:
                field(path, entry, name, str, f"{key}[{index}].")
    for index, probe in enumerate(protocol["probes"]):
        _check_settings(path, probe, f"probes[{index}].")
    for index, metric in enumerate(protocol["metrics"]):
        names = field(path, metric, "names", list, f"metrics[{index}].") if "names" in metric else ["?"]
        if not names or not all(isinstance(name, str) for name in names):
            raise malformed(path, f"metrics[{index}].names must be texts, got {names!r:.80}")


def _check_settings(path: Path, probe: Mapping[str, Any], where: str) -> None:
    """Check the settings of a probe that are used in labels."""
    for key, kind in {"select": str, "length": str, "num_paraphrases": int, "num_paths": int}.items():
        if key in probe:
            field(path, probe, key, kind, where)
    if "codebook_size" in probe:
        size, whole = (field(path, probe, key, int, where) for key in ("size", "codebook_size"))
        if not 0 < size <= whole:
            raise malformed(path, f"{where}size must be in 1..{whole}, the size of the codebook, got {size}")


def read_environment(path: Path) -> dict[str, Any]:
    """An `environment.json`: the machine that made a run."""
    facts = read_json(path)
    if not all(isinstance(name, str) for name in field(path, facts, "devices", list)):
        raise malformed(path, f"devices must be texts, got {facts['devices']!r:.80}")
    return facts


def read_prompt_card(path: Path) -> dict[str, Any]:
    """A `prompts.card.json`: how many prompts were read and dropped, and how many the text encoder truncates."""
    card = read_json(path)
    encoder = field(path, card, "text_encoder", dict) if "text_encoder" in card else {}
    for kind in encoder:
        if kind == "limit":
            field(path, encoder, kind, int, "text_encoder.")
            continue
        for key in ("texts", "cut"):
            field(path, field(path, encoder, kind, dict, "text_encoder."), key, int, f"text_encoder.{kind}.")
    if encoder and "limit" not in encoder:
        raise malformed(path, "text_encoder.limit is missing")
    return card


def read_estimates(path: Path) -> dict[str, Estimate]:
    """A `metrics.json`: estimates by name; null becomes NaN."""
    return {name: _estimate(path, name, values) for name, values in read_json(path).items()}


def _estimate(path: Path, name: str, values: Any) -> Estimate:
    if not isinstance(values, dict) or values.keys() != set(Estimate._fields):
        raise malformed(path, f"{name} must have {', '.join(Estimate._fields)}")
    known = {key: math.nan if values[key] is None else values[key] for key in ("value", "low", "high")}
    for key in known:
        field(path, known, key, float, f"{name}.")
    for key in ("num_prompts", "num_paths", "num_samples"):
        if field(path, values, key, int, f"{name}.") < 0:
            raise malformed(path, f"{name}.{key} must not be negative, got {values[key]}")
    field(path, values, "method", str, f"{name}.")
    return Estimate(**{**values, **{key: float(value) for key, value in known.items()}})


def read_table(
    path: Path, columns: Sequence[str] | None = None, *, required: Sequence[str] = (), advice: str = ""
) -> pa.Table:
    """A Parquet file, or some of its columns.

    Args:
        path: path of the file.
        columns: columns to read; None for all.
        required: further columns that must exist.
        advice: what to do about a damaged file; default: restore it, or run the command again.

    Raises:
        DamagedRunError: the file is missing or damaged, or a column is missing.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    advice = advice or "Restore the file, or run the command again with --overwrite true"
    try:
        # Arrow cannot open files whose name is not UTF-8, so it receives an open file.
        with path.open("rb") as opened, pq.ParquetFile(opened, page_checksum_verification=True) as file:
            missing = [name for name in (*(columns or ()), *required) if name not in file.schema_arrow.names]
            if not missing:
                table = file.read(columns)
                table.validate(full=True)  # finds, for example, texts that are not UTF-8
                return table
    except FileNotFoundError as error:
        raise DamagedRunError(f"{path} is missing. {advice}") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last is raised for the name of a column
        raise DamagedRunError(f"{path} is damaged ({' '.join(str(error).split())}). {advice}") from error
    raise DamagedRunError(f"{path} has no column {missing[0]}. {advice}")


def read_per_prompt(path: Path) -> pa.Table:
    """The `per_prompt.parquet` of a run: id and text of each prompt, then one column per number.

    Raises:
        DamagedRunError: the file is missing or damaged, or a column is of another type.
    """
    import pyarrow.types as types

    table = read_table(path)
    missing = [name for name in PER_PROMPT if name not in table.column_names]
    if missing:
        raise malformed(path, f"it has no column {missing[0]}")
    if len(set(table.column_names)) < len(table.column_names):
        raise malformed(path, "two columns have the same name")
    for name, kind in zip(table.column_names, table.schema.types, strict=True):
        is_right = types.is_string(kind) if name in PER_PROMPT else types.is_floating(kind)
        if not is_right:
            raise malformed(path, f"column {name} is of type {kind}")
        if table[name].null_count:
            raise malformed(path, f"column {name} has empty cells")
    if len(set(table[PROMPT_ID].to_pylist())) < len(table):
        raise malformed(path, "two rows have the same prompt")
    return table


def read_cells(path: Path) -> list[dict[str, Any]]:
    """The cells of a study's `study.json`."""
    cells: list[dict[str, Any]] = field(path, read_json(path), "cells", list)
    for index, cell in enumerate(cells):
        if not isinstance(cell, dict):
            raise malformed(path, f"cells[{index}] must be an object, got {cell!r:.80}")
        for key in ("name", "run_dir", "config_sha256", "status"):
            field(path, cell, key, str, f"cells[{index}].")
        if cell["status"] not in _STATUSES:
            raise malformed(path, f"cells[{index}].status must be one of {', '.join(_STATUSES)}, got {cell['status']}")
    return cells
