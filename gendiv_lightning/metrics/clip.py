"""Metrics on CLIP features: fidelity to the prompt, image quality, and diversity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from typing_extensions import override

from gendiv_lightning.errors import ConfigValueError, PromptError
from gendiv_lightning.features.clip import DEFAULT_BACKBONE, LOGIT_SCALE, ClipFeatures
from gendiv_lightning.features.registry import clip_of
from gendiv_lightning.functional.pairwise import PairDistances
from gendiv_lightning.metrics.base import PromptMetric, metric_name
from gendiv_lightning.metrics.diversity import DiversityMetric
from gendiv_lightning.records import PromptSamples

LongCaptions = Literal["cut", "chunks"]

# A description of an image and its opposite; names and texts are those of torchmetrics.
QUALITY_PROMPTS: dict[str, tuple[str, str]] = {
    "quality": ("Good photo.", "Bad photo."),
    "brightness": ("Bright photo.", "Dark photo."),
    "noisiness": ("Clean photo.", "Noisy photo."),
    "colorfullness": ("Colorful photo.", "Dull photo."),
    "sharpness": ("Sharp photo.", "Blurry photo."),
    "contrast": ("High contrast photo.", "Low contrast photo."),
    "complexity": ("Complex photo.", "Simple photo."),
    "natural": ("Natural photo.", "Synthetic photo."),
    "happy": ("Happy photo.", "Sad photo."),
    "scary": ("Scary photo.", "Peaceful photo."),
    "new": ("New photo.", "Old photo."),
    "warm": ("Warm photo.", "Cold photo."),
    "real": ("Real photo.", "Abstract photo."),
    "beautiful": ("Beautiful photo.", "Ugly photo."),
    "lonely": ("Lonely photo.", "Sociable photo."),
    "relaxing": ("Relaxing photo.", "Stressful photo."),
}


class CLIPScore(PromptMetric):
    """`quality/clip_score`: 100 max(cos, 0) of an image and its prompt, in [0, 100], mean over the prompt's samples.

    The text is the original prompt, also for images of a paraphrase, because a paraphrase should keep the meaning. For
    these, `quality/clip_score/wording` compares each image with its own paraphrase, and `quality/clip_score/drift` is
    the difference between the two: content that paraphrases add to the prompt.

    A caption longer than the context is either truncated or split into chunks, whose features are averaged. If captions
    are truncated, `quality/clip_score_cut` is the share of prompts with such a caption. Source: Hessel et al.,
    "CLIPScore" (2021), scaled by 100.

    Args:
        backbone: a registered name, or a name that `ClipFeatures` accepts; if it is not the default, the metric's name
            contains it in brackets.
        long_captions: "cut" truncates long captions, "chunks" splits them.
    """

    features: ClipFeatures
    title = "fit of the images to their prompt"
    short = "CLIP score"
    needs = ("images", "prompt")
    higher_is_better = True

    def __init__(self, backbone: str = DEFAULT_BACKBONE, long_captions: LongCaptions = "cut") -> None:
        super().__init__()
        if long_captions not in get_args(LongCaptions):
            raise ConfigValueError(
                f"long_captions must be one of {', '.join(get_args(LongCaptions))}, got {long_captions!r}"
            )
        self.features = clip_of(backbone)
        self.long_captions = long_captions

    @property
    @override
    def names(self) -> tuple[str, ...]:
        """The score, that of paraphrases, their difference, and the share of truncated captions if they are cut."""
        score, cut = (_name(name, self.features) for name in ("quality/clip_score", "quality/clip_score_cut"))
        return (score, f"{score}/wording", f"{score}/drift", *((cut,) if self.long_captions == "cut" else ()))

    @property
    @override
    def method(self) -> str:
        """Definition, backbone and treatment of long captions."""
        long = {"cut": "cut before the end token", "chunks": "the mean of their pieces"}[self.long_captions]
        return (
            f"100 max(cos, 0) of image and base prompt or wording (CLIP {self.features.label}, long captions {long}), "
            "mean over samples; BCa bootstrap over prompts"
        )

    @override
    def identity(self) -> dict[str, object]:
        return {**super().identity(), **self.features.identity()}

    @override
    def check_prompts(self, texts: Sequence[str]) -> None:
        """Raise ValueError for an empty prompt."""
        if not all(text.strip() for text in texts):
            raise PromptError(
                "CLIPScore requires the text of every prompt, but one is empty. Remove the prompt or the metric"
            )

    @override
    def measure(self, samples: PromptSamples) -> list[float]:
        """The scores, with NaN for paraphrases if there are none, and 1 or 0 for whether a caption is truncated."""
        self.check_prompts([samples.prompt])
        encode = self.features.texts if self.long_captions == "cut" else self.features.chunk_texts
        texts = list(dict.fromkeys([samples.prompt, *samples.texts]))
        cosines = self.features(samples.images.to(self.device)).double() @ encode(texts).double().T
        scores = 100 * cosines.clamp(0, 1)
        score, wording = scores[:, 0].mean().item(), math.nan
        if len(texts) > 1:
            own = torch.tensor([texts.index(text) for text in samples.texts], device=scores.device)
            wording = scores.gather(1, own[:, None]).mean().item()
        cut = [float(self.features.num_cut(texts) > 0)] if self.long_captions == "cut" else []
        return [score, wording, wording - score, *cut]


class CLIPIQA(PromptMetric):
    """`quality/clip_iqa`: probability of the first of two opposite texts given an image, in [0, 1], mean over samples.

    It is a softmax over 100 cos of the two texts and does not depend on the prompt. The pair "quality" alone gives
    `quality/clip_iqa`; otherwise each pair gives `quality/clip_iqa/<its name>`. Source: Wang, Chan and Loy, "Exploring
    CLIP for Assessing the Look and Feel of Images" (2023), section 3. They remove the position embedding of the image
    encoder in order to measure images of any size; here it is kept, and images are resized as for all CLIP metrics.

    Args:
        backbone: see `CLIPScore`.
        prompts: names in `QUALITY_PROMPTS`.
        pairs: custom pairs by name, such as {"crisp": ("Crisp photo.", "Soft photo.")}.
    """

    features: ClipFeatures
    title = "quality of the images by two opposite texts"
    short = "CLIP-IQA"
    higher_is_better = True

    def __init__(
        self,
        backbone: str = DEFAULT_BACKBONE,
        prompts: Sequence[str] = ("quality",),
        pairs: Mapping[str, tuple[str, str]] | None = None,
    ) -> None:
        super().__init__()
        self.features = clip_of(backbone)
        self.pairs = _named_pairs([prompts] if isinstance(prompts, str) else prompts, pairs)
        self._anchors: Tensor | None = None

    @property
    @override
    def names(self) -> tuple[str, ...]:
        name = _name("quality/clip_iqa", self.features)
        return (name,) if list(self.pairs) == ["quality"] else tuple(f"{name}/{pair}" for pair in self.pairs)

    @property
    @override
    def method(self) -> str:
        return (
            f"softmax of {LOGIT_SCALE:g} cos over two opposite texts (CLIP {self.features.label}), mean over samples; "
            "BCa bootstrap over prompts"
        )

    @override
    def identity(self) -> dict[str, object]:
        """The texts, the backbone and the hash of its weights."""
        pairs = {name: list(pair) for name, pair in self.pairs.items()}
        return {**super().identity(), "pairs": pairs, **self.features.identity()}

    @override
    def load(self) -> None:
        """Load the backbone and encode the texts; ValueError if the two texts of a pair have the same feature."""
        texts = [text for pair in self.pairs.values() for text in pair]
        anchors = self.features.texts(texts).double().cpu().unflatten(0, (-1, 2))
        for pair, (first, opposite) in zip(self.pairs.values(), anchors, strict=True):
            if torch.allclose(first, opposite, rtol=0, atol=1e-6):
                raise ConfigValueError(
                    f"{self.features.label} encodes {pair[0]!r} and {pair[1]!r} as the same text, because their words "
                    "are not in its vocabulary. Use `pairs` with words of its vocabulary, or leave CLIPIQA out"
                )
        self._anchors = anchors

    @override
    def measure(self, samples: PromptSamples) -> list[float]:
        """One probability per pair."""
        if self._anchors is None:
            self.load()
        assert self._anchors is not None, "load() sets the anchors"
        cosines = torch.einsum(
            "nd,pkd->npk", self.features(samples.images.to(self.device)).double().cpu(), self._anchors
        )
        return (LOGIT_SCALE * cosines).softmax(-1)[..., 0].mean(0).tolist()


class CLIPCosine(DiversityMetric):
    """`diversity/clip_cosine`: 1 - cosine of CLIP's image features, in [0, 2], in closed form over all pairs.

    Args:
        backbone: see `CLIPScore`.
    """

    features: ClipFeatures
    title = "cosine distance of the CLIP features of two images of a prompt"
    short = "CLIP cosine"

    def __init__(self, backbone: str = DEFAULT_BACKBONE) -> None:
        features = clip_of(backbone)
        super().__init__(_name("diversity/clip_cosine", features))
        self.features = features

    @property
    @override
    def method(self) -> str:
        return (
            f"1 - cosine of image features (CLIP {self.features.label}), closed form over all pairs; "
            "BCa bootstrap over prompts"
        )

    @override
    def identity(self) -> dict[str, object]:
        return {**super().identity(), **self.features.identity()}

    @override
    def mean_distances(self, images: Tensor, groups: Tensor) -> Tensor:
        pairs = PairDistances()
        pairs.update(self.features(images), groups)
        return pairs.matrix() / 2  # unit vectors: twice the cosine distance


def _name(name: str, features: ClipFeatures) -> str:
    return metric_name(name, None if features.label == DEFAULT_BACKBONE else features.tag)


def _named_pairs(prompts: Sequence[str], pairs: Mapping[str, tuple[str, str]] | None) -> dict[str, tuple[str, str]]:
    """The pairs of texts by name; ValueError if a name or a text is invalid."""
    named: dict[str, tuple[str, str]] = {}
    for name in prompts:
        if name not in QUALITY_PROMPTS:
            raise ConfigValueError(
                f"prompts must be among {', '.join(QUALITY_PROMPTS)}, got {name!r}. Pass your own texts as "
                f"pairs={{{name}: [Good photo., Bad photo.]}}"
            )
        if name in named:
            raise ConfigValueError(f"prompts must name each pair once, got {name!r} twice")
        named[name] = QUALITY_PROMPTS[name]
    if pairs is not None and not pairs:
        raise ConfigValueError("pairs must contain a pair of texts, got {}. Leave it out to measure `prompts` only")
    for name, pair in (pairs or {}).items():
        if name in QUALITY_PROMPTS:
            raise ConfigValueError(f"pairs must not reuse the name {name!r}, which is one of prompts. Rename it")
        if isinstance(pair, str) or len(pair) != 2:
            raise ConfigValueError(f"pairs must consist of two texts, the better one first, got {pair!r} for {name!r}")
        named[name] = (pair[0], pair[1])
    if not named:
        raise ConfigValueError("prompts or pairs must contain at least one pair. Leave both out to measure 'quality'")
    return named
