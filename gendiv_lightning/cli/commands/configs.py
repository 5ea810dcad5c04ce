"""`gendiv configs`: list the configs that the package ships, and copy them."""

from __future__ import annotations

import argparse
from pathlib import Path

from gendiv_lightning.cli.options import check_output_folder
from gendiv_lightning.console.text import write
from gendiv_lightning.errors import OutputError, UnknownNameError

HELP = "list the configs that the package ships, or copy them to edit them"
DESCRIPTION = """
Lists or copies the configs that the package ships. `--config configs/tiny/llamagen.yaml` uses the file in the working
directory if it exists, and the shipped file otherwise. To change a config, copy it first.

examples:
  gendiv configs list
  gendiv configs copy configs/tiny/llamagen.yaml     the config and the fragments that it includes, to configs/
  gendiv configs copy all --to my_project            all of them, to my_project/configs/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gendiv configs list` and `gendiv configs copy`."""
    raw = argparse.RawDescriptionHelpFormatter
    parser.description, parser.formatter_class = DESCRIPTION, raw
    commands = parser.add_subparsers(dest="configs", metavar="COMMAND", required=True)
    commands.add_parser("list", help="print the name of each shipped config and its first comment")
    copy = commands.add_parser("copy", help="copy shipped configs", description=DESCRIPTION, formatter_class=raw)
    copy.add_argument(
        "names", nargs="*", default=["all"], metavar="NAME", help="names from `gendiv configs list`, or all (default)"
    )
    copy.add_argument(
        "--to",
        type=Path,
        default=Path(),
        metavar="FOLDER",
        help="folder in which configs/ is created (default: the working directory)",
    )


def run(arguments: argparse.Namespace) -> int:
    """List or copy the configs."""
    if arguments.configs == "list":
        return _list()
    check_output_folder(arguments.to / "configs", "--to")
    written, unchanged = copy_configs(arguments.names, arguments.to)
    same = f", {unchanged} already there" if unchanged else ""
    write(f"{written} configs written to {arguments.to / 'configs'}{same}\n")
    return 0


def copy_configs(names: list[str], to: Path) -> tuple[int, int]:
    """Copy shipped configs, with the fragments that they include, to `to / "configs"`.

    Returns:
        The number of files written, and of files that already existed with the same content.

    Raises:
        UnknownNameError: a name is unknown.
        OutputError: a file with other content exists. Nothing is written in either case.
    """
    from gendiv_lightning.storage.config_files import PREFIX, config_folder, config_names, fragments_of

    folder, known = config_folder().resolve(), config_names()
    wrong = [name for name in names if name not in (*known, "all")]
    if wrong:
        raise UnknownNameError(f"the package ships no config {wrong[0]!r}. `gendiv configs list` shows all names")
    sources = {folder.parent / name for name in (known if "all" in names else names)}
    sources |= {fragment for source in sources for fragment in fragments_of(source)}
    targets = {source: to / PREFIX / source.relative_to(folder) for source in sorted(sources)}
    new = {source: target for source, target in targets.items() if not target.exists()}
    changed = [
        target for source, target in targets.items() if source not in new and target.read_bytes() != source.read_bytes()
    ]
    if changed:
        raise OutputError(
            f"{changed[0]} exists and differs from the shipped config. Rename it, or choose another folder with --to"
        )
    for source, target in new.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    return len(new), len(targets) - len(new)


def _list() -> int:
    from gendiv_lightning.storage.config_files import config_folder, config_names

    names = config_names()
    width = max(map(len, names))
    for name in names:
        write(f"{name:{width}}  {_summary(config_folder().parent / name)}\n")
    return 0


def _summary(config: Path) -> str:
    """The first line of a config's comment that is not a command."""
    comments = (line.lstrip("# ") for line in config.read_text("utf-8").splitlines() if line.startswith("#"))
    return next((line for line in comments if not line.startswith("gendiv ")), "")
