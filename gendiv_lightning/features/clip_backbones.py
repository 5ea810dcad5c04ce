"""CLIP by the libraries that read it: the meaning of its name, its towers, its tokenizer and its preprocessing.

Letters: N images or captions, M pieces of a caption, T tokens of the context (77 in CLIP), D features.
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
    "Load it once where the Hub can be reached, or give as `backbone` a folder with a CLIPModel, its tokenizer and "
    "image processor, or local-dir:FOLDER in open_clip's layout"
)
_HUB_NAME = re.compile(r"(?P<first>\w[\w.-]*)/(?P<second>\w[\w.-]*)")


class Source(NamedTuple):
    """Where a backbone comes from: a folder, or the Hub.

    Attributes:
        label: the backbone's name, of a folder without its path.
        library: by which it is read.
        name: the library's name for it.
        weights: open_clip's tag of the weights, if it has one.
        folder: its folder on this machine; None for one on the Hub.
    """

    label: str
    library: Literal["open_clip", "transformers"]
    name: str
    weights: str | None = None
    folder: Path | None = None


class Backbone(nn.Module, ABC):
    """A CLIP of some library. Features are not of unit length yet."""

    preprocessing: Preprocessing

    @abstractmethod
    def pieces(self, text: str) -> Tensor:
        """Tokens (M, T) of a caption, each piece with its end token; the first is the caption cut to the context."""

    @abstractmethod
    def encode_images(self, inputs: Tensor) -> Tensor:
        """What `Preprocessing.scale` returns to features (N, D)."""

    @abstractmethod
    def encode_texts(self, tokens: Tensor) -> Tensor:
        """Tokens (N, T) to features (N, D)."""


class _OpenClip(Backbone):
    def __init__(self, name: str, weights: str | None) -> None:
        super().__init__()
        import open_clip

        with torch.random.fork_rng(devices=[]):  # parameters are drawn before they are read
            self.model = open_clip.create_model(name, pretrained=weights, require_pretrained=True)
        self.tokenizer: Any = open_clip.get_tokenizer(name)
        self.preprocessing = _open_clip_preprocessing(self.model.visual.preprocess_cfg)
        for text in ("a photo", "a photo " * self.tokenizer.context_length):
            if not torch.equal(self.pieces(text)[:1], self.tokenizer([text])):
                raise WrongWeightsError(
                    "its tokenizer neither cuts a long caption at its end nor keeps its words in order"
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
        """A text tower that looks for another token reads every caption's feature from its first, without an error."""
        end = self.model.config.text_config.eos_token_id
        # Where an old configuration says 2, transformers looks for the highest number.
        looked_for = len(self.tokenizer) - 1 if end == 2 else end
        if self.tokenizer.eos_token_id != looked_for:
            raise WrongWeightsError(
                f"its text model looks for the end token {looked_for}, and its tokenizer ends captions with "
                f"{self.tokenizer.eos_token_id}: set text_config.eos_token_id in its config.json"
            )


def _pieces(tokenizer: Any, text: str, context: int) -> Tensor:
    """Tokens (M, T) by a tokenizer in the Hugging Face layout, which puts start and end around each piece."""
    settings: dict[str, Any] = {"max_length": context, "truncation": True, "padding": "max_length"}
    return tokenizer(text, **settings, return_overflowing_tokens=True, return_tensors="pt").input_ids


def parse_backbone(backbone: str) -> Source:
    """What a backbone's name means; it imports neither library.

    Raises:
        ValueError: the name means nothing.
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
    hint = f"; this folder is in open_clip's layout: write local-dir:{path}" if is_open_clip else ""
    raise ConfigValueError(
        "backbone must be OWNER/REPO of the Hub, a folder with the config.json of a CLIPModel, open_clip's "
        "ARCHITECTURE/TAG, hf-hub:OWNER/REPO, local-dir:FOLDER with an open_clip_config.json, or a registered name "
        f"(gendiv list features); got {backbone!r}{hint}"
    )


def read_backbone(source: Source) -> Backbone:
    """A CLIP with its weights, frozen, downloaded from the Hub if necessary.

    Raises:
        FileNotFoundError: it is neither on this machine nor could it be downloaded.
        ValueError: the files are not a CLIP's, or cannot be read as its authors do.
    """
    if source.folder is not None and not source.folder.is_dir():
        raise MissingWeightsError(f"the CLIP backbone {source.folder} is not there. {_ADVICE}")
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
        raise WrongWeightsError(
            f"open_clip's weights of {name} are {', '.join(open_clip.list_pretrained_tags_by_model(name))}"
        )
    if known.get("quick_gelu") and not open_clip.get_model_config(name).get("quick_gelu"):
        raise WrongWeightsError(f"these weights were trained with QuickGELU: write {name}-quickgelu/{weights}")
    return known


def _open_clip_preprocessing(config: Mapping[str, Any]) -> Preprocessing:
    size, way = config["size"], config["resize_mode"]
    height, width = (size, size) if isinstance(size, int) else size
    if way != "squash" and (way, height) != ("shortest", width):
        raise WrongWeightsError(f"its resize {way!r} of images to {height} x {width} is not supported")
    mode: Literal["bicubic", "bilinear"] = "bilinear" if config["interpolation"] == "bilinear" else "bicubic"
    shorter = None if way == "squash" else height
    return Preprocessing(shorter, (height, width), mode, True, tuple(config["mean"]), tuple(config["std"]))
