"""Log runs to Weights & Biases. A failure of the service never stops a run.

The data of a run are always stored in its folder, in `wandb/`, and `gendiv report RUN --sync` sends them.
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

# Raised by the client if the service, or the client's own transport process, is missing or returns nonsense.
FAILURES = (wandb.Error, HandleAbandonedError, MailboxClosedError, ServerResponseError, ValidationError, OSError)
PATIENCE = {
    "init_timeout": 60,
    "finish_timeout": 300,
}  # seconds; WANDB_INIT_TIMEOUT and WANDB_FINISH_TIMEOUT override them
ANSWER_SECONDS = 15
GRACE_SECONDS = 20  # in addition to the client's own timeout
SHOWN_PROMPTS = 8


def describe(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Name, group, tags and config of a run, as arguments of `wandb.init`. Seeds of a setting form a group.

    Args:
        protocol: protocol of the run, see `RunFolder.read_protocol`.
    """
    label, data = label_of(protocol), protocol["data"]
    probes = label.probe.split(" + ")
    branch_step = next((probe["step"] for probe in protocol["probes"] if "step" in probe), None)
    return {
        "name": label.title[:128],
        "group": label.group[:128],
        "job_type": "predict",
        "tags": [label.generator, *probes, *(["toy"] if label.embedded else [])],
        "config": {
            **label._asdict(),
            "branch_step": branch_step,
            **{name: data[name] for name in ("prompt_set", "num_prompts", "num_samples")},
        },
    }


def open_run(
    folder: Path, protocol: Mapping[str, Any], config: Mapping[str, Any], *, run_id: str, project: str, mode: str
) -> wandb.Run:
    """Start a W&B run, "online" or "offline"; offline with a warning if the service cannot be reached.

    Args:
        folder: the run folder.
        protocol: protocol of the run.
        config: resolved config of the command.
        run_id: id of the W&B run; an existing id resumes that run.
        project: W&B project.
        mode: "online" or "offline".

    Raises:
        NetworkError: the client of W&B does not work.
    """
    described = describe(protocol)
    described["config"] = {**config, **described["config"]}
    common = {**described, "id": run_id, "project": project, "dir": folder}
    if mode == "online":
        try:
            return wandb.init(**common, mode="online", resume="allow", settings=_settings(silent=False))
        except FAILURES as error:
            with _warning_on_failure("not closed"):
                wandb.teardown()  # the client keeps the id of the run
            _warn(
                f"Weights & Biases cannot be reached: {_reason(error)}. The run continues offline. "
                f"{how_to_send(folder)}"
            )
    try:
        return wandb.init(**common, mode="offline", settings=_settings(silent=True))
    except wandb.Error as error:
        raise NetworkError(
            f"Weights & Biases cannot be used: {error}. Pass --wandb disabled to run without it"
        ) from error


def how_to_send(folder: Path) -> str:
    """A line with the command that sends the data in a run folder."""
    return f"Send the W&B run at any time with: gendiv report {folder} --sync"


def _settings(silent: bool) -> wandb.Settings:
    patience: dict[str, Any] = {k: seconds for k, seconds in PATIENCE.items() if f"WANDB_{k.upper()}" not in os.environ}
    return wandb.Settings(silent=silent, console="off", finish_timeout_raises=True, **patience)


def _reason(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=3)


@contextmanager
def _warning_on_failure(what: str) -> Iterator[None]:
    """Turn a failure of the service into a warning, so that the results of the run are not lost."""
    try:
        yield
    except FAILURES as error:
        _warn(f"Weights & Biases failed ({what}); all results are in the run folder: {_reason(error)}")


