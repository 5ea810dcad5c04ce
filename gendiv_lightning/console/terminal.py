"""Show pictures in a terminal: two pixels per character, with half blocks in 24-bit colour."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TextIO

import numpy as np
from PIL import Image

from gendiv_lightning.errors import DamagedRunError

_RESET = "\x1b[0m"


def has_colour(stream: TextIO) -> bool:
    """Whether a stream is a terminal with 24-bit colour; NO_COLOR and TERM=dumb disable it."""
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    terminal = os.environ.get("TERM", "")
    return os.environ.get("COLORTERM") in ("truecolor", "24bit") or "256color" in terminal or "direct" in terminal


def show(file: Path, columns: int) -> None:
    """Print a picture. Its colours are the only control characters that are sent to a terminal.

    Raises:
        DamagedRunError: the file is not a picture.
    """
    try:
        with Image.open(file) as picture:
            blocks = half_blocks(picture, columns)
    except (OSError, SyntaxError, ValueError) as error:  # PIL raises all three for a damaged file
        raise DamagedRunError(
            f"{file} is damaged: {error}. Delete it, or run the command again with --overwrite true"
        ) from error
    sys.stdout.write(f"{blocks}\n")


def half_blocks(picture: Image.Image, columns: int) -> str:
    """Convert a picture to at most `columns` characters per line; each is two pixels, the upper in the foreground."""
    width = min(columns, picture.width)
    height = 2 * max(1, round(picture.height * width / picture.width / 2))
    small = picture.convert("RGB").resize((width, height), Image.Resampling.BOX)
    pixels = np.asarray(small).tolist()
    rows = zip(pixels[::2], pixels[1::2], strict=True)
    return "\n".join("".join(map(_block, upper, lower)) + _RESET for upper, lower in rows)


def _block(upper: list[int], lower: list[int]) -> str:
    return f"\x1b[38;2;{';'.join(map(str, upper))};48;2;{';'.join(map(str, lower))}m\u2580"
