"""The paraphrases of a set of prompts: asked for, judged, asked for again, a few requests at a time.

Every answer is kept on disk under its model and request, so nothing is asked twice and an interrupted run goes on where
it was. What becomes of an answer depends on the answer alone: the same answers give the same paraphrases, in the order
of the prompts, whenever they came.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from tqdm import tqdm

from gendiv_lightning.prompts.design import split_lengths
from gendiv_lightning.prompts.paraphrase.request import INSTRUCTION, Paraphraser, Request, read_answer
from gendiv_lightning.prompts.paraphrase.similarity import Similarity
from gendiv_lightning.records import Prompt, length_class
from gendiv_lightning.storage.atomic import cache_folder, write_atomically

NUM_ROUNDS = 6  # a round asks for what is still missing
UNREADABLE, OTHER_LENGTH, COPY, DUPLICATE, TOO_FAR = (
    "unreadable answer",
    "other length",
    "copy of the prompt",
    "duplicate",
    "below --min-similarity",
)


@dataclass(frozen=True)
class Scored:
    """A paraphrase; `similarities` to its prompt by name, the first of which is the one that is filtered by."""

    text: str
    length: str
    similarities: dict[str, float]

    @property
    def similarity(self) -> float:
        """The first."""
        return next(iter(self.similarities.values()))


@dataclass(frozen=True)
class Judge:
    """What a text must be to count as a paraphrase.

    Attributes:
        similarities: at least one; the first is filtered by.
        min_similarity: the least of the first; None filters nothing.
    """

    similarities: Sequence[Similarity]
    min_similarity: float | None = None

    def judge(self, prompt: str, text: str, length: str, seen: Sequence[str]) -> Scored | str:
        """The text with its similarities, or what is wrong with it; `seen` are the texts before it."""
        same = normalise(text)
        if same == normalise(prompt):
            return COPY
        if same in map(normalise, seen):
            return DUPLICATE
        if length_class(text) != length:
            return OTHER_LENGTH
        scored = self.score(prompt, text, length)
        if self.min_similarity is not None and scored.similarity < self.min_similarity:
            return TOO_FAR
        return scored

    def score(self, prompt: str, text: str, length: str) -> Scored:
        """The text with its similarities, to four digits: the next ones depend on the machine."""
        return Scored(text, length, {s.name: round(s.score(prompt, text), 4) for s in self.similarities})


def normalise(text: str) -> str:
    """A text by which duplicates are found: words without case and punctuation."""
    return " ".join(re.findall(r"\w+", text.casefold()))


@dataclass
class Reworded:
    """What became of one prompt.

    Attributes:
        prompt: the prompt.
        paraphrases: the shorter classes first, then as they came.
        missing: how many more were wanted.
        dropped: texts by what was wrong with them, and unreadable answers.
        last_answer: day on which the last answer was given, ISO 8601.
    """

    prompt: Prompt
    paraphrases: list[Scored] = field(default_factory=list)
    missing: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    last_answer: str = ""


@dataclass(frozen=True)
class Rewording:
    """How a set of prompts is paraphrased.

    Attributes:
        paraphraser: who is asked.
        judge: what is kept.
        per_prompt: paraphrases of a prompt.
        length: class of their lengths, or "mixed".
        seed: root seed of the requests.
        instruction: what the paraphraser is told.
        concurrency: most requests at a time; it changes no result.
    """

    paraphraser: Paraphraser
    judge: Judge
    per_prompt: int = 8
    length: str = "mixed"
    seed: int = 0
    instruction: str = INSTRUCTION
    concurrency: int = 8

    def reword(self, prompts: Sequence[Prompt]) -> list[Reworded]:
        """The paraphrases of each prompt, in their order.

        Raises:
            ValueError: a request that is refused.
            OSError: the paraphraser is not to be had at the moment.
        """
        return asyncio.run(self._reword_all(prompts))

    async def _reword_all(self, prompts: Sequence[Prompt]) -> list[Reworded]:
        slots = asyncio.Semaphore(self.concurrency)
        with tqdm(total=len(prompts), desc=f"Asking {self.paraphraser.name}", unit="prompt", delay=2) as bar:

            async def reword(prompt: Prompt) -> Reworded:
                async with slots:
                    reworded = await self._reword(prompt)
                bar.update()
                return reworded

            try:
                return await asyncio.gather(*map(reword, prompts))
            finally:
                await self.paraphraser.close()

    async def _reword(self, prompt: Prompt) -> Reworded:
        reworded = Reworded(prompt)
        for length, number in split_lengths(self.per_prompt, self.length).items():
            reworded.missing += await self._ask_for(reworded, length, number)
        return reworded

    async def _ask_for(self, reworded: Reworded, length: str, missing: int) -> int:
        """Add paraphrases of one length; returns how many are missing still."""
        seen: list[str] = []
        for number in range(NUM_ROUNDS):
            if not missing:
                break
            seed = NUM_ROUNDS * self.seed + number
            request = Request(reworded.prompt.text, length, missing, tuple(seen), seed, self.instruction)
            answer = await self._answer(request)
            reworded.last_answer = max(reworded.last_answer, answer["date"])
            try:
                texts = read_answer(answer["answer"])
            except ValueError:
                reworded.dropped[UNREADABLE] += 1
                continue
            for text in texts:
                verdict = self.judge.judge(reworded.prompt.text, text, length, seen)
                seen.append(text)
                if isinstance(verdict, str):
                    reworded.dropped[verdict] += 1
                elif missing:
                    reworded.paraphrases.append(verdict)
                    missing -= 1
        return missing

    async def _answer(self, request: Request) -> Mapping[str, Any]:
        question = {"paraphraser": self.paraphraser.identity(), "request": request._asdict()}
        digest = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()
        path = cache_folder() / "paraphrases" / digest[:2] / f"{digest}.json"
        if not path.exists():
            answer = await self.paraphraser.answer(request)
            today = datetime.now(timezone.utc).date().isoformat()
            kept = json.dumps({**question, "answer": answer, "date": today})
            write_atomically(path, lambda unfinished: unfinished.write_text(kept, encoding="utf-8"))
        return json.loads(path.read_text(encoding="utf-8"))
