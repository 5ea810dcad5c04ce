"""List local images in any layout: folders, tables of file names, Parquet, WebDataset tars, saved datasets.

Images are listed with their texts; nothing is decoded or unpacked. Ignored files are counted with the reason, and an
ambiguous layout is an error: no image is silently dropped or regrouped.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from gendiv_lightning.errors import (
    FileFormatError,
    GroupingError,
    MissingFileError,
    NoImagesError,
    OptionConflictError,
    restated,
)
from gendiv_lightning.images.decode import MEMORY_LIMIT, ImageItem, is_image
from gendiv_lightning.images.tables import (
    FILE_COLUMNS,
    ReadRules,
    holds_images,
    list_parquet,
    list_saved_dataset,
    read_value,
    resolve,
)
from gendiv_lightning.prompts.files import TEXTS, read_sample
from gendiv_lightning.storage.files import IMAGE_SUFFIXES, File, is_hidden, list_folder, on_disk
from gendiv_lightning.storage.parquet import read_parquet
from gendiv_lightning.storage.sources import is_saved_dataset
from gendiv_lightning.storage.tables import Record, Unreadable, decode_text, find_name, parse_json, read_table
from gendiv_lightning.storage.tar import read_tar, sample_key

TABLES = (".jsonl", ".csv", ".tsv", ".json", ".parquet")
# Files that give the prompt of all images in their folder.
FOLDER_FILES = ("prompt.txt", "caption.txt", "metadata.jsonl", "metadata.json")
SHARDS = (".parquet", ".tar")
# Names of folders that are not prompts.
GENERIC = {"sample", "samples", "image", "images", "img", "imgs", "output", "outputs", "picture", "pictures"}
# Words in the names of files that belong to an image, but are not a sample themselves.
AUXILIARY = {
    *("mask", "masks", "seg", "segm", "segmentation", "depth", "depthmap", "normal", "normals", "edge", "edges"),
    *("canny", "pose", "label", "labels", "annotation", "alpha", "matte", "thumb", "thumbnail", "preview"),
}
# Names of montages: `grid`, `grid (1)`, `00-grid`, `samples_grid`.
_MONTAGE = re.compile(
    r"((\d+(?!\d)|all|final|images?|img2img|samples?|txt2img)[-_ .]?)*"
    r"(grid|montage|collage|contact[-_ ]?sheet)s?[-_ .()\d]*",
    re.IGNORECASE,
)
_LAST_WORD = re.compile(r"(.+?)[-_ ]+([a-z]+)", re.IGNORECASE)
SkipCounts = Counter[tuple[str, str]]


class ImageListing(NamedTuple):
    """Images, and the files that were ignored.

    Attributes:
        items: the images, in order.
        skipped: number of ignored files, by reason and kind of file.
        notes: lines about how the layout was interpreted.
    """

    items: list[ImageItem]
    skipped: SkipCounts
    notes: list[str]

    def lines(self) -> list[str]:
        """The notes, and one line per reason for ignoring files."""
        return [*self.notes, *(self._line(reason) for reason in sorted({reason for reason, _ in self.skipped}))]

    def _line(self, reason: str) -> str:
        kinds = {kind: number for (other, kind), number in sorted(self.skipped.items()) if other == reason}
        number = sum(kinds.values())
        shown = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        return f"{number} {'file was' if number == 1 else 'files were'} ignored, {reason}: {shown}"


class Group(NamedTuple):
    """Some images and the names of all files that they use; a part of a listing."""

    items: list[ImageItem]
    used: set[str]
    skipped: SkipCounts


def list_images(
    source: Path,
    *,
    column: str | None = None,
    split: str | None = None,
    with_rows: bool = False,
    allow_outside: bool = False,
    memory_limit: float = MEMORY_LIMIT,
) -> ImageListing:
    """The images of a folder or file, in the order of their names.

    Args:
        source: a folder of images, of folders with images, of Parquet files or WebDataset tars, with a table of file
            names, or of `datasets.save_to_disk`; or a .parquet, .tar, .jsonl, .json, .csv or .tsv file.
        column: column with the images, if several columns could contain them; for a tar with several kinds of images
            per sample, the extension of the images to use.
        split: split of a saved dataset that has several.
        with_rows: fill the rows of the items, from the columns of Parquet, of a saved dataset or of a table
            (`metadata.csv`, or another table that names the images), or from the `.json` and `.txt` next to an image.
            Without any of these, `prompt` is the content of `prompt.txt` or of a `metadata.jsonl` with one line, or
            else the name of the folder.
        allow_outside: also read files outside the data folder, if a table names them.
        memory_limit: memory in GiB that one image, or one Parquet row group, may take.

    Raises:
        OSError: a folder cannot be listed.
        ValueError: the source does not exist or contains no images, it is unclear which column contains the images or
            which folder names the prompt, or an option does not apply to the source.
    """
    if not source.exists() and not source.is_symlink():
        raise MissingFileError(f"{source} is missing. Correct the path, which is relative to {Path.cwd()}")
    if source.is_dir() and is_saved_dataset(source):
        rules = ReadRules(source, allow_outside, memory_limit)
        return ImageListing(list(list_saved_dataset(source, column, split, with_rows, rules)), Counter(), [])
    if split is not None:
        raise OptionConflictError(
            f"--split (in configs split) applies to datasets, but {source} is not a folder of datasets.save_to_disk. "
            "Remove it"
        )
    if source.is_dir():
        listing = _list_folder(source, column, with_rows, ReadRules(source, allow_outside, memory_limit))
    else:
        listing = _list_file(source, column, with_rows, ReadRules(source.parent, allow_outside, memory_limit))
    if not listing.items:
        kinds = ", ".join(f"{number} {kind}" for (_, kind), number in sorted(listing.skipped.items()))
        raise NoImagesError(
            f"{source} contains no images ({', '.join(IMAGE_SUFFIXES)}), only {kinds or 'nothing'}. Give a folder of "
            "images with a sub-folder per prompt, with a .txt or .json next to each image, or with metadata.csv; "
            "Parquet "
            "files; WebDataset tars; or a folder of datasets.save_to_disk"
        )
    return listing


def _list_folder(folder: Path, column: str | None, with_rows: bool, rules: ReadRules) -> ImageListing:
    found = list_folder(folder, rules.memory_limit)
    group = _choose_layout(folder, found.files, column, with_rows, rules)
    skipped = group.skipped + Counter({("hidden", kind): number for kind, number in found.hidden.items()})
    left = [file.name for file in found.files if file.name not in group.used]
    skipped.update(("not images", _kind(name)) for name in left)
    return ImageListing(group.items, skipped, found.notes)


def _kind(name: str) -> str:
    path = PurePosixPath(name)
    return path.suffix.lower() or path.name


def _choose_layout(folder: Path, files: Sequence[File], column: str | None, with_rows: bool, rules: ReadRules) -> Group:
    """Images of a folder: by its table of file names, or else in its tars and Parquet files, or else its own files."""
    pictures = [file for file in files if is_image(file.name)]
    shards = _shards(files, bool(pictures))
    if with_rows and not shards:
        tables = _find_tables(folder, files, column)
        if tables:
            return _without(pictures, "images that no table names", _from_tables(folder, tables, rules))
    if shards:
        parts = [_list_file(on_disk(file), column, with_rows, rules, file.name) for file in shards]
        items = [item for part in parts for item in part.items]
        group = Group(items, {file.name for file in shards}, sum((part.skipped for part in parts), SkipCounts()))
        return _without(pictures, "images next to tars and Parquet files", group)
    if column is not None and pictures:
        raise OptionConflictError(
            f"--image-column (in configs column) names a column, but {folder} is a folder of images. Remove it"
        )
    return _from_files(files, folder.resolve().name, with_rows, is_tar=False)


def _without(pictures: Sequence[File], reason: str, group: Group) -> Group:
    """The group, with the images that are not part of it counted as skipped for this reason."""
    left = {file.name for file in pictures} - group.used
    return Group(group.items, group.used | left, group.skipped + Counter((reason, _kind(name)) for name in left))


def _shards(files: Sequence[File], has_pictures: bool) -> list[File]:
    """Tars and Parquet files with images. Next to tars or images, Parquet without bytes is a table about them."""
    tars = [file for file in files if _suffix(file.name) == ".tar"]
    parquet = [file for file in files if _suffix(file.name) == ".parquet"]
    stems = {_stem(file.name) for file in tars}
    if tars or has_pictures:
        parquet = [file for file in parquet if _stem(file.name) not in stems and holds_images(on_disk(file))]
    return sorted([*tars, *parquet], key=lambda file: file.name)


def _list_file(path: Path, column: str | None, with_rows: bool, rules: ReadRules, name: str = "") -> ImageListing:
    name, suffix = name or path.name, _suffix(path.name)
    if suffix == ".tar":
        return _list_tar(path, name, column, with_rows, rules)
    if suffix == ".parquet":
        return ImageListing(list(list_parquet(path, name, column, with_rows, rules)), Counter(), [])
    if suffix in TABLES:
        return ImageListing(list(_from_table(path, _file_column(path, column), rules)), Counter(), [])
    raise FileFormatError(
        f"{path} is neither a folder nor a .parquet, .tar, .jsonl, .json, .csv or .tsv file. Unpack or convert it"
    )


def _list_tar(path: Path, name: str, kind: str | None, with_rows: bool, rules: ReadRules) -> ImageListing:
    files, skipped = [], SkipCounts()
    for file in read_tar(path, rules.memory_limit):
        hidden = next((part for part in PurePosixPath(file.name).parts if is_hidden(part)), None)
        if hidden is None:
            files.append(file)
        else:
            skipped["hidden", hidden] += 1
    group = _from_files(files, _name_of_tar(name), with_rows, is_tar=True, kind=kind)
    skipped += group.skipped
    # Texts next to images are read only with rows, but they are never counted as images.
    left = [file.name for file in files if file.name not in group.used and (with_rows or not _is_text(file.name))]
    skipped.update(("not images", _kind(left_out)) for left_out in left)
    return ImageListing([item._replace(name=f"{name}/{item.name}") for item in group.items], skipped, [])


def _name_of_tar(name: str) -> str:
    """The prompt of images in a tar without texts and folders: the folder of the tar, or else the tar's own name."""
    path = PurePosixPath(name)
    named = any(part.lower() not in GENERIC for part in path.parent.parts)
    return _prompt_of(path.parent, "", name) if named else path.stem


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _is_text(name: str) -> bool:
    return _suffix(name)[1:] in TEXTS


