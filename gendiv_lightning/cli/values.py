"""Checks of the values of a parsed config: `~` is expanded, null is rejected where a value is required, and functions,
empty names, and numbers that are not finite or exceed 64 bits are rejected everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from inspect import signature
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MappingProxyType, MethodType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jsonargparse import Namespace

from gendiv_lightning.cli.options import check_number
from gendiv_lightning.errors import ConfigValueError, UnsafeInputError


def expand_home(value: Any) -> Any:
    """Expand strings that begin with `~/` or `~NAME/` in a config, or in a part of one."""
    if isinstance(value, Namespace):
        return Namespace({key: expand_home(item) for key, item in vars(value).items()})
    if isinstance(value, dict):
        return {key: expand_home(item) for key, item in value.items()}
    if isinstance(value, list):
        return [expand_home(item) for item in value]
    if isinstance(value, str) and value.startswith("~") and "/" in value:
        return str(Path(value).expanduser())
    return value


def check_values(
    config: Namespace, groups: Mapping[str, type], hints: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Check the values of a config against the types of the arguments that receive them.

    Args:
        config: parsed config, before its classes are instantiated.
        groups: classes whose arguments are in the config without a `class_path`, by key.
        hints: types of other values, by key.

    Raises:
        ConfigValueError: null for an argument that does not accept it, an empty name, or a number that is not finite or
            exceeds 64 bits.
        UnsafeInputError: a function. A config names classes and values; a function would be called with whatever a
            library passes to it.
    """
    for key, value in vars(config).items():
        _check(value, key, hints.get(key, Any), _argument_types(groups[key]) if key in groups else {})


def _check(value: Any, key: str, hint: Any = Any, hints: Mapping[str, Any] = MappingProxyType({})) -> None:
    if value is None and not _takes_none(hint):
        raise ConfigValueError(
            f"{key} must not be null. Give a value ({_name(hint)}), or leave the key out for its default"
        )
    if value is not None and _is_function(value, hint):
        raise UnsafeInputError(f"{key} must not name a function, got {value}. Write a class with a method instead")
    if isinstance(value, str) and not value.strip() and _takes_text(hint):
        raise ConfigValueError(f"{key} must not be empty. Give a value, or remove the key to use its default")
    check_number(key, value)
    if isinstance(value, list | tuple):
        for place, item in enumerate(value):
            _check(item, f"{key}[{place}]")
    if isinstance(value, Namespace):
        if "class_path" in value:
            hints, value = _argument_types(_import(value.class_path)), value.get("init_args") or Namespace()
        for name, item in vars(value).items():
            _check(item, f"{key}.{name}", hints.get(name, Any))


def _argument_types(made: Any) -> dict[str, Any]:
    """Types of the arguments of a function, or of a class and its base classes."""
    hints: dict[str, Any] = {}
    for function in (
        [vars(base).get("__init__") for base in reversed(made.__mro__)] if isinstance(made, type) else [made]
    ):
        try:
            hints |= get_type_hints(function) if function else {}
        except NameError:  # names that only exist for type checkers
            continue
        for name, parameter in signature(function).parameters.items() if function else ():
            if parameter.default == "" and name in hints:  # an empty text is meant
                hints[name] |= Literal[""]
    return hints


def _takes_none(hint: Any) -> bool:
    return hint in (Any, None, type(None)) or (_is_union(hint) and any(map(_takes_none, get_args(hint))))


def _takes_text(hint: Any) -> bool:
    choices = get_args(hint) if _is_union(hint) else (hint,)
    return str in choices and Literal[""] not in choices


def _is_function(value: Any, hint: Any) -> bool:
    if isinstance(value, (FunctionType, BuiltinFunctionType, MethodType, partial)):
        return True
    choices = get_args(hint) if _is_union(hint) else (hint,)
    return any(choice is Callable or get_origin(choice) is Callable for choice in choices)


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)


def _name(hint: Any) -> str:
    if _is_union(hint):
        return " or ".join(_name(choice) for choice in get_args(hint) if choice != Literal[""])
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def _import(class_path: str) -> Any:
    module, _, name = class_path.rpartition(".")
    return getattr(import_module(module), name)
