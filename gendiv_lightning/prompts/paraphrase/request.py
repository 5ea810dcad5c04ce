"""Requests to a language model for paraphrases, and the parsing of its answers. Independent of models and networks.

Each request is for paraphrases of one length class. The answer is JSON: `{"paraphrases": [text, ...]}`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from gendiv_lightning.chat.answers import parse_json
from gendiv_lightning.chat.model import LanguageModel, chat_of
from gendiv_lightning.errors import NetworkError

WORDS = {
    "short": (1, 12),
    "medium": (13, 40),
    "long": (41, 80),
}  # long texts may be longer, but longer ones are not requested
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
_TOKENS_PER_WORD = 3


class Request(NamedTuple):
    """One request to a model, with everything that its answer may depend on.

    Attributes:
        prompt: text to paraphrase.
        length: length class of the paraphrases, see `records.length_class`.
        number: number of paraphrases to request.
        avoid: texts that were already proposed.
        seed: seed for the model, if it accepts one.
        instruction: instruction for the model.
    """

    prompt: str
    length: str
    number: int
    avoid: tuple[str, ...] = ()
    seed: int = 0
    instruction: str = INSTRUCTION

    @property
    def messages(self) -> list[dict[str, str]]:
        """The request as a chat."""
        low, high = WORDS[self.length]
        request = {
            "caption": self.prompt,
            "number": self.number,
            "words": f"{low} to {high}",
            "there already": list(self.avoid),
        }
        return chat_of(self.instruction, request)

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema of the answer."""
        return ANSWER_SCHEMA

    @property
    def longest(self) -> int:
        """Maximum number of tokens of the answer."""
        return 64 + _TOKENS_PER_WORD * WORDS[self.length][1] * self.number


Paraphraser = LanguageModel[Request]  # base class of plug-ins


def read_answer(answer: str) -> list[str]:
    """The texts of an answer, with white space normalized; see `parse_json` for models without structured output.

    Raises:
        ValueError: the answer is not a JSON list of texts, or a text is empty or not valid Unicode.
    """
    content = parse_json(answer)
    texts = content.get("paraphrases") if isinstance(content, dict) else content
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise NetworkError(f"an answer must be a JSON list of texts, got {answer[:60]!r}. Try another model")
    "".join(texts).encode()  # raises for half of a surrogate pair
    return [" ".join(text.split()) for text in texts]
