"""Weight files stored as pieces of other files, so that models with common layers share their bytes.

Instead of `FILE`, a folder may contain `FILE.pieces`, a JSON list of `[source, offset, length]`. FILE is the
concatenation of these pieces, byte for byte. Sources are paths relative to the folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os.path import relpath
from pathlib import Path
from tempfile import TemporaryDirectory

from gendiv_lightning.errors import WrongWeightsError

SUFFIX = ".pieces"


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """Context with the folder itself or, if it contains files in pieces, a temporary copy with complete files."""
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
    """Join the pieces of a list into the bytes of the file.

    Raises:
        ValueError: the list is malformed, or a source is missing or too short.
    """
    try:
        pieces = json.loads(path.read_text())
        sources = {name: (path.parent / name).read_bytes() for name, _, _ in pieces}
        parts = [sources[name][offset : offset + length] for name, offset, length in pieces]
    except (OSError, TypeError, ValueError) as error:
        raise WrongWeightsError(f"{path} cannot be read as a list of pieces ({error}). Install gendiv again") from error
    if any(len(part) != length for part, (_, _, length) in zip(parts, pieces, strict=True)):
        raise WrongWeightsError(f"{path} refers to bytes beyond the end of a file. Install gendiv again")
    return b"".join(parts)


def split(path: Path, sources: Sequence[Path]) -> None:
    """Replace a .safetensors file by its list of pieces; bytes that no source contains are kept in `FILE.rest`.

    Args:
        path: the file; it is deleted.
        sources: .safetensors files that contain some of its tensors, under any name.
    """
    known: dict[bytes, tuple[str, int]] = {}
    for source in sources:
        content = source.read_bytes()
        known |= {content[start:end]: (relpath(source, path.parent), start) for start, end in _tensors(content)}
    content, rest = path.read_bytes(), path.with_name(f"{path.name}.rest")
    pieces: list[tuple[str, int, int]] = []
    kept, last = b"", 0
    for start, end in [*_tensors(content), (len(content), len(content))]:
        shared = known.get(content[start:end]) if end - start > 64 else None  # shorter tensors are not worth a piece
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
    """Start and end of each tensor in a .safetensors file, in the order of the file."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    spans = [entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"]
    return sorted((start + first, start + last) for first, last in spans)
