"""Preprocessing of images of any size for networks of transformers and open_clip.

Images are resized with antialiasing, centre-cropped, and scaled to (x / 255 - mean) / std. The resize is done in uint8
on the CPU, regardless of the device: there torch rounds after each of its two passes as Pillow does (and differs by at
most 2 of 255, in 1 % of the pixels), whereas bicubic in floats overshoots, and a noisy image differs by up to 22. Rows
are always resized first; Pillow 13 starts with the columns of images that are much taller than wide.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gendiv_lightning.errors import WrongWeightsError


class Preprocessing(NamedTuple):
    """Preprocessing of images of any size for a backbone.

    Attributes:
        shorter: length of the shorter side after the resize; None resizes to `size`, regardless of the aspect ratio.
        size: height and width after the centre crop.
        mode: interpolation of pixels, always with antialiasing.
        rounds_half: round the offset of an odd margin half to even (torchvision) instead of down (transformers).
        mean: mean of each channel, for pixels in [0, 1].
        std: standard deviation of each channel.
    """

    shorter: int | None
    size: tuple[int, int]
    mode: Literal["bicubic", "bilinear"]
    rounds_half: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def resize(self, images: Tensor) -> Tensor:
        """Resize and crop images (N, 3, H, W) uint8 to (N, 3, *size) uint8, on the CPU."""
        sides = images.shape[-2:]
        target = self.size if self.shorter is None else tuple(int(self.shorter * n / min(sides)) for n in sides)
        resized = F.interpolate(images.cpu().contiguous(), target, mode=self.mode, antialias=True)
        halves = [(resized_side - side) / 2 for resized_side, side in zip(target, self.size, strict=True)]
        top, left = (round(half) if self.rounds_half else int(half) for half in halves)
        return resized[:, :, top : top + self.size[0], left : left + self.size[1]]

    def scale(self, pixels: Tensor) -> Tensor:
        """The network's input (N, 3, *size) float32 from pixels (N, 3, *size) uint8."""
        mean, std = (torch.tensor(values, device=pixels.device).view(-1, 1, 1) for values in (self.mean, self.std))
        return (pixels.float() / 255 - mean) / std


def preprocessing_of(config: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing of a transformers image processor; ValueError if its steps differ from CLIP's."""
    steps = ("do_resize", "do_rescale", "do_normalize")
    modes: dict[int, Literal["bicubic", "bilinear"]] = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
    shorter = config["size"].get("shortest_edge")
    target = config["crop_size"] if config["do_center_crop"] else config["size"]
    if (
        not all(config[step] for step in steps)
        or abs(255 * config["rescale_factor"] - 1) > 1e-6
        or config["resample"] not in modes
        or not {"height", "width"} <= target.keys()
        or (target != config["size"] if shorter is None else max(target.values()) > shorter)
    ):
        raise WrongWeightsError("its image processor does not resize, crop, rescale and normalise as CLIP's do")
    mean, std = tuple(config["image_mean"]), tuple(config["image_std"])
    return Preprocessing(shorter, (target["height"], target["width"]), modes[config["resample"]], False, mean, std)