def send_results(
    run: wandb.Run, estimates: Mapping[str, Estimate], per_prompt: pa.Table, first: Sequence[SampleBatch], grid: Path
) -> None:
    """Send scalars `NAME`, `NAME/low`, `NAME/high`, the grid, and tables of estimates, prompts and first samples."""
    scalars = {name: value for name, value in scalars_of(estimates).items() if math.isfinite(value)}
    with _warning_on_failure("results were not sent"):
        run.log({**scalars, "grid": wandb.Image(str(grid))})
    with _warning_on_failure("tables were not sent"):  # for tables, the client calls the service first
        run.log(
            {
                "estimates": _estimates(estimates),
                "per_prompt": wandb.Table(columns=per_prompt.column_names, data=_rows(per_prompt)),
                "samples": _samples(first),
            }
        )


def close_run(run: wandb.Run, folder: Path, exit_code: int) -> None:
    """Finish the W&B run. Data that could not be sent in time are kept as an offline run."""
    try:
        with _killing_transport_after(run.settings.finish_timeout):
            run.finish(exit_code=exit_code)
    except FAILURES as error:
        with suppress(*FAILURES):  # one warning, below, is enough
            wandb.teardown()  # otherwise the client tries again when the process ends
        made = Path(run.dir).parent
        if not made.name.startswith("offline-"):
            made.rename(made.with_name(f"offline-{made.name}"))
        _warn(f"Weights & Biases did not accept all data of the run: {_reason(error)}. {how_to_send(folder)}")


@contextmanager
def _killing_transport_after(timeout: float) -> Iterator[None]:
    """Kill the client's transport process if it hangs beyond its own timeout; with 0 it may wait forever."""
    service = wandb.setup().ensure_service()
    process = getattr(getattr(service, "_proc", None), "_process", None)  # there is no public API for it
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
    """None for NaN and infinity, so that a column has one type."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _samples(batches: Sequence[SampleBatch]) -> wandb.Table:
    table = wandb.Table(columns=["prompt", "text", "paraphrase", "path", "sample", "image"])
    shown = sorted(index for sampled in batches for index in sampled.batch.indices)[:SHOWN_PROMPTS]
    for sampled in batches:
        batch = sampled.batch
        for row, key, text, image in zip(batch.rows, batch.keys, batch.texts, sampled.images, strict=True):
            if batch.indices[row] in shown:
                picture = wandb.Image(image.permute(1, 2, 0).numpy())
                table.add_data(batch.prompts[row].text, text, key.paraphrase, key.path, key.sample, picture)
    return table


# --- sending offline runs ---


def check_service() -> None:
    """Raise NetworkError if the user is not logged in, or the service does not answer."""
    try:
        wandb.Api(timeout=ANSWER_SECONDS).viewer  # noqa: B018  calls the service
    except FAILURES as error:
        raise NetworkError(
            f"nothing was sent to Weights & Biases: {error}. Check the network, or log in with `wandb login`"
        ) from error


def unsent(folders: Iterable[Path]) -> list[Path]:
    """Offline runs in or below folders that have not been sent yet, the oldest first."""
    found = {file for folder in folders for file in Path(folder).rglob("wandb/offline-run-*/run-*.wandb")}
    return sorted((f for f in found if not _mark(f).exists()), key=lambda file: file.parent.name)


def send(files: Sequence[Path], entity: str | None = None, project: str | None = None) -> None:
    """Send offline runs with `wandb sync`, which marks the files that it has sent.

    Args:
        files: result of `unsent`.
        entity: W&B entity; None for the one that is logged in.
        project: W&B project; None for that of each run.

    Raises:
        NetworkError: some runs were not accepted.
    """
    others = [word for name, value in (("--entity", entity), ("--project", project)) if value for word in (name, value)]
    own = {
        name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"
    }  # do not use the client of this process
    own["WANDB_DIR"] = str(files[0].parents[2])  # for its log
    subprocess.run([sys.executable, "-m", "wandb", "sync", *others, *map(str, files)], env=own, check=False)
    left = [str(file.parent) for file in files if not _mark(file).exists()]
    if left:
        raise NetworkError(f"{len(left)} of {len(files)} runs were not sent: {', '.join(left)}. See the messages above")


def _mark(file: Path) -> Path:
    """The file with which W&B marks a file as sent."""
    return file.with_name(f"{file.name}.synced")
