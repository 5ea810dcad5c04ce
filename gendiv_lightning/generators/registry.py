"""Generators by name: a registered one (`gendiv.generators`), a class or its path, or a config file."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from gendiv_lightning import plugins
from gendiv_lightning.errors import ConfigKeyError, ConfigValueError, FileFormatError, UnknownNameError, restated
from gendiv_lightning.generators.base import Generator
from gendiv_lightning.storage.config_files import explain, find_config, read_yaml

Source = str | Path | type[Generator] | Callable[..., Generator]
SUFFIXES = (".yaml", ".yml")


def make_generator(source: Source, **settings: Any) -> Generator:
    """Construct a generator without locating or loading its weights.

    Args:
        source: a registered name (see `gendiv list generators`), the config file of a generator or of a run (its
            `model`), a class or a function that returns a generator, or the import path of one, such as
            `my_package.my_module.MyModel`.
        settings: constructor arguments; they override those of a config.

    Raises:
        ValueError: the generator does not exist, or a setting is unknown or invalid.
    """
    if isinstance(source, str | Path) and Path(source).suffix in SUFFIXES:
        return _from_config(find_config(source), settings)
    constructor = _find(str(source)) if isinstance(source, str | Path) else source
    try:
        generator = constructor(**settings)
    except TypeError as error:
        raise ConfigValueError(
            f"{_name(constructor)} cannot be constructed with {settings or 'no settings'}: {error}. Correct them"
        ) from error
    if not isinstance(generator, Generator):
        raise ConfigValueError(
            f"{_name(constructor)} must return a Generator, got {type(generator).__name__}. Derive its class from "
            "gendiv_lightning.TokenGenerator or gendiv_lightning.Generator"
        )
    return generator


def _find(name: str) -> Callable[..., Generator]:
    module, dot, attribute = name.rpartition(".")
    if name in plugins.registered("generators") or not dot:
        return plugins.load("generators", name)
    try:
        found = getattr(import_module(module), attribute)
        if not isinstance(found, type) or not issubclass(found, Generator):
            raise AttributeError(f"{attribute} is not a class derived from Generator")
        return found
    except (ImportError, AttributeError, ValueError) as error:
        raise UnknownNameError(
            f"{name!r} is neither a registered generator nor the path of a class: {error}. `gendiv list generators` "
            "shows the registered ones; the module of a class must be importable from here"
        ) from error


def _from_config(path: Path, settings: Mapping[str, Any]) -> Generator:
    model, where = read_model(path)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Generator, "model", required=True)
    model = {**model, "init_args": {**model.get("init_args", {}), **settings}}
    try:
        # jsonargparse 4.49 renamed the method.
        instantiate = getattr(parser, "instantiate", parser.instantiate_classes)
        return instantiate(parser.parse_object({"model": model})).model
    except (ValueError, OSError, ArgumentError) as error:
        raise restated(error, f"{where}: {explain(error)}") from error


def read_model(path: Path) -> tuple[dict[str, Any], Path]:
    """`class_path` and `init_args` of a generator config or of the `model` of a run config, and their file."""
    try:
        content = read_yaml(path)
    except OSError as error:
        raise FileFormatError(
            f"config {path} cannot be read: {error}. `gendiv list configs` shows the shipped ones"
        ) from error
    model = content.get("model", content) if isinstance(content, dict) else content
    if isinstance(model, str):
        return read_model(path.parent / model)
    if not isinstance(model, dict) or "class_path" not in model:
        raise ConfigKeyError(
            f"config {path} must have the key class_path, or a generator under the key model. See `gendiv list configs`"
        )
    return model, path


def _name(constructor: Any) -> str:
    return getattr(constructor, "__qualname__", repr(constructor))
