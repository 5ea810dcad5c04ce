"""Find config files in the working directory, or among those that the package ships.

The shipped configs are `configs/` of a checkout and `gendiv_lightning/configs/` of an installed package. They are named
as in a checkout, `configs/tiny/llamagen.yaml`, so that the commands of the README work from any directory.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from gendiv_lightning.errors import FileFormatError, kind_of
from gendiv_lightning.storage.files import check_regular

_PACKAGE = Path(__file__).parents[1]
PREFIX = "configs"
MOST_VALUES = 1_000_000  # in a YAML file


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
        named = {(config.parent / value).resolve() for value in _strings(read_yaml(config)) if _is_yaml(value)}
        new = {other for other in named if other.is_file()} - found
        found |= new
        pending += new
    return found


def check_yaml(words: Iterable[str]) -> None:
    """Read the YAML files that a command line names, and those that these name.

    Raises:
        FileFormatError: one is not YAML, or would take too much memory; see `read_yaml`.
    """
    for word in words:
        path = Path(word.partition("=")[2] if word.startswith("--") else word)
        if _is_yaml(path.name) and path.is_file():
            fragments_of(path)


def _is_yaml(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) and "\0" not in name


class _Loader(yaml.SafeLoader):
    """Rejects a key that occurs twice in a mapping, of which YAML would silently keep the last value."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        names = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for key, _ in reversed(node.value):
            if isinstance(key, yaml.ScalarNode) and names[key.value] > 1:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} occurs twice", problem_mark=key.start_mark)
        return node


def read_yaml(path: Path) -> Any:
    """Content of a YAML file.

    Raises:
        OSError: it is not a regular file.
        FileFormatError: it is not YAML in UTF-8, has a key twice, is nested too deeply, or has aliases that expand
            to too many values.
    """
    check_regular(path)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
        num_values = _count(content, {})
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{path} is not UTF-8 text: {error}. Save it as UTF-8") from error
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f" (line {mark.line + 1})" if mark else ""
        raise FileFormatError(
            f"{path} is not valid YAML{where}: {' '.join(str(problem or error).split())}. Correct the file"
        ) from error
    except RecursionError as error:
        raise FileFormatError(f"{path} is nested too deeply. Correct the file") from error
    if num_values > MOST_VALUES:
        raise FileFormatError(f"{path} expands to more than {MOST_VALUES:,} values. Correct its lists and aliases")
    return content


def _count(value: Any, known: dict[int, int]) -> int:
    """Values in a value; what an alias stands for counts each time."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = 1 + sum(
            _count(item, known) for item in (value.values() if isinstance(value, dict) else value)
        )
    return known[id(value)]


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
    message = str(error)
    if kind_of(error) is None:  # a library's, on several lines; ours may have the commands to copy on theirs
        message = " ".join(message.partition("Subclass types expect")[0].split())
    return f"{where}: {message}" if where else message
