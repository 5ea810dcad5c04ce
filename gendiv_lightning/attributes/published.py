"""Attribute lists in published formats: GRADE (arXiv 2410.22592), and COCO-DIMCIM (arXiv 2506.05108)."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from gendiv_lightning.attributes.attribute import make_attribute
from gendiv_lightning.errors import PromptError
from gendiv_lightning.records import prompt_id
from gendiv_lightning.records.questions import Attribute
from gendiv_lightning.storage.tables import Record, find_name

VALUE_COLUMNS = ("attribute_values", "values")
NAME_COLUMNS = ("attribute", "name", "question")


class Entry(NamedTuple):
    """The attributes of one prompt.

    Attributes:
        where: file and line, for messages.
        prompt: the text.
        attributes: its attributes.
    """

    where: str
    prompt: str
    attributes: tuple[Attribute, ...]


def value_column(columns: Iterable[str]) -> str | None:
    """The column with the values of a table with one row per prompt and attribute; None for other tables."""
    return find_name(columns, VALUE_COLUMNS)


def long_table_entries(records: Iterable[Record]) -> Iterator[Entry]:
    """The prompts of a table with one row per prompt and attribute.

    Columns: `prompt`; `attribute` (or `name`), the attribute, which GRADE writes as a question; `attribute_values` (or
    `values`), a list, or a list or set in the notation of Python or JSON; optionally `question` and `stated`.

    Raises:
        PromptError: a column is missing, or a row is not valid.
    """
    found = dict[str, Entry]()
    for record in records:
        prompt = _cell(record, ("prompt",))
        name = _cell(record, NAME_COLUMNS)
        column = value_column(record.columns)
        if not prompt or not name or not column:
            raise PromptError(
                f"{record.where}: a row must have prompt, attribute and attribute_values. Fill in all three"
            )
        values = _values(record.columns[column], f"{record.where}, column {column!r}")
        question = _cell(record, ("question",)) or (name if name.endswith("?") else "")
        stated = _cell(record, ("stated",)) or None
        attribute = make_attribute(name, values, record.where, question=question, stated=stated)
        entry = found.setdefault(prompt_id(prompt, ""), Entry(record.where, prompt, ()))
        found[prompt_id(prompt, "")] = entry._replace(attributes=(*entry.attributes, attribute))
    yield from found.values()


def _cell(record: Record, names: tuple[str, ...]) -> str:
    column = find_name(record.columns, names)
    value = record.columns[column] if column else None
    return value.strip() if isinstance(value, str) else ""


def _values(cell: Any, where: str) -> tuple[str, ...]:
    """The texts of a list, or of the notation of a list or a set, in order; a set has a repeated text once."""
    items, is_set = cell, False
    if isinstance(cell, str):
        text = cell.strip()
        is_set = text.startswith("{") and text.endswith("}")
        try:  # a set of Python has no order, its notation has one
            items = ast.literal_eval(f"[{text[1:-1]}]" if is_set else text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            items = None
    if not isinstance(items, list) or not all(isinstance(item, str) and item.strip() for item in items):
        raise PromptError(f"{where}: expected a list of texts such as ['red', 'blue'], got {cell!r:.60}. Correct it")
    texts = [item.strip() for item in items]
    return tuple(dict.fromkeys(texts)) if is_set else tuple(texts)


def is_dim_cim(content: Any) -> bool:
    """Whether the content of a JSON file is a concept of COCO-DIMCIM's `dense_prompts`."""
    return isinstance(content, Mapping) and "coarse_dense_prompts" in content


def dim_cim_entries(content: Any, where: str) -> Iterator[Entry]:
    """The prompts of one concept of COCO-DIMCIM.

    The values of an attribute type are the attributes that the dense prompts of the file ask for. A coarse prompt
    leaves all types open; a dense prompt states its own and leaves the others open. A prompt that occurs several times
    counts once, with all that it states.

    Raises:
        PromptError: the content is something else, or a prompt states two values of one type.
    """
    if not is_dim_cim(content):
        raise PromptError(f"{where} is not a file of COCO-DIMCIM's dense_prompts. Give such a file, or another format")
    values = dict[str, dict[str, None]]()
    stated = dict[str, dict[str, str]]()  # by prompt
    try:
        concept = content["concept"]
        for number, row in enumerate(content["coarse_dense_prompts"], start=1):
            stated.setdefault(row["coarse_prompt"].strip(), {})
            for dense in row["dense_prompts"]:
                kind, value = dense["attribute_type"].strip(), dense["attribute"].strip()
                values.setdefault(kind, {})[value] = None
                states = stated.setdefault(dense["dense_prompt"].strip(), {})
                if states.setdefault(kind, value) != value:
                    raise PromptError(
                        f"{where}, coarse prompt {number}: {dense['dense_prompt']!r} states the {kind} {value!r} and "
                        f"{states[kind]!r}. Keep one of them"
                    )
        for prompt, states in stated.items():
            attributes = (
                make_attribute(f"{kind} of the {concept}", tuple(values[kind]), where, stated=states.get(kind))
                for kind in values
            )
            yield Entry(f"{where}, prompt {prompt[:60]!r}", prompt, tuple(attributes))
    except (KeyError, TypeError, AttributeError) as error:
        raise PromptError(
            f"{where} is not a file of COCO-DIMCIM's dense_prompts: {error} is missing or malformed. Download it again"
        ) from error
