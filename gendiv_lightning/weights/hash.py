"""SHA-256 of weight files and folders, which identifies the networks of a run."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import Path

from gendiv_lightning.storage.atomic import cache_folder, write_atomically
from gendiv_lightning.storage.hashing import sha256_of

_HASHED_SUFFIXES = (".safetensors", ".bin", ".json", ".model", ".jinja")
_REMEMBERED_BYTES = 1 << 26  # smaller files are faster to hash than to look up


def sha256(path: Path) -> str:
    """SHA-256 of a file, or of the names and hashes of a folder's weight, configuration and tokenizer files.

    The hash of a large file is cached on disk by path, size and modification times, so that gigabytes are hashed once.
    A changed file is hashed again, also within one process.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in _HASHED_SUFFIXES)
        return hashlib.sha256("".join(f"{file.name} {sha256(file)}\n" for file in files).encode()).hexdigest()
    target = path.resolve()
    if _is_digest(target.name):  # the Hub's cache names large files by their hash
        return target.name
    stat = target.stat()
    return _digest(target, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


@lru_cache(maxsize=1024)
def _digest(path: Path, size: int, *stamp: int) -> str:
    """Hash of a file of this size; the stamp differs after every change of the file."""
    if size < _REMEMBERED_BYTES:
        return sha256_of(path)
    key = hashlib.sha256(f"{path} {size} {stamp}".encode()).hexdigest()
    note = cache_folder() / "sha256" / key
    if note.exists() and _is_digest(known := note.read_text()):
        return known
    digest = sha256_of(path)
    write_atomically(note, lambda temporary: temporary.write_text(digest))
    return digest


def _is_digest(text: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{64}", text) is not None
