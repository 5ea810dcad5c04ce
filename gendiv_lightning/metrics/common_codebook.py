"""`CommonCodebook`: one tokenizer's codebook for the images of any generator, and the decomposition of its tokens."""

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
    """`codebook[TOKENIZER]/...`: images are encoded by one tokenizer, whatever generator or folder they come from.

    - `codebook[...]/entropy_bits`, `.../coverage`, `.../information_bits` and all other numbers of `CodebookUsage`;
    - `codebook[...]/h_total`, `h_exec`, `h_path`, `h_sampler_path`, `h_prompt_path`: the token-marginal decomposition,
      bits per token, from counts alone (`.../unseen` says whether samples are enough);

    of the tokens that the tokenizer gives the finished images. They are properties of the images at the tokenizer's
    resolution. They are not those of the tokens that a model drew, even where the model uses the same tokenizer: an
    image that is decoded and encoded again has other tokens. Every number is named after the tokenizer.

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
        """Names and the tokenizer."""
        return {"names": [self._name("codebook/...")], "tokenizer": self.tokenizer.identity()}

    @override
    def load(self) -> None:
        super().load()
        if self.usage is None:
            self.usage = CodebookUsage(self.tokenizer.codebook_size).to(self.device)

    @override
    def update(self, samples: PromptSamples) -> None:
        """Encode and add all samples of one prompt; ValueError unless its images are (N, 3, H, W) uint8."""
        self.load()
        tokens = self.tokenizer.tokens(samples.images.to(self.device))
        for part in self._parts:
            part.update(samples._replace(tokens=tokens, per_prompt={}, per_sample={}))

    @override
    def compute(self) -> dict[str, Estimate]:
        """The numbers of both, of the tokens' counts."""
        self.load()
        found = {name: estimate for part in self._parts for name, estimate in part.compute().items()}
        named = {self._name(name): estimate for name, estimate in found.items() if _is_count(name)}
        word = f"tokens by {self.tokenizer.tag}"
        return {name: estimate._replace(method=f"{word}; {estimate.method}") for name, estimate in named.items()}

    @override
    def columns(self) -> dict[str, Tensor]:
        self.load()
        found = {name: column for part in self._parts for name, column in part.columns().items()}
        return {self._name(name): column for name, column in found.items() if _is_count(name)}

    @override
    def reset(self) -> None:
        super().reset()
        for part in self._parts:
            part.reset()

    @override
    def merge_state(self, incoming_state: dict[str, Any] | Self) -> None:  # type: ignore[override]
        assert isinstance(incoming_state, CommonCodebook), "states are kept by the parts"
        self.load()
        for mine, theirs in zip(self._parts, incoming_state._parts, strict=True):
            mine.merge_state(theirs)

    @property
    def _parts(self) -> tuple[SampleMetric, ...]:
        return (self.entropy,) if self.usage is None else (self.usage, self.entropy)

    def _name(self, name: str) -> str:
        """`codebook[TAG]/...` for a number of a part."""
        number = name.removeprefix("codebook/").replace(_COUNTS, "")
        return f"codebook[{self.tokenizer.tag}]/{number.replace('h_total/unseen', 'unseen')}"


def _is_count(name: str) -> bool:
    return name.startswith("codebook/") or _COUNTS in name


CodebookUsage.with_tokenizer = CommonCodebook
