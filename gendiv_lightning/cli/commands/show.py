"""`gendiv show`: print one run in the terminal."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gendiv_lightning.errors import UnknownNameError, listed

HELP = "print the summary, the numbers and the grid of one run"
DESCRIPTION = """
Prints the settings of a run (generator, probes, prompts, samples, machine), its numbers with intervals, its
decomposition if it has one, and its grid of samples: as a picture if the terminal has 24-bit colour, otherwise the path
of grid.png.

examples:
  gendiv show runs/tiny-llamagen-1a2b3c4d
  gendiv show runs/tiny-llamagen-1a2b3c4d --only diversity
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gendiv show`."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument(
        "--only",
        default="",
        metavar="PREFIX",
        help="only numbers whose name starts with PREFIX, such as diversity or h_",
    )


def run(arguments: argparse.Namespace) -> int:
    """Read the run and print it."""
    from gendiv_lightning.console.decomposition import format_decomposition
    from gendiv_lightning.console.tables import format_estimates, format_truncation
    from gendiv_lightning.console.text import printable, write
    from gendiv_lightning.runs.load import read_run

    run = read_run(arguments.run)
    label, data = run.label, run.protocol["data"]
    chosen = {name: estimate for name, estimate in run.estimates.items() if name.startswith(arguments.only)}
    if not chosen:
        heads = sorted({"/".join(name.split("/")[:2]) for name in run.estimates})
        raise UnknownNameError(f"--only: no number starts with {arguments.only!r}. Choose from: {listed(heads)}")
    devices = ", ".join(run.folder.read_environment()["devices"])
    facts = f"{data['num_prompts']} prompts of {data['prompt_set']}, seed {label.seed}, on {devices}"
    truncation = format_truncation(run.folder.read_prompt_card().get("text_encoder", {}))
    parts = [
        f"{printable(label.title)}\nrun {label.fingerprint}: {printable(facts)}",
        f"text encoder: {truncation}" if truncation else "",
        format_estimates(chosen),
        format_decomposition(run.estimates) if not arguments.only else "",
    ]
    write("\n\n".join(part for part in parts if part) + "\n")
    _show_picture(run.folder.path / "grid.png")
    return 0


def _show_picture(grid: Path) -> None:
    """Print the grid in colour, or its path."""
    import shutil

    from gendiv_lightning.console.terminal import has_colour, show
    from gendiv_lightning.console.text import write

    write("\n")
    if has_colour(sys.stdout):
        show(grid, shutil.get_terminal_size().columns)
    else:
        write(f"Grid: {grid}\n")
