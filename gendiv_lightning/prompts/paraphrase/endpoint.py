"""`Endpoint`: a chat model at an endpoint that paraphrases."""

from __future__ import annotations

from gendiv_lightning.chat.endpoint import ChatEndpoint
from gendiv_lightning.prompts.paraphrase.request import ANSWER_SCHEMA, Paraphraser, Request

_ANSWER_FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "paraphrases", "strict": True, "schema": ANSWER_SCHEMA},
}
_ALTERNATIVES = "use --model local:FOLDER for a model on this machine, --model postcards for the toy grammar"


class Endpoint(Paraphraser):
    """A model at an endpoint; arguments and errors are those of `ChatEndpoint`."""

    def __init__(self, model: str, timeout: float = 120, num_tries: int = 8, first_delay: float = 1) -> None:
        self.name = model
        self._endpoint = ChatEndpoint(model, timeout, num_tries, first_delay, _ALTERNATIVES)

    def identity(self) -> dict[str, object]:
        """The name of the model; the address may contain a password and is not included."""
        return {"model": self.name}

    async def answer(self, request: Request) -> str:
        """Send the request; NetworkError if the last attempt fails, too."""
        completion = await self._endpoint.complete(
            messages=request.messages, seed=request.seed, response_format=_ANSWER_FORMAT
        )
        return completion.text

    async def close(self) -> None:
        """Close connections."""
        await self._endpoint.close()
