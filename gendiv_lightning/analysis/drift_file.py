"""Files of `gendiv drift`: the numbers of one probe, which scripts and `gendiv report` read. NaN is null."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gendiv_lightning.analysis.drift import AttributeDrift, Drift, Entropies, Flow
from gendiv_lightning.analysis.effects import Interval
from gendiv_lightning.errors import DamagedRunError
from gendiv_lightning.runs.files import field, malformed, read_json
from gendiv_lightning.storage.atomic import write_atomically

PATTERN = "drift*.json"  # names of the files that a report looks for


class DriftFile(NamedTuple):
    """A drift, and what it was measured on.

    Attributes:
        scorer: name of the scorer.
        scorer_identity: everything that can change its answers.
        attributes: name of the attribute list.
        attributes_identity: everything that can change it.
        runs: short fingerprints of the runs: baseline, probe and, if there is one, control.
        drift: the numbers.
    """

    scorer: str
    scorer_identity: Mapping[str, Any]
    attributes: str
    attributes_identity: Mapping[str, Any]
    runs: Mapping[str, str]
    drift: Drift


def write_drift(path: Path, content: DriftFile) -> None:
    """Write the file atomically; its folder is created."""
    plain = {
        **{name: value for name, value in content._asdict().items() if name != "drift"},
        "overall": _plain_attribute(content.drift.overall),
        "by_attribute": list(map(_plain_attribute, content.drift.attributes)),
        "token_entropy": _plain_entropies(content.drift.entropies),
    }
    text = json.dumps(plain, indent=2, ensure_ascii=False)
    write_atomically(path, lambda part: part.write_text(f"{text}\n", encoding="utf-8"))


def read_drift(path: Path) -> DriftFile:
    """Read a file of `gendiv drift`.

    Raises:
        DamagedRunError: the file is damaged, or is not one.
    """
    plain = read_json(path)
    texts = [field(path, plain, name, str) for name in ("scorer", "attributes")]
    identities = [field(path, plain, f"{name}_identity", dict) for name in ("scorer", "attributes")]
    runs = field(path, plain, "runs", dict)
    if not {"baseline", "probe"} <= runs.keys() or not all(isinstance(run, str) for run in runs.values()):
        raise malformed(path, f"runs must name a baseline and a probe, got {runs!r:.80}")
    try:
        drift = Drift(
            _attribute(path, field(path, plain, "overall", dict)),
            tuple(_attribute(path, each) for each in field(path, plain, "by_attribute", list)),
            _entropies(path, plain["token_entropy"]),
        )
    except DamagedRunError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise malformed(path, f"it is not a file of gendiv drift ({type(error).__name__}: {error})") from error
    return DriftFile(texts[0], identities[0], texts[1], identities[1], runs, drift)


def find_drifts(folders: Iterable[Path], runs: Iterable[str]) -> list[DriftFile]:
    """The files named `drift*.json` in some folders that are about some runs, given by their short fingerprints.

    Raises:
        DamagedRunError: a file of this name is damaged, or is not one of `gendiv drift`.
    """
    known = set(runs)
    paths = dict.fromkeys(path.resolve() for folder in folders for path in sorted(folder.glob(PATTERN)))
    return [found for found in map(read_drift, paths) if set(found.runs.values()) <= known]


def _plain_attribute(found: AttributeDrift) -> dict[str, Any]:
    return {
        **found._asdict(),
        "matrices": {run: list(map(_plain_numbers, matrix.tolist())) for run, matrix in found.matrices.items()},
        "fidelity": {run: _plain_numbers(interval) for run, interval in found.fidelity.items()},
        **{name: _plain_numbers(getattr(found, name)) for name in ("drift", "beyond", "bleeding")},
        **{name: _plain(getattr(found, name)) for name in ("p_value", "beyond_p_value")},
        "flows": [
            {**flow._asdict(), "gain": _plain_numbers(flow.gain), "control": _plain(flow.control)}
            for flow in found.flows
        ],
    }


def _plain_entropies(found: Entropies | None) -> dict[str, Any] | None:
    if found is None:
        return None
    by_run = {run: _plain_numbers(interval) for run, interval in found.by_run.items()}
    return {"by_run": by_run, "mismatch": _plain_numbers(found.mismatch)}


def _plain_numbers(values: Iterable[float]) -> list[float | None]:
    return list(map(_plain, values))


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _attribute(path: Path, plain: Mapping[str, Any]) -> AttributeDrift:
    values = tuple(map(str, plain["values"]))
    matrices = {
        str(run): torch.tensor([list(map(_number, row)) for row in rows], dtype=torch.float64)
        for run, rows in plain["matrices"].items()
    }
    if any(matrix.shape != (len(values), len(values)) for matrix in matrices.values()):
        raise malformed(path, "a matrix must have a row and a column for each value")
    return AttributeDrift(
        str(plain["name"]),
        values,
        int(plain["num_prompts"]),
        matrices,
        {str(run): _interval(ends) for run, ends in plain["fidelity"].items()},
        _interval(plain["drift"]),
        _number(plain["p_value"]),
        _interval(plain["beyond"]),
        _number(plain["beyond_p_value"]),
        _interval(plain["bleeding"]),
        tuple(map(_flow, plain["flows"])),
    )


def _flow(plain: Mapping[str, Any]) -> Flow:
    gain, control = _interval(plain["gain"]), _number(plain["control"])
    return Flow(str(plain["stated"]), str(plain["seen"]), gain, control, int(plain["num_prompts"]))


def _entropies(path: Path, plain: Mapping[str, Any] | None) -> Entropies | None:
    if plain is None:
        return None
    by_run = {str(run): _interval(ends) for run, ends in plain["by_run"].items()}
    if not {"baseline", "probe"} <= by_run.keys():
        raise malformed(path, "token_entropy must have a baseline and a probe")
    return Entropies(by_run, _interval(plain["mismatch"]))


def _interval(ends: Any) -> Interval:
    value, low, high = map(_number, ends)
    return Interval(value, low, high)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
