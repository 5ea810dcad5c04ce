"""Read prompts from files, unchanged: this module drops, truncates and cleans nothing.

Each format has a reader that yields records one at a time, without any images next to the text. One function converts
a record to a `Prompt`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, groupby
from pathlib import Path
from typing import Any, TypeVar

from gendiv_lightning.errors import MissingFileError, PromptError, restated
from gendiv_lightning.records import LENGTHS, Paraphrase, Prompt, length_class, prompt_id
from gendiv_lightning.storage.files import File, check_regular
from gendiv_lightning.storage.parquet import read_parquet
from gendiv_lightning.storage.tables import (
    PROMPT_COLUMNS,
    Record,
    Unreadable,
    as_record,
    decode_text,
    find_name,
    list_records,
    load_json,
    parse_json,
    read_table,
)
from gendiv_lightning.storage.tar import read_tar, sample_key

LOOK_AHEAD = 1000  # records in which a column must occur, because JSON records may omit keys
TEXTS = ("txt", "json")  # suffixes of files with the text of a sample

Item = TypeVar("Item")


def read_prompts(path: str | Path, *, column: str | None = None, id_column: str | None = None) -> Iterator[Prompt]:
    """The prompts of a file in order, including empty ones and duplicates; see `scan_prompts`.

    Raises:
        MissingFileError: the path is not a regular file.
        ValueError: a suffix, column or record cannot be read.
    """
    return all_readable(scan_prompts(path, column=column, id_column=id_column))


def scan_prompts(
    path: str | Path, *, column: str | None = None, id_column: str | None = None
) -> Iterator[Prompt | Unreadable]:
    """The prompts of a file; members of a tar that cannot be read are yielded as `Unreadable`.

    Args:
        path: .jsonl, .json (a list, or the captions of MSCOCO, where image names become ids), .csv, .tsv, .parquet,
            .txt (one prompt per line) or .tar (WebDataset: a `.json` member contains columns, a `.txt` member is the
            column `prompt`), in UTF-8 or the encoding of a byte-order mark. A CSV may be delimited by commas,
            semicolons, tabs or bars. Besides the prompt, records may have `id` (or `prompt_id`), `source` and
            `paraphrases`. A list of texts becomes several prompts that share an id.
        column: column with the prompt; None takes the first of prompt, caption, text, short_caption, in any case.
        id_column: column with the id, if not `id` or `prompt_id`.

    Raises:
        MissingFileError: the path is not a regular file.
        ValueError: a suffix, column or record cannot be read.
    """
    path = Path(path)
    check_suffix(path)
    return to_prompts(READERS[path.suffix.lower()](path), column, id_column, path.stem, source=path.name)


def all_readable(items: Iterable[Item | Unreadable]) -> Iterator[Item]:
    """The items; raises PromptError at the first one that cannot be read."""
    for item in items:
        if isinstance(item, Unreadable):
            raise PromptError(item.where)
        yield item


def check_suffix(path: Path) -> None:
    """Raise PromptError for a file of an unknown format."""
    if path.suffix.lower() not in READERS:
        raise PromptError(f"a prompt file must end in one of {', '.join(READERS)}, got {path}. Convert or rename it")


def check_prompt_file(path: Path) -> None:
    """Raise MissingFileError for a prompt file that is missing, or is a folder or a special file."""
    if not path.exists():
        raise MissingFileError(f"prompt file {path} is missing. Correct the path, which is relative to {Path.cwd()}")
    try:
        check_regular(path)
    except OSError as error:
        raise restated(error, f"{error}. Give a prompt file, or make one with `gendiv prompts`") from error


def find_column(
    columns: Iterable[str], column: str | None, where: str, option: str = "--column (in configs column)"
) -> str:
    """The column with the prompts: `column` itself, or the first of `PROMPT_COLUMNS` that exists, in any case."""
    columns = list(columns)
    found = _look_for(columns, column)
    if found is None:
        expected = repr(column) if column else f"any of {', '.join(PROMPT_COLUMNS)}"
        shown = f"the columns {', '.join(columns)}" if columns else "no columns"
        raise PromptError(f"{where} has {shown}, not {expected}. Set {option} to one of them")
    return found


def _look_for(columns: Iterable[str], column: str | None) -> str | None:
    columns = list(columns)
    return column if column in columns else find_name(columns, [column] if column else PROMPT_COLUMNS)


def check_text(value: Any, column: str, where: str) -> str:
    """The text of a column; null, a short row and a missing key give an empty text.

    Raises:
        PromptError: the value is not text, or not valid Unicode.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise PromptError(
            f"{where}: column {column!r} must contain text, got {type(value).__name__} {str(value)[:60]!r}. Correct it"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"{where}: column {column!r} contains half of a surrogate pair ({value[error.start]!a}), which is not "
            "valid "
            "Unicode. Correct or remove the character"
        ) from error
    return value


def to_prompts(
    records: Iterable[Record | Unreadable], column: str | None, id_column: str | None, prompt_set: str, *, source: str
) -> Iterator[Prompt | Unreadable]:
    """Convert records to prompts; arguments as in `scan_prompts`, plus names of the prompt set and the source."""
    records = iter(records)
    first: list[Record | Unreadable] = []
    columns: dict[str, None] = {}
    num_readable = 0
    for record in records:
        first.append(record)
        if isinstance(record, Record):
            columns.update(dict.fromkeys(record.columns))
            num_readable += 1
        if _look_for(columns, column) or num_readable == LOOK_AHEAD:
            break
    found = find_column(columns, column, source) if num_readable else ""
    for record in chain(first, records):
        if isinstance(record, Unreadable):
            yield record
        else:
            yield from _prompts_of(record, found, id_column, prompt_set, source)


