"""`RunIndex`: checksums of all files that a run has written, so that damaged files are detected.

Before a file is put in place, a line is appended to `index.jsonl`. Lines are short, so appending is atomic. A file that
was written several times has several lines and must match one of them. Runs of version 0.1 have no index and are not
checked.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from gendiv_lightning.errors import DamagedRunError
from gendiv_lightning.storage.atomic import write_atomically
from gendiv_lightning.storage.hashing import sha256_of

NAME = "index.jsonl"


class RunIndex:
    """Checksums of the files in a run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / NAME
        self._known: dict[str, set[str]] = {}
        self._state: tuple[int, ...] = ()  # of the index file when it was read

    def add(self, path: Path, content: Path) -> None:
        """Record that `path` is about to get the content of the file `content`."""
        line = {"file": path.relative_to(self.folder).as_posix(), "sha256": sha256_of(content)}
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            # Start on a new line, in case a crash truncated the last one.
            os.write(file, f"{'' if self._ends_with_newline() else chr(10)}{json.dumps(line)}\n".encode())
            os.fsync(file)
        finally:
            os.close(file)

    def files(self) -> dict[str, set[str]]:
        """Checksums of each listed file, by path in the folder; empty for a run of version 0.1."""
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            return {}
        state = stat.st_ino, stat.st_size, stat.st_mtime_ns
        if state != self._state:
            self._known = {}
            for line in self.path.read_bytes().splitlines():
                try:
                    entry = json.loads(line)
                    self._known.setdefault(entry["file"], set()).add(entry["sha256"])
                except (ValueError, KeyError, TypeError):
                    continue  # truncated by a crash, so the file was never put in place, or has its own checksums
            self._state = state
        return self._known

    def check(self, path: Path, advice: str) -> None:
        """Raise DamagedRunError if a file does not match its checksum. Files that are not listed are accepted.

        Args:
            path: an existing file in the folder.
            advice: what to do about a damaged file.
        """
        known = self.files().get(path.relative_to(self.folder).as_posix())
        if known and sha256_of(path) not in known:
            raise DamagedRunError(
                f"{path} is damaged: its SHA-256 differs from that of the file that the run wrote. {advice}"
            )

    def missing(self) -> list[str]:
        """Listed files that do not exist."""
        return [name for name in self.files() if not (self.folder / name).exists()]

    def forget_missing(self) -> None:
        """Remove the lines of files that do not exist: of a killed process, or of shards that the user deleted.

        Only for the owner of an unfinished run, whose missing prompts are sampled again, perhaps into other shards.
        """
        if self.missing():
            lines = [
                json.dumps({"file": name, "sha256": checksum}) + "\n"
                for name, checksums in self.files().items()
                if (self.folder / name).exists()
                for checksum in sorted(checksums)
            ]
            write_atomically(self.path, lambda path: path.write_text("".join(lines), encoding="utf-8"))

    def _ends_with_newline(self) -> bool:
        try:
            with self.path.open("rb") as file:
                if file.seek(0, os.SEEK_END) == 0:
                    return True
                file.seek(-1, os.SEEK_END)
                return file.read(1) == b"\n"
        except FileNotFoundError:
            return True
