"""CLIP backbones of open_clip and transformers: parsing of names, encoders, tokenizers and preprocessing.

Notation: N images or captions, M chunks of a caption, T tokens of the context (77 in CLIP), D features.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from gendiv_lightning.errors import ConfigValueError, MissingWeightsError, WrongWeightsError
from gendiv_lightning.features.preprocessing import Preprocessing, preprocessing_of
from gendiv_lightning.weights.load import load_pretrained, reading
from gendiv_lightning.weights.resolve import WEIGHT_FILES, fetch_one_of

_OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_ADVICE = (
    "Load it once with access to the Hub, or pass as `backbone` a folder with a CLIPModel, its tokenizer and image "
    "processor, or local-dir:FOLDER in open_clip's layout"
)
_HUB_NAME = re.compile(r"(?P<first>\w[\w.-]*)/(?P<second>\w[\w.-]*)")


class Source(NamedTuple):
    """Source of a backbone: a folder, or the Hub.

    Attributes:
        label: name of the backbone; for a folder, without its path.
        library: the library that reads it.
        name: the name that this library uses.
        weights: open_clip's tag of the weights, if any.
        folder: local folder; None for a backbone on the Hub.
    """

    label: str
    library: Literal["open_clip", "transformers"]
    name: str
    weights: str | None = None
    folder: Path | None = None


class Backbone(nn.Module, ABC):
    """A CLIP of one of the libraries. Its features are not normalised."""

    preprocessing: Preprocessing

    @abstractmethod
    def pieces(self, text: str) -> Tensor:
        """Tokens (M, T) of a caption's chunks, each with an end token; the first is the truncated caption."""

    @abstractmethod
    def encode_images(self, inputs: Tensor) -> Tensor:
        """Features (N, D) of preprocessed images, as returned by `Preprocessing.scale`."""

    @abstractmethod
    def encode_texts(self, tokens: Tensor) -> Tensor:
        """Features (N, D) of tokens (N, T)."""


class _OpenClip(Backbone):
    def __init__(self, name: str, weights: str | None) -> None:
        super().__init__()
        import open_clip

        with torch.random.fork_rng(devices=[]):  # parameters are initialised randomly before they are read
            self.model = open_clip.create_model(name, pretrained=weights, require_pretrained=True)
        self.tokenizer: Any = open_clip.get_tokenizer(name)
        self.preprocessing = _open_clip_preprocessing(self.model.visual.preprocess_cfg)
        for text in ("a photo", "a photo " * self.tokenizer.context_length):
            if not torch.equal(self.pieces(text)[:1], self.tokenizer([text])):
                raise WrongWeightsError(
                    "its tokenizer does not truncate a long caption at its end, or reorders its words"
                )

    @override
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

    @override
    def encode_images(self, inputs: Tensor) -> Tensor:
        return self.model.encode_image(inputs)

    @override
    def encode_texts(self, tokens: Tensor) -> Tensor:
        return self.model.encode_text(tokens)


class _Transformers(Backbone):
    def __init__(self, name: str) -> None:
        super().__init__()
        from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

        self.model = load_pretrained(CLIPModel, name)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(name)
        self.preprocessing = preprocessing_of(AutoImageProcessor.from_pretrained(name).to_dict())
        self._check_end_token()

    @override
    def pieces(self, text: str) -> Tensor:
        return _pieces(self.tokenizer, text, self.model.config.text_config.max_position_embeddings)

    @override
    def encode_images(self, inputs: Tensor) -> Tensor:
        return self.model.visual_projection(self.model.vision_model(pixel_values=inputs).pooler_output)

    @override
    def encode_texts(self, tokens: Tensor) -> Tensor:
        return self.model.text_projection(self.model.text_model(input_ids=tokens).pooler_output)

    def _check_end_token(self) -> None:
        """Check the end token: a text encoder that looks for another one silently reads the first token instead."""
        end = self.model.config.text_config.eos_token_id
        # For the value 2 of old configurations, transformers looks for the highest token id.
        expected = len(self.tokenizer) - 1 if end == 2 else end
        if self.tokenizer.eos_token_id != expected:
            raise WrongWeightsError(
                f"its text model looks for the end token {expected}, but its tokenizer ends captions with "
                f"{self.tokenizer.eos_token_id}. Set text_config.eos_token_id in its config.json"
            )


def _pieces(tokenizer: Any, text: str, context: int) -> Tensor:
    """Tokens (M, T) from a Hugging Face tokenizer, which adds start and end tokens to each chunk."""
    settings: dict[str, Any] = {"max_length": context, "truncation": True, "padding": "max_length"}
    return tokenizer(text, **settings, return_overflowing_tokens=True, return_tensors="pt").input_ids


