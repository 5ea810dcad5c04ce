"""`EndpointScorer`: a vision-language model at an endpoint with OpenAI's chat completions API.

Notation: N images, A answers.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from PIL import Image
from torch import Tensor
from typing_extensions import override

from gendiv_lightning.chat.answers import cached_answer, parse_json, run_to_end
from gendiv_lightning.chat.endpoint import ChatEndpoint, Completion
from gendiv_lightning.errors import ConfigValueError, NetworkError
from gendiv_lightning.scorers.reading import ReadingScorer, is_answer

Probabilities = Literal["logprobs", "none"]
_NUM_TOKENS = 20  # the most log-probabilities that OpenAI and vLLM report
_SEED = 0
_ALTERNATIVES = "use the scorer transformers for a model on this machine"
_NO_PROBABILITIES = (
    "Choose a server that reports them, such as vLLM, or pass probabilities=none for answers without probabilities"
)


class EndpointScorer(ReadingScorer):
    """A vision-language model at an endpoint with OpenAI's API (vLLM, Ollama, OpenAI).

    Address and key are the environment variables `OPENAI_BASE_URL` and `OPENAI_API_KEY`. Probabilities are those of the
    20 likeliest first tokens. An answer that is not among them counts as 0, so it is underestimated by at most the
    probability of the last of them. If none of the possible answers is among them, that is an error.

    Images are sent as PNG. Every answer is cached on disk by model, question and the SHA-256 of the image's pixels, so
    no request is repeated and an interrupted run resumes; the address is not part of the key. Temperature is 0 and the
    seed fixed, yet many servers do not return the same digits twice: the cached answer counts.

    Args:
        model: name of the model at the endpoint.
        probabilities: "logprobs" reads log-probabilities, which the server must report. "none" requests the answer as
            JSON; it has the probability 1, so spread and calibration of the probabilities are lost.
        concurrency: maximum number of parallel requests; does not change results.
        timeout: timeout of a request in seconds.

    Raises:
        ConfigValueError: an argument is invalid.
    """

    def __init__(
        self, model: str, probabilities: Probabilities = "logprobs", concurrency: int = 8, timeout: float = 120
    ) -> None:
        if not model.strip():
            raise ConfigValueError("model must not be empty. Give the name of the model at the endpoint")
        if probabilities not in get_args(Probabilities):
            raise ConfigValueError(
                f"probabilities must be one of {', '.join(get_args(Probabilities))}, got {probabilities!r}"
            )
        for name, value in (("concurrency", concurrency), ("timeout", timeout)):
            if not value > 0:
                raise ConfigValueError(f"{name} must be above 0, got {value}. Give a positive number")
        self.model, self.probabilities = model, probabilities
        self.concurrency, self.timeout = concurrency, timeout

    @property
    @override
    def tag(self) -> str:
        return self.model.rpartition("/")[2]

    @override
    def identity(self) -> dict[str, object]:
        return {"scorer": "endpoint", "model": self.model, "probabilities": self.probabilities, **self.templates}

    @override
    def load(self) -> None:
        """Ask one question about a white image: whether the model exists, reads images and reports probabilities.

        Raises:
            PackageError: the client is not installed.
            NetworkError: the environment defines neither address nor key, or the endpoint is down or rejects the
                request, or the model does not answer the question.
            ConfigValueError: the endpoint reports no log-probabilities.
        """
        self._connect()
        self.affirm(torch.full((1, 3, 64, 64), 255, dtype=torch.uint8), "a white square")

    @override
    def probabilities_of(self, answers: Sequence[str], images: Tensor, text: str) -> Tensor:
        images = images.cpu()
        digests = [_digest(image) for image in images]
        distinct = dict(zip(digests, images, strict=True))
        found = run_to_end(self._ask_about(distinct, text, answers))
        return torch.tensor([found[digest] for digest in digests], dtype=torch.float64).reshape(-1, len(answers))

    def _connect(self) -> ChatEndpoint:
        return ChatEndpoint(self.model, self.timeout, alternatives=_ALTERNATIVES)

    async def _ask_about(
        self, images: Mapping[str, Tensor], text: str, answers: Sequence[str]
    ) -> dict[str, list[float]]:
        """Probabilities of the answers, by the digest of the image."""
        slots = asyncio.Semaphore(self.concurrency)
        connected: list[ChatEndpoint] = []  # not before the first answer that is not cached

        async def ask(digest: str) -> list[float]:
            async def request() -> list[float]:
                if not connected:
                    connected.append(self._connect())
                return await self._request(connected[0], images[digest], text, answers)

            question = {
                "model": self.model,
                "probabilities": self.probabilities,
                "seed": _SEED,
                "text": text,
                "answers": list(answers),
                "image": digest,
            }
            async with slots:
                return (await cached_answer("answers", question, request))["answer"]

        try:
            found = await asyncio.gather(*map(ask, images))
        finally:
            for endpoint in connected:
                await endpoint.close()
        return dict(zip(images, found, strict=True))

    async def _request(self, endpoint: ChatEndpoint, image: Tensor, text: str, answers: Sequence[str]) -> list[float]:
        content = [
            {"type": "image_url", "image_url": {"url": _data_url(image)}},
            {"type": "text", "text": text},
        ]
        body = {"messages": [{"role": "user", "content": content}], "temperature": 0, "seed": _SEED}
        if self.probabilities == "none":
            completion = await endpoint.complete(**body, response_format=_answer_format(answers))
            return self._read_text(completion, answers)
        try:
            completion = await endpoint.complete(**body, logprobs=True, top_logprobs=_NUM_TOKENS, max_tokens=1)
        except NetworkError as error:
            if "logprob" in str(error):  # a server that knows the word and refuses
                raise ConfigValueError(f"{error}. {_NO_PROBABILITIES}") from error
            raise
        return self._read_tokens(completion, answers)

    def _read_tokens(self, completion: Completion, answers: Sequence[str]) -> list[float]:
        """Probability of each answer, summed over the tokens that are this answer."""
        tokens = completion.first_tokens
        if not tokens:
            raise ConfigValueError(
                f"the endpoint reports no log-probabilities for the model {self.model!r}. {_NO_PROBABILITIES}"
            )
        sums = [sum(math.exp(value) for token, value in tokens if is_answer(token, answer)) for answer in answers]
        if not any(sums):
            likeliest = ", ".join(repr(token) for token, _ in tokens[:5])
            raise NetworkError(
                f"the model {self.model!r} answers with none of {', '.join(answers)}; its likeliest first tokens are "
                f"{likeliest}. Choose a model that answers without reasoning, or pass probabilities=none"
            )
        return sums

    def _read_text(self, completion: Completion, answers: Sequence[str]) -> list[float]:
        """1 for the answer, 0 for the others."""
        try:
            given = parse_json(completion.text)["answer"]
            chosen = [is_answer(given, answer) for answer in answers]
        except (ValueError, LookupError, TypeError, AttributeError):
            chosen = []
        if not any(chosen):
            raise NetworkError(
                f"the model {self.model!r} must answer with JSON and one of {', '.join(answers)}, got "
                f"{completion.text[:60]!r}. Choose another model"
            )
        return [float(right) for right in chosen]


def _digest(image: Tensor) -> str:
    """SHA-256 of the size and pixels of an image (3, H, W) uint8."""
    return hashlib.sha256(f"{tuple(image.shape)} ".encode() + image.contiguous().numpy().tobytes()).hexdigest()


def _data_url(image: Tensor) -> str:
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _answer_format(answers: Sequence[str]) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {"answer": {"type": "string", "enum": list(answers)}},
        "required": ["answer"],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