# Image files in a folder or a tar


def _from_files(files: Sequence[File], root: str, with_rows: bool, *, is_tar: bool, kind: str | None = None) -> Group:
    pictures = [file for file in files if is_image(file.name)]
    texts = _Texts(files, pictures)
    taken, skipped = select_samples(pictures, is_tar=is_tar, kind=kind, alone=frozenset(texts.own))
    used = {file.name for file in pictures}
    items = [ImageItem(file.name, file.size, file.read) for file in taken]
    if not with_rows:
        return Group(items, used, skipped)
    if texts.by_image:
        items = [item._replace(**_row(texts.of(item.name), root)) for item in items]
        return Group(items, used | texts.names, skipped)
    if is_tar:
        _check_no_other_texts(files, items, root)
    group = _by_folder(files, items, root)
    return Group(group.items, used | group.used, skipped + group.skipped)


def _check_no_other_texts(files: Sequence[File], items: Sequence[ImageItem], tar: str) -> None:
    """Raise GroupingError if files of another kind belong to the images of a tar: they may contain the prompts."""
    keys = {sample_key(item.name)[0] for item in items}
    found = ((sample_key(file.name), is_image(file.name)) for file in files)
    others = sorted({kind for (key, kind), is_picture in found if key in keys and not is_picture})
    if others:
        raise GroupingError(
            f"the images of {tar} have no prompts: next to them are only files that end in .{', .'.join(others)}"
            ". Write the prompt of each image to a .txt or .json with the same key"
        )


