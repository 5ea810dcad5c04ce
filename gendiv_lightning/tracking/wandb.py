"""A run on Weights & Biases: how it is named and grouped, and what is sent. A service that fails stops no run.

Whatever the service does, the run's data lie in its folder, below `wandb/`, and `gendiv report RUN --sync` sends them.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import wandb
from pydantic import ValidationError
from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError
from wandb.sdk.mailbox.mailbox_handle import ServerResponseError

from gendiv_lightning.console.tables import scalars_of
from gendiv_lightning.errors import NetworkError
from gendiv_lightning.records.estimate import Estimate
from gendiv_lightning.runs.labels import label_of

if TYPE_CHECKING:
    from gendiv_lightning.records import SampleBatch

# What the client raises where the service, or the client's own process of transport, is not there or talks nonsense.
FAILURES = (wandb.Error, HandleAbandonedError, MailboxClosedError, ServerResponseError, ValidationError, OSError)
PATIENCE = {"init_timeout": 60, "finish_timeout": 300}  # seconds; WANDB_INIT_TIMEOUT, WANDB_FINISH_TIMEOUT: others
ANSWER_SECONDS = 15
GRACE_SECONDS = 20  # beyond the client's own timeout
SHOWN_PROMPTS = 8


def describe(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Name, group, tags and config of a run by its label, as arguments of `wandb.init`; seeds of a setting are a group.

    Args:
        protocol: of the run, see `RunFolder.read_protocol`.
    """
    label, data = label_of(protocol), protocol["data"]
    probes = label.probe.split(" + ")
    return {
        "name": label.title[:128],
        "group": label.group[:128],
        "job_type": "predict",
        "tags": [label.generator, *probes, *(["toy"] if label.embedded else [])],
        "config": {**label._asdict(), **{name: data[name] for name in ("prompt_set", "num_prompts", "num_samples")}},
    }


def open_run(
    folder: Path, protocol: Mapping[str, Any], config: Mapping[str, Any], *, run_id: str, project: str, mode: str
) -> wandb.Run:
    """Start the run there, "online" or "offline"; offline with a warning where the service cannot be reached.

    Args:
        folder: of the run.
        protocol: of the run.
        config: resolved config of the command.
        run_id: of W&B; the same one goes on with the run.
        project: of W&B.
        mode: "online" or "offline".

    Raises:
        ValueError: W&B's client does not work here at all.
    """
    told = describe(protocol)
    told["config"] = {**config, **told["config"]}
    common = {**told, "id": run_id, "project": project, "dir": folder}
    if mode == "online":
        try:
            return wandb.init(**common, mode="online", resume="allow", settings=_settings(silent=False))
        except FAILURES as error:
            with _told("not closed"):
                wandb.teardown()  # the client holds the run's id
            _warn(f"Weights & Biases cannot be reached: {_reason(error)}. The run goes on. {how_to_send(folder)}")
    try:
        return wandb.init(**common, mode="offline", settings=_settings(silent=True))
    except wandb.Error as error:
        raise NetworkError(f"Weights & Biases: {error} Without it: --wandb disabled") from error


def how_to_send(folder: Path) -> str:
    """Which command sends what lies in a run folder."""
    return f"W&B run, to be sent at any time: gendiv report {folder} --sync"


def _settings(silent: bool) -> wandb.Settings:
    patience: dict[str, Any] = {k: seconds for k, seconds in PATIENCE.items() if f"WANDB_{k.upper()}" not in os.environ}
    return wandb.Settings(silent=silent, console="off", finish_timeout_raises=True, **patience)


def _reason(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=3)


@contextmanager
def _told(what: str) -> Iterator[None]:
    """A failure of the service is a warning: it must not cost the run its results."""
    try:
        yield
    except FAILURES as error:
        _warn(f"Weights & Biases failed, {what}; all results are in the run folder: {_reason(error)}")


def send_results(
    run: wandb.Run, estimates: Mapping[str, Estimate], per_prompt: pa.Table, first: Sequence[SampleBatch], grid: Path
) -> None:
    """Scalars `NAME`, `NAME/low`, `NAME/high`; the grid; tables of estimates, of prompts and of the first samples."""
    scalars = {name: value for name, value in scalars_of(estimates).items() if math.isfinite(value)}
    with _told("its results are not there"):
        run.log({**scalars, "grid": wandb.Image(str(grid))})
    with _told("its tables are not there"):  # for tables, the client asks the service first
        run.log(
            {
                "estimates": _estimates(estimates),
                "per_prompt": wandb.Table(columns=per_prompt.column_names, data=_rows(per_prompt)),
                "samples": _samples(first),
            }
        )


