"""Run the unfinished cells of a study, in local processes or as cluster jobs. Each cell runs its plain command.

A failed cell does not stop the others. A local cell is forked from a process with all libraries loaded, which only
saves their loading time. It ends when the process of the study ends, for whatever reason.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import sysconfig
import threading
import time
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gendiv_lightning.errors import ConfigValueError, PackageError
from gendiv_lightning.study.folder import RUNNING, StudyFolder
from gendiv_lightning.study.matrix import Cell

_POLL_SECONDS = 5.0


def run_here(folder: StudyFolder, num_jobs: int) -> None:
    """Run cells on this machine, `num_jobs` in parallel."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gendiv_lightning.study.preload"])
    waiting = folder.unfinished()[::-1]
    running: dict[Any, tuple[BaseProcess, Cell, float]] = {}
    with tqdm(total=len(waiting), desc="Cells", unit="cell", delay=2) as bar:
        try:
            while waiting or running:
                while waiting and len(running) < num_jobs:
                    cell = waiting.pop()
                    worker = context.Process(target=_work, args=(folder.command(cell), folder.log(cell)))
                    worker.start()
                    folder.note(cell, status=RUNNING)
                    running[worker.sentinel] = worker, cell, time.monotonic()
                for sentinel in wait(list(running)):
                    process, cell, started = running.pop(sentinel)
                    process.join()
                    _close(folder, cell, process.exitcode == 0, started, bar)
        finally:
            for process, *_ in running.values():
                process.kill()  # Lightning does not stop a run on SIGTERM; a killed run can be resumed
                process.join()


def run_as_jobs(folder: StudyFolder, cluster: str, parameters: dict[str, Any]) -> None:
    """Submit cells with submitit and wait for them, and for jobs of an earlier call that are still running.

    Args:
        folder: folder of the study.
        cluster: "slurm", or another cluster that submitit supports.
        parameters: parameters of submitit's executor: timeout_min, gpus_per_node, slurm_partition, ...

    Raises:
        PackageError: submitit is not installed.
        ConfigValueError: a parameter or the cluster is unknown.
    """
    try:
        import submitit
    except ImportError as error:
        raise PackageError(
            "cluster jobs need submitit. Install it with pip install 'gendiv_lightning[slurm]'"
        ) from error
    try:
        executor = submitit.AutoExecutor(folder.path / "jobs", cluster=cluster)
        executor.update_parameters(name="gendiv", **parameters)
    except (RuntimeError, NameError, TypeError) as error:  # raised by submitit for unknown parameters and clusters
        raise ConfigValueError(f"{cluster} jobs cannot be submitted: {error}. Correct --launch or --slurm") from error
    job_class: Any = executor.job_class
    cells = folder.unfinished()
    jobs = {}
    for cell in cells:
        number = folder.entries[cell.name]["job"]
        former = job_class(executor.folder, number) if number else None
        if former is not None and not former.done():
            jobs[cell.name] = former
    missing = [cell for cell in cells if cell.name not in jobs]
    with executor.batch():
        submitted = [executor.submit(run_cell, folder.command(cell), folder.log(cell)) for cell in missing]
    for cell, job in zip(missing, submitted, strict=True):
        jobs[cell.name] = job
        folder.note(cell, status=RUNNING, job=job.job_id)
    _wait_for(folder, cells, jobs)


def _wait_for(folder: StudyFolder, cells: list[Cell], jobs: dict[str, Any]) -> None:
    started, waiting = time.monotonic(), list(cells)
    with tqdm(total=len(cells), desc="Cells", unit="cell", delay=2) as bar:
        while waiting:
            ended = [cell for cell in waiting if jobs[cell.name].done()]
            for cell in ended:
                failed = jobs[cell.name].exception() is not None or jobs[cell.name].result() != 0
                _close(folder, cell, not failed, started, bar)
            waiting = [cell for cell in waiting if cell not in ended]
            time.sleep(_POLL_SECONDS if waiting else 0)


def _close(folder: StudyFolder, cell: Cell, succeeded: bool, started: float, bar: Any) -> None:
    if not folder.close(cell, succeeded, time.monotonic() - started):
        bar.write(f"{cell.name} failed: {folder.last_words(cell)}", file=sys.stderr)
    bar.update()


def run_cell(command: list[str], log: Path) -> int:
    """Run a command in this process, with its output in `log`; returns its exit status."""
    from gendiv_lightning.cli.predict import main

    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    # Lightning starts the other ranks with it.
    sys.argv = [str(Path(sysconfig.get_path("scripts")) / "gendiv"), *command[1:]]
    try:
        main()
    except SystemExit as ended:
        if isinstance(ended.code, str):
            sys.stderr.write(f"{ended.code}\n")
            return 1
        return ended.code or 0
    return 0


def _work(command: list[str], log: Path) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(run_cell(command, log))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "the study started this process"
    wait([parent.sentinel])
    os._exit(1)