class _Texts:
    """The `.txt` and `.json` files that belong to images: files with the same name, or else with the same key.

    Attributes:
        own: names of the images with a text of exactly the same name.
        by_image: texts of each image that has any.
        names: names of all these texts.
    """

    def __init__(self, files: Sequence[File], pictures: Sequence[File]) -> None:
        stems, keys = dict[str, list[File]](), dict[str, list[File]]()
        for file in files:
            if _is_text(file.name):
                stems.setdefault(_stem(file.name), []).append(file)
                keys.setdefault(sample_key(file.name)[0], []).append(file)
        self.own = {picture.name for picture in pictures if _stem(picture.name) in stems}
        found = ((file.name, stems.get(_stem(file.name)) or keys.get(sample_key(file.name)[0])) for file in pictures)
        self.by_image = {name: texts for name, texts in found if texts}
        self.names = {text.name for texts in self.by_image.values() for text in texts}

    def of(self, image: str) -> list[File]:
        return self.by_image.get(image, [])


def _row(texts: list[File], where: str) -> dict[str, Any]:
    record = read_sample(texts, where)
    return {"problem": record.where} if isinstance(record, Unreadable) else {"row": record.columns}


def select_samples(
    pictures: Sequence[File], *, is_tar: bool, kind: str | None = None, alone: frozenset[str] = frozenset()
) -> tuple[list[File], SkipCounts]:
    """The images that are samples, and the number of other images, such as montages and masks.

    Images with the same key (the name up to its first dot) belong together: `0.png` and `0.mask.png`, or `0.a.png` and
    `0.b.png`. All of them except masks are samples, unless a tar has several kinds of them per key. In a folder
    `0_mask.png` next to `0.png` is a mask, too.

    Args:
        pictures: the image files.
        is_tar: whether they are in a tar, where each key is a sample.
        kind: extension of the images to use.
        alone: names that are always samples, whatever their key.

    Raises:
        GroupingError: it is unclear which images of a key are samples.
        NoImagesError: no image is of that kind.
    """
    pictures, skipped = _without_montages(pictures, alone)
    if kind is not None:
        return _of_kind(pictures, kind.lower().lstrip("."), skipped)
    keys: dict[str, list[File]] = {}
    for file in pictures:
        keys.setdefault(sample_key(file.name)[0], []).append(file)
    masks = set[str]() if is_tar else _masks_next_to_images(pictures)
    for key, files in keys.items():
        others = {file.name for file in files if _words(file.name) & AUXILIARY}
        masks |= others if len(others) < len(files) else set()
        samples = [file.name for file in files if file.name not in masks]
        if is_tar and _has_several_kinds(samples, alone):
            names = ", ".join(f".{sample_key(name)[1]}" for name in samples)
            raise GroupingError(
                f"the sample {key} has images of several kinds, {names}, and it is unclear which of them is generated. "
                f"Choose one with --image-column {sample_key(samples[-1])[1]} (in configs column)"
            )
    skipped.update(("masks and the like", _end(name)) for name in masks)
    return [file for file in pictures if file.name not in masks], skipped


