"""One attribute from its parts, checked; independent of any file format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gendiv_lightning.errors import PromptError
from gendiv_lightning.records.questions import Attribute, Question

KEYS = ("name", "values", "question", "captions", "stated")


def attribute_of(item: Any, where: str) -> Attribute:
    """The attribute that a JSON object describes.

    Args:
        item: an object with `name` and `values` (at least two different texts), and optionally `question` (a text),
            `captions` (for each value a text, or a list of texts) and `stated` (one of the values). Optional keys may
            be null.
        where: location, for messages.

    Raises:
        PromptError: something else.
    """
    if not isinstance(item, dict):
        raise PromptError(f"{where}: an attribute must be an object with name and values, got {item!r:.60}. Correct it")
    unknown = [key for key in item if key not in KEYS]
    if unknown:
        raise PromptError(f"{where}: an attribute has no key {unknown[0]!r}. Choose from {', '.join(KEYS)}")
    name = _text(item.get("name"), "the name of an attribute", where)
    what = f"{where}, attribute {name!r}"
    values = _texts(item.get("values"), "values", what)
    captions = item.get("captions")
    return make_attribute(
        name,
        values,
        where,
        question="" if item.get("question") is None else _text(item["question"], "question", what),
        captions=() if captions is None else _captions(captions, len(values), what),
        stated=None if item.get("stated") is None else _text(item["stated"], "stated", what),
    )


def to_plain(attribute: Attribute) -> dict[str, Any]:
    """The JSON object of an attribute, which `attribute_of` reads; without keys that have their defaults."""
    question = attribute.question
    plain: dict[str, Any] = {"name": question.name, "values": list(question.values)}
    if question.text:
        plain["question"] = question.text
    if question.captions:
        plain["captions"] = [list(captions) for captions in question.captions]
    if attribute.stated is not None:
        plain["stated"] = attribute.stated
    return plain


def make_attribute(
    name: str,
    values: Sequence[str],
    where: str,
    *,
    question: str = "",
    captions: tuple[tuple[str, ...], ...] = (),
    stated: str | None = None,
) -> Attribute:
    """An attribute; PromptError if it has fewer than two values, a value twice, or states none of its values."""
    what = f"{where}, attribute {name!r}"
    if len(values) < 2:
        raise PromptError(f"{what} must have at least two values, got {', '.join(values) or 'none'}. Add the others")
    check_different(values, "value", what)
    if stated is not None and stated not in values:
        raise PromptError(f"{what}: the stated value must be one of {', '.join(values)}, got {stated!r}. Correct it")
    return Attribute(Question(name, tuple(values), question, captions), stated)


def check_different(texts: Sequence[str], kind: str, where: str) -> None:
    """Raise PromptError if a text occurs twice, in any case."""
    seen = set[str]()
    for text in texts:
        if text.casefold() in seen:
            raise PromptError(f"{where} has the {kind} {text!r} twice. Keep one of them")
        seen.add(text.casefold())


def _text(value: Any, what: str, where: str) -> str:
    """A text without white space around it; raises PromptError otherwise."""
    if not isinstance(value, str) or not value.strip():
        raise PromptError(f"{where}: {what} must be a text that is not empty, got {value!r:.60}. Correct it")
    return value.strip()


def _texts(value: Any, what: str, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise PromptError(f"{where}: {what} must be a list of texts, got {value!r:.60}. Correct it")
    return tuple(_text(item, f"each of the {what}", where) for item in value)


def _captions(value: Any, num_values: int, where: str) -> tuple[tuple[str, ...], ...]:
    if not isinstance(value, list) or len(value) != num_values:
        got = f"{len(value)} of them" if isinstance(value, list) else repr(value)[:60]
        raise PromptError(f"{where}: captions must be a list with one item per value ({num_values}), got {got}")
    captions = tuple(_texts(item if isinstance(item, list) else [item], "captions", where) for item in value)
    if not all(captions):
        raise PromptError(f"{where}: each value must have at least one caption. Add it, or leave out captions")
    return captions
