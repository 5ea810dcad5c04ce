"""Pairs of images of a prompt: a table of all distances, and the nearest and farthest pair as text and picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from gendiv_lightning.console.grid import fit
from gendiv_lightning.console.tables import format_table
from gendiv_lightning.functional.pairwise import extreme_pairs
from gendiv_lightning.metrics.diversity import DiversityMetric
from gendiv_lightning.records import PromptSamples

_MARGIN, _CAPTION, _CELL, _GAP = 8, 18, 96, 16


class Pairs(NamedTuple):
    """All pairs of one prompt by one distance.

    Attributes:
        metric: name of the distance.
        prompt: text of the prompt.
        names: names of its N images, N >= 2.
        matrix: (N, N) float64 distances.
        images: nearest and farthest pair (4, 3, H, W) uint8 for the picture; None for prompts that are not drawn.
    """

    metric: str
    prompt: str
    names: tuple[str, ...]
    matrix: Tensor
    images: Tensor | None


def measure_pairs(metric: DiversityMetric, samples: PromptSamples, *, keeps_images: bool) -> Pairs:
    """Measure the pairs of a prompt; the features of all its images are in memory at once."""
    matrix = metric.matrix(samples).cpu().double()
    names = samples.names or tuple(f"sample {n}" for n in range(len(matrix)))
    images = samples.images[[n for pair in extreme_pairs(matrix) for n in pair]] if keeps_images else None
    return Pairs(metric.name, samples.prompt, names, matrix, images)


def to_table(pairs: Sequence[Pairs]) -> pa.Table:
    """A table with one row per pair: prompt, metric, the two images, their distance."""
    columns: dict[str, list[object]] = {name: [] for name in ("prompt", "metric", "a", "b", "distance")}
    for some in pairs:
        a, b = torch.triu_indices(len(some.matrix), len(some.matrix), 1)
        columns["prompt"] += [some.prompt] * len(a)
        columns["metric"] += [some.metric] * len(a)
        columns["a"] += [some.names[n] for n in a.tolist()]
        columns["b"] += [some.names[n] for n in b.tolist()]
        columns["distance"] += some.matrix[a, b].tolist()
    return pa.table(columns)


def format_pairs(pairs: Sequence[Pairs]) -> str:
    """A table with one row per prompt: its nearest and its farthest pair."""
    rows = [("prompt", "nearest", "", "farthest", "")]
    for some in pairs:
        cells = [
            cell
            for a, b in extreme_pairs(some.matrix)
            for cell in (f"{_short(some.names[a])} {_short(some.names[b])}", f"{some.matrix[a, b]:.4f}")
        ]
        prompt = " ".join(some.prompt.split())
        rows.append((prompt if len(prompt) <= 40 else f"{prompt[:39]}…", cells[0], cells[1], cells[2], cells[3]))
    return format_table(rows)


def draw_pairs(pairs: Sequence[Pairs]) -> Image.Image:
    """A picture with one row per prompt: distance matrix (black is the largest), nearest and farthest pair."""
    shown = [some for some in pairs if some.images is not None]
    width, height = 2 * _MARGIN + 5 * _CELL + 2 * _GAP, _CAPTION + _CELL + _GAP
    picture = Image.new("RGB", (width, 2 * _MARGIN + height * len(shown)), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(12)
    most = max(some.matrix.max().item() for some in shown) or 1.0
    for row, some in enumerate(shown):
        top = _MARGIN + row * height
        draw.text((_MARGIN, top), fit(some.prompt, draw, font, width - 2 * _MARGIN), "black", font=font)
        grey = (255 * (1 - some.matrix / most)).round().to(torch.uint8)
        assert some.images is not None, "others are not shown"
        for column, image in enumerate([grey.expand(3, -1, -1), *some.images]):
            left = _MARGIN + column * _CELL + _GAP * ((column + 1) // 2)
            cell = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
            picture.paste(cell.resize((_CELL - 2, _CELL - 2), Image.Resampling.NEAREST), (left, top + _CAPTION))
    return picture


def _short(name: str) -> str:
    return Path(name).name
