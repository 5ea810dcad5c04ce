"""Prompts out of files and streamed datasets, as they stand there: nothing is dropped, cut or cleaned here.

A format is a reader that yields records (mappings from column to value), one after the other, without the images that
may stand beside the text; one function turns a record into a `Prompt`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, groupby, islice, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from gendiv_lightning.records import Paraphrase, Prompt, length_class, prompt_id
from gendiv_lightning.storage.sources import data_files, dataset_name
from gendiv_lightning.storage.tar import File, read_tar

COLUMNS = ("prompt", "caption", "text", "short_caption")
LENGTHS = ("short", "medium", "long")
LOOK_AHEAD = 1000  # records in which a column must show up: JSON leaves out what a record has not

Record = Mapping[str, Any]


class Unreadable(NamedTuple):
    """In the place of a record that cannot be read: where, and why."""

    where: str


def read_prompts(
    path: str | Path,
    *,
    column: str | None = None,
    id_column: str | None = None,
    unreadable: list[str] | None = None,
) -> Iterator[Prompt]:
    """The prompts of a file, in its order, empty ones and duplicates included.

    Args:
        path: .jsonl, .json (a list, or the captions of MSCOCO, whose ids are the names of their images), .csv, .tsv,
            .parquet, .txt (a prompt a line) or .tar (WebDataset: columns are those inside a `.json` member, a `.txt`
            member is the column `prompt`), UTF-8. Tabs may delimit a .csv. Records may carry `id` (or `prompt_id`),
            `source` and `paraphrases` beside the prompt. A list of texts is as many prompts that share an id.
        column: where the prompt stands; None takes the first of prompt, caption, text, short_caption, in any case.
        id_column: where the id stands, if not in `id` or `prompt_id`.
        unreadable: takes the names of members of a tar that cannot be read; None makes the first one an error.

    Raises:
        ValueError: for a suffix, column or record that cannot be read.
    """
    path = Path(path)
    check_suffix(path)
    records = _READERS[path.suffix.lower()](path)
    try:
        yield from _to_prompts(records, column, id_column, path.stem, source=path.name, unreadable=unreadable)
    except (UnicodeDecodeError, csv.Error, pa.ArrowInvalid) as error:
        raise ValueError(f"{path} cannot be read as UTF-8 {path.suffix}: {error}") from error


def stream_prompts(
    name: str,
    *,
    config: str | None = None,
    split: str = "train",
    column: str | None = None,
    id_column: str | None = None,
    revision: str | None = None,
    unreadable: list[str] | None = None,
) -> Iterator[Prompt]:
    """The prompts of a Hugging Face dataset (Hub name or local folder), streamed: only what is consumed is fetched.

    Columns and `unreadable` as in `read_prompts`.
    """
    records, named = _stream_records(name, config, split, revision), dataset_name(name)
    yield from _to_prompts(records, column, id_column, named, source=named, unreadable=unreadable)


def _stream_records(name: str, config: str | None, split: str, revision: str | None) -> Iterator[Record | Unreadable]:
    from datasets import Audio, Image, Video, load_dataset  # seconds to import

    files = data_files(name, config, split, revision)
    suffixes = {Path(file).suffix for file in files}
    if len(suffixes) == 1 and suffixes <= _REMOTE_READERS.keys():
        # `datasets` would fetch all images; of tars it would also lose the columns that the first five records lack.
        for file in files:
            yield from _REMOTE_READERS[Path(file).suffix](file)
        return
    dataset = load_dataset(name, config, split=split, revision=revision, streaming=True)
    if dataset.features:
        media = (Audio, Image, Video)
        dataset = dataset.select_columns([c for c, kind in dataset.features.items() if not isinstance(kind, media)])
    yield from dataset


def check_suffix(path: Path) -> None:
    """Raises ValueError for a file of an unknown format."""
    if path.suffix.lower() not in _READERS:
        raise ValueError(f"a prompt file must end in one of {', '.join(_READERS)}, got {path}")


def find_column(columns: Iterable[str], column: str | None, where: str, option: str = "`column`") -> str:
    """The column that holds the prompt: `column` itself, or the first of `COLUMNS` that is there, whatever its case."""
    columns = list(columns)
    found = _look_for(columns, column)
    if found is None:
        wanted = repr(column) if column else f"any of {', '.join(COLUMNS)}"
        raise ValueError(
            f"{where} has the columns {', '.join(columns)}, not {wanted}: set {option} to one that is there"
        )
    return found


def _look_for(columns: Iterable[str], column: str | None) -> str | None:
    wanted = [column] if column else [name for default in COLUMNS for name in columns if name.lower() == default]
    return next((name for name in wanted if name in columns), None)


def _to_prompts(
    records: Iterable[Record | Unreadable],
    column: str | None,
    id_column: str | None,
    prompt_set: str,
    *,
    source: str,
    unreadable: list[str] | None,
) -> Iterator[Prompt]:
    readable = _leave_out(records, unreadable)
    first: list[Record] = []
    columns: dict[str, None] = {}
    for record in islice(readable, LOOK_AHEAD):
        first.append(record)
        columns.update(dict.fromkeys(record))
        if _look_for(columns, column):
            break
    if not first:
        return
    found = find_column(columns, column, source)
    for number, record in enumerate(chain(first, readable), start=1):
        where = f"{source}, record {number}"
        yield from _wordings(record, found, _given_id(record, id_column, where), prompt_set, source, where)


def _leave_out(records: Iterable[Record | Unreadable], unreadable: list[str] | None) -> Iterator[Record]:
    for record in records:
        if not isinstance(record, Unreadable):
            yield record
        elif unreadable is None:
            raise ValueError(record.where)
        else:
            unreadable.append(record.where)


def _given_id(record: Record, id_column: str | None, where: str) -> str | None:
    names = (id_column,) if id_column else ("id", "prompt_id")
    given = next((record[name] for name in names if record.get(name) not in (None, "")), None)
    if id_column and given is None:
        raise ValueError(f"{where} has no id in {id_column!r}, only the columns {', '.join(record)}")
    return None if given is None else str(given)


def _wordings(
    record: Record, column: str, id: str | None, prompt_set: str, source: str, where: str
) -> Iterator[Prompt]:
    """The prompt of a record; of a list of texts as many that share an id."""
    value = record.get(column)
    texts = value if isinstance(value, list) and value else [value]
    for text in texts:
        if text is None:  # null, a short row, a key left out: an empty prompt, to be counted as such
            text = ""
        if not isinstance(text, str):
            raise ValueError(f"{where}: column {column!r} must hold text, got {type(text).__name__} {str(text)[:60]!r}")
        id = id or prompt_id(text, prompt_set)
        paraphrases = _to_paraphrases(record.get("paraphrases") or (), where)
        yield Prompt(id, text, paraphrases, str(record.get("source") or source))


def _to_paraphrases(items: Any, where: str) -> tuple[Paraphrase, ...]:
    paraphrases = []
    for item in items:
        if not isinstance(item, Mapping) or not isinstance(item.get("text"), str) or not item["text"].strip():
            raise ValueError(
                f"{where}: paraphrases must be a list of objects with a non-empty `text`, got {item!r:.60}"
            )
        length = item.get("length") or length_class(item["text"])
        if length not in LENGTHS:
            raise ValueError(f"{where}: a paraphrase's length must be one of {', '.join(LENGTHS)}, got {length!r}")
        paraphrases.append(Paraphrase(item["text"], length))
    return tuple(paraphrases)


def _read_lines(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8-sig") as file:
        for line in file:
            yield {"prompt": line.rstrip("\n")}


def _read_jsonl(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                where = f"{path.name}, line {number}"
                yield _as_record(_parse_json(line, where), where)


def _read_json(path: Path) -> Iterator[Record]:
    items = _parse_json(path.read_text(encoding="utf-8-sig"), path.name)
    if isinstance(items, dict) and items.keys() >= {"images", "annotations"}:
        yield from _coco_captions(items, path)
        return
    if not isinstance(items, list):
        raise ValueError(
            f"{path} must hold a list of prompts, got {type(items).__name__}; for one object a line use .jsonl"
        )
    for number, item in enumerate(items, start=1):
        yield _as_record(item, f"{path.name}, item {number}")


def _coco_captions(items: dict[str, Any], path: Path) -> Iterator[Record]:
    """About five an image; the image's name is the id of all of them."""
    try:
        names = {image["id"]: Path(image["file_name"]).stem for image in items["images"]}
        for annotation in items["annotations"]:
            yield {"caption": annotation["caption"], "id": names[annotation["image_id"]]}
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no captions file of MSCOCO: {error} is missing or not what it should be"
        ) from error


