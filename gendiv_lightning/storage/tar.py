"""Read files inside WebDataset tars, on disk or at an address, without unpacking them."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import IO

import fsspec

from gendiv_lightning.errors import FileFormatError
from gendiv_lightning.storage.files import File, check_regular, check_size, valid_text

_NOT_WHOLE = "is not a tar, or it is damaged, truncated or compressed. Download it again, or decompress it"


def read_tar(tar: str | Path, memory_limit: float = 1.0) -> Iterator[File]:
    """The files in a tar, in order; their content can be read now or later.

    A link to an earlier file is that file. Reading any other link or a special file fails.

    Args:
        tar: path or address.
        memory_limit: memory in GiB that a single file may take.

    Raises:
        MissingFileError: the path is not a regular file.
        FileFormatError: the file is not a tar, or it is compressed, damaged or truncated.
    """
    address = str(tar)
    if "://" not in address:
        check_regular(Path(address))
    found: dict[str, File] = {}
    with _opened(address) as opened:
        try:
            opened.seek(0)
            with tarfile.open(fileobj=opened, mode="r:") as members:
                for member in members:
                    if not member.isdir():
                        file = _file_of(member, address, found, memory_limit)
                        found[file.name] = file
                        yield file
                # tarfile treats a damaged header as the end of the archive.
                opened.seek(members.offset)
                is_whole = opened.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
        except tarfile.TarError:
            is_whole = False
    if not is_whole:
        raise FileFormatError(f"{tar} {_NOT_WHOLE}")


def sample_key(name: str) -> tuple[str, str]:
    """Key and extension of a file of a WebDataset: the key is its path up to the first dot of the file name."""
    folder, slash, base = name.rpartition("/")
    key, _, extension = base.partition(".")
    return f"{folder}{slash}{key}", extension


def _file_of(member: tarfile.TarInfo, address: str, found: dict[str, File], memory_limit: float) -> File:
    name = _clean(member.name)
    if member.isreg() and not member.issparse():
        return File(name, member.size, partial(_read_slice, address, member.offset_data, member.size, memory_limit))
    if member.islnk() or member.issym():
        target = _clean(member.linkname if member.islnk() else str(PurePosixPath(name).parent / member.linkname))
        if target in found:
            return found[target]._replace(name=name)
        return File(name, 0, partial(_fail, f"it is a link to {target}, which is not earlier in the tar"))
    what = "a sparse file, which is not supported" if member.issparse() else "a special file"
    return File(name, 0, partial(_fail, f"it is {what}"))


def _clean(name: str) -> str:
    """A member's name without `./`, `..` and a leading slash."""
    parts: list[str] = []
    for part in PurePosixPath(valid_text(name)).parts:
        if part == "..":
            del parts[-1:]
        elif part != "/":
            parts.append(part)
    return "/".join(parts)


def _fail(reason: str) -> bytes:
    raise FileFormatError(reason)


def _read_slice(address: str, start: int, size: int, memory_limit: float) -> bytes:
    check_size(size, memory_limit, "a file in the tar")
    with _opened(address) as opened:
        opened.seek(start)
        data = opened.read(size)
    if len(data) < size:
        raise FileFormatError(f"{address} {_NOT_WHOLE}")
    return data


@contextmanager
def _opened(address: str) -> Iterator[IO[bytes]]:
    if "://" in address:
        yield _remote(address)
        return
    with open(address, "rb") as file:
        yield file


@lru_cache(maxsize=1)
def _remote(address: str) -> IO[bytes]:
    """An open file, kept open because its read-ahead buffer contains the next files."""
    return fsspec.open(address).open()
