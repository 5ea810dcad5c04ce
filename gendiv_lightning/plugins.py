"""Plug-ins: objects that installed packages register under names.

A plug-in is an entry point of an installed package in one of the `GROUPS`. gendiv registers its own
generators, probes, metrics, feature networks and the toy in the same way, in its `pyproject.toml`:

    [project.entry-points."gendiv.generators"]
    my_model = "my_package.my_module:MyGenerator"

Looking up a name imports nothing; `Plugin.load` imports the module.
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
    "scorers": "a class of `ImageScorer`",
    "attributes": "a function (prompt text) that returns its `Attribute`s, or raises ValueError",
    "tokenizers": "a class of `ImageTokenizer`, or a function that returns one",
    "images": "a data module of images, an `ImageModule`, that needs no files",
    "paraphrasers": "a class of `Paraphraser` without arguments",
    "ground_truths": "a function (batches, columns, metric) that compares a run with its ground truth and returns a "
    "text",
    "files": "a folder as a `Path`; `NAME:FILE` is a file in it, wherever weights or prompts are named",
}


class Plugin(NamedTuple):
    """One registered object.

    Attributes:
        group: a key of `GROUPS`.
        name: name in configs and commands.
        target: the object, as `module:attribute`.
        distribution: the installed package that registered it.
    """

    group: str
    name: str
    target: str
    distribution: str

    def load(self) -> Any:
        """Import the module and return the object.

        Raises:
            PackageError: the module cannot be imported or has no such attribute; names the package of the plug-in.
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

    If several packages register the same name, gendiv's own is used, or else that of the first package in alphabetical
    order; the others are ignored with a warning.
    """
    assert group in GROUPS, f"{group!r} is not one of {', '.join(GROUPS)}"
    candidates = [
        Plugin(group, entry.name, entry.value, entry.dist.metadata["Name"] if entry.dist else "?")
        for entry in entry_points(group=f"gendiv.{group}")
    ]
    plugins: dict[str, Plugin] = {}
    for plugin in sorted(candidates, key=lambda p: (p.distribution != OWN, p.distribution, p.name)):
        first = plugins.setdefault(plugin.name, plugin)
        if first.target != plugin.target or first.distribution != plugin.distribution:
            warnings.warn(
                f"plug-in {plugin.name!r} ({group}) of {plugin.distribution} is ignored: {first.distribution} "
                "already uses that name. Register it under another name",
                stacklevel=2,
            )
    return plugins


def find(group: str, name: str) -> Plugin:
    """The plug-in of a name.

    Raises:
        UnknownNameError: the name is not registered; lists similar names.
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
    """The object that is registered under a name; see `find` and `Plugin.load`."""
    return find(group, name).load()