def _has_several_kinds(samples: Sequence[str], alone: frozenset[str]) -> bool:
    """Whether images of one key are not several samples of the same kind, but different things."""
    if len({_stem(name) for name in samples}) < len(set(samples)):  # `0.jpg` and `0.png`
        return True
    return not alone.issuperset(samples) and len({_plain_kind(name) for name in samples}) > 1


def _masks_next_to_images(pictures: Sequence[File]) -> set[str]:
    """Images such as `0_mask.png`, if there is an image `0`."""
    stems = {_stem(file.name) for file in pictures}
    ends = {file.name: _LAST_WORD.fullmatch(_stem(file.name)) for file in pictures}
    return {name for name, end in ends.items() if end and end[2].lower() in AUXILIARY and end[1] in stems}


def _end(name: str) -> str:
    """What distinguishes a mask from its image: `.mask.png` or `_mask.png`."""
    extension = sample_key(name)[1]
    word = _LAST_WORD.fullmatch(PurePosixPath(name).stem)
    return f"_{word[2]}.{extension}" if word and "." not in extension else f".{extension}"


def _without_montages(pictures: Sequence[File], alone: frozenset[str]) -> tuple[Sequence[File], SkipCounts]:
    """The images that are not montages: not named like `grid`, and not next to a folder of samples."""
    folders = {_folder(file.name) for file in pictures}
    above = {folder.parent for folder in folders if folder.name.lower() == "samples"}
    montages = {
        file.name
        for file in pictures
        if file.name not in alone and (_MONTAGE.fullmatch(PurePosixPath(file.name).stem) or _folder(file.name) in above)
    }
    if len(montages) == len(pictures):
        return pictures, SkipCounts()
    skipped = Counter(("montages of samples", PurePosixPath(name).name) for name in montages)
    return [file for file in pictures if file.name not in montages], skipped


