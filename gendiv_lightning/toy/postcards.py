"""Postcards, the toy dataset: a renderer of 52,500 images, an exact classifier and exact entropies.

An image is one value of each of five groups; images are uniform and independent over groups:
sky (6) x ground (5) x land (10) x light (7) x object (25) = 52,500. A group consists of one or more of nine factors.
Captions are in `captions.py`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

SIZE = 48
SKY = ("blue", "orange", "pink", "grey", "black", "turquoise")
GROUND = ("green", "yellow", "white", "brown", "purple")
LAND = (("flat", "none"), *product(("hill", "hills", "peak"), ("green", "red", "grey")))
LIGHT = (("none", "none"), *product(("sun", "moon"), ("left", "centre", "right")))
OBJECT = (
    ("none", "none", "none"),
    *product(("house", "tree", "tent"), ("red", "blue", "lime", "black"), ("left", "right")),
)

GROUPS: dict[str, tuple[tuple[str, ...], ...]] = {
    "sky": tuple((name,) for name in SKY),
    "ground": tuple((name,) for name in GROUND),
    "land": LAND,
    "light": LIGHT,
    "object": OBJECT,
}
FACTORS: dict[str, tuple[str, int]] = {
    "sky": ("sky", 0),
    "ground": ("ground", 0),
    "land shape": ("land", 0),
    "land colour": ("land", 1),
    "light": ("light", 0),
    "light place": ("light", 1),
    "object": ("object", 0),
    "object colour": ("object", 1),
    "object place": ("object", 2),
}
GROUP_SIZES = torch.tensor([len(values) for values in GROUPS.values()])
NUM_IMAGES = int(GROUP_SIZES.prod())
COHERENT_RMS = 0.03

_RGB = {
    "sky": {
        "blue": (0.30, 0.55, 0.95),
        "orange": (0.98, 0.62, 0.25),
        "pink": (0.97, 0.65, 0.78),
        "grey": (0.62, 0.64, 0.68),
        "black": (0.06, 0.06, 0.12),
        "turquoise": (0.25, 0.83, 0.78),
    },
    "ground": {
        "green": (0.30, 0.62, 0.22),
        "yellow": (0.93, 0.82, 0.35),
        "white": (0.95, 0.95, 0.97),
        "brown": (0.48, 0.31, 0.18),
        "purple": (0.52, 0.28, 0.62),
    },
    "land": {"green": (0.12, 0.40, 0.20), "red": (0.66, 0.22, 0.16), "grey": (0.42, 0.42, 0.45)},
    "light": {"sun": (1.00, 0.92, 0.20), "moon": (0.90, 0.92, 1.00)},
    "object": {
        "red": (0.90, 0.10, 0.12),
        "blue": (0.10, 0.18, 0.80),
        "lime": (0.65, 0.98, 0.10),
        "black": (0.02, 0.02, 0.02),
    },
}
_HORIZON = 32.0
_PLACE = {"left": 9.0, "centre": 24.0, "right": 39.0}


def values_of(indices: Tensor) -> Tensor:
    """Values (B, 5) of the groups of images (B,), in the order of `GROUPS`."""
    values = []
    for size in reversed(GROUP_SIZES.tolist()):
        values.append(indices % size)
        indices = indices // size
    return torch.stack(values[::-1], dim=-1)


def index_of(values: Tensor) -> Tensor:
    """Images (B,) with the given values (B, 5) of their groups."""
    index = torch.zeros_like(values[..., 0])
    for group, size in enumerate(GROUP_SIZES.tolist()):
        index = index * size + values[..., group]
    return index


def factor_names(factor: str) -> tuple[str, ...]:
    """The values of a factor, in order of first appearance, including "none" and "flat"."""
    group, position = FACTORS[factor]
    return tuple(dict.fromkeys(value[position] for value in GROUPS[group]))


@lru_cache
def _factor_table(factor: str) -> tuple[int, Tensor]:
    group, position = FACTORS[factor]
    names = factor_names(factor)
    return list(GROUPS).index(group), torch.tensor([names.index(value[position]) for value in GROUPS[group]])


def factors_of(indices: Tensor) -> dict[str, Tensor]:
    """Value (B,) of each factor of images (B,), numbered as in `factor_names`."""
    values = values_of(indices)
    return {factor: table[values[:, group]] for factor in FACTORS for group, table in [_factor_table(factor)]}


def factor_entropy(factor: str) -> float:
    """Exact entropy in bits of a factor whose group is not stated; the values of a group are uniform."""
    _, table = _factor_table(factor)
    shares = table.bincount().double() / len(table)
    return float(-(shares * shares.log2()).sum())


def conditional_entropy(stated: dict[str, int]) -> float:
    """H(image | caption) in bits: log2 of the number of images with the stated values (group: value)."""
    return sum(math.log2(len(values)) for group, values in GROUPS.items() if group not in stated)


# --- rendering: coverage masks in [0, 1], anti-aliased over one pixel ---


def _pixels() -> tuple[Tensor, Tensor]:
    centres = torch.arange(SIZE).float() + 0.5
    return centres[:, None].expand(SIZE, SIZE), centres[None].expand(SIZE, SIZE)


def _cover(inside: Tensor) -> Tensor:
    return (inside + 0.5).clamp(0, 1)


def _disc(y: float, x: float, radius: float) -> Tensor:
    rows, columns = _pixels()
    return _cover(radius - ((rows - y) ** 2 + (columns - x) ** 2).sqrt())


def _box(top: float, bottom: float, left: float, right: float) -> Tensor:
    rows, columns = _pixels()
    return _cover(torch.minimum(rows - top, bottom - rows)) * _cover(torch.minimum(columns - left, right - columns))


def _triangle(top: float, bottom: float, x: float, half_width: float) -> Tensor:
    rows, columns = _pixels()
    slope = half_width / (bottom - top)
    edge = ((rows - top) * slope - (columns - x).abs()) / math.sqrt(1 + slope**2)
    return _cover(torch.minimum(edge, bottom - rows))


def _hill(x: float, half_width: float, height: float) -> Tensor:
    rows, columns = _pixels()
    return _cover(rows - _HORIZON + height * (1 - ((columns - x) / half_width) ** 2).clamp(min=-1))


def _land_mask(shape: str) -> Tensor:
    if shape == "hill":
        return _hill(24, 22, 11)
    if shape == "hills":
        return torch.maximum(_hill(11, 14, 8), _hill(36, 15, 12))
    return _triangle(14, _HORIZON + 1, 24, 14)


def _light_mask(kind: str, place: str) -> Tensor:
    disc = _disc(9, _PLACE[place], 7.5)
    return disc * (1 - _disc(7, _PLACE[place] + 5, 7)) if kind == "moon" else disc


def _object_mask(kind: str, place: str) -> Tensor:
    x = {"left": 12.0, "right": 36.0}[place]
    if kind == "house":
        return torch.maximum(_box(30, 44, x - 8, x + 8), _triangle(21, 30.5, x, 10))
    if kind == "tree":
        return torch.maximum(_disc(26, x, 8), _box(30, 44, x - 2.5, x + 2.5))
    return _triangle(27, 44, x, 10)


@lru_cache
def _layers() -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Skies (6, 3, S, S), and colours (V, 3) and masks (V, 1, S, S) of the other groups' values in painting order."""
    rows, _ = _pixels()
    shading = 1.06 - 0.12 * rows / SIZE
    skies = torch.stack([torch.tensor(_RGB["sky"][name])[:, None, None] * shading for name in SKY]).clamp(0, 1)
    below = _cover(rows - _HORIZON)

    def layer(group: str, masks: list[Tensor], colours: list[str | None]) -> tuple[Tensor, Tensor]:
        rgb = [_RGB[group][name] if name else (0.0, 0.0, 0.0) for name in colours]
        return torch.tensor(rgb), torch.stack(masks)[:, None]

    nothing = torch.zeros(SIZE, SIZE)
    light = layer("light", [nothing, *(_light_mask(*v) for v in LIGHT[1:])], [None, *(kind for kind, _ in LIGHT[1:])])
    land = layer("land", [nothing, *(_land_mask(shape) for shape, _ in LAND[1:])], [None, *(c for _, c in LAND[1:])])
    ground = layer("ground", [below] * len(GROUND), list(GROUND))
    objects = [_object_mask(kind, place) for kind, _, place in OBJECT[1:]]
    thing = layer("object", [nothing, *objects], [None, *(colour for _, colour, _ in OBJECT[1:])])
    return skies, [light, land, ground, thing]


