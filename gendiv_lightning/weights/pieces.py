"""Weight files stored as pieces of other files, so that models which share layers share their bytes.

Beside or instead of `FILE`, a folder may hold `FILE.pieces`, a JSON list of `[source, offset, length]`. FILE is these
pieces in order, byte for byte. Sources are paths relative to the folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os.path import relpath
from pathlib import Path
from tempfile import TemporaryDirectory

SUFFIX = ".pieces"


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """The folder itself or, if files in it are stored as pieces, a temporary copy of it with whole files."""
    lists = sorted(folder.glob(f"*{SUFFIX}"))
    if not lists:
        yield folder
        return
    with TemporaryDirectory() as temporary:
        copy = shutil.copytree(
            folder, Path(temporary, folder.name), ignore=shutil.ignore_patterns(f"*{SUFFIX}", "*.rest")
        )
        for path in lists:
            (copy / path.stem).write_bytes(join(path))
        yield copy


def join(path: Path) -> bytes:
    """The bytes of the file that a list of pieces stands for.

    Raises:
        ValueError: the list is malformed, or a source is missing or too short.
    """
    try:
        pieces = json.loads(path.read_text())
        sources = {name: (path.parent / name).read_bytes() for name, _, _ in pieces}
        found = [sources[name][offset : offset + length] for name, offset, length in pieces]
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as pieces of files ({error}). Install gendiv again") from error
    if any(len(piece) != length for piece, (_, _, length) in zip(found, pieces, strict=True)):
        raise ValueError(f"{path} names bytes beyond the end of a file. Install gendiv again")
    return b"".join(found)


def split(path: Path, sources: Sequence[Path]) -> None:
    """Replace a .safetensors file by its list of pieces; what no source holds is kept in `FILE.rest`.

    Args:
        path: the file; it is deleted.
        sources: .safetensors files that hold some of its tensors, under any name.
    """
    known = {}
    for source in sources:
        content = source.read_bytes()
        known |= {content[start:end]: (relpath(source, path.parent), start) for start, end in _tensors(content)}
    content, rest = path.read_bytes(), path.with_name(f"{path.name}.rest")
    pieces: list[tuple[str, int, int]] = []
    kept, last = b"", 0
    for start, end in [*_tensors(content), (len(content), len(content))]:
        shared = known.get(content[start:end]) if end - start > 64 else None  # shorter ones are not worth a line
        if shared is None and start < len(content):
            continue
        if last < start:
            pieces.append((rest.name, len(kept), start - last))
            kept += content[last:start]
        if shared is not None:
            pieces.append((*shared, end - start))
        last = end
    rest.write_bytes(kept)
    lines = ",\n".join(json.dumps(piece) for piece in pieces)
    path.with_name(path.name + SUFFIX).write_text(f"[\n{lines}\n]\n")
    path.unlink()


def _tensors(content: bytes) -> list[tuple[int, int]]:
    """Where the tensors of a .safetensors file start and end, in the file's order."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    spans = [entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"]
    return sorted((start + first, start + last) for first, last in spans)
