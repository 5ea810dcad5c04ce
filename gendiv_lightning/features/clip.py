"""CLIP as features: unit vectors of images and of captions, whose inner product is their cosine.

An image gets the preprocessing that its backbone was trained with: bicubic resize with antialiasing, centre crop,
(x / 255 - mean) / std. The resize is done in uint8 on the CPU, whatever the device: there torch rounds after each of
its two passes as Pillow does (and differs by at most 2 of 255, in a pixel of a hundred), whereas bicubic in floats
overshoots and a noisy image differs by up to 22. Rows come first, always; Pillow 13 begins with the columns of images
much taller than wide.

A caption's feature is read from its end token, so a caption longer than the context must not lose it: it is cut before
the end token (`ClipFeatures.texts`), or read in pieces that have one each (`ClipFeatures.chunk_texts`).
Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021).

Letters: N images or captions, M pieces of a caption, T tokens of the context (77 in CLIP), D features.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gendiv_lightning.features.pixels import check_images, split_images
from gendiv_lightning.models.checkpoints import sha256

DEFAULT_BACKBONE = "openai/clip-vit-large-patch14"
TINY_FOLDER = Path(__file__).parents[1] / "zoo" / "weights" / "clip"
_TRANSFORMERS_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_CHUNK_TEXTS = 32
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
            with _exact(device):
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
        with _exact(device):
            parts = [network.encode_texts(part.to(device)) for part in tokens.split(_CHUNK_TEXTS)]
            return F.normalize(torch.cat(parts), dim=1)


class Preprocessing(NamedTuple):
    """From images of any size to a backbone's input.

    Attributes:
        shorter: length of the shorter side after the resize; None resizes to `size`, whatever the aspect.
        size: height and width after the centre crop.
        mode: how pixels are interpolated, always with antialiasing.
        rounds_half: an odd margin's offset is rounded half to even (torchvision), or else down (transformers).
        mean: of the channels, for pixels in [0, 1].
        std: of the channels.
    """

    shorter: int | None
    size: tuple[int, int]
    mode: Literal["bicubic", "bilinear"]
    rounds_half: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def resize(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) uint8 to (N, 3, *size) uint8 on the CPU: what the backbone sees of them."""
        sides = images.shape[-2:]
        target = self.size if self.shorter is None else tuple(int(self.shorter * n / min(sides)) for n in sides)
        resized = F.interpolate(images.cpu().contiguous(), target, mode=self.mode, antialias=True)
        halves = [(had - wanted) / 2 for had, wanted in zip(target, self.size, strict=True)]
        top, left = (round(half) if self.rounds_half else int(half) for half in halves)
        return resized[:, :, top : top + self.size[0], left : left + self.size[1]]

    def scale(self, pixels: Tensor) -> Tensor:
        """Pixels (N, 3, *size) uint8 to the network's input, float32."""
        mean, std = (torch.tensor(values, device=pixels.device).view(-1, 1, 1) for values in (self.mean, self.std))
        return (pixels.float() / 255 - mean) / std


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

        model_class: Any = CLIPModel
        self.model, report = model_class.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
        lacking = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
        if lacking:  # they were drawn at random
            raise ValueError(f"{len(lacking)} tensors of a CLIPModel lack, such as {lacking[0]}")
        self.tokenizer: Any = AutoTokenizer.from_pretrained(name)
        self.preprocessing = _transformers_preprocessing(AutoImageProcessor.from_pretrained(name).to_dict())
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
    from huggingface_hub.errors import HTTPError  # an OSError in some versions only
    from safetensors import SafetensorError

    if source.folder is not None:
        _existing(source.folder)
    try:
        with torch.random.fork_rng(devices=[]):  # weights are drawn before they are read
            if source.folder is None:
                _fetch(source)
            is_open_clip = source.library == "open_clip"
            network = _OpenClip(source.name, source.weights) if is_open_clip else _Transformers(source.name)
    except (OSError, HTTPError) as error:
        raise FileNotFoundError(
            f"the CLIP backbone {source.label!r} cannot be had: {_first_line(error)}. Load it once where the Hub can "
            "be reached, or give as `backbone` a folder with a CLIPModel, its tokenizer and image processor, or "
            "local-dir:FOLDER in open_clip's layout; for images of the embedded world only, 'tiny' needs no download"
        ) from error
    except (ValueError, RuntimeError, KeyError, SafetensorError, UnpicklingError) as error:
        raise ValueError(f"{source.label!r} cannot be used as CLIP backbone: {_first_line(error)}") from error
    return network.requires_grad_(False).eval()


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().partition("\n")[0]


def _fetch(source: _Source) -> None:
    """Download the weights of a backbone on the Hub, unless they are in its cache."""
    if source.library == "transformers":
        _fetch_one_of(source.name, _TRANSFORMERS_FILES)
    elif source.weights is None:
        _fetch_one_of(source.name.removeprefix("hf-hub:"), _OPEN_CLIP_FILES)
    else:
        repo, _, file = _open_clip_weights(source.name, source.weights).get("hf_hub", "").rpartition("/")
        if repo:  # else open_clip knows an address
            _fetch_one_of(repo, (re.sub(r"\.\w+$", ".safetensors", file), file) if file else _OPEN_CLIP_FILES)


def _fetch_one_of(repo: str, files: Sequence[str]) -> None:
    """The first of these files that there is; without a network this fails in seconds, a download in minutes."""
    from huggingface_hub import hf_hub_download, model_info, try_to_load_from_cache

    if any(isinstance(try_to_load_from_cache(repo, file), str) for file in files):
        return
    there = {sibling.rfilename for sibling in model_info(repo, timeout=5).siblings or ()}
    file = next((file for file in files if file in there), None)
    if file is None:
        raise ValueError(f"the Hub repository {repo} holds none of {', '.join(files)}")
    hf_hub_download(repo, file)


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


def _transformers_preprocessing(config: Mapping[str, Any]) -> Preprocessing:
    steps = ("do_resize", "do_rescale", "do_normalize")
    modes: dict[int, Literal["bicubic", "bilinear"]] = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
    shorter = config["size"].get("shortest_edge")
    target = config["crop_size"] if config["do_center_crop"] else config["size"]
    if (
        not all(config[step] for step in steps)
        or abs(255 * config["rescale_factor"] - 1) > 1e-6
        or config["resample"] not in modes
        or not {"height", "width"} <= target.keys()
        or (target != config["size"] if shorter is None else max(target.values()) > shorter)
    ):
        raise ValueError("its image processor does not resize, crop, rescale and normalise as those of CLIP do")
    mean, std = tuple(config["image_mean"]), tuple(config["image_std"])
    return Preprocessing(shorter, (target["height"], target["width"]), modes[config["resample"]], False, mean, std)


@contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """Float32 as it is: no autocast, and no TF32 or bfloat16 inside matrix products and convolutions."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.autocast(device.type, enabled=False),
            torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
