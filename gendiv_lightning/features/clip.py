"""CLIP as features: unit vectors of images and of captions, whose inner product is their cosine.

An image gets the preprocessing that its backbone was trained with, see `features.preprocessing`.

A caption's feature is read from its end token, so a caption longer than the context must not lose it: it is cut before
the end token (`ClipFeatures.texts`), or read in pieces that have one each (`ClipFeatures.chunk_texts`).
Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021).

Letters: N images or captions, M pieces of a caption, T tokens of the context (77 in CLIP), D features.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gendiv_lightning.features.base import exact
from gendiv_lightning.features.pixels import check_images, split_images
from gendiv_lightning.features.preprocessing import Preprocessing, preprocessing_of
from gendiv_lightning.weights.hash import sha256
from gendiv_lightning.weights.load import load_pretrained, reading
from gendiv_lightning.weights.resolve import WEIGHT_FILES, fetch_one_of

DEFAULT_BACKBONE = "openai/clip-vit-large-patch14"
TINY_FOLDER = Path(__file__).parents[1] / "toy" / "data" / "clip"
_OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_CHUNK_TEXTS = 32
_ADVICE = (
    "Load it once where the Hub can be reached, or give as `backbone` a folder with a CLIPModel, its tokenizer and "
    "image processor, or local-dir:FOLDER in open_clip's layout; for images of the embedded world only, 'tiny' needs "
    "no download"
)
_HUB_NAME = re.compile(r"(?P<first>\w[\w.-]*)/(?P<second>\w[\w.-]*)")


class ClipFeatures(nn.Module):
    """Unit features of images and captions, float32, without autocast and TF32, on this module's device.

    Args:
        backbone: one of
            - `OWNER/REPO`, a `CLIPModel` of transformers on the Hugging Face Hub, or a folder that holds one;
            - `ARCHITECTURE/TAG`, weights in open_clip's list, such as ViT-B-32/laion2b_s34b_b79k;
            - `hf-hub:OWNER/REPO` or `local-dir:FOLDER`, in open_clip's layout;
            - `tiny`, the embedded world's; it knows postcards and nothing else.
    """

    network: Any
    device_mark: Tensor

    def __init__(self, backbone: str = DEFAULT_BACKBONE) -> None:
        super().__init__()
        self.source = _source(backbone)
        self.network = None
        self.register_buffer("device_mark", torch.empty(0), persistent=False)  # `to` moves it before there is a network

    @property
    def label(self) -> str:
        """The backbone's name, of a folder without its path."""
        return self.source.label

    @property
    def tag(self) -> str:
        """What stands in brackets behind a metric's name; "" for the default backbone."""
        return {DEFAULT_BACKBONE: "", "tiny": "tiny-clip"}.get(self.label, self.label)

    def identity(self) -> dict[str, object]:
        """Name, and hash of weights on this machine; those of others are known by their names."""
        folder = self.source.folder
        if folder is None:
            return {"backbone": self.label, "weights": None}
        return {"backbone": self.label, "weights": sha256(_existing(folder))}

    def load(self) -> ClipFeatures:
        """Read the weights; the other methods do it on first use.

        What is only on the Hub is downloaded: call this on one rank first. Several `ClipFeatures` share one network.

        Raises:
            FileNotFoundError: the backbone cannot be had; the message names the ways out.
            ValueError: what is there is no CLIP, or none that is read as its authors do.
        """
        if self.network is None:
            network = _LOADED.get(self.source)
            if network is None:
                network = _LOADED[self.source] = _read(self.source)
            self.network = network
        return self

    @torch.no_grad()
    def images(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) uint8, on any device, to features (N, D).

        Metrics with one backbone measure the same samples one after the other, so the last features are kept.
        """
        check_images(images)
        network = self._ready()
        pixels = network.preprocessing.resize(images)
        if network.last is None or not torch.equal(network.last[0], pixels):
            device = self.device_mark.device
            with exact(device):
                parts = [
                    network.encode_images(network.preprocessing.scale(part.to(device))) for part in split_images(pixels)
                ]
            network.last = pixels, F.normalize(torch.cat(parts), dim=1)
        return network.last[1].to(self.device_mark.device, copy=True)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Captions to features (N, D); those longer than the context are cut, with their end token kept."""
        return self._encode_texts(torch.cat([pieces[:1] for pieces in self._pieces(texts)]))

    def chunk_texts(self, texts: Sequence[str]) -> Tensor:
        """Captions of any length to features (N, D).

        A caption longer than the context is the mean of the unit features of its pieces of T - 2 tokens (75 in CLIP;
        the last may be shorter and weighs the same), brought to unit length; others are as in `texts`.
        """
        pieces = self._pieces(texts)
        features = self._encode_texts(torch.cat(pieces)).split([len(piece) for piece in pieces])
        return F.normalize(torch.stack([feature.mean(0) for feature in features]), dim=1)

    def num_cut(self, texts: Sequence[str]) -> int:
        """How many captions are longer than the context."""
        return sum(len(pieces) > 1 for pieces in self._pieces(texts))

    def _ready(self) -> _Backbone:
        return self.load().network.to(self.device_mark.device, torch.float32)

    def _pieces(self, texts: Sequence[str]) -> list[Tensor]:
        if isinstance(texts, str) or not len(texts):
            raise ValueError(f"texts must be a list of one caption or more; got {texts!r}")
        network = self.load().network
        return [network.pieces(text) for text in texts]

    @torch.no_grad()
    def _encode_texts(self, tokens: Tensor) -> Tensor:
        network, device = self._ready(), self.device_mark.device
        with exact(device):
            parts = [network.encode_texts(part.to(device)) for part in tokens.split(_CHUNK_TEXTS)]
            return F.normalize(torch.cat(parts), dim=1)