def render(indices: Tensor) -> Tensor:
    """Render images (B,) as pixels (B, 3, 48, 48) uint8."""
    sky, ground, land, light, thing = values_of(indices.cpu()).unbind(-1)
    skies, layers = _layers()
    image = skies[sky]
    for (colours, masks), value in zip(layers, (light, land, ground, thing), strict=True):
        image = torch.lerp(image, colours[value][:, :, None, None], masks[value])
    return (255 * image).round().to(torch.uint8)


# --- the exact classifier ---


def _reduce(images: Tensor) -> Tensor:
    return F.avg_pool2d(images.float() / 255, SIZE // 12).flatten(1)


@lru_cache
def _templates() -> tuple[Tensor, Tensor]:
    """All images at 12 x 12 pixels, (52500, 432), and their squared norms.

    The objects, the last group, are pasted onto 2,100 backgrounds.
    """
    backgrounds = (
        torch.cat([render(chunk) for chunk in torch.arange(0, NUM_IMAGES, len(OBJECT)).split(256)]).float() / 255
    )
    colours, masks = _layers()[1][-1]
    pooled = {}
    templates = torch.empty(len(backgrounds), len(OBJECT), 3 * 12 * 12)
    for value, ((kind, _, place), colour, mask) in enumerate(zip(OBJECT, colours, masks, strict=True)):
        if (kind, place) not in pooled:
            pooled[kind, place] = F.avg_pool2d(backgrounds * (1 - mask), SIZE // 12).flatten(1)
        paint = F.avg_pool2d(colour[:, None, None] * mask, SIZE // 12).flatten()
        templates[:, value] = pooled[kind, place] + paint
    templates = templates.flatten(0, 1)
    return templates, templates.square().sum(1)


def read(images: Tensor) -> tuple[Tensor, Tensor]:
    """Classify images exactly: find the nearest of the 52,500 postcards at 12 x 12 pixels.

    Args:
        images: (B, 3, 48, 48) uint8.

    Returns:
        Index (B,) of the nearest postcard, and the root mean square difference (B,) in [0, 1] from it at 12 x 12
        pixels; below `COHERENT_RMS` a sample counts as a coherent postcard.

    Raises:
        ValueError: the images have another shape or dtype.
    """
    if images.shape[1:] != (3, SIZE, SIZE) or images.dtype != torch.uint8:
        raise ValueError(
            f"postcards must be (B, 3, {SIZE}, {SIZE}) uint8, got {tuple(images.shape)} {images.dtype}. Resize them to "
            f"{SIZE} x {SIZE} pixels"
        )
    templates, norms = _templates()
    indices, distances = [], []
    for chunk in images.cpu().split(256):
        x = _reduce(chunk)
        nearest = (norms - 2 * x @ templates.T).argmin(1)
        indices.append(nearest)
        distances.append((x - templates[nearest]).square().mean(1).sqrt())
    return torch.cat(indices), torch.cat(distances)
