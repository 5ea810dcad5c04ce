"""Plug-ins: what is registered under a name, by which installed package, and how it is loaded.

A plug-in is an entry point of an installed package in one of the `GROUPS`. gendiv's own generators, probes, metrics
and feature networks are registered in its `pyproject.toml` in the same way, and so is the toy:

    [project.entry-points."gendiv.generators"]
    my_model = "my_package.my_module:MyGenerator"

Looking a name up imports nothing; `Plugin.load` imports the module.
"""

from __future__ import annotations

import difflib
import warnings
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple

from gendiv_lightning.errors import PackageError, UnknownNameError

OWN = "gendiv_lightning"
GROUPS = {
    "generators": "a class of `Generator`, or a function without arguments that returns one",
    "probes": "a class of `Probe` or `Design`",
    "metrics": "a class of `SampleMetric`",
    "features": "a class of `ImageFeatures`",
    "images": "a data module of images, an `ImageModule`, that needs no files",
    "paraphrasers": "a class of `Paraphraser` without arguments",
    "ground_truths": "a function (batches, columns, metric) that compares a run with what is known to be true, as text",
    "files": "a folder as a `Path`; `NAME:FILE` is a file in it, wherever weights or prompts are named",
}


class Plugin(NamedTuple):
    """One registered object.

    Attributes:
        group: a key of `GROUPS`.
        name: by which a config or a command names it.
        target: `module:attribute` that it stands for.
        distribution: the installed package that registered it.
    """

    group: str
    name: str
    target: str
    distribution: str

    def load(self) -> Any:
        """Import the module and return the object.

        Raises:
            ValueError: the module cannot be imported or has no such attribute; the plug-in's package is named.
        """
        try:
            return EntryPoint(self.name, self.target, f"gendiv.{self.group}").load()
        except (ImportError, AttributeError) as error:
            raise PackageError(
                f"plug-in {self.name!r} of {self.distribution} could not be loaded from {self.target}: {error}. "
                f"Reinstall or remove {self.distribution}"
            ) from error


@cache
def registered(group: str) -> dict[str, Plugin]:
    """All plug-ins of a group by name, gendiv's own first.

    A name belongs to gendiv where gendiv has it, else to the first package in alphabetical order; the others that
    claim it are ignored with a warning.
    """
    assert group in GROUPS, f"{group!r} is not one of {', '.join(GROUPS)}"
    found = [
        Plugin(group, entry.name, entry.value, entry.dist.metadata["Name"] if entry.dist else "?")
        for entry in entry_points(group=f"gendiv.{group}")
    ]
    plugins: dict[str, Plugin] = {}
    for plugin in sorted(found, key=lambda p: (p.distribution != OWN, p.distribution, p.name)):
        first = plugins.setdefault(plugin.name, plugin)
        if first.target != plugin.target or first.distribution != plugin.distribution:
            warnings.warn(
                f"plug-in {plugin.name!r} ({group}) of {plugin.distribution} is ignored: {first.distribution} "
                "already has that name. Register it under another one",
                stacklevel=2,
            )
    return plugins


def find(group: str, name: str) -> Plugin:
    """The plug-in of a name.

    Raises:
        ValueError: none has that name; the similar names are listed.
    """
    plugins = registered(group)
    if name in plugins:
        return plugins[name]
    similar = difflib.get_close_matches(name, plugins) or sorted(plugins)
    raise UnknownNameError(
        f"{name!r} is not a registered name among the {group}. Did you mean one of: {', '.join(similar)}? "
        f"`gendiv list {group}` shows all"
    )


def load(group: str, name: str) -> Any:
    """The object that a name stands for; see `find` and `Plugin.load`."""
    return find(group, name).load()
