"""The folder of a study and its index: `study.json`, `configs/<cell>.yaml`, `logs/<cell>.log`, run folders `<cell>/`.

It records which cells are finished; `launch` runs them.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gendiv_lightning.errors import LINK, RunLockedError
from gendiv_lightning.runs.files import read_cells
from gendiv_lightning.storage.atomic import write_atomically
from gendiv_lightning.study.matrix import Cell

WAITING, RUNNING, FINISHED, FAILED = "waiting", "running", "finished", "failed"


class StudyFolder:
    """The folder of a study, with its index `study.json`: settings, files and status of each cell.

    A cell that finished with its current config is not run again. All others are run, or resumed.
    """

    def __init__(self, path: Path, cells: Sequence[Cell]) -> None:
        self.path, self.cells, self.index = path, cells, path / "study.json"
        stored = read_cells(self.index) if self.index.exists() else []
        before = {entry["name"]: entry for entry in stored}
        self.entries = {cell.name: self._entry(cell, before.get(cell.name, {})) for cell in cells}

    def _entry(self, cell: Cell, before: dict[str, Any]) -> dict[str, Any]:
        is_same = before.get("config_sha256") == cell.sha256
        is_finished = is_same and before["status"] == FINISHED and self._has_results(cell)
        return {
            "name": cell.name,
            "generator": cell.generator,
            "probe": cell.probe,
            "probes": cell.probes,
            "seed": cell.seed,
            "run_dir": cell.name,
            "config": f"configs/{cell.name}.yaml",
            "config_sha256": cell.sha256,
            "log": f"logs/{cell.name}.log",
            "status": FINISHED if is_finished else WAITING,
            "seconds": before.get("seconds") if is_finished else None,
            "job": before.get("job") if is_same else None,
        }

    def _has_results(self, cell: Cell) -> bool:
        return (self.path / cell.name / "metrics.json").exists()

    def unfinished(self) -> list[Cell]:
        """The cells that are not finished."""
        return [cell for cell in self.cells if self.entries[cell.name]["status"] != FINISHED]

    def leftovers(self) -> list[Path]:
        """Run folders that do not belong to a cell, left over from an earlier version of the study."""
        return sorted(
            file.parent for file in self.path.glob("*/fingerprint.json") if file.parent.name not in self.entries
        )

    def command(self, cell: Cell) -> list[str]:
        """The command line of a cell."""
        run_dir = self.path / cell.name
        return ["gendiv", "fit-free", "predict", "--config", str(self.config(cell)), "--run_dir", str(run_dir)]

    def config(self, cell: Cell) -> Path:
        """The config of a cell."""
        return self.path / self.entries[cell.name]["config"]

    def log(self, cell: Cell) -> Path:
        """The log of a cell."""
        return self.path / self.entries[cell.name]["log"]

    def write_configs(self) -> None:
        """Write a complete config for each cell."""
        for cell in self.cells:
            text = f"# {' '.join(self.command(cell))}\n{cell.text}"
            write_atomically(self.config(cell), lambda path, text=text: path.write_text(text))  # type: ignore[misc]

    def note(self, cell: Cell, **changes: Any) -> None:
        """Update the entry of a cell in the index, and write the index."""
        self.entries[cell.name].update(changes)
        self.write_index()

    def write_index(self) -> None:
        """Write `study.json` with all cells of the study."""
        text = json.dumps({"cells": list(self.entries.values())}, indent=2) + "\n"
        write_atomically(self.index, lambda path: path.write_text(text))

    def close(self, cell: Cell, succeeded: bool, seconds: float) -> bool:
        """Record how a cell ended; returns whether it is finished."""
        is_finished = succeeded and self._has_results(cell)
        self.note(cell, status=FINISHED if is_finished else FAILED, seconds=round(seconds, 1))
        return is_finished

    def last_words(self, cell: Cell) -> str:
        """The last line of the log, except for the link below an error: the reason why a run failed."""
        log = self.log(cell)
        lines = log.read_text(errors="replace").split("\n") if log.exists() else []
        lines = [line.split("\r")[-1].strip() for line in lines if not line.startswith(LINK)]
        return next(filter(None, reversed(lines)), "")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder for this process until it exits.

        Raises:
            RunLockedError: another process has locked it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunLockedError(
                    f"another `gendiv study` is running in {self.path}. Wait for it, or choose another --out"
                ) from error
            yield
