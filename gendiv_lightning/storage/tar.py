"""Files inside WebDataset tars, on disk or behind an address. They are read where they lie, nothing is unpacked."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, NamedTuple

import fsspec

_NOT_WHOLE = "is no tar, or it is damaged, cut off or compressed: fetch it again, or unpack it"


class File(NamedTuple):
    """A file, not read yet.

    Attributes:
        name: its path, from where it was looked for.
        size: in bytes.
        read: gives its content.
    """

    name: str
    size: int
    read: Callable[[], bytes]


def read_tar(tar: str | Path) -> Iterator[File]:
    """The files in a tar, in its order; they can be read at once or later.

    Raises:
        ValueError: it is no tar, it is compressed, damaged or cut off.
    """
    address = str(tar)
    with _opened(address) as opened:
        try:
            opened.seek(0)
            with tarfile.open(fileobj=opened, mode="r:") as members:
                for member in members:
                    if member.isfile():
                        read = partial(_read_slice, address, member.offset_data, member.size)
                        yield File(member.name, member.size, read)
                # The library takes a damaged header for the end.
                opened.seek(members.offset)
                is_whole = opened.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
        except tarfile.TarError:
            is_whole = False
    if not is_whole:
        raise ValueError(f"{tar} {_NOT_WHOLE}")


def _read_slice(address: str, start: int, size: int) -> bytes:
    with _opened(address) as opened:
        opened.seek(start)
        data = opened.read(size)
    if len(data) < size:
        raise OSError(f"{address} {_NOT_WHOLE}")
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
    """Kept open: what it has fetched ahead holds the next files."""
    return fsspec.open(address).open()