def _of_kind(pictures: Sequence[File], kind: str, skipped: SkipCounts) -> tuple[list[File], SkipCounts]:
    chosen = [file for file in pictures if kind in _kinds_of(file.name)]
    if not chosen:
        kinds = sorted({sample_key(file.name)[1].lower() for file in pictures})
        raise NoImagesError(f"no image ends in .{kind}. Choose one of .{', .'.join(kinds)}")
    names = {file.name for file in chosen}
    others = (file.name for file in pictures if file.name not in names)
    return chosen, skipped + Counter((f"not .{kind}", f".{sample_key(name)[1]}") for name in others)


def _kinds_of(name: str) -> tuple[str, str]:
    extension = sample_key(name)[1].lower()
    return extension, extension.rpartition(".")[0]


def _words(name: str) -> set[str]:
    return set(re.findall("[a-z]+", _kinds_of(name)[1]))


def _plain_kind(name: str) -> str:
    """The words between key and suffix, without numbers and single letters."""
    return "".join(word for word in re.findall("[a-z]+", _kinds_of(name)[1]) if len(word) > 1)


def _by_folder(files: Sequence[File], items: Sequence[ImageItem], root: str) -> Group:
    """Images whose folder gives the prompt, by a file in it or by its name."""
    texts = {
        _folder(file.name): file
        for name in reversed(FOLDER_FILES)
        for file in files
        if PurePosixPath(file.name).name.lower() == name
    }
    rows = {folder: _folder_row(file, items) for folder, file in texts.items()}
    in_folders = [item for item in items if _folder(item.name).parts] or items
    skipped = SkipCounts()
    if len(in_folders) < len(items):
        flat = [item.name for item in items if not _folder(item.name).parts]
        skipped.update(("images next to the folders of prompts", name) for name in flat)
    with_prompts = []
    for item in in_folders:
        folder = _folder(item.name)
        parent = next((parent for parent in (folder, *folder.parents) if parent in rows), None)
        if parent is None and rows:
            raise GroupingError(
                f"{item.name} has no prompt: there is {next(iter(texts.values())).name}, but no such file for this "
                "image. Add one to its folder, or remove the folder"
            )
        if parent is None:
            item = item._replace(row={"prompt": _prompt_of(folder, root, item.name)})
        else:
            row = rows[parent]
            item = item._replace(problem=row.where) if isinstance(row, Unreadable) else item._replace(row=row.columns)
        with_prompts.append(item)
    is_flat = not any(_folder(item.name).parts for item in in_folders)
    if not texts and (is_flat or not any(has_letter(item.row["prompt"]) for item in with_prompts)):
        _check_flat(files, in_folders)
    return Group(with_prompts, {file.name for file in texts.values()}, skipped)