def _given_id(record: Record, id_column: str | None) -> str | None:
    names = (id_column,) if id_column else ("id", "prompt_id")
    for name in names:
        if (given := record.columns.get(name)) not in (None, ""):
            if isinstance(given, list | dict):
                raise PromptError(
                    f"{record.where}: {name!r} must be a text or a number, got {str(given)[:60]}. Correct it"
                )
            return check_text(str(given), name, record.where)
    if id_column:
        raise PromptError(
            f"{record.where} has no id in {id_column!r}. Choose from the columns {', '.join(record.columns)}"
        )
    return None


def _prompts_of(record: Record, column: str, id_column: str | None, prompt_set: str, source: str) -> Iterator[Prompt]:
    """The prompt of a record, or several prompts with one id for a list of texts."""
    value, id = record.columns.get(column), _given_id(record, id_column)
    paraphrases = _to_paraphrases(record.columns.get("paraphrases"), record.where)
    for item in value if isinstance(value, list) and value else [value]:
        text = check_text(item, column, record.where)
        id = id or prompt_id(text, prompt_set)
        yield Prompt(id, text, paraphrases, str(record.columns.get("source") or source))


def _to_paraphrases(items: Any, where: str) -> tuple[Paraphrase, ...]:
    if not isinstance(items, list):
        items = [items] if items else []  # a value is refused below
    paraphrases = []
    for item in items:
        if not isinstance(item, Mapping) or not isinstance(item.get("text"), str) or not item["text"].strip():
            raise PromptError(
                f"{where}: paraphrases must be a list of objects with a non-empty `text`, got {item!r:.60}. Correct it"
            )
        length = item.get("length") or length_class(item["text"])
        if length not in LENGTHS:
            raise PromptError(
                f"{where}: a paraphrase's length must be one of {', '.join(LENGTHS)}, got {length!r}. Correct it"
            )
        paraphrases.append(Paraphrase(check_text(item["text"], "paraphrases", where), length))
    return tuple(paraphrases)


def _read_json(path: Path) -> Iterator[Record]:
    items = load_json(path)
    is_coco = isinstance(items, dict) and items.keys() >= {"images", "annotations"}
    return _coco_captions(items, path) if is_coco else list_records(items, path)


def _coco_captions(items: dict[str, Any], path: Path) -> Iterator[Record]:
    """The captions of MSCOCO, about five per image; the name of the image is their id."""
    try:
        names = {image["id"]: Path(image["file_name"]).stem for image in items["images"]}
        for number, annotation in enumerate(items["annotations"], start=1):
            columns = {"caption": annotation["caption"], "id": names[annotation["image_id"]]}
            yield Record(f"{path.name}, annotation {number}", columns)
    except (KeyError, TypeError) as error:
        raise PromptError(
            f"{path} is not a captions file of MSCOCO: the key or the image {error} is missing or malformed. Download "
            "it again"
        ) from error


def find_captions(source: Path) -> Path:
    """The captions file in MSCOCO's official folder; any other source is returned unchanged.

    Raises:
        PromptError: there are several captions files.
    """
    found = sorted(source.glob("annotations/captions_*.json"))
    if len(found) > 1:
        raise PromptError(f"{source} has several captions files. Give one of them: {', '.join(map(str, found))}")
    return found[0] if found else source


def _read_tar(tar: str | Path) -> Iterator[Record | Unreadable]:
    """One record per sample, that is, per run of files with the same key. Images are ignored."""
    where = Path(str(tar)).name
    for _, sample in groupby(read_tar(tar), key=lambda file: sample_key(file.name)[0]):
        yield read_sample(sample, where)


def read_sample(files: Iterable[File], where: str) -> Record | Unreadable:
    """The content of the `.json` and `.txt` files of a sample; the text becomes the column `prompt`.

    If several files have the same suffix, the one named like the sample is read: `0.txt`, not `0.style.txt`.
    """
    columns: dict[str, Any] = {}
    texts = _one_of_each(files, where)
    if isinstance(texts, Unreadable):
        return texts
    for suffix, file in texts.items():
        name = f"{where}:{file.name}"
        try:
            content = decode_text(file.read())
            if suffix == "txt":
                columns["prompt"] = content.strip()
            else:
                columns.update(as_record(parse_json(content, name), name).columns)
        except (ValueError, OSError) as error:
            return Unreadable(f"{name} cannot be read: {error}")
    return Record(where, columns)


def _one_of_each(files: Iterable[File], where: str) -> dict[str, File] | Unreadable:
    found: dict[str, list[File]] = {}
    for file in files:
        suffix = file.name.rpartition(".")[2].lower()
        if suffix in TEXTS:
            found.setdefault(suffix, []).append(file)
    chosen = {}
    for suffix, candidates in found.items():
        plain = [file for file in candidates if sample_key(file.name)[1].lower() == suffix]
        choice = candidates if len(candidates) == 1 else plain
        if len(choice) != 1:
            names = ", ".join(file.name for file in candidates)
            return Unreadable(f"{where} has several texts for one sample, {names}. Keep only the prompt")
        chosen[suffix] = choice[0]
    return chosen


REMOTE_READERS: dict[str, Callable[[str | Path], Iterator[Record | Unreadable]]] = {
    ".parquet": read_parquet,
    ".tar": _read_tar,
}
READERS: dict[str, Callable[[Path], Iterator[Record | Unreadable]]] = {
    ".jsonl": read_table,
    ".json": _read_json,
    ".csv": read_table,
    ".tsv": read_table,
    ".txt": read_table,
    **REMOTE_READERS,
}
