"""List and read the files of a folder: linked folders are followed, hidden files counted, only regular files read."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from gendiv_lightning.errors import MemoryLimitError, MissingFileError

GIB = 2**30
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff")
# Folders that operating systems and file servers add to a disk or an archive.
_OF_THE_SYSTEM = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


class File(NamedTuple):
    """A file, not read yet.

    Attributes:
        name: path relative to its folder or archive, with slashes; always valid Unicode.
        size: size in bytes.
        read: returns the content; raises OSError if it cannot be read, or ValueError if its archive is damaged.
        path: path on this machine; None inside an archive.
    """

    name: str
    size: int
    read: Callable[[], bytes]
    path: Path | None = None


def on_disk(file: File) -> Path:
    """The path of a file in a folder."""
    assert file.path is not None, f"{file.name} is inside an archive"
    return file.path


class Folder(NamedTuple):
    """The files of a folder and of all folders in it.

    Attributes:
        files: visible files, sorted by name, including broken links and special files, which cannot be read.
        hidden: number of hidden files, by hidden folder or file.
        notes: lines about links that were not followed, and folders that occur twice.
    """

    files: list[File]
    hidden: Counter[str]
    notes: list[str]


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden: its name begins with a dot, or the operating system added it."""
    return name.startswith(".") or name in _OF_THE_SYSTEM


def valid_text(name: str) -> str:
    r"""A file name as valid Unicode: bytes that are not UTF-8 are written as escapes, such as \xfc."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def list_folder(folder: Path, memory_limit: float = 1.0) -> Folder:
    """List a folder and everything below it. A link to a folder above itself is not followed.

    Args:
        folder: the folder.
        memory_limit: memory in GiB that a single file may take.

    Raises:
        OSError: the folder or a folder below it cannot be listed.
    """
    found = Folder([], Counter(), [])
    _list_into(found, folder, "", [], {}, memory_limit)
    found.files.sort(key=lambda file: file.name)
    return found


def _list_into(
    found: Folder,
    folder: Path,
    prefix: str,
    above: list[os.stat_result],
    seen: dict[tuple[int, int], str],
    limit: float,
) -> None:
    here = folder.stat()
    identity = (here.st_dev, here.st_ino)
    if any(os.path.samestat(here, parent) for parent in above):
        found.notes.append(f"{prefix[:-1]} links to a folder above itself and was not followed")
        return
    if identity in seen:
        found.notes.append(f"{prefix[:-1]} and {seen[identity] or '.'} are the same folder; its files count twice")
    seen[identity] = prefix[:-1]
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            name, path = f"{prefix}{valid_text(entry.name)}", Path(entry.path)
            is_folder, is_file = _kind(entry)
            if is_hidden(entry.name):
                found.hidden[entry.name] += sum(len(files) for *_, files in os.walk(path)) if is_folder else 1
            elif is_folder:
                _list_into(found, path, f"{name}/", [*above, here], seen, limit)
            else:
                size = entry.stat().st_size if is_file else 0
                found.files.append(File(name, size, partial(read_file, path, limit), path))


def _kind(entry: os.DirEntry[str]) -> tuple[bool, bool]:
    """Whether an entry is a folder, and whether it is a file; a link that leads nowhere is neither."""
    try:
        return entry.is_dir(), entry.is_file()
    except OSError:  # links in a circle
        return False, False


def check_regular(path: Path) -> None:
    """Make sure that a path is a regular file. Reading anything else could block or never end.

    Raises:
        MissingFileError: the path is missing, a broken link, a folder, a FIFO, a socket or a device.
    """
    shown = valid_text(str(path))
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise MissingFileError(
                f"{shown} is a link to {valid_text(os.readlink(path))}, which is missing. Restore the target"
            ) from None
        raise MissingFileError(f"there is no file {shown}. Correct the path") from None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise MissingFileError(f"{shown} is a link that leads back to itself. Correct the link") from error
    except ValueError as error:  # a NUL in the name
        raise MissingFileError(f"there is no file {shown!r}. Correct the path") from error
    if stat.S_ISDIR(mode):
        raise MissingFileError(f"{shown} is a folder, not a file. Give a file")
    if not stat.S_ISREG(mode):
        raise MissingFileError(
            f"{shown} is {_KINDS.get(stat.S_IFMT(mode), 'a special file')}, not a regular file. Give a regular file"
        )


def read_file(path: Path, memory_limit: float = 1.0) -> bytes:
    """The content of a regular file.

    Raises:
        MissingFileError: the path is not a regular file.
        MemoryLimitError: the file is larger than `memory_limit` GiB.
        OSError: the file cannot be read.
    """
    check_regular(path)
    check_size(path.stat().st_size, memory_limit, valid_text(str(path)))
    return path.read_bytes()


def check_size(size: int, memory_limit: float, what: str) -> None:
    """Raise MemoryLimitError if `size` bytes are more than `memory_limit` GiB."""
    if size > memory_limit * GIB:
        raise MemoryLimitError(
            f"{what} takes {size / GIB:.3g} GiB, more than the memory limit of {memory_limit:g} GiB. "
            ""
            "Raise it with --memory-limit (in configs memory_limit)"
        )


def inside(folder: Path, name: str) -> Path | None:
    """The path of `name` in `folder`; None if it is outside.

    Links are not resolved: the owner of the folder put everything there, linked or not.
    """
    root = os.path.abspath(folder)
    path = os.path.normpath(os.path.join(root, name))
    return Path(path) if path.startswith(f"{root.rstrip(os.sep)}{os.sep}") else None