def _folder(name: str) -> PurePosixPath:
    return PurePosixPath(name).parent


def has_letter(prompt: str) -> bool:
    """Whether a prompt contains a letter of any script; the number of a folder does not."""
    return any(character.isalpha() for character in prompt)


def _prompt_of(folder: PurePosixPath, root: str, name: str) -> str:
    """The name of the folder that is the prompt; raises GroupingError if it is ambiguous."""
    parts = [part for part in folder.parts if part.lower() not in GENERIC] or list(folder.parts[:1])
    if len(parts) > 1:
        raise GroupingError(
            f"{name} is several folders deep, and it is unclear which of {' and '.join(map(repr, parts))} is its "
            f"prompt. Give the folder of one model ({root}/{parts[0]}), or write the prompt to a prompt.txt in the "
            "folder of each prompt"
        )
    return parts[0] if parts else root


def _check_flat(files: Sequence[File], items: Sequence[ImageItem]) -> None:
    """Raise GroupingError if a file suggests that images have other prompts than the name of their folder."""
    tables = [file.name for file in files if _suffix(file.name) in (*TABLES, ".txt")]
    tables = [name for name in tables if not name.lower().startswith(("readme", "license"))]
    if tables and len(items) > 1:
        raise GroupingError(
            f"the prompts are unclear: {', '.join(tables[:3])} is next to the images but does not assign prompts. "
            f"Add a column with the names of the images ({', '.join(FILE_COLUMNS[:3])}, ...) to a table; name a text "
            "like its image, or prompt.txt for the prompt of all images"
        )


def _folder_row(file: File, items: Sequence[ImageItem]) -> Record | Unreadable:
    try:
        text = decode_text(file.read()).strip()
        if file.name.lower().endswith(".txt"):
            return Record(file.name, {"prompt": text})
        lines = text.splitlines() if file.name.lower().endswith(".jsonl") else [text]
        row = parse_json(lines[0], file.name) if len(lines) == 1 else None
    except (ValueError, OSError) as error:
        return Unreadable(f"{file.name} cannot be read: {error}")
    if not isinstance(row, Mapping):
        raise GroupingError(
            f"{file.name} must name an image in each line ({', '.join(FILE_COLUMNS[:3])}, ...), or contain one line "
            "for "
            "all images of its folder. Correct it"
        )
    names = {name for item in items for name in (PurePosixPath(item.name).name, PurePosixPath(item.name).stem)}
    if not names.isdisjoint(row):
        raise GroupingError(
            f"{file.name} has the names of images as keys. Write a list with an object per image, such as "
            f'{{"{FILE_COLUMNS[0]}": "1.png", "prompt": "..."}}'
        )
    return Record(file.name, row)


# Tables of file names


class _Table(NamedTuple):
    """A table, and its column with file names."""

    name: str
    path: Path
    column: str


def _find_tables(folder: Path, files: Sequence[File], column: str | None) -> list[_Table]:
    """The tables of a folder that name its images: those called `metadata`, or else the only other one."""
    candidates = [file for file in files if _suffix(file.name) in TABLES]
    stems = {_stem(file.name) for file in files if is_image(file.name)}
    official = [file for file in candidates if PurePosixPath(file.name).stem.lower() == "metadata"]
    tables = [table for file in official if (table := _as_table(folder, file, column, is_official=True))]
    if tables:
        return tables
    named = [file for file in candidates if file not in official and _stem(file.name) not in stems]
    tables = [table for file in named if (table := _as_table(folder, file, column, is_official=False))]
    if len(tables) > 1:
        raise GroupingError(
            f"{folder} has several tables of its images, {', '.join(table.name for table in tables)}. Give one of them "
            "as SOURCE, or rename it to metadata.csv"
        )
    return tables