def parse_backbone(backbone: str) -> Source:
    """Parse the name of a backbone, without importing either library.

    Raises:
        ValueError: the name has none of the known forms.
    """
    scheme = next((known for known in ("local-dir:", "hf-hub:") if backbone.startswith(known)), "")
    rest = backbone.removeprefix(scheme)
    path = Path(rest).expanduser()
    is_open_clip = (path / "open_clip_config.json").is_file()
    if scheme == "local-dir:" and is_open_clip:
        return Source(path.resolve().name, "open_clip", f"local-dir:{path}", folder=path)
    if not scheme and (path / "config.json").is_file():
        return Source(path.resolve().name, "transformers", str(path), folder=path)
    name = _HUB_NAME.fullmatch(rest)
    if scheme == "hf-hub:" and name:
        return Source(backbone, "open_clip", backbone)
    if not scheme and name and not path.exists():
        if _is_architecture(name["first"]):
            return Source(backbone, "open_clip", name["first"], weights=name["second"])
        return Source(backbone, "transformers", backbone)
    hint = f". This folder is in open_clip's layout: write local-dir:{path}" if is_open_clip else ""
    raise ConfigValueError(
        "backbone must be OWNER/REPO on the Hub, a folder with the config.json of a CLIPModel, open_clip's "
        "ARCHITECTURE/TAG, hf-hub:OWNER/REPO, local-dir:FOLDER with an open_clip_config.json, or a registered name "
        f"(gendiv list features), got {backbone!r}{hint}"
    )


def read_backbone(source: Source) -> Backbone:
    """Read a CLIP with its weights, frozen, downloading it from the Hub if necessary.

    Raises:
        FileNotFoundError: the backbone is not on this machine and could not be downloaded.
        ValueError: the files do not contain a CLIP, or cannot be read as its authors intended.
    """
    if source.folder is not None and not source.folder.is_dir():
        raise MissingWeightsError(f"the CLIP backbone {source.folder} does not exist. {_ADVICE}")
    with reading("CLIP backbone", source.label, _ADVICE):
        _fetch(source)
        if source.library == "transformers":
            network: Backbone = _Transformers(source.name)
        else:
            network = _OpenClip(source.name, source.weights)
    return network.requires_grad_(False).eval()


def _is_architecture(name: str) -> bool:
    spec = find_spec("open_clip")
    assert spec is not None, "open_clip is a dependency"
    assert spec.origin is not None, "open_clip is a package of files"
    return (Path(spec.origin).parent / "model_configs" / f"{name}.json").is_file()


def _fetch(source: Source) -> None:
    """Download the weights of a backbone on the Hub, unless they are in the local cache."""
    if source.folder is not None:
        return
    if source.library == "transformers":
        fetch_one_of(source.name, WEIGHT_FILES)
    elif source.weights is None:
        fetch_one_of(source.name.removeprefix("hf-hub:"), _OPEN_CLIP_FILES)
    else:
        repo, _, file = _open_clip_weights(source.name, source.weights).get("hf_hub", "").rpartition("/")
        if repo:  # otherwise open_clip has a URL
            fetch_one_of(repo, (re.sub(r"\.\w+$", ".safetensors", file), file) if file else _OPEN_CLIP_FILES)


def _open_clip_weights(name: str, weights: str) -> Mapping[str, Any]:
    """open_clip's configuration of weights; ValueError if there is none or if they need another activation function."""
    import open_clip

    known = open_clip.get_pretrained_cfg(name, weights)
    if not known:
        raise WrongWeightsError(
            f"open_clip has no weights {weights!r} for {name}. Choose one of "
            f"{', '.join(open_clip.list_pretrained_tags_by_model(name))}"
        )
    if known.get("quick_gelu") and not open_clip.get_model_config(name).get("quick_gelu"):
        raise WrongWeightsError(f"these weights were trained with QuickGELU. Write {name}-quickgelu/{weights}")
    return known


def _open_clip_preprocessing(config: Mapping[str, Any]) -> Preprocessing:
    size, resize_mode = config["size"], config["resize_mode"]
    height, width = (size, size) if isinstance(size, int) else size
    if resize_mode != "squash" and (resize_mode, height) != ("shortest", width):
        raise WrongWeightsError(f"its resize mode {resize_mode!r} to {height} x {width} pixels is not supported")
    mode: Literal["bicubic", "bilinear"] = "bilinear" if config["interpolation"] == "bilinear" else "bicubic"
    shorter = None if resize_mode == "squash" else height
    return Preprocessing(shorter, (height, width), mode, True, tuple(config["mean"]), tuple(config["std"]))
