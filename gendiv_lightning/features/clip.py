"""CLIP features: unit vectors of images and captions, whose inner product is their cosine similarity.

Images are preprocessed as in the training of their backbone, see `features.preprocessing`.

A caption's feature is read at its end token, so a caption longer than the context must keep it: the caption is
truncated before the end token (`ClipFeatures.texts`), or split into chunks with one end token each
(`ClipFeatures.chunk_texts`).
Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021).

Notation: N images or captions, M chunks of a caption, T tokens of the context (77 in CLIP), D features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from gendiv_lightning.errors import MissingWeightsError
from gendiv_lightning.features.base import ImageFeatures, exact
from gendiv_lightning.features.clip_backbones import Backbone, parse_backbone, read_backbone
from gendiv_lightning.weights.hash import sha256

DEFAULT_BACKBONE = "openai/clip-vit-large-patch14"
LOGIT_SCALE = 100.0  # of OpenAI's CLIP: the largest that its training allows
_CHUNK_TEXTS = 32


class ClipFeatures(ImageFeatures):
    """Unit features (N, D) of images, on their device, and of captions, on this module's device.

    Args:
        backbone: one of
            - `OWNER/REPO`, a `CLIPModel` of transformers on the Hugging Face Hub, or a folder that contains one;
            - `ARCHITECTURE/TAG`, weights from open_clip's list, such as ViT-B-32/laion2b_s34b_b79k;
            - `hf-hub:OWNER/REPO` or `local-dir:FOLDER`, in open_clip's layout.
    """

    network: Backbone | None
    device_mark: Tensor

    def __init__(self, backbone: str = DEFAULT_BACKBONE) -> None:
        super().__init__()
        self.source = parse_backbone(backbone)
        self.register_buffer("device_mark", torch.empty(0), persistent=False)  # records `to` before there is a network

    @property
    def label(self) -> str:
        """Name of the backbone; for a folder, without its path."""
        return self.source.label

    @property
    @override
    def tag(self) -> str:
        return "clip" if self.label == DEFAULT_BACKBONE else self.label

    @override
    def identity(self) -> dict[str, object]:
        folder = self.source.folder
        if folder is not None and not folder.is_dir():
            raise MissingWeightsError(f"the CLIP backbone {folder} does not exist. Pass another folder as `backbone`")
        return {"backbone": self.label, "weights": None if folder is None else sha256(folder)}

    @override
    def read(self) -> Backbone:
        return read_backbone(self.source)

    @override
    def prepare(self, images: Tensor) -> Tensor:
        return self._backbone().preprocessing.resize(images)

    @override
    def embed(self, images: Tensor) -> Tensor:
        backbone = self._backbone()
        return F.normalize(backbone.encode_images(backbone.preprocessing.scale(images)), dim=1)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Features (N, D) of captions; captions longer than the context are truncated and keep their end token."""
        return self._encode_texts(torch.cat([pieces[:1] for pieces in self._pieces(texts)]))

    def chunk_texts(self, texts: Sequence[str]) -> Tensor:
        """Features (N, D) of captions of any length.

        The feature of a caption longer than the context is the mean of the unit features of its chunks of T - 2 tokens
        (75 in CLIP; a shorter last chunk has the same weight), normalised to unit length. Others are as in `texts`.
        """
        pieces = self._pieces(texts)
        features = self._encode_texts(torch.cat(pieces)).split([len(piece) for piece in pieces])
        return F.normalize(torch.stack([feature.mean(0) for feature in features]), dim=1)

    def num_cut(self, texts: Sequence[str]) -> int:
        """Number of captions that are longer than the context."""
        return sum(len(pieces) > 1 for pieces in self._pieces(texts))

    def _backbone(self) -> Backbone:
        self.load()
        assert self.network is not None, "load sets the network"
        return self.network

    def _pieces(self, texts: Sequence[str]) -> list[Tensor]:
        if isinstance(texts, str) or not len(texts):
            raise ValueError(f"texts must be a non-empty list of captions, got {texts!r}")
        backbone = self._backbone()
        return [backbone.pieces(text) for text in texts]

    @torch.no_grad()
    def _encode_texts(self, tokens: Tensor) -> Tensor:
        device = self.device_mark.device
        backbone = self._backbone().to(device, torch.float32)
        with exact(device):
            parts = [backbone.encode_texts(part.to(device)) for part in tokens.split(_CHUNK_TEXTS)]
            return F.normalize(torch.cat(parts), dim=1)