def _as_table(folder: Path, file: File, column: str | None, *, is_official: bool) -> _Table | None:
    """A table of images; None for a table about something else, or with the prompt of its folder."""
    path = on_disk(file)
    try:
        first = list(islice(_records(path), 100))
    except (ValueError, OSError):
        if is_official and _suffix(file.name) != ".json":  # an object about the folder is not a table either
            raise
        return None
    if not first:
        return None
    columns = list(dict.fromkeys(name for record in first for name in record.columns))
    found = _look_for(columns, column)
    if is_official and found is None and file.name.lower().rpartition("/")[2] in FOLDER_FILES and len(first) == 1:
        return None
    if is_official and found is None:
        raise FileFormatError(_no_file_column(path, columns, column))
    names = (record.columns.get(found) for record in first) if found else ()
    first_name = next((name for name in names if isinstance(name, str) and name.strip()), None)
    if is_official:
        return _Table(file.name, path, str(found))
    rules = ReadRules(folder)
    is_one = found and first_name and is_image(first_name) and _exists(first_name, path.parent, rules)
    return _Table(file.name, path, str(found)) if is_one else None


def _exists(name: str, folder: Path, rules: ReadRules) -> bool:
    try:
        return resolve(name, folder, rules).is_file()
    except ValueError:
        return False


def _look_for(columns: Sequence[str], column: str | None) -> str | None:
    if column is not None:
        return column if column in columns else find_name(columns, [column])
    return find_name(columns, FILE_COLUMNS)


def _no_file_column(path: Path, columns: Sequence[str], column: str | None) -> str:
    expected = repr(column) if column else f"any of {', '.join(FILE_COLUMNS)}"
    return (
        f"{path} has the columns {', '.join(map(str, columns))}, but none with names of images, {expected}. Choose "
        "their "
        "column with --image-column (in configs column)"
    )


def _file_column(path: Path, column: str | None) -> str:
    first = next(_records(path), None)
    if first is None:
        raise FileFormatError(f"{path} is empty. Write one row per image")
    found = _look_for(list(first.columns), column)
    if found is None:
        raise FileFormatError(_no_file_column(path, list(first.columns), column))
    return found


def _records(path: Path) -> Iterator[Record]:
    return read_parquet(path) if _suffix(path.name) == ".parquet" else read_table(path)


def _from_tables(folder: Path, tables: Sequence[_Table], rules: ReadRules) -> Group:
    items, used = list[ImageItem](), {table.name for table in tables}
    for table in tables:
        for item in _from_table(table.path, table.column, rules):
            # The same name for the same file, however the tables spell it.
            name = os.path.relpath(resolve(item.name, table.path.parent, rules), folder)
            used.add(name)
            items.append(item._replace(name=name))
    return Group(items, used, SkipCounts())


def _from_table(path: Path, column: str, rules: ReadRules) -> Iterator[ImageItem]:
    for record in _records(path):
        if not any(value not in (None, "") for value in record.columns.values()):
            continue  # a blank line
        name = record.columns.get(column)
        if not isinstance(name, str) or not name.strip():
            raise FileFormatError(
                f"{record.where} must have the name of an image in the column {column!r}, got {name!r}. Correct it"
            )
        name = name.strip()
        try:
            file = resolve(name, path.parent, rules)
        except ValueError as error:
            raise restated(error, f"{record.where}: {error}") from error
        size = file.stat().st_size if file.is_file() else 0
        yield ImageItem(name, size, partial(read_value, name, path.parent, rules), record.columns)
