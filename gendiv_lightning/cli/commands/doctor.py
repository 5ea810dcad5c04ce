"""`gendiv doctor`: is all in place here, and does it compute what it should?"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gendiv_lightning import plugins
from gendiv_lightning.console.text import write

HELP = "check the environment, the embedded weights, and reference values"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gendiv doctor`."""
    parser.add_argument(
        "--golden", type=Path, metavar="FOLDER", help="run every reference case of a folder; exit 1 if one fails"
    )


def run(arguments: argparse.Namespace) -> int:
    """Check a folder's reference values, or versions, devices and embedded weights. Returns the exit status."""
    if arguments.golden is not None:
        from gendiv_lightning.golden import check_folder

        return check_folder(arguments.golden, print_line)
    return _environment()


def print_line(line: str) -> None:
    """A line on standard output, at once."""
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
    print_line(f"packaged weights: {'missing: ' + ', '.join(missing) if missing else 'all there'}")
    return 1 if missing else 0