def find_captions(source: Path) -> Path:
    """The captions file of MSCOCO's official folder; any other source itself.

    Raises:
        ValueError: there are several.
    """
    found = sorted(source.glob("annotations/captions_*.json"))
    if len(found) > 1:
        raise ValueError(f"{source} has several files of captions: give one of them, {', '.join(map(str, found))}")
    return found[0] if found else source


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON: {error}") from error


def _as_record(item: Any, where: str) -> Record:
    if isinstance(item, str):
        return {"prompt": item}
    if isinstance(item, Mapping):
        return item
    raise ValueError(f"{where} must be an object or a text, got {type(item).__name__}")


def _read_table(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = file.readline()
        file.seek(0)
        # A header of one column says nothing; tabs are right for LlamaGen's and for every quoted file.
        is_comma = path.suffix.lower() == ".csv" and "," in header and "\t" not in header
        # The line added at the end is a row of its own unless a quote is still open there.
        rows = csv.reader(chain(file, ["\n"]), delimiter="," if is_comma else "\t")
        columns, last = None, next(rows)
        for number, row in enumerate(rows):
            if columns is None:
                columns = last
            elif len(last) > len(columns):
                raise ValueError(
                    f"{path}, row {number} has {len(last)} cells under {len(columns)} columns ({', '.join(columns)}): "
                    f"quote the cell that holds the delimiter {',' if is_comma else 'tab'!r}"
                )
            else:
                yield dict(zip_longest(columns, last))
            last = row
    if last:
        raise ValueError(f"{path}: a quote is never closed; double the quotes inside a cell and quote the cell")


def _read_parquet(file: str | Path) -> Iterator[Record]:
    with fsspec.open(str(file)) as opened, pq.ParquetFile(opened) as table:
        columns = [field.name for field in table.schema_arrow if not _holds_bytes(field.type)]
        for batch in table.iter_batches(batch_size=1024, columns=columns):
            yield from batch.to_pylist()


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return True
    return any(_holds_bytes(kind.field(place).type) for place in range(kind.num_fields))


def _read_tar(tar: str | Path) -> Iterator[Record | Unreadable]:
    """A record a sample: files that follow each other under one name but for the suffix. Images are passed over."""
    for _, sample in groupby(read_tar(tar), key=lambda file: file.name.rpartition(".")[0]):
        yield read_sample(sample, Path(tar).name)


def read_sample(files: Iterable[File], where: str) -> Record | Unreadable:
    """What stands in the `.json` and `.txt` among the files of a sample; the text is the column `prompt`."""
    record: dict[str, Any] = {}
    for file in files:
        suffix = file.name.rpartition(".")[2]
        if suffix not in ("json", "txt"):
            continue
        name = f"{where}:{file.name}"
        try:
            content = file.read().decode()
            record.update({"prompt": content.strip()} if suffix == "txt" else _as_record(json.loads(content), name))
        except ValueError as error:
            return Unreadable(f"{name} cannot be read: {error}")
    return record


_REMOTE_READERS: dict[str, Callable[[str | Path], Iterator[Record | Unreadable]]] = {
    ".parquet": _read_parquet,
    ".tar": _read_tar,
}
_READERS: dict[str, Callable[[Path], Iterator[Record | Unreadable]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_table,
    ".tsv": _read_table,
    ".txt": _read_lines,
    **_REMOTE_READERS,
}
