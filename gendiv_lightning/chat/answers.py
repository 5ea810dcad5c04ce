"""Answers of models: JSON in them, and a cache on disk, so that an interrupted run resumes and pays nothing twice."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import Any, TypeVar

from gendiv_lightning.errors import NetworkError
from gendiv_lightning.storage.atomic import cache_folder, write_atomically

T = TypeVar("T")
_FENCED = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)


def parse_json(answer: str) -> Any:
    """The JSON of an answer; a model may put it in a code fence, or write its reasoning before it.

    Raises:
        ValueError: there is no JSON, or it is nested too deeply.
    """
    json_part = answer.rpartition("</think>")[2].strip()
    fenced = _FENCED.fullmatch(json_part)
    try:
        return json.loads(fenced[1] if fenced else json_part)
    except RecursionError as error:
        raise NetworkError("the answer is nested too deeply. Try another model") from error


async def cached_answer(
    folder: str, question: Mapping[str, Any], ask: Callable[[], Awaitable[Any]]
) -> Mapping[str, Any]:
    """The question with its `answer` and the `date` of the answer, ISO 8601; asks only if it is not cached yet.

    Args:
        folder: subfolder of the cache.
        question: plain values that determine the answer, without secrets.
        ask: returns the answer as plain values; an error is not cached.
    """
    digest = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()
    path = cache_folder() / folder / digest[:2] / f"{digest}.json"
    if not path.exists():
        answer = await ask()
        today = datetime.now(timezone.utc).date().isoformat()
        kept = json.dumps({**question, "answer": answer, "date": today})
        write_atomically(path, lambda unfinished: unfinished.write_text(kept, encoding="utf-8"))
    return json.loads(path.read_text(encoding="utf-8"))


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, also where an event loop is running already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