class _Source(NamedTuple):
    """Where a backbone comes from: a folder, or the Hub.

    Attributes:
        label: see `ClipFeatures.label`.
        library: which one reads it.
        name: the library's name for it.
        weights: open_clip's tag of the weights, if it has one.
        folder: where it is on this machine, if the name says so.
    """

    label: str
    library: Literal["open_clip", "transformers"]
    name: str
    weights: str | None = None
    folder: Path | None = None


class _Backbone(nn.Module, ABC):
    """A CLIP of some library. Features are not of unit length yet."""

    preprocessing: Preprocessing
    last: tuple[Tensor, Tensor] | None = None  # pixels and features of `ClipFeatures.images`

    @abstractmethod
    def pieces(self, text: str) -> Tensor:
        """Tokens (M, T) of a caption, each piece with its end token; the first is the caption cut to the context."""

    @abstractmethod
    def encode_images(self, inputs: Tensor) -> Tensor:
        """What `Preprocessing.scale` returns to features (N, D)."""

    @abstractmethod
    def encode_texts(self, tokens: Tensor) -> Tensor:
        """Tokens (N, T) to features (N, D)."""


class _OpenClip(_Backbone):
    def __init__(self, name: str, weights: str | None) -> None:
        super().__init__()
        import open_clip

        with torch.random.fork_rng(devices=[]):  # parameters are drawn before they are read
            self.model = open_clip.create_model(name, pretrained=weights, require_pretrained=True)
        self.tokenizer: Any = open_clip.get_tokenizer(name)
        self.preprocessing = _open_clip_preprocessing(self.model.visual.preprocess_cfg)
        for text in ("a photo", "a photo " * self.tokenizer.context_length):
            if not torch.equal(self.pieces(text)[:1], self.tokenizer([text])):
                raise ValueError("its tokenizer neither cuts a long caption at its end nor keeps its words in order")

    def pieces(self, text: str) -> Tensor:
        import open_clip

        tokenizer, context = self.tokenizer, self.tokenizer.context_length
        if not isinstance(tokenizer, open_clip.SimpleTokenizer):
            return _pieces(tokenizer.tokenizer, tokenizer.clean_fn(text), context)
        words = torch.tensor(tokenizer.encode(text), dtype=torch.int64)
        parts = words.split(context - 2)
        tokens = torch.zeros(len(parts), context, dtype=torch.int64)
        for row, part in zip(tokens, parts, strict=True):
            row[0], row[1 : len(part) + 1], row[len(part) + 1] = tokenizer.sot_token_id, part, tokenizer.eot_token_id
        return tokens

    def encode_images(self, inputs: Tensor) -> Tensor:
        return self.model.encode_image(inputs)

    def encode_texts(self, tokens: Tensor) -> Tensor:
        return self.model.encode_text(tokens)


class _Transformers(_Backbone):
    def __init__(self, name: str) -> None:
        super().__init__()
        from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

        self.model = load_pretrained(CLIPModel, name)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(name)
        self.preprocessing = preprocessing_of(AutoImageProcessor.from_pretrained(name).to_dict())
        self._check_end_token()

    def pieces(self, text: str) -> Tensor:
        return _pieces(self.tokenizer, text, self.model.config.text_config.max_position_embeddings)

    def encode_images(self, inputs: Tensor) -> Tensor:
        return self.model.visual_projection(self.model.vision_model(pixel_values=inputs).pooler_output)

    def encode_texts(self, tokens: Tensor) -> Tensor:
        return self.model.text_projection(self.model.text_model(input_ids=tokens).pooler_output)

    def _check_end_token(self) -> None:
        """A text tower that looks for another token reads every caption's feature from its first, without an error."""
        end = self.model.config.text_config.eos_token_id
        # Where an old configuration says 2, transformers looks for the highest number.
        looked_for = len(self.tokenizer) - 1 if end == 2 else end
        if self.tokenizer.eos_token_id != looked_for:
            raise ValueError(
                f"its text model looks for the end token {looked_for}, and its tokenizer ends captions with "
                f"{self.tokenizer.eos_token_id}: set text_config.eos_token_id in its config.json"
            )


