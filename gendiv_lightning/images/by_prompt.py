"""Anyone's images, grouped by prompt, and read a prompt at a time: memory holds the images of one, however many."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from gendiv_lightning.images.decode import BROKEN, CorruptImages, ImageItem, decode_image, to_tensor
from gendiv_lightning.images.layouts import list_images
from gendiv_lightning.prompts.files import find_column
from gendiv_lightning.records import PromptSamples


class ImageGroups(NamedTuple):
    """Images by prompt, in the order in which prompts first appear; nothing is decoded.

    Attributes:
        groups: the images of each prompt.
        unreadable: images whose text beside them cannot be read, so that their prompt is not known.
        ignored: files that were passed over, by their suffix.
        notes: what the reader should know of how the layout was understood.
    """

    groups: dict[str, list[ImageItem]]
    unreadable: list[str]
    ignored: dict[str, int]
    notes: list[str]

    @property
    def num_images(self) -> int:
        """All that there are."""
        return sum(map(len, self.groups.values())) + len(self.unreadable)


def find_images(
    source: Path, column: str | None = None, image_column: str | None = None, split: str | None = None
) -> ImageGroups:
    """The images of a folder or file, by prompt.

    Args:
        source: see `list_images`.
        column: where the prompt stands; by default `prompt`, `caption`, `text` or `short_caption`. Columns `paraphrase`
            and `path` are read where they are there.
        image_column: where the images stand, if several columns could be it.
        split: of a saved dataset.

    Raises:
        ValueError: there are no images, or one has no prompt.
    """
    items, ignored = list_images(source, column=image_column, split=split, with_rows=True)
    groups, unreadable = dict[str, list[ImageItem]](), list[str]()
    for item in items:
        if "unreadable" in item.row:
            unreadable.append(item.row["unreadable"])
        else:
            groups.setdefault(_prompt(item, column, source), []).append(item)
    notes = []
    if len(groups) == 1 and len(items) > 1:
        notes.append(f"all {len(items)} images are taken as samples of one prompt, {next(iter(groups))[:60]!r}")
    return ImageGroups(groups, unreadable, ignored, notes)


def _prompt(item: ImageItem, column: str | None, source: Path) -> str:
    where = f"{source}, {item.name}"
    if not item.row:
        raise ValueError(
            f"{where} has no prompt: nothing stands beside it, neither a .txt or .json nor a column of text"
        )
    value = item.row.get(find_column(item.row, column, where, option="--column"))
    if value is None or not str(value).strip():
        raise ValueError(f"{where} has an empty prompt: fill it in, or leave the image out")
    return str(value)


def load_prompts(
    images: ImageGroups, resize: int | None = None, max_corrupt: float = 0.01
) -> Iterator[tuple[PromptSamples, list[str]]]:
    """All images of a prompt at a time, and the names of those that could not be read.

    Args:
        images: of `find_images`.
        resize: side in pixels that all images are brought to (bicubic, the whole image); None keeps their sizes.
        max_corrupt: share of all images that may be corrupt.

    Raises:
        ValueError: too many images are corrupt, or the images of a prompt differ in size.
    """
    corrupt = CorruptImages(max_corrupt, images.num_images)
    corrupt.add(images.unreadable)
    unnamed = list(images.unreadable)  # of no prompt, or of prompts without any other
    for place, (prompt, items) in enumerate(images.groups.items()):
        pictures, read, broken = [], [], []
        for item in items:
            try:
                pictures.append(_decode(item, resize))
                read.append(item)
            except BROKEN:
                broken.append(item.name)
        corrupt.add(broken)
        sizes = {tuple(picture.shape[1:]) for picture in pictures}
        if len(sizes) > 1:
            raise ValueError(
                f"images of the prompt {prompt[:60]!r} differ in size, {' and '.join(map(str, sorted(sizes)[:2]))}: "
                "bring them to one with --resize"
            )
        if pictures:
            yield _to_samples(prompt, place, read, pictures), unnamed + broken
            unnamed = []
        else:
            unnamed += broken
    if unnamed:
        warnings.warn(f"no image of some prompts could be read: {', '.join(unnamed)}", stacklevel=2)


def _decode(item: ImageItem, resize: int | None) -> Tensor:
    image = decode_image(item.read())
    if resize is not None and image.size != (resize, resize):
        image = image.resize((resize, resize), Image.Resampling.BICUBIC)
    return to_tensor(image)


def _to_samples(prompt: str, place: int, items: list[ImageItem], images: list[Tensor]) -> PromptSamples:
    # Paths that are not told are each image's own, beside all that are.
    told = [_number(item.row, "path") for item in items]
    first_free = 1 + max((path for path in told if path is not None), default=-1)
    paths = [first_free + n if path is None else path for n, path in enumerate(told)]
    return PromptSamples(
        torch.stack(images),
        prompt=prompt,
        place=place,
        paraphrase=torch.tensor([_number(item.row, "paraphrase") or 0 for item in items]),
        path=torch.tensor(paths),
        names=tuple(item.name for item in items),
    )


def _number(row: Mapping[str, Any], column: str) -> int | None:
    value = row.get(column)
    return None if value in (None, "") else int(value)
