"""`gendiv show`: one run in the terminal."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = "the summary and the grid of one run in the terminal"
DESCRIPTION = """
Prints what a run is (generator, probes, prompts, samples, machine), its numbers with intervals, its decomposition if it
has one, and its grid: in colour where the terminal has 24-bit colour, else the path of grid.png.

examples:
  gendiv show runs/tiny-llamagen-1a2b3c4d
  gendiv show runs/tiny-llamagen-1a2b3c4d --only diversity
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gendiv show`."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("--only", default="", metavar="PREFIX", help="numbers that start so, such as diversity or h_")


def run(arguments: argparse.Namespace) -> int:
    """Print."""
    import json

    from gendiv_lightning.console.decomposition import format_decomposition
    from gendiv_lightning.console.tables import format_estimates, format_truncation
    from gendiv_lightning.runs.folder import RunFolder
    from gendiv_lightning.runs.labels import label_of

    folder = RunFolder(arguments.run)
    folder.read_per_prompt()
    protocol, estimates = folder.read_protocol(), folder.read_metrics()
    label, data = label_of(protocol), protocol["data"]
    machine = json.loads((folder.path / "environment.json").read_text())
    truncation = format_truncation(folder.read_prompt_card().get("text_encoder", {}))
    chosen = {name: estimate for name, estimate in estimates.items() if name.startswith(arguments.only)}
    if not chosen:
        raise ValueError(f"{arguments.run} has no number that starts with {arguments.only!r}: leave --only out")
    parts = [
        f"{label.title}\nrun {label.fingerprint}: {data['num_prompts']} prompts of {data['prompt_set']}, seed "
        f"{label.seed}, on {', '.join(machine['devices'])}",
        f"text encoder: {truncation}" if truncation else "",
        format_estimates(chosen),
        format_decomposition(estimates) if not arguments.only else "",
        _picture(folder.path / "grid.png"),
    ]
    sys.stdout.write("\n\n".join(part for part in parts if part) + "\n")
    return 0


def _picture(grid: Path) -> str:
    import shutil

    from PIL import Image

    from gendiv_lightning.console.terminal import half_blocks, has_colour

    if not has_colour(sys.stdout):
        return f"Grid: {grid}"
    with Image.open(grid) as picture:
        return half_blocks(picture, shutil.get_terminal_size().columns)
