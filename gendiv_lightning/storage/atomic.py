"""Atomic writes, and the cache folder."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Callable
from pathlib import Path


def write_atomically(
    path: Path, write: Callable[[Path], object], before_replace: Callable[[Path], object] | None = None
) -> None:
    """Write a file so that it is either complete or absent.

    `write` fills a temporary file next to `path`, which is synchronized to disk and then renamed. Missing folders are
    created. An error, such as a full disk, leaves nothing behind. A killed process leaves a hidden `.NAME.*`, which is
    never read.

    Args:
        path: path of the file.
        write: writes the file at the path that it receives.
        before_replace: called with the temporary file before it is renamed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")  # unique, since several machines may share the disk
    try:
        write(temporary)
        temporary.chmod(0o644)  # some libraries make their files private
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if before_replace:
            before_replace(temporary)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise OSError(
                errno.ENOSPC, "The disk is full. Make room and run the same command again", str(path)
            ) from error
        raise


def cache_folder() -> Path:
    """The folder for cached results: `$GENDIV_CACHE`, or `~/.cache/gendiv`."""
    return Path(os.environ.get("GENDIV_CACHE") or Path.home() / ".cache" / "gendiv")
