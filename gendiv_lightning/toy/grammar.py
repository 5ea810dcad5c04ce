"""`Grammar`: the embedded world's own paraphraser, which knows what a caption means."""

from __future__ import annotations

import json
import random

from gendiv_lightning import __version__
from gendiv_lightning.prompts.paraphrase.request import Paraphraser, Request
from gendiv_lightning.toy.captions import fresh_wording, parse


class Grammar(Paraphraser):
    """Wordings of a postcard's caption that state the same, drawn by the request's seed; there may be fewer than asked.

    ValueError for a prompt that is not in the grammar.
    """

    name = "postcards"
    similarity = "tiny-clip"

    def identity(self) -> dict[str, object]:
        """The grammar is part of the package."""
        return {"model": self.name, "gendiv": __version__}

    async def answer(self, request: Request) -> str:
        """See `Paraphraser`."""
        rng = random.Random(f"{request.seed} {request.length} {request.prompt}")
        stated, made = parse(request.prompt), list[str]()
        for _ in range(request.number):
            text = fresh_wording(stated, request.length, rng, {request.prompt, *request.avoid, *made})
            if text is not None:
                made.append(text)
        return json.dumps({"paraphrases": made})
