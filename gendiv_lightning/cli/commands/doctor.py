"""`gendiv doctor`: check the installation and the reference values."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gendiv_lightning import plugins
from gendiv_lightning.console.text import write
from gendiv_lightning.errors import MissingFileError

HELP = "check the installation, the toy weights and reference values"
DESCRIPTION = """
Prints the versions of Python and of the packages that determine numbers, the devices, and whether the packaged weights
are complete. With --golden, recomputes the reference values in a folder and compares them. The exit status is 1 if
something is missing or differs.

examples:
  gendiv doctor
  gendiv doctor --golden tests/golden/llamagen
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gendiv doctor`."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("--golden", type=Path, metavar="FOLDER", help="check every reference case in a folder")


def run(arguments: argparse.Namespace) -> int:
    """Check the reference values of a folder, or versions, devices and toy weights. Returns the exit status."""
    if arguments.golden is not None:
        if not any(arguments.golden.glob("*.json")):
            raise MissingFileError(
                f"--golden {arguments.golden} must be a folder with cases (*.json), but contains none. Correct the path"
            )
        from gendiv_lightning.golden import check_folder

        return check_folder(arguments.golden, print_line)
    return _environment()


def print_line(line: str) -> None:
    """Print a line and flush it."""
    write(f"{line}\n")
    sys.stdout.flush()


def _environment() -> int:
    from gendiv_lightning.runs.environment import environment

    found = environment()
    print_line(f"python {found['python']} on {found['platform']}")
    print_line(f"devices: {', '.join(found['devices'])}")
    for name, number in found["versions"].items():
        print_line(f"{name} {number}")
    missing = [prefix for prefix in plugins.registered("files") if not any(plugins.load("files", prefix).glob("*"))]
    print_line(f"packaged weights: {'missing: ' + ', '.join(missing) if missing else 'complete'}")
    return 1 if missing else 0