def close_run(run: wandb.Run, folder: Path, exit_code: int) -> None:
    """End it. What could not be sent in time is kept as a run that was made offline."""
    try:
        with _killing_transport_after(run.settings.finish_timeout):
            run.finish(exit_code=exit_code)
    except FAILURES as error:
        with suppress(*FAILURES):  # one warning, below, is enough
            wandb.teardown()  # or it would be tried again when the process ends
        made = Path(run.dir).parent
        if not made.name.startswith("offline-"):
            made.rename(made.with_name(f"offline-{made.name}"))
        _warn(f"Weights & Biases did not take all of the run: {_reason(error)}. {how_to_send(folder)}")


@contextmanager
def _killing_transport_after(timeout: float) -> Iterator[None]:
    """The client's process of transport has been seen to wait for ever beyond its own timeout; 0 asks it to."""
    service = wandb.setup().ensure_service()
    process = getattr(getattr(service, "_proc", None), "_process", None)  # there is no public way
    if process is None or timeout <= 0:
        yield
        return
    timer = threading.Timer(timeout + GRACE_SECONDS, process.kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _estimates(estimates: Mapping[str, Estimate]) -> wandb.Table:
    rows = [[name, *map(_plain, estimate)] for name, estimate in estimates.items()]
    return wandb.Table(columns=["metric", *Estimate._fields], data=rows)


def _rows(table: pa.Table) -> list[list[Any]]:
    return [list(map(_plain, row)) for row in zip(*table.to_pydict().values(), strict=True)]


def _plain(value: Any) -> Any:
    """None for what is not a number, so that a column has one type."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _samples(batches: Sequence[SampleBatch]) -> wandb.Table:
    table = wandb.Table(columns=["prompt", "wording", "paraphrase", "path", "sample", "image"])
    shown = sorted(place for sampled in batches for place in sampled.batch.indices)[:SHOWN_PROMPTS]
    for sampled in batches:
        batch = sampled.batch
        for row, key, text, image in zip(batch.rows, batch.keys, batch.texts, sampled.images, strict=True):
            if batch.indices[row] in shown:
                picture = wandb.Image(image.permute(1, 2, 0).numpy())
                table.add_data(batch.prompts[row].text, text, key.paraphrase, key.path, key.sample, picture)
    return table


# --- sending what was kept ---


def check_service() -> None:
    """Raises ValueError where nobody is logged in, or the service does not answer."""
    try:
        wandb.Api(timeout=ANSWER_SECONDS).viewer  # noqa: B018  it asks the service
    except FAILURES as error:
        raise NetworkError(f"nothing was sent to Weights & Biases: {error} (`wandb login` logs in)") from error


def unsent(folders: Iterable[Path]) -> list[Path]:
    """Offline runs in or below folders that were not sent yet, the oldest first."""
    found = {file for folder in folders for file in Path(folder).rglob("wandb/offline-run-*/run-*.wandb")}
    return sorted((f for f in found if not _mark(f).exists()), key=lambda file: file.parent.name)


def send(files: Sequence[Path], entity: str | None = None, project: str | None = None) -> None:
    """Send offline runs by `wandb sync`, which remembers what it sent.

    Args:
        files: from `unsent`.
        entity: instead of the one that is logged in.
        project: instead of the runs' own.

    Raises:
        ValueError: some were not taken.
    """
    others = [word for name, value in (("--entity", entity), ("--project", project)) if value for word in (name, value)]
    own = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}  # not this process's client
    own["WANDB_DIR"] = str(files[0].parents[2])  # for its log
    subprocess.run([sys.executable, "-m", "wandb", "sync", *others, *map(str, files)], env=own, check=False)
    left = [str(file.parent) for file in files if not _mark(file).exists()]
    if left:
        raise NetworkError(f"{len(left)} of {len(files)} runs were not sent, see above: {', '.join(left)}")


def _mark(file: Path) -> Path:
    """W&B's mark of a file that was sent."""
    return file.with_name(f"{file.name}.synced")
