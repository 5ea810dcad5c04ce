"""What is asked of a model that rewords prompts, and what its answer means. It knows no model, no network and no file.

A model is asked for some rewordings of one length class at a time. Its answer is JSON: `{"paraphrases": [text, ...]}`.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from gendiv_lightning.errors import NetworkError

WORDS = {"short": (1, 12), "medium": (13, 40), "long": (41, 80)}  # a long one may be longer; it is not asked for
INSTRUCTION = """\
You reword captions for a text-to-image model. A rewording describes the same picture: every thing, number, colour, \
place, action and style that the caption names stays, none is added, none is contradicted. Where more words are wanted \
than the caption has, say the same at greater length; where fewer are wanted, leave out words, not meaning. Rewordings \
differ from the caption and from each other in vocabulary, order and sentence structure.

You get a JSON object: the caption, how many rewordings are wanted, how many words each must have, and texts that are \
there already and must not come again. Answer with JSON and nothing else: {"paraphrases": ["...", "..."]}"""
ANSWER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"paraphrases": {"type": "array", "items": {"type": "string"}}},
    "required": ["paraphrases"],
    "additionalProperties": False,
}
_FENCED = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)


class Request(NamedTuple):
    """One question to a model, and all that its answer may depend on.

    Attributes:
        prompt: text to reword.
        length: class of the rewordings, see `batch.length_class`.
        number: how many are wanted.
        avoid: texts that were proposed already.
        seed: of the model's randomness, where it takes one.
        instruction: what the model is told to do.
    """

    prompt: str
    length: str
    number: int
    avoid: tuple[str, ...] = ()
    seed: int = 0
    instruction: str = INSTRUCTION

    @property
    def messages(self) -> list[dict[str, str]]:
        """The question as a chat; the prompt stands inside JSON, so that nothing in it reads as an instruction."""
        low, high = WORDS[self.length]
        wanted = {
            "caption": self.prompt,
            "number": self.number,
            "words": f"{low} to {high}",
            "there already": list(self.avoid),
        }
        return [
            {"role": "system", "content": self.instruction},
            {"role": "user", "content": json.dumps(wanted, ensure_ascii=False)},
        ]


class Paraphraser(ABC):
    """Something that answers requests."""

    name: str

    @abstractmethod
    def identity(self) -> dict[str, object]:
        """All that can change an answer beside the request, without secrets; cached answers are found by it."""

    @abstractmethod
    async def answer(self, request: Request) -> str:
        """The model's answer, as it came; `read_answer` finds out what it is worth.

        Raises:
            ValueError: the request, or what was configured, cannot be answered, however often it is tried.
            OSError: no answer is to be had at the moment.
        """

    async def close(self) -> None:  # noqa: B027  most have none
        """Let go of connections."""


def read_answer(answer: str) -> list[str]:
    """The texts of an answer, white space normalised.

    A model without structured output may put its JSON into a code fence, or think aloud before it.

    Raises:
        ValueError: it is no JSON list of texts, or a text is empty or no Unicode.
    """
    stated = answer.rpartition("</think>")[2].strip()
    fenced = _FENCED.fullmatch(stated)
    try:
        content = json.loads(fenced[1] if fenced else stated)
    except RecursionError as error:
        raise NetworkError("an answer of brackets inside brackets") from error
    texts = content.get("paraphrases") if isinstance(content, dict) else content
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise NetworkError(f"an answer must be a JSON list of texts, got {answer[:60]!r}")
    "".join(texts).encode()  # half a surrogate pair cannot be written
    return [" ".join(text.split()) for text in texts]
