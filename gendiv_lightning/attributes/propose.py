"""Propose the attributes of a set of prompts with a language model, once.

Every answer is cached on disk by model and request, so no request is repeated and an interrupted call resumes. The
result depends only on the answers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gendiv_lightning.attributes.attribute import to_plain
from gendiv_lightning.attributes.request import INSTRUCTION, Request, read_answer
from gendiv_lightning.chat.answers import cached_answer, run_to_end
from gendiv_lightning.chat.model import LanguageModel, ask_about_each
from gendiv_lightning.errors import PromptError
from gendiv_lightning.records import Prompt
from gendiv_lightning.records.questions import Attribute
from gendiv_lightning.storage.atomic import write_atomically

NUM_TRIES = 6  # requests per prompt, with different seeds, until an answer is valid


class Proposed(NamedTuple):
    """The attributes of one prompt.

    Attributes:
        prompt: the prompt.
        attributes: its attributes; empty if no answer was valid.
        problem: error in the last answer; empty if it is valid.
        num_invalid: number of invalid answers.
        date: of the last answer, ISO 8601; empty if there was no request.
    """

    prompt: Prompt
    attributes: tuple[Attribute, ...]
    problem: str = ""
    num_invalid: int = 0
    date: str = ""


@dataclass(frozen=True)
class Proposal:
    """How attributes are proposed.

    Attributes:
        model: the language model.
        per_prompt: maximum number of attributes per prompt.
        seed: root seed of the requests.
        instruction: instruction for the model.
        concurrency: maximum number of parallel requests; does not change results.
    """

    model: LanguageModel[Request]
    per_prompt: int = 6
    seed: int = 0
    instruction: str = INSTRUCTION
    concurrency: int = 8

    def propose(self, prompts: Sequence[Prompt]) -> list[Proposed]:
        """The attributes of each prompt, in their order.

        Raises:
            ValueError: a request is rejected, or no answer about a prompt is valid; names the prompt.
            OSError: the model is not available at the moment.
        """
        found = run_to_end(ask_about_each(prompts, self._propose, self.model, self.concurrency))
        failed = [proposed for proposed in found if proposed.problem]
        if failed:
            raise PromptError(
                f"{self.model.name} gave no valid attributes for {len(failed)} of {len(found)} prompts in {NUM_TRIES} "
                f"answers each, the first {failed[0].prompt.text[:60]!r}: {failed[0].problem}. Choose another --model, "
                "--seed or --instruction; the other answers are cached"
            )
        return found

    async def _propose(self, prompt: Prompt) -> Proposed:
        date = problem = ""
        for number in range(NUM_TRIES):
            request = Request(prompt.text, self.per_prompt, NUM_TRIES * self.seed + number, self.instruction)
            question = {"model": self.model.identity(), "request": request._asdict()}
            answer = await cached_answer("attributes", question, lambda asked=request: self.model.answer(asked))  # type: ignore[misc]
            date = max(date, answer["date"])
            try:
                return Proposed(prompt, read_answer(answer["answer"], self.per_prompt), "", number, date)
            except ValueError as error:
                problem = str(error)
        return Proposed(prompt, (), problem, NUM_TRIES, date)


def write_list(path: Path, found: Sequence[Proposed]) -> None:
    """Write an attribute list as JSONL, which is a prompt set as well. Prompts keep their ids, and so their noise."""
    lines = [json.dumps(_record(proposed), ensure_ascii=False) for proposed in found]
    text = "".join(f"{line}\n" for line in lines)
    write_atomically(path, lambda unfinished: unfinished.write_bytes(text.encode()))


def _record(proposed: Proposed) -> dict[str, object]:
    prompt = proposed.prompt
    paraphrases = [paraphrase._asdict() for paraphrase in prompt.paraphrases]
    return {
        "prompt_id": prompt.id,
        "prompt": prompt.text,
        **({"paraphrases": paraphrases} if paraphrases else {}),
        "source": prompt.source,
        "attributes": [to_plain(attribute) for attribute in proposed.attributes],
    }
