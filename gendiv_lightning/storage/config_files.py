"""Find config files in the working directory, or among those that the package ships.

The shipped configs are `configs/` of a checkout and `gendiv_lightning/configs/` of an installed package. They are named
as in a checkout, `configs/tiny/llamagen.yaml`, so that the commands of the README work from any directory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

_PACKAGE = Path(__file__).parents[1]
PREFIX = "configs"


def config_folder() -> Path:
    """The folder of the shipped configs."""
    installed = _PACKAGE / PREFIX
    return installed if installed.is_dir() else _PACKAGE.parent / PREFIX


def config_names() -> list[str]:
    """The names of all shipped configs: `configs/tiny/llamagen.yaml`."""
    folder = config_folder()
    return sorted(f"{PREFIX}/{path.relative_to(folder).as_posix()}" for path in folder.rglob("*.yaml"))


def find_config(name: str | Path) -> Path:
    """The file `name` if it exists, otherwise the shipped config with that name."""
    path = Path(name)
    if path.exists() or path.parts[:1] != (PREFIX,):
        return path
    shipped = config_folder().joinpath(*path.parts[1:])
    return shipped if shipped.exists() else path


def find_configs(words: Iterable[str]) -> list[str]:
    """Replace `configs/NAME.yaml` and `--OPTION=configs/NAME.yaml` on a command line by existing files."""
    found = []
    for word in words:
        option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        is_config = value.startswith(f"{PREFIX}/") and value.endswith(".yaml")
        found.append(f"{option}{equals}{find_config(value)}" if is_config else word)
    return found


def fragments_of(path: Path) -> set[Path]:
    """The configs that a config includes by relative paths, and recursively those that these include."""
    found: set[Path] = set()
    pending = [path]
    while pending:
        config = pending.pop()
        named = {(config.parent / value).resolve() for value in _strings(yaml.safe_load(config.read_text("utf-8")))}
        new = {other for other in named if other.suffix == ".yaml" and other.is_file()} - found
        found |= new
        pending += new
    return found


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


_WRAPPING = re.compile(
    r"""\s*(?:Parser\ key\ "(?P<key>[^"]+)" | Problem\ with\ given\ class_path\ '(?P<cls>[^']+)' | Does\ not\ validate
    | -\ Expected\ a\ path)""",
    re.VERBOSE,
)


def explain(error: BaseException) -> str:
    """The innermost error and its key, without the layers that jsonargparse wraps around it."""
    keys, name = [], ""
    while (wrapping := _WRAPPING.match(str(error))) and (inner := error.__cause__ or error.__context__):
        if wrapping["key"] and wrapping["key"] not in keys:
            keys.append(wrapping["key"])
        name = (wrapping["cls"] or name).rsplit(".", 1)[-1]
        error = inner
    where = ".".join(keys) + (f" ({name})" if name else "")
    return f"{where}: {error}" if where else str(error)
