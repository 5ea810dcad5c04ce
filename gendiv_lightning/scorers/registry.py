"""Scorers by name: registered ones (`gendiv.scorers`), and any CLIP as a zero-shot classifier."""

from __future__ import annotations

from collections.abc import Callable

from gendiv_lightning import plugins
from gendiv_lightning.errors import UnknownNameError
from gendiv_lightning.features.registry import clip_of
from gendiv_lightning.scorers.base import ImageScorer
from gendiv_lightning.scorers.clip import ClipScorer


def scorer_of(name: str) -> Callable[..., ImageScorer]:
    """The constructor of the scorer with this name; it takes its options as arguments."""
    if name in plugins.registered("scorers"):
        return plugins.load("scorers", name)

    def clip() -> ClipScorer:
        try:
            return ClipScorer(clip_of(name))
        except ValueError as error:
            known = ", ".join(plugins.registered("scorers"))
            raise UnknownNameError(
                f"{name!r} is neither a registered scorer nor a CLIP: {error}. Choose one of {known}, or a CLIP"
            ) from error

    return clip
