"""Checks of the words, numbers and outputs of a command line, shared by all commands. It imports nothing heavy."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from typing_extensions import override

from gendiv_lightning.errors import ConfigValueError, OptionConflictError, OutputError

_EMPTY = re.compile(r"(--[\w.+-]+)=\s*")
_REPEATABLE = re.compile(r"--(?:config|.*\+|(?:probes|trainer\.callbacks)\..*)")


class Parser(argparse.ArgumentParser):
    """A parser, and its subparsers, whose options are given once each unless they collect values."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        for name in (None, "store"):
            self.register("action", name, _Once)


class _Once(argparse.Action):
    @override
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        given = namespace.__dict__.setdefault("_given", set())
        if option_string and self.dest in given:
            raise argparse.ArgumentError(self, "must be given only once")
        given.add(self.dest)
        setattr(namespace, self.dest, values)


def options_given(parsed: argparse.Namespace, names: Iterable[str]) -> list[str]:
    """Those of some options that are on the command line, even with their default value, as they are written there."""
    given = getattr(parsed, "_given", ())
    return [f"--{name.replace('_', '-')}" for name in names if name in given or getattr(parsed, name) is True]


def check_words(words: Sequence[str]) -> None:
    """Check that no word of a command line is empty, as a variable of a shell can be.

    Raises:
        ConfigValueError: one is empty; its option is named.
    """
    for place, word in enumerate(words):
        if found := _EMPTY.fullmatch(word):
            raise ConfigValueError(f"{found[1]} must not be empty. Give a value, or remove the option")
        if not word.strip():
            before = words[place - 1] if place else ""
            name = before if before.startswith("--") else f"argument {place + 1}"
            raise ConfigValueError(f"{name} must not be empty. Give a value, or remove it")


def check_once(words: Sequence[str]) -> None:
    """Check that no key of a config is set twice on a command line.

    Raises:
        OptionConflictError: one is, and only the last value would count.
    """
    values: dict[str, str] = {}
    for word, after in pairwise((*words, "")):
        name, equals, value = word.partition("=")
        if not name.startswith("--") or _REPEATABLE.fullmatch(name):
            continue
        value = value if equals else after
        if name in values:
            raise OptionConflictError(
                f"{name} must be given only once, got {values[name]} and {value}. Remove one of them"
            )
        values[name] = value


def check_numbers(parsed: argparse.Namespace) -> None:
    """Check the numbers among parsed options.

    Raises:
        ConfigValueError: one is not finite, or needs more than 64 bits.
    """
    for name, value in vars(parsed).items():
        for number in value if isinstance(value, list) else [value]:
            check_number(f"--{name.replace('_', '-')}", number)


def check_number(name: str, value: object) -> None:
    """Raise ConfigValueError for a number that is not finite, or a whole one that needs more than 64 bits."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigValueError(f"{name} must be a finite number, got {value:g}. Correct it, or remove it")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ConfigValueError(f"{name} must be a 64-bit integer, got {value}. Choose a smaller number")


def check_output_file(path: Path, option: str, suffix: str = "") -> None:
    """Check the path of an output file, before anything is computed.

    Raises:
        OutputError: its suffix is another, it is a folder, or a folder above it is a file.
    """
    if path.is_dir():
        raise OutputError(f"{option} must be a file, but {path} is a folder. Choose a file name in it")
    if suffix and path.suffix != suffix:
        raise OutputError(f"{option} must end in {suffix}, got {path}. Rename the file")
    _check_folders(path, option)


def check_output_folder(path: Path, option: str) -> None:
    """Check the path of an output folder, before anything is computed.

    Raises:
        OutputError: it, or a folder above it, is a file.
    """
    if path.exists() and not path.is_dir():
        raise OutputError(f"{option} must be a folder, but {path} is a file. Choose another name")
    _check_folders(path, option)


def check_results_folder(path: Path, option: str) -> None:
    """Check the path of an output folder that must not be a run folder.

    Raises:
        OutputError: it is a run folder; or see `check_output_folder`.
    """
    check_output_folder(path, option)
    if (path / "fingerprint.json").exists():
        raise OutputError(f"{option} {path} is a run folder, whose results would be overwritten. Choose another folder")


def _check_folders(path: Path, option: str) -> None:
    for parent in path.parents:
        if parent.exists() and not parent.is_dir():
            raise OutputError(f"{option}: {path} lies below {parent}, which is a file. Choose another name")
