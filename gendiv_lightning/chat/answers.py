"""Answers of models on disk, so that no request is repeated and an interrupted run resumes."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import Any, TypeVar

from gendiv_lightning.storage.atomic import cache_folder, write_atomically

T = TypeVar("T")


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
