"""`ChatEndpoint`: any server with OpenAI's chat completions API (OpenAI, vLLM, Ollama), through the official client."""

from __future__ import annotations

import asyncio
import math
import os
import sys
from json import JSONDecodeError
from typing import Any, NamedTuple

from tqdm import tqdm
from typing_extensions import override

from gendiv_lightning.chat.model import ChatRequest, LanguageModel
from gendiv_lightning.console.text import printable
from gendiv_lightning.errors import NetworkError, PackageError

_TRANSIENT = (408, 409, 429)  # in addition to 500 and above
_LONGEST_DELAY = 60.0
_LONGEST_RETRY_AFTER = 600.0
_ALTERNATIVES = "use --model local:FOLDER for a model on this machine, --model postcards for the toy grammar"
_SILENCE = 10.0  # seconds after which a pending answer is reported


class Completion(NamedTuple):
    """The answer of a chat model.

    Attributes:
        text: the answer or refusal, as the model wrote it.
        first_tokens: the likeliest first tokens with their log-probabilities; empty if the server reports none.
    """

    text: str
    first_tokens: tuple[tuple[str, float], ...] = ()


class ChatEndpoint:
    """A model at an endpoint; address and key are the environment variables `OPENAI_BASE_URL` and `OPENAI_API_KEY`.

    Transient failures (429, 5xx, timeouts, broken bodies) are retried after 1, 2, 4, ... s, or when the server asks
    for it. The client's own retries are disabled, because their delays are random. Connections belong to the event
    loop of the first request.

    Args:
        model: name of the model at the endpoint.
        timeout: timeout of a request in seconds.
        num_tries: number of attempts before the endpoint counts as down.
        first_delay: seconds before the second attempt; doubles with each attempt.
        alternatives: what the user can do without an endpoint, for the error.

    Raises:
        PackageError: the client is not installed.
        NetworkError: the environment defines neither address nor key.
    """

    def __init__(
        self, model: str, timeout: float = 120, num_tries: int = 8, first_delay: float = 1, alternatives: str = ""
    ) -> None:
        try:
            from openai import AsyncOpenAI
        except ImportError as error:
            raise PackageError(
                'the openai package is missing. Install it with pip install "gendiv_lightning[paraphrase]"'
            ) from error
        address, key = os.environ.get("OPENAI_BASE_URL"), os.environ.get("OPENAI_API_KEY")
        if not address and not key:
            raise NetworkError(
                f"model {model!r} needs an endpoint. Set OPENAI_BASE_URL (such as http://localhost:8000/v1 for vLLM, "
                "http://localhost:11434/v1 for Ollama), or OPENAI_API_KEY for OpenAI itself"
                f"{alternatives and f'; or {alternatives}'}"
            )
        self.model, self.timeout, self._key = model, timeout, key
        self.delays = [min(first_delay * 2**n, _LONGEST_DELAY) for n in range(num_tries - 1)]
        self._waits = False
        self._client = AsyncOpenAI(api_key=key or "none", base_url=address or None, timeout=timeout, max_retries=0)

    async def complete(self, **body: Any) -> Completion:
        """Send a request, given the fields of its body besides `model`.

        Raises:
            NetworkError: the endpoint rejects the request, or the last attempt fails, too.
        """
        for attempt, delay in enumerate(self.delays):
            try:
                return await self._ask(body)
            except _TransientError as error:
                delay = max(delay, error.retry_after)
                left = self.delays[attempt + 1 :]
                self._report_waiting(f"{error}; {len(left) + 1} more tries within {delay + sum(left):.0f} s")
                await asyncio.sleep(delay)
        try:
            return await self._ask(body)
        except _TransientError as error:
            raise NetworkError(
                f"the endpoint failed {len(self.delays) + 1} times in a row, the last time with: {error}. Answers are "
                "cached: run the same command again to resume"
            ) from None

    def _report_waiting(self, why: str) -> None:
        """Print one line per outage, however many requests it affects."""
        if not self._waits:
            self._waits = True
            url = self._client.base_url  # may contain a password
            where = f"{url.scheme}://{url.host}{f':{url.port}' if url.port else ''}"
            tqdm.write(printable(f"Waiting for {where}: {why}"), file=sys.stderr)

    async def close(self) -> None:
        """Close connections."""
        await self._client.close()

    async def _ask(self, body: dict[str, Any]) -> Completion:
        import openai

        create: Any = self._client.chat.completions.create
        no_answer = f"no answer yet, timeout after {self.timeout:g} s"
        timer = asyncio.get_running_loop().call_later(_SILENCE, self._report_waiting, no_answer)
        try:  # the client restarts its own timeout with every byte
            completion = await asyncio.wait_for(create(model=self.model, **body), self.timeout)
        except openai.APIStatusError as error:
            if error.status_code in _TRANSIENT or error.status_code >= 500:
                raise _TransientError(self._hide_key(error), _retry_after(error)) from None
            raise NetworkError(
                f"the endpoint rejected the request: {self._hide_key(error)}. Check model name and key"
            ) from None
        except (asyncio.TimeoutError, openai.APITimeoutError):
            raise _TransientError(f"no answer within {self.timeout:g} s") from None
        except (openai.APIConnectionError, openai.APIResponseValidationError, JSONDecodeError) as error:
            raise _TransientError(f"{type(error).__name__}: {self._hide_key(error)}") from None
        finally:
            timer.cancel()
        text = _text(completion)
        if text is None:
            raise _TransientError(f"no chat completion: {self._hide_key(completion)}")
        self._waits = False
        return Completion(text, _first_tokens(completion))

    def _hide_key(self, message: Any) -> str:
        """The text in one line, without the key, which servers repeat when they reject it."""
        line = " ".join(str(message).split())
        return (line.replace(self._key, "***") if self._key else line)[:300]


