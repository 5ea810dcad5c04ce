"""Files that are whole or absent, and the folder of what can be computed again."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path


def write_atomically(
    path: Path, write: Callable[[Path], object], before_replace: Callable[[Path], object] | None = None
) -> None:
    """Let `write` fill a temporary file beside `path` (its folder is made), force it to disk, and give it its name.

    An error, such as a full disk, leaves nothing behind. A writer that is killed leaves a hidden `.NAME.*` beside it,
    which nothing reads.

    Args:
        path: of the file.
        write: fills the file whose path it is given.
        before_replace: called with the filled file, before it takes its place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")  # several machines may share the disk
    try:
        write(temporary)
        temporary.chmod(0o644)  # some libraries keep their files to their user
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if before_replace:
            before_replace(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def cache_folder() -> Path:
    """Folder of what can be computed again: `$GENDIV_CACHE`, or `~/.cache/gendiv`."""
    return Path(os.environ.get("GENDIV_CACHE") or Path.home() / ".cache" / "gendiv")
