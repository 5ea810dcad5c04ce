"""`gendiv list`: the registered names, and the package of each."""

from __future__ import annotations

import argparse
import inspect
import textwrap
from collections.abc import Iterable, Iterator

from gendiv_lightning.console.text import write
from gendiv_lightning.errors import kinds
from gendiv_lightning.plugins import GROUPS, registered

HELP = "list everything that is registered: generators, probes, metrics, features, tokenizers, configs"
DESCRIPTION = """
Prints the names that configs, commands and `gendiv_lightning.load` accept, with the object behind each name and the
installed package that registered it. Nothing is imported without --long, which imports each object to print its
title.

A package registers a class as an entry point of the group gendiv.KIND: gendiv.generators, gendiv.probes, and so on.
The name in brackets after a metric is a feature network: `vendi[dinov2]`, `lpips[vgg]`.

`gendiv list errors` explains each error code: its cause, what to do, and an example.

examples:
  gendiv list
  gendiv list metrics --long
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gendiv list`."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "what", nargs="?", choices=(*GROUPS, "configs", "errors"), help="one kind (default: all but errors)"
    )
    parser.add_argument("--long", action="store_true", help="import each object and print its title")


def run(arguments: argparse.Namespace) -> int:
    """Print the tables, or the explanations of errors."""
    if arguments.what == "errors":
        write("\n\n".join(f"{kind.code}  {kind.__name__}\n{_indented(kind)}" for kind in kinds()) + "\n")
        return 0
    groups = [arguments.what] if arguments.what else [*GROUPS, "configs"]
    tables = [_describe(kind, long=arguments.long) for kind in groups]
    write("\n\n".join("\n".join(_align(table)) for table in tables) + "\n")
    return 0


def _describe(kind: str, *, long: bool) -> list[tuple[str, ...]]:
    """Rows of a table, starting with the header."""
    if kind == "configs":
        from gendiv_lightning.storage.config_files import config_names

        return [("configs",), *((name,) for name in config_names())]
    plugins = registered(kind).values()
    title = ("title",) if long else ()
    rows = [(p.name, p.target, p.distribution, *([title_of(p.load())] if long else [])) for p in plugins]
    return [(kind, "object", "package", *title), *rows]


def _indented(kind: type) -> str:
    return textwrap.indent(inspect.cleandoc(kind.__doc__ or ""), "  ")


def title_of(item: object) -> str:
    """A class's title, or the first sentence of its docstring."""
    title = getattr(item, "title", None)
    if isinstance(title, str):
        return title
    paragraph = " ".join((item.__doc__ or "").strip().partition("\n\n")[0].split())
    return paragraph.partition(". ")[0].removesuffix(".")


def _align(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    rows = list(rows)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
