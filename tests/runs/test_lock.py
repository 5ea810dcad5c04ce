"""Only one process writes a run; a dead process loses its lock at once, another machine after a minute."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from gendiv_lightning.runs import lock
from gendiv_lightning.runs.lock import RunLock, token_of

HOLD = """
import sys, time
from pathlib import Path
from gendiv_lightning.runs.lock import RunLock
RunLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    line = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_is_rejected_with_the_name_of_the_owner(tmp_path, holder):
    with pytest.raises(ValueError, match=rf"process {holder.pid} on .*--run_dir"):
        RunLock(tmp_path).acquire()


@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGTERM"])
def test_the_lock_of_a_dead_process_is_taken_over_at_once(tmp_path, holder, signal_name):
    before = token_of(tmp_path)
    os.kill(holder.pid, getattr(signal, signal_name))
    holder.wait()
    with RunLock(tmp_path) as taken:
        assert token_of(tmp_path) == taken.token != before


def test_released_locks_leave_no_file_and_can_be_acquired_again(tmp_path):
    for _ in range(2):
        with RunLock(tmp_path):
            assert token_of(tmp_path)
        assert list(tmp_path.iterdir()) == []
    assert token_of(tmp_path) is None


def write_lock(folder, seconds_ago):
    path = folder / lock.NAME
    path.write_text(json.dumps({"host": "another-machine", "pid": 1, "token": "theirs"}))
    os.utime(path, (time.time() - seconds_ago,) * 2)


def test_a_fresh_lock_of_another_machine_is_respected(tmp_path):
    write_lock(tmp_path, 5)
    with pytest.raises(ValueError, match="another-machine"):
        RunLock(tmp_path).acquire()


def test_a_stale_lock_of_another_machine_is_taken_over(tmp_path):
    write_lock(tmp_path, 2 * lock.STALE_SECONDS)
    with RunLock(tmp_path) as taken:
        assert token_of(tmp_path) == taken.token


def test_the_owner_updates_its_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.01)
    with RunLock(tmp_path) as held:
        os.utime(held.path, (0, 0))
        deadline = time.monotonic() + 10
        while held.path.stat().st_mtime < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert held.path.stat().st_mtime > 1


def test_a_former_owner_leaves_the_lock_of_another_machine_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.01)
    held = RunLock(tmp_path)
    held.acquire()
    write_lock(tmp_path, 5)
    before = held.path.stat().st_mtime
    time.sleep(0.1)
    assert held.path.stat().st_mtime == before
    held.release()
    assert token_of(tmp_path) == "theirs"


def test_a_damaged_lock_file_has_no_owner(tmp_path):
    (tmp_path / lock.NAME).write_text("{broken")
    with RunLock(tmp_path):
        assert token_of(tmp_path)
