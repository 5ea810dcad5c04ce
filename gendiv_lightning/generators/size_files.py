"""JSON files with the sizes of unreleased networks."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, TypeVar

from gendiv_lightning.errors import ConfigValueError, FileFormatError
from gendiv_lightning.storage.named_files import expand

AnyConfig = TypeVar("AnyConfig")


def read_sizes(
    file: str, key: str, config_class: type[AnyConfig], released: Iterable[str]
) -> tuple[AnyConfig, dict[str, Any]]:
    """Read a configuration from a JSON file, and its additional entries `name` and `toy`.

    Args:
        file: the file; `NAME:FILE` is a file of a plug-in.
        key: the setting that names the file, for errors.
        config_class: the configuration class, whose fields the file contains.
        released: names of released sizes, for errors.

    Raises:
        ValueError: the file does not exist or is not a configuration.
    """
    path = expand(file)
    if path.suffix != ".json" or not path.is_file():
        names = ", ".join(released)
        raise ConfigValueError(f"{key} must be one of {names}, or a JSON file with a configuration, got {file!r}")
    try:
        values = json.loads(path.read_text())
        facts = {name: values.pop(name) for name in ("name", "toy") if name in values}
        return config_class(**values), facts
    except (ValueError, TypeError, AttributeError) as error:
        raise FileFormatError(f"{key}: {path} does not contain a {config_class.__name__}: {error}") from error
