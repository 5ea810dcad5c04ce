"""`CommonCodebook`: codebook usage and token entropies of the images of any generator, with one tokenizer."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from typing_extensions import Self, override

from gendiv_lightning.features.tokenizer import ImageTokenizer
from gendiv_lightning.metrics.base import SampleMetric
from gendiv_lightning.metrics.codebook import CodebookUsage
from gendiv_lightning.metrics.decomposition import TokenEntropy
from gendiv_lightning.records import PromptSamples
from gendiv_lightning.records.estimate import Estimate

_COUNTS = "/token/counts"


class CommonCodebook(SampleMetric):
    """Codebook usage and token entropies of images of any origin, encoded with the same tokenizer.

    - `codebook[TOKENIZER]/entropy_bits`, `.../coverage`, `.../information_bits`: all metrics of `CodebookUsage`.
    - `codebook[TOKENIZER]/h_total`, `h_exec`, `h_path`, `h_sampler_path`, `h_prompt_path`: the token-marginal
      decomposition in bits per token, from counts only (`.../unseen` shows whether there are enough samples).

    These are properties of the final images at the resolution of the tokenizer. They differ from those of the tokens
    that a model sampled, even if the model uses the same tokenizer, because decoding and encoding an image changes its
    tokens.

    Args:
        tokenizer: see `features.tokenizer`.
    """

    title = "use of a common codebook, and entropy of its tokens"
    short = "common codebook"

    def __init__(self, tokenizer: ImageTokenizer) -> None:
        super().__init__()
        self.features = self.tokenizer = tokenizer
        self.entropy = TokenEntropy()
        self.usage: CodebookUsage | None = None

    @property
    @override
    def names(self) -> tuple[str, ...]:
        return tuple(map(self._name, (*CodebookUsage(1).names, *filter(_is_count, self.entropy.names))))

    @override
    def identity(self) -> dict[str, object]:
        """Return the names of the metrics and the identity of the tokenizer."""
        return {"names": [self._name("codebook/...")], "tokenizer": self.tokenizer.identity()}

    @override
    def load(self) -> None:
        super().load()
        if self.usage is None:
            self.usage = CodebookUsage(self.tokenizer.codebook_size).to(self.device)

    @override
    def update(self, samples: PromptSamples) -> None:
        """Encode and add all samples of one prompt.

        Raises:
            ValueError: if the images are not (N, 3, H, W) uint8.
        """
        self.load()
        tokens = self.tokenizer.tokens(samples.images.to(self.device))
        for part in self._parts:
            part.update(samples._replace(tokens=tokens, per_prompt={}, per_sample={}))

    @override
    def compute(self) -> dict[str, Estimate]:
        """Return the estimates of both parts that are based on counts."""
        self.load()
        estimates = {name: estimate for part in self._parts for name, estimate in part.compute().items()}
        named = {self._name(name): estimate for name, estimate in estimates.items() if _is_count(name)}
        word = f"tokens by {self.tokenizer.tag}"
        return {name: estimate._replace(method=f"{word}; {estimate.method}") for name, estimate in named.items()}

    @override
    def columns(self) -> dict[str, Tensor]:
        self.load()
        columns = {name: column for part in self._parts for name, column in part.columns().items()}
        return {self._name(name): column for name, column in columns.items() if _is_count(name)}

    @override
    def reset(self) -> None:
        super().reset()
        for part in self._parts:
            part.reset()

    @override
    def merge_state(self, incoming_state: dict[str, Any] | Self) -> None:  # type: ignore[override]
        assert isinstance(incoming_state, CommonCodebook), "the parts hold the state"
        self.load()
        for part, other in zip(self._parts, incoming_state._parts, strict=True):
            part.merge_state(other)

    @property
    def _parts(self) -> tuple[SampleMetric, ...]:
        return (self.entropy,) if self.usage is None else (self.usage, self.entropy)

    def _name(self, name: str) -> str:
        """Name `codebook[TAG]/...` of a metric of a part."""
        number = name.removeprefix("codebook/").replace(_COUNTS, "")
        return f"codebook[{self.tokenizer.tag}]/{number.replace('h_total/unseen', 'unseen')}"


def _is_count(name: str) -> bool:
    return name.startswith("codebook/") or _COUNTS in name


CodebookUsage.with_tokenizer = CommonCodebook
