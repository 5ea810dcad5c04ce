"""Prompts out of files and streamed datasets, as they stand there: nothing is dropped, cut or cleaned here.

A format is a reader that yields records (mappings from column to value); one function turns a record into a `Prompt`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gendiv_lightning.batch import Paraphrase, Prompt, length_class, prompt_id

COLUMNS = ("prompt", "caption", "text", "short_caption")
LENGTHS = ("short", "medium", "long")

Record = Mapping[str, Any]


def read_prompts(path: str | Path, *, column: str | None = None) -> Iterator[Prompt]:
    """The prompts of a file, in its order, empty ones and duplicates included.

    Args:
        path: .jsonl, .json (a list), .csv, .tsv, .parquet or .txt (a prompt a line), UTF-8. Tabs may delimit a .csv.
            Records may carry `id` (or `prompt_id`), `source` and `paraphrases` beside the prompt.
        column: where the prompt stands; None takes the first of prompt, caption, text, short_caption, in any case.

    Raises:
        ValueError: for a suffix, column or record that cannot be read.
    """
    path = Path(path)
    check_suffix(path)
    try:
        yield from _to_prompts(_READERS[path.suffix.lower()](path), column, prompt_set=path.stem, source=path.name)
    except (UnicodeDecodeError, csv.Error, pa.ArrowInvalid) as error:
        raise ValueError(f"{path} cannot be read as UTF-8 {path.suffix}: {error}") from error


def stream_prompts(
    name: str,
    *,
    config: str | None = None,
    split: str = "train",
    column: str | None = None,
    revision: str | None = None,
) -> Iterator[Prompt]:
    """The prompts of a Hugging Face dataset (Hub name or local folder), streamed: only what is consumed is fetched.

    Columns as in `read_prompts`; those inside a WebDataset's `json` member count as columns too.
    """
    from datasets import load_dataset  # seconds to import

    dataset = load_dataset(name, config, split=split, revision=revision, streaming=True)
    if dataset.features:
        dataset = dataset.decode(False)  # images beside the captions stay bytes
    yield from _to_prompts(map(_open_json_member, dataset), column, prompt_set=dataset_name(name), source=name)


def dataset_name(name: str) -> str:
    """Name of a dataset's prompt set: its Hub name; of a local folder the last part, so that ids survive a move."""
    return Path(name).name if Path(name).is_dir() else name


def check_suffix(path: Path) -> None:
    """Raises ValueError for a file of an unknown format."""
    if path.suffix.lower() not in _READERS:
        raise ValueError(f"a prompt file must end in one of {', '.join(_READERS)}, got {path}")


def find_column(columns: Iterable[str], column: str | None, where: str) -> str:
    """The column that holds the prompt: `column` itself, or the first of `COLUMNS` that is there, whatever its case."""
    columns = list(columns)
    by_default = [name for wanted in COLUMNS for name in columns if name.lower() == wanted]
    found = next((name for name in ([column] if column else by_default) if name in columns), None)
    if found is None:
        wanted = repr(column) if column else f"any of {', '.join(COLUMNS)}"
        raise ValueError(
            f"{where} has the columns {', '.join(columns)}, not {wanted}: set `column` to one that is there"
        )
    return found


def _to_prompts(records: Iterable[Record], column: str | None, *, prompt_set: str, source: str) -> Iterator[Prompt]:
    found = None
    for number, record in enumerate(records, start=1):
        found = found or find_column(record, column, source)
        yield _to_prompt(record, found, prompt_set, source, where=f"{source}, record {number}")


def _to_prompt(record: Record, column: str, prompt_set: str, source: str, where: str) -> Prompt:
    text = record.get(column)
    if text is None:  # null, a short row, a key left out: an empty prompt, to be counted as such
        text = ""
    if not isinstance(text, str):
        raise ValueError(f"{where}: column {column!r} must hold text, got {type(text).__name__} {str(text)[:60]!r}")
    given = next((record[key] for key in ("id", "prompt_id") if record.get(key) not in (None, "")), None)
    return Prompt(
        id=prompt_id(text, prompt_set) if given is None else str(given),
        text=text,
        paraphrases=_to_paraphrases(record.get("paraphrases") or (), where),
        source=str(record.get("source") or source),
    )


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
    if not isinstance(items, list):
        raise ValueError(
            f"{path} must hold a list of prompts, got {type(items).__name__}; for one object a line use .jsonl"
        )
    for number, item in enumerate(items, start=1):
        yield _as_record(item, f"{path.name}, item {number}")


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
        *rows, last = csv.reader(chain(file, ["\n"]), delimiter="," if is_comma else "\t")
    if last:
        raise ValueError(f"{path}: a quote is never closed; double the quotes inside a cell and quote the cell")
    columns, *rows = rows or [[]]
    for number, row in enumerate(rows, start=1):
        if len(row) > len(columns):
            raise ValueError(
                f"{path}, row {number} has {len(row)} cells under {len(columns)} columns ({', '.join(columns)}): quote "
                f"the cell that holds the delimiter {',' if is_comma else 'tab'!r}"
            )
        yield dict(zip_longest(columns, row))


def _read_parquet(path: Path) -> Iterator[Record]:
    for batch in pq.ParquetFile(path).iter_batches(batch_size=1024):
        yield from batch.to_pylist()


def _open_json_member(row: Record) -> Record:
    member = row.get("json")
    return {**row, **member} if isinstance(member, Mapping) else row


_READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_table,
    ".tsv": _read_table,
    ".parquet": _read_parquet,
    ".txt": _read_lines,
}