class Endpoint(LanguageModel[ChatRequest]):
    """A model at an endpoint; arguments and errors are those of `ChatEndpoint`."""

    def __init__(self, model: str, timeout: float = 120, num_tries: int = 8, first_delay: float = 1) -> None:
        self.name = model
        self._endpoint = ChatEndpoint(model, timeout, num_tries, first_delay, _ALTERNATIVES)

    @override
    def identity(self) -> dict[str, object]:
        """The name of the model; the address may contain a password and is not included."""
        return {"model": self.name}

    @override
    async def answer(self, request: ChatRequest) -> str:
        schema = {"name": "answer", "strict": True, "schema": request.schema}
        completion = await self._endpoint.complete(
            messages=request.messages,
            seed=request.seed,
            response_format={"type": "json_schema", "json_schema": schema},
        )
        return completion.text

    @override
    async def close(self) -> None:
        await self._endpoint.close()


class _TransientError(Exception):
    def __init__(self, message: str, retry_after: float = 0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def _retry_after(error: Any) -> float:
    """Delay in seconds that the server asks for; 0 if it does not, or gives a date."""
    header = error.response.headers.get("retry-after", "")
    return min(float(header), _LONGEST_RETRY_AFTER) if header.isdecimal() else 0.0


def _text(completion: Any) -> str | None:
    """Text of a completion or of a refusal; None if it is neither, since the client accepts any JSON and any text."""
    try:
        message = completion.choices[0].message
        text = message.content or message.refusal or ""
    except (AttributeError, IndexError, TypeError):
        return None
    return text if isinstance(text, str) else None


def _first_tokens(completion: Any) -> tuple[tuple[str, float], ...]:
    """The likeliest first tokens with their log-probabilities; empty if they are missing or not numbers."""
    try:
        tokens = completion.choices[0].logprobs.content[0].top_logprobs
        found = tuple((str(token.token), float(token.logprob)) for token in tokens)
    except (AttributeError, IndexError, TypeError, ValueError):
        return ()
    return () if any(math.isnan(value) for _, value in found) else found
