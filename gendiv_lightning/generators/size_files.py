"""Sizes of a network that no release has, in a JSON file."""

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
    """The configuration in a JSON file, and what else stands there: `name`, and `toy` for a toy's.

    Args:
        file: the file, `NAME:FILE` of a plug-in too.
        key: the setting that names it.
        config_class: what its fields are those of.
        released: names of released sizes, which `key` may hold instead.

    Raises:
        ValueError: there is no such file, or it is no configuration.
    """
    path = expand(file)
    if path.suffix != ".json" or not path.is_file():
        names = ", ".join(released)
        raise ConfigValueError(f"{key} must be one of {names}, or a JSON file of a configuration, got {file!r}")
    try:
        values = json.loads(path.read_text())
        facts = {name: values.pop(name) for name in ("name", "toy") if name in values}
        return config_class(**values), facts
    except (ValueError, TypeError, AttributeError) as error:
        raise FileFormatError(f"{key}: {path} is not a configuration of a {config_class.__name__}: {error}") from error
