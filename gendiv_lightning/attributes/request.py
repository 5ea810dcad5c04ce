"""Requests to a language model for the attributes of a prompt, and the parsing of its answers."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from gendiv_lightning.attributes.attribute import attribute_of, check_different
from gendiv_lightning.chat.answers import parse_json
from gendiv_lightning.chat.model import chat_of
from gendiv_lightning.errors import PromptError
from gendiv_lightning.records.questions import Attribute

INSTRUCTION = """\
You prepare questions about pictures that a text-to-image model makes for a caption. List attributes of these \
pictures: things that anyone can see in a picture, such as the colour of an object, its material, its number, the \
place, the weather, the time of day, the viewpoint or the style.

List both kinds of attributes. Open attributes: the caption does not say which value they have, and pictures of the \
caption would differ in them; their "stated" is null. Stated attributes: the caption says which value they have; \
"stated" is that value, exactly as it is written among the values. Name each attribute so that it is clear what it \
belongs to, as in "colour of the car".

For each attribute give a short question, and two to eight short values. Values exclude each other, and nearly every \
picture of the caption shows one of them; if something may be absent, "none" is a value. For each value write a \
caption of a picture that fits the given caption and shows the value.

You get a JSON object: the caption, and how many attributes are requested at most. Answer with JSON and nothing else:
{"attributes": [{"name": "...", "question": "...", "values": [{"value": "...", "caption": "..."}], "stated": null}]}"""
ANSWER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "attributes": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "question": {"type": "string"},
                    "values": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {"value": {"type": "string"}, "caption": {"type": "string"}},
                            "required": ["value", "caption"],
                            "additionalProperties": False,
                        },
                    },
                    "stated": {"type": ["string", "null"]},
                },
                "required": ["name", "question", "values", "stated"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["attributes"],
    "additionalProperties": False,
}
_TOKENS_PER_ATTRIBUTE = 400


class Request(NamedTuple):
    """One request to a model, with everything that its answer may depend on.

    Attributes:
        prompt: text whose attributes are requested.
        number: maximum number of attributes.
        seed: seed for the model, if it accepts one.
        instruction: instruction for the model.
    """

    prompt: str
    number: int
    seed: int = 0
    instruction: str = INSTRUCTION

    @property
    def messages(self) -> list[dict[str, str]]:
        """The request as a chat."""
        request = {"caption": self.prompt, "number": self.number}
        return chat_of(self.instruction, request)

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema of the answer."""
        return ANSWER_SCHEMA

    @property
    def longest(self) -> int:
        """Maximum number of tokens of the answer."""
        return _TOKENS_PER_ATTRIBUTE * self.number


def read_answer(answer: str, most: int) -> tuple[Attribute, ...]:
    """The attributes of an answer: 1 to `most`.

    Raises:
        ValueError: it is not such JSON, or an attribute is not valid.
    """
    content = parse_json(answer)
    items = content.get("attributes") if isinstance(content, dict) else content
    if not isinstance(items, list) or not 1 <= len(items) <= most:
        raise PromptError(f"an answer must be a JSON list of 1 to {most} attributes, got {answer[:60]!r}")
    attributes = tuple(attribute_of(_without_pairs(item), "the answer") for item in items)
    check_different([attribute.question.name for attribute in attributes], "attribute", "the answer")
    json.dumps([attribute.question for attribute in attributes], ensure_ascii=False).encode()  # half a surrogate pair
    return attributes


def _without_pairs(item: Any) -> Any:
    """The object of an attribute with its pairs of value and caption as two lists."""
    if not isinstance(item, dict) or not isinstance(item.get("values"), list):
        return item
    if not all(isinstance(pair, dict) for pair in item["values"]):
        return item
    values, captions = ([pair.get(key) for pair in item["values"]] for key in ("value", "caption"))
    return {**item, "values": values, "captions": captions}
