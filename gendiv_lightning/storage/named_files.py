"""Files by a registered prefix: `toy:postcards.jsonl` is a file of the toy dataset, from any working directory."""

from __future__ import annotations

import warnings
from pathlib import Path

from gendiv_lightning import plugins

_RETIRED = {"zoo": "toy"}  # for one release


def named_file(name: str) -> Path | None:
    """The path of `PREFIX:FILE` if PREFIX is registered (`gendiv.files`), else None."""
    prefix, colon, file = name.partition(":")
    if colon and prefix in _RETIRED:
        now = _RETIRED[prefix]
        warnings.warn(
            f"the prefix {prefix!r} of {name!r} was renamed to {now!r}. Write {now}:{file}", FutureWarning, stacklevel=2
        )
        prefix = now
    if not colon or prefix not in plugins.registered("files"):
        return None
    return Path(plugins.load("files", prefix)) / file


def expand(name: str) -> Path:
    """A named file, or a path with `~` expanded."""
    return named_file(name) or Path(name).expanduser()
