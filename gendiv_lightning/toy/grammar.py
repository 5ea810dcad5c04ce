"""`Grammar`: the paraphraser of the toy dataset, which preserves the meaning of a caption exactly."""

from __future__ import annotations

import json
import random

from gendiv_lightning import __version__
from gendiv_lightning.prompts.paraphrase.request import Paraphraser, Request
from gendiv_lightning.toy.captions import new_caption, parse


class Grammar(Paraphraser):
    """Paraphrases of a postcard caption with the same meaning, drawn with the request's seed.

    There may be fewer than requested. A prompt that is not in the grammar raises ValueError.
    """

    name = "postcards"
    similarity = "tiny-clip"

    def identity(self) -> dict[str, object]:
        """Name and package version, because the grammar is part of the package."""
        return {"model": self.name, "gendiv": __version__}

    async def answer(self, request: Request) -> str:
        """The paraphrases as JSON; see `Paraphraser`."""
        rng = random.Random(f"{request.seed} {request.length} {request.prompt}")
        stated, texts = parse(request.prompt), list[str]()
        for _ in range(request.number):
            text = new_caption(stated, request.length, rng, {request.prompt, *request.avoid, *texts})
            if text is not None:
                texts.append(text)
        return json.dumps({"paraphrases": texts})
