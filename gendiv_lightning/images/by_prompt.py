"""Images of any generator, grouped by prompt and read one prompt at a time, so that memory stays bounded."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from gendiv_lightning.errors import GroupingError, ImageSizeError
from gendiv_lightning.images.decode import (
    MEMORY_LIMIT,
    BrokenImage,
    CorruptImages,
    ImageError,
    ImageItem,
    read_image,
    to_tensor,
)
from gendiv_lightning.images.layouts import has_letter, list_images
from gendiv_lightning.prompts.files import check_text, find_column
from gendiv_lightning.records import PromptSamples, prompt_id
from gendiv_lightning.storage.tables import find_name

_DIGITS = 40  # Python refuses to convert texts of thousands of digits


class ImageGroups(NamedTuple):
    """Images by prompt, in the order in which prompts first occur; nothing is decoded yet.

    Attributes:
        groups: the images of each prompt.
        unreadable: images whose text cannot be read, so that their prompt is unknown.
        notes: lines about ignored files, and how the layout was interpreted.
    """

    groups: dict[str, list[ImageItem]]
    unreadable: list[BrokenImage]
    notes: list[str]

    @property
    def num_images(self) -> int:
        """Number of images, including unreadable ones."""
        return sum(map(len, self.groups.values())) + len(self.unreadable)


def find_images(
    source: Path,
    column: str | None = None,
    image_column: str | None = None,
    split: str | None = None,
    *,
    first_caption: bool = False,
    allow_outside: bool = False,
    memory_limit: float = MEMORY_LIMIT,
) -> ImageGroups:
    """The images of a folder or file, grouped by prompt.

    Texts that differ only in case or white space are one prompt, as in prompt sets; the first spelling is kept.

    Args:
        source: see `list_images`.
        column: column with the prompts; by default `prompt`, `caption`, `text` or `short_caption`. Columns `paraphrase`
            and `path` are read if all of their values are integers.
        image_column: column with the images, if several columns could contain them.
        split: split of a saved dataset.
        first_caption: use the first caption of a list.
        allow_outside: also read files outside the data folder, if a table names them.
        memory_limit: memory in GiB that one image, or one Parquet row group, may take.

    Raises:
        OSError: a folder cannot be listed.
        NoImagesError: there are no images.
        GroupingError: an image has no prompt, or its prompt is ambiguous.
    """
    listing = list_images(
        source,
        column=image_column,
        split=split,
        with_rows=True,
        allow_outside=allow_outside,
        memory_limit=memory_limit,
    )
    groups, spellings, unreadable = dict[str, list[ImageItem]](), dict[str, set[str]](), list[BrokenImage]()
    first_spelling = dict[str, str]()
    numbers = _Numbers(listing.items)
    for item in listing.items:
        if item.problem:
            unreadable.append(BrokenImage(item.name, item.problem))
            continue
        text = _prompt(item, column, source, first_caption)
        prompt = first_spelling.setdefault(prompt_id(text, ""), text)
        spellings.setdefault(prompt, set()).add(text)
        groups.setdefault(prompt, []).append(item._replace(row=numbers.of(item)))
    _check_listed_once(groups)
    notes = [*listing.lines(), *numbers.notes]
    respelt = [prompt for prompt, texts in spellings.items() if len(texts) > 1]
    if respelt:
        notes.append(
            f"{len(respelt)} prompts with different case or white space were merged, such as {respelt[0][:60]!r}"
        )
    if groups and not any(map(has_letter, groups)):
        notes.append(
            f"no prompt contains a letter, such as {next(iter(groups))[:60]!r}; metrics that read them need texts"
        )
    if len(groups) == 1 and len(listing.items) > 1:
        notes.append(f"all {len(listing.items)} images are samples of one prompt, {next(iter(groups))[:60]!r}")
    return ImageGroups(groups, unreadable, notes)


def _check_listed_once(groups: Mapping[str, Sequence[ImageItem]]) -> None:
    """Raise GroupingError if an image is listed twice for a prompt: it would count as two equal samples."""
    for prompt, items in groups.items():
        repeated = [name for name, count in Counter(item.name for item in items).items() if count > 1]
        if repeated:
            raise GroupingError(
                f"{repeated[0]} is listed twice for the prompt {prompt[:60]!r}. Remove all but one of the rows, or all "
                "but one of the tables"
            )


class _Numbers:
    """The columns `paraphrase` and `path` of a source, which are read if all of their values are integers.

    Attributes:
        notes: one line for each of these columns that contains something else.
    """

    def __init__(self, items: Sequence[ImageItem]) -> None:
        self.notes: list[str] = []
        self._columns: list[str] = []
        for name in ("paraphrase", "path"):
            given = [value for item in items if not _is_missing(value := _value(item.row, name))]
            other = next((value for value in given if _whole(value) is None), None)
            if other is not None:
                self.notes.append(
                    f"the column {name!r} was ignored, because it contains {str(other)[:40]!r} and not only integers"
                )
            elif given:
                self._columns.append(name)

    def of(self, item: ImageItem) -> dict[str, int]:
        """The numbers of an image, by column."""
        found = {name: _whole(_value(item.row, name)) for name in self._columns}
        return {name: number for name, number in found.items() if number is not None}


def _value(row: Mapping[str, Any], name: str) -> Any:
    column = _find_name(tuple(row), name)
    return None if column is None else row[column]


@lru_cache(maxsize=1024)  # all rows of a table have the same columns
def _find_name(columns: tuple[str, ...], name: str) -> str | None:
    return find_name(columns, [name])


def _is_missing(value: Any) -> bool:
    return value in (None, "") or value != value


def _whole(value: Any) -> int | None:
    """The value as an integer of 64 bits; None if it is none."""
    number: int | None = None
    if isinstance(value, float):
        number = int(value) if value.is_integer() else None
    elif isinstance(value, str):
        number = int(value) if value.strip().removeprefix("-").isdecimal() and len(value) < _DIGITS else None
    elif isinstance(value, int) and not isinstance(value, bool):
        number = value
    return number if number is not None and abs(number) < 2**63 else None


def _prompt(item: ImageItem, column: str | None, source: Path, first_caption: bool) -> str:
    where = f"{source}, {item.name}"
    if not item.row:
        raise GroupingError(f"{where} has no prompt. Add a .txt or .json of the same name, or a column of texts")
    found = find_column(item.row, column, where, option="--column")
    value = item.row[found]
    if isinstance(value, list):
        if len(value) > 1 and not first_caption:
            raise GroupingError(
                f"{where}: the column {found!r} contains a list of {len(value)} captions, but a prompt is one text. "
                "Pass "
                "--first-caption to use the first, or choose another column with --column"
            )
        value = value[0] if value else None
    text = check_text(value, found, where)
    if not text.strip():
        raise GroupingError(f"{where} has an empty prompt. Fill it in, or remove the image")
    return text


def load_prompts(
    images: ImageGroups, corrupt: CorruptImages, resize: int | None = None, memory_limit: float = MEMORY_LIMIT
) -> Iterator[PromptSamples]:
    """Decode the images, one prompt at a time.

    Args:
        images: result of `find_images`.
        corrupt: collects the images that cannot be read.
        resize: side in pixels to which all images are resized (bicubic, the whole image); None keeps their sizes.
        memory_limit: memory in GiB that one decoded image may take.

    Raises:
        ImageError: too many images cannot be read.
        ImageSizeError: the images of a prompt differ in size.
    """
    left_out = []
    for place, (prompt, items) in enumerate(images.groups.items()):
        pictures, read, broken = [], [], []
        for item in items:
            try:
                pictures.append(_decode(item, resize, memory_limit))
                read.append(item)
            except ImageError as error:
                broken.append(BrokenImage(item.name, str(error)))
        corrupt.add(broken)
        _check_sizes(prompt, read, pictures)
        if pictures:
            yield _to_samples(prompt, place, read, pictures)
        else:
            left_out.append(prompt)
    if left_out:
        shown = ", ".join(repr(prompt[:60]) for prompt in left_out[:10])
        warnings.warn(f"{len(left_out)} prompts have no readable image and are skipped: {shown}", stacklevel=2)


def _check_sizes(prompt: str, items: Sequence[ImageItem], images: Sequence[Tensor]) -> None:
    by_size = {tuple(image.shape[1:]): item.name for item, image in zip(items, images, strict=True)}
    if len(by_size) > 1:
        shown = " and ".join(f"{w} x {h} ({name})" for (h, w), name in sorted(by_size.items())[:2])
        raise ImageSizeError(f"images of the prompt {prompt[:60]!r} differ in size, {shown}. Resize them with --resize")


def _decode(item: ImageItem, resize: int | None, memory_limit: float) -> Tensor:
    image = read_image(item, memory_limit)
    if resize is not None and image.size != (resize, resize):
        image = image.resize((resize, resize), Image.Resampling.BICUBIC)
    return to_tensor(image)


def _to_samples(prompt: str, place: int, items: list[ImageItem], images: list[Tensor]) -> PromptSamples:
    # Images without a path number get a new one each, different from all given numbers.
    given = [item.row.get("path") for item in items]
    first_free = 1 + max((path for path in given if path is not None), default=-1)
    paths = [first_free + n if path is None else path for n, path in enumerate(given)]
    return PromptSamples(
        torch.stack(images),
        prompt=prompt,
        place=place,
        paraphrase=torch.tensor([item.row.get("paraphrase", 0) for item in items]),
        path=torch.tensor(paths),
        names=tuple(item.name for item in items),
    )
