"""`AttributeList`: the attributes of each prompt, from a file or a registered function (`gendiv.attributes`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gendiv_lightning import plugins
from gendiv_lightning.attributes.attribute import attribute_of, check_different
from gendiv_lightning.attributes.published import Entry, dim_cim_entries, is_dim_cim, long_table_entries, value_column
from gendiv_lightning.errors import MissingFileError, PromptError
from gendiv_lightning.records import prompt_id
from gendiv_lightning.records.questions import Attribute
from gendiv_lightning.storage.named_files import expand
from gendiv_lightning.storage.parquet import read_parquet
from gendiv_lightning.storage.tables import PROMPT_COLUMNS, Record, find_name, list_records, load_json, read_table

COLUMN = "attributes"
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class AttributeList:
    """The attributes of prompts.

    Attributes:
        name: name of the file without suffix, or the registered name.
        identity: hash of a file's content, or name and package of a function, for the fingerprint.
        of: returns the attributes of a prompt, in order; raises PromptError if the list does not have the prompt.
            Case and white space of the prompt do not matter for files.
        prompts: the prompts of a file, in order; empty for a function.
    """

    name: str
    identity: dict[str, object]
    of: Callable[[str], tuple[Attribute, ...]]
    prompts: tuple[str, ...] = ()

    def check(self, prompts: Sequence[str]) -> None:
        """Raise PromptError if the list does not have one of the prompts."""
        for prompt in prompts:
            self.of(prompt)


def read_attributes(source: str | Path) -> AttributeList:
    """The attribute list of a registered name, such as `postcards`, a file, or a folder of COCO-DIMCIM.

    A file is one of
        - .jsonl, .json or .parquet with the columns `prompt` and `attributes`, a list of objects (`attribute_of`);
        - .csv, .tsv or any of the above with one row per prompt and attribute: the columns `prompt`, `attribute` and
          `attribute_values`, and optionally `question` and `stated`, as in the list of GRADE;
        - a .json file of COCO-DIMCIM's `dense_prompts`, or a folder of them.

    Raises:
        MissingFileError: there is neither such a name nor such a file.
        FileFormatError: the file is damaged.
        PromptError: an attribute is not valid, or a prompt occurs twice; names file and line.
    """
    name = str(source)
    if name in plugins.registered("attributes"):
        plugin = plugins.find("attributes", name)
        return AttributeList(name, {"list": name, "package": plugin.distribution}, plugin.load())
    path = expand(name)
    if not path.exists():
        raise MissingFileError(
            f"the attribute list {name!r} is neither a file nor a registered name. Correct the path, or choose one of "
            f"{', '.join(plugins.registered('attributes'))}; `gendiv attributes` makes a list"
        )
    found = _by_prompt(_entries(path))
    if not found:
        raise PromptError(f"{path} contains no prompts with attributes. Give a file that does")
    prompts = tuple(entry.prompt for entry in found.values())
    content = json.dumps(sorted((key, entry.attributes) for key, entry in found.items()))

    def of(prompt: str) -> tuple[Attribute, ...]:
        entry = found.get(prompt_id(prompt, ""))
        if entry is None:
            raise PromptError(
                f"the attribute list {path.name} does not have the prompt {prompt[:60]!r}. Add it, or make a list of "
                "all prompts with `gendiv attributes`"
            )
        return entry.attributes

    return AttributeList(path.stem, {"sha256": hashlib.sha256(content.encode()).hexdigest()}, of, prompts)


def _by_prompt(entries: Iterator[Entry]) -> dict[str, Entry]:
    found = dict[str, Entry]()
    for entry in entries:
        key = prompt_id(entry.prompt, "")
        if key in found:
            raise PromptError(
                f"{entry.where}: the attributes of the prompt {entry.prompt[:60]!r} are also in {found[key].where}. "
                "Keep one of them"
            )
        check_different([attribute.question.name for attribute in entry.attributes], "attribute", entry.where)
        found[key] = entry
    return found


def _entries(path: Path) -> Iterator[Entry]:
    if path.is_dir():
        files = sorted(path.glob("*.json"))
        if not files:
            raise PromptError(f"the folder {path} has no .json files of COCO-DIMCIM. Give a file, or its dense_prompts")
        for file in files:
            yield from dim_cim_entries(load_json(file), file.name)
        return
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise PromptError(f"an attribute list must end in one of {', '.join(SUFFIXES)}, got {path}. Convert it")
    if suffix == ".json":
        content = load_json(path)
        if is_dim_cim(content):
            yield from dim_cim_entries(content, path.name)
            return
        records = list_records(content, path)
    else:
        records = read_parquet(path) if suffix == ".parquet" else read_table(path)
    rows = list(records)
    if rows and COLUMN not in rows[0].columns and value_column(rows[0].columns):
        yield from long_table_entries(rows)
    else:
        yield from map(_entry, rows)


def _entry(record: Record) -> Entry:
    """The prompt of a record and its column `attributes`."""
    column = find_name(record.columns, PROMPT_COLUMNS)
    prompt = record.columns[column] if column else None
    if not isinstance(prompt, str) or not prompt.strip():
        raise PromptError(f"{record.where}: a prompt is missing. Add the column prompt with a text")
    items: Any = record.columns.get(COLUMN)
    if not isinstance(items, list):
        raise PromptError(
            f"{record.where}: the column attributes must contain a list of objects with name and values, got "
            f"{items!r:.60}. Add it"
        )
    return Entry(record.where, prompt, tuple(attribute_of(item, record.where) for item in items))
