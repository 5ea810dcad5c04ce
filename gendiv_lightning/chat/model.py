"""`LanguageModel`: a model that answers requests in JSON, at an endpoint, on this machine, or a plug-in."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")


class ChatRequest(Protocol):
    """One request to a model, with everything that its answer may depend on."""

    @property
    def messages(self) -> list[dict[str, str]]:
        """The request as a chat."""

    @property
    def seed(self) -> int:
        """Seed for the model, if it accepts one."""

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema of the answer."""

    @property
    def longest(self) -> int:
        """Maximum number of tokens of the answer, for models on this machine."""


def chat_of(instruction: str, request: Mapping[str, Any]) -> list[dict[str, str]]:
    """A chat with a request as JSON, so that a prompt in it cannot be read as an instruction."""
    return [
        {"role": "system", "content": instruction},
        {"role": "user", "content": json.dumps(request, ensure_ascii=False)},
    ]


RequestType = TypeVar("RequestType", contravariant=True)


class LanguageModel(ABC, Generic[RequestType]):
    """A model that answers requests."""

    name: str

    @abstractmethod
    def identity(self) -> dict[str, object]:
        """Everything besides the request that can change an answer, without secrets; the key of cached answers."""

    @abstractmethod
    async def answer(self, request: RequestType) -> str:
        """The raw answer of the model, usually JSON, see `answers.parse_json`.

        Raises:
            ValueError: the request or the configuration is invalid, so retrying is pointless.
            OSError: the model is not available at the moment.
        """

    async def close(self) -> None:
        """Close connections."""


async def ask_about_each(
    items: Sequence[Item], ask: Callable[[Item], Awaitable[Result]], model: LanguageModel[Any], concurrency: int
) -> list[Result]:
    """The result for each item, in their order, with a progress bar per prompt; closes the model.

    Args:
        items: prompts, or items that stand for one prompt each.
        ask: asks the model about an item, as often as necessary.
        model: the model.
        concurrency: maximum number of items at a time; does not change results.
    """
    slots = asyncio.Semaphore(concurrency)
    with tqdm(total=len(items), desc=f"Asking {model.name}", unit="prompt", delay=2) as bar:

        async def ask_in_turn(item: Item) -> Result:
            async with slots:
                result = await ask(item)
            bar.update()
            return result

        try:
            return await asyncio.gather(*map(ask_in_turn, items))
        finally:
            await model.close()