def _pieces(tokenizer: Any, text: str, context: int) -> Tensor:
    """Tokens (M, T) by a tokenizer in the Hugging Face layout, which puts start and end around each piece."""
    settings: dict[str, Any] = {"max_length": context, "truncation": True, "padding": "max_length"}
    return tokenizer(text, **settings, return_overflowing_tokens=True, return_tensors="pt").input_ids


# Networks by their sources, as long as a `ClipFeatures` holds them.
_LOADED: WeakValueDictionary[_Source, _Backbone] = WeakValueDictionary()


def _source(backbone: str) -> _Source:
    """What a backbone's name means; ValueError if nothing. It imports neither library."""
    if backbone == "tiny":
        return _Source("tiny", "open_clip", f"local-dir:{TINY_FOLDER}", folder=TINY_FOLDER)
    scheme = next((known for known in ("local-dir:", "hf-hub:") if backbone.startswith(known)), "")
    rest = backbone.removeprefix(scheme)
    path = Path(rest).expanduser()
    is_open_clip = (path / "open_clip_config.json").is_file()
    if scheme == "local-dir:" and is_open_clip:
        return _Source(path.resolve().name, "open_clip", f"local-dir:{path}", folder=path)
    if not scheme and (path / "config.json").is_file():
        return _Source(path.resolve().name, "transformers", str(path), folder=path)
    name = _HUB_NAME.fullmatch(rest)
    if scheme == "hf-hub:" and name:
        return _Source(backbone, "open_clip", backbone)
    if not scheme and name and not path.exists():
        if _is_architecture(name["first"]):
            return _Source(backbone, "open_clip", name["first"], weights=name["second"])
        return _Source(backbone, "transformers", backbone)
    hint = f"; this folder is in open_clip's layout: write local-dir:{path}" if is_open_clip else ""
    raise ValueError(
        "backbone must be OWNER/REPO of the Hub, a folder with the config.json of a CLIPModel, open_clip's "
        "ARCHITECTURE/TAG, hf-hub:OWNER/REPO, local-dir:FOLDER with an open_clip_config.json, or tiny; "
        f"got {backbone!r}, which is none{hint}"
    )


def _is_architecture(name: str) -> bool:
    spec = find_spec("open_clip")
    assert spec is not None, "open_clip is a dependency"
    assert spec.origin is not None, "open_clip is a package of files"
    return (Path(spec.origin).parent / "model_configs" / f"{name}.json").is_file()


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"the CLIP backbone is not at {folder}: give another folder or name as `backbone`; the package ships "
            "backbone 'tiny', reinstall it if that lacks"
        )
    return folder


def _read(source: _Source) -> _Backbone:
    if source.folder is not None:
        _existing(source.folder)
    with reading("CLIP backbone", source.label, _ADVICE):
        _fetch(source)
        if source.library == "transformers":
            network: _Backbone = _Transformers(source.name)
        else:
            network = _OpenClip(source.name, source.weights)
    return network.requires_grad_(False).eval()


def _fetch(source: _Source) -> None:
    """Download the weights of a backbone on the Hub, unless they are in its cache."""
    if source.folder is not None:
        return
    if source.library == "transformers":
        fetch_one_of(source.name, WEIGHT_FILES)
    elif source.weights is None:
        fetch_one_of(source.name.removeprefix("hf-hub:"), _OPEN_CLIP_FILES)
    else:
        repo, _, file = _open_clip_weights(source.name, source.weights).get("hf_hub", "").rpartition("/")
        if repo:  # else open_clip knows an address
            fetch_one_of(repo, (re.sub(r"\.\w+$", ".safetensors", file), file) if file else _OPEN_CLIP_FILES)


def _open_clip_weights(name: str, weights: str) -> Mapping[str, Any]:
    """What open_clip knows of weights; ValueError if it knows none, or another activation function is theirs."""
    import open_clip

    known = open_clip.get_pretrained_cfg(name, weights)
    if not known:
        raise ValueError(
            f"open_clip's weights of {name} are {', '.join(open_clip.list_pretrained_tags_by_model(name))}"
        )
    if known.get("quick_gelu") and not open_clip.get_model_config(name).get("quick_gelu"):
        raise ValueError(f"these weights were trained with QuickGELU: write {name}-quickgelu/{weights}")
    return known


def _open_clip_preprocessing(config: Mapping[str, Any]) -> Preprocessing:
    size, way = config["size"], config["resize_mode"]
    height, width = (size, size) if isinstance(size, int) else size
    if way != "squash" and (way, height) != ("shortest", width):
        raise ValueError(f"its resize {way!r} of images to {height} x {width} is not supported")
    mode: Literal["bicubic", "bilinear"] = "bilinear" if config["interpolation"] == "bilinear" else "bicubic"
    shorter = None if way == "squash" else height
    return Preprocessing(shorter, (height, width), mode, True, tuple(config["mean"]), tuple(config["std"]))
