"""From images of any size to the input of a network of transformers or open_clip.

They are resized with antialiasing, cropped at the centre, and scaled to (x / 255 - mean) / std. The resize is done in
uint8 on the CPU, whatever the device: there torch rounds after each of its two passes as Pillow does (and differs by at
most 2 of 255, in a pixel of a hundred), whereas bicubic in floats overshoots and a noisy image differs by up to 22.
Rows come first, always; Pillow 13 begins with the columns of images much taller than wide.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gendiv_lightning.errors import WrongWeightsError


class Preprocessing(NamedTuple):
    """From images of any size to a backbone's input.

    Attributes:
        shorter: length of the shorter side after the resize; None resizes to `size`, whatever the aspect.
        size: height and width after the centre crop.
        mode: how pixels are interpolated, always with antialiasing.
        rounds_half: an odd margin's offset is rounded half to even (torchvision), or else down (transformers).
        mean: of the channels, for pixels in [0, 1].
        std: of the channels.
    """

    shorter: int | None
    size: tuple[int, int]
    mode: Literal["bicubic", "bilinear"]
    rounds_half: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def resize(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) uint8 to (N, 3, *size) uint8 on the CPU: what the backbone sees of them."""
        sides = images.shape[-2:]
        target = self.size if self.shorter is None else tuple(int(self.shorter * n / min(sides)) for n in sides)
        resized = F.interpolate(images.cpu().contiguous(), target, mode=self.mode, antialias=True)
        halves = [(had - wanted) / 2 for had, wanted in zip(target, self.size, strict=True)]
        top, left = (round(half) if self.rounds_half else int(half) for half in halves)
        return resized[:, :, top : top + self.size[0], left : left + self.size[1]]

    def scale(self, pixels: Tensor) -> Tensor:
        """Pixels (N, 3, *size) uint8 to the network's input, float32."""
        mean, std = (torch.tensor(values, device=pixels.device).view(-1, 1, 1) for values in (self.mean, self.std))
        return (pixels.float() / 255 - mean) / std


def preprocessing_of(config: Mapping[str, Any]) -> Preprocessing:
    """That of an image processor of transformers; ValueError where its steps are others than CLIP's."""
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
        raise WrongWeightsError("its image processor does not resize, crop, rescale and normalise as those of CLIP do")
    mean, std = tuple(config["image_mean"]), tuple(config["image_std"])
    return Preprocessing(shorter, (target["height"], target["width"]), modes[config["resample"]], False, mean, std)
