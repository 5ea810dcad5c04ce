"""Generate the paraphrases of a set of prompts: request, filter, and request replacements, a few at a time.

Every answer is cached on disk by model and request, so no request is repeated and an interrupted run resumes. The
result depends only on the answers: equal answers give equal paraphrases, in the order of the prompts, whenever the
answers arrived.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gendiv_lightning.chat.answers import cached_answer, run_to_end
from gendiv_lightning.chat.model import ask_about_each
from gendiv_lightning.prompts.design import split_lengths
from gendiv_lightning.prompts.paraphrase.request import INSTRUCTION, Paraphraser, Request, read_answer
from gendiv_lightning.prompts.paraphrase.similarity import Similarity
from gendiv_lightning.records import Prompt, length_class

NUM_ROUNDS = 6  # each round requests the paraphrases that are still missing
UNREADABLE, OTHER_LENGTH, COPY, DUPLICATE, TOO_FAR = (
    "unreadable answer",
    "other length",
    "copy of the prompt",
    "duplicate",
    "below --min-similarity",
)


@dataclass(frozen=True)
class Scored:
    """A paraphrase with its similarities to the prompt by name; the first similarity is used for filtering."""

    text: str
    length: str
    similarities: dict[str, float]

    @property
    def similarity(self) -> float:
        """The similarity that is used for filtering."""
        return next(iter(self.similarities.values()))


@dataclass(frozen=True)
class Judge:
    """The filter of paraphrases.

    Attributes:
        similarities: at least one; the first is used for filtering.
        min_similarity: minimum of the first similarity; None disables the filter.
    """

    similarities: Sequence[Similarity]
    min_similarity: float | None = None

    def judge(self, prompt: str, text: str, length: str, seen: Sequence[str]) -> Scored | str:
        """The text with its similarities, or the reason to drop it; `seen` are earlier texts."""
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
        """The text with its similarities, rounded to four digits, since further ones depend on the machine."""
        return Scored(text, length, {s.name: round(s.score(prompt, text), 4) for s in self.similarities})


def normalise(text: str) -> str:
    """The words of a text without case and punctuation, for finding duplicates."""
    return " ".join(re.findall(r"\w+", text.casefold()))


@dataclass
class Reworded:
    """The paraphrases of one prompt.

    Attributes:
        prompt: the prompt.
        paraphrases: shorter length classes first, then in order of arrival.
        missing: number of paraphrases that are still missing.
        dropped: number of dropped texts by reason, including unreadable answers.
        last_answer: date of the last answer, ISO 8601.
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
        paraphraser: the language model.
        judge: the filter.
        per_prompt: paraphrases per prompt.
        length: their length class, or "mixed".
        seed: root seed of the requests.
        instruction: instruction for the paraphraser.
        concurrency: maximum number of parallel requests; does not change results.
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
            ValueError: a request is rejected.
            OSError: the paraphraser is not available at the moment.
        """
        return run_to_end(ask_about_each(prompts, self._reword, self.paraphraser, self.concurrency))

    async def _reword(self, prompt: Prompt) -> Reworded:
        reworded = Reworded(prompt)
        for length, number in split_lengths(self.per_prompt, self.length).items():
            reworded.missing += await self._ask_for(reworded, length, number)
        return reworded

    async def _ask_for(self, reworded: Reworded, length: str, missing: int) -> int:
        """Add paraphrases of one length class; returns how many are still missing."""
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
        return await cached_answer("paraphrases", question, lambda: self.paraphraser.answer(request))
