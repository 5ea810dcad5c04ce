"""`RunLock`: only one process at a time writes a run.

The file `run.lock` in the run folder identifies its owner. On one machine the operating system holds the lock and
releases it when the owner exits, for whatever reason. For machines that share a disk, the owner updates the file every
few seconds; a lock without an update for a minute is taken over.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType

from gendiv_lightning.errors import RunLockedError

NAME = "run.lock"
HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0


class RunLock:
    """A lock that is held from `acquire` to `release`, or as a context manager.

    Args:
        folder: run folder; created if missing.

    Attributes:
        token: identifies this acquisition. A rank that finds another token in the file must stop writing.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self.token = folder / NAME, uuid.uuid4().hex
        self._file: int | None = None
        self._stop = threading.Event()

    def acquire(self) -> None:
        """Acquire the lock, or take over a stale one.

        Raises:
            RunLockedError: another process, which the message names, is writing this run.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self._open()
        owner = _read(file)
        if owner.get("host") not in (None, socket.gethostname()) and self._age() < STALE_SECONDS:
            os.close(file)
            raise self._taken(owner)
        content = {"host": socket.gethostname(), "pid": os.getpid(), "token": self.token}
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(content).encode(), 0)
        self._file = file
        threading.Thread(target=self._beat, name="run lock", daemon=True).start()

    def release(self) -> None:
        """Release the lock and remove the file, unless another machine has taken it over."""
        if self._file is None:
            return
        self._stop.set()
        if self._is_ours():
            self.path.unlink(missing_ok=True)
        os.close(self._file)
        self._file = None

    def __enter__(self) -> RunLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def _open(self) -> int:
        """Open and lock the file; opened again if its owner removes it in between."""
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.exists(self.path) and os.path.samestat(os.fstat(file), os.stat(self.path)):
                    return file
            except BlockingIOError:
                owner = _read(file)
                os.close(file)
                raise self._taken(owner) from None
            os.close(file)

    def _is_ours(self) -> bool:
        return token_of(self.path.parent) == self.token

    def _age(self) -> float:
        return time.time() - self.path.stat().st_mtime

    def _taken(self, owner: dict[str, object]) -> RunLockedError:
        who = f"process {owner.get('pid', '?')} on {owner.get('host', 'this machine')}"
        return RunLockedError(
            f"{self.path.parent} is being written by {who}. Wait for it, stop it, or choose another --run_dir"
        )

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            try:
                if self._is_ours():
                    os.utime(self.path)
            except OSError:  # the folder was deleted, or the disk is temporarily unavailable
                continue


def token_of(folder: Path) -> str | None:
    """Token of the process that holds the lock of a run; None if there is none."""
    try:
        token = json.loads((folder / NAME).read_text()).get("token")
    except (OSError, ValueError, AttributeError):
        return None
    return token if isinstance(token, str) else None


def _read(file: int) -> dict[str, object]:
    try:
        content = json.loads(os.pread(file, 4096, 0) or b"{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
