"""Image tokenizers by name, for the metric `codebook[NAME]`: ours and those of diffusers and transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from typing_extensions import override

from gendiv_lightning.errors import ConfigValueError, WrongWeightsError
from gendiv_lightning.features.tokenizer import ImageTokenizer
from gendiv_lightning.generators.janus import nearest_codes
from gendiv_lightning.generators.llamagen.tokenizer import VQ_SIZES, VQConfig, VQModel
from gendiv_lightning.generators.size_files import read_sizes
from gendiv_lightning.generators.vqgan import from_uint8
from gendiv_lightning.weights.hash import sha256
from gendiv_lightning.weights.load import construct, load_pretrained, load_strictly, read_checkpoint
from gendiv_lightning.weights.resolve import resolve

_INNER = "vq_config"  # in the configuration of a model that a tokenizer belongs to


class LlamaGenTokenizer(ImageTokenizer):
    """LlamaGen's tokenizer: `llamagen-vq16`, `llamagen-vq8`.

    Args:
        vq: "VQ-16", "VQ-8", or a JSON file with the fields of `VQConfig`.
        checkpoint: file with its weights, like `vq_checkpoint` of `LlamaGen`.
        side: see `ImageTokenizer`.
    """

    def __init__(
        self,
        vq: str = "VQ-16",
        checkpoint: str = "peizesun/llamagen_t2i:vq_ds16_t2i.pt",
        side: int | None = None,
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(side)
        self.config = VQ_SIZES[vq] if vq in VQ_SIZES else read_sizes(vq, "vq", VQConfig, VQ_SIZES)[0]
        self.vq, self.checkpoint = vq, checkpoint
        self._name = name or f"llamagen-{vq.lower().replace('-', '')}"
        _check_side(self.side, self.config.downsample)

    @property
    @override
    def name(self) -> str:
        return self._name

    @property
    @override
    def codebook_size(self) -> int:
        return self.config.codebook_size

    @override
    def identity(self) -> dict[str, object]:
        return {"tokenizer": self.name, "side": self.side, "weights": sha256(self._path())}

    @override
    def read(self) -> nn.Module:
        with torch.device("meta"):
            model = VQModel(self.config)
        load_strictly(model, read_checkpoint(self._path()), self._path(), torch.float32)
        return model

    @override
    def encode(self, images: Tensor) -> Tensor:
        return self.network.encode(from_uint8(images))

    def _path(self) -> Path:
        return resolve(self.checkpoint, "checkpoint", folder=False)


class FolderTokenizer(ImageTokenizer):
    """Base class of tokenizers in a folder with configuration and weights, in the format of a library.

    Args:
        model: folder, or `OWNER/REPO` on the Hub.
        part: subfolder of the tokenizer; empty if it is the folder itself.
        name: name for the tag; default: the name of the folder.
        side: see `ImageTokenizer`.
    """

    def __init__(self, model: str, part: str = "", name: str | None = None, side: int | None = None) -> None:
        super().__init__(side)
        self.model, self.part = model, part
        self._name = name or Path(model).name

    @property
    @override
    def name(self) -> str:
        return self._name

    @property
    @override
    def codebook_size(self) -> int:
        return self._setting("num_vq_embeddings", "num_embeddings", "codebook_size")

    @override
    def identity(self) -> dict[str, object]:
        return {"tokenizer": self.name, "side": self.side, "weights": sha256(self._path())}

    def _path(self) -> Path:
        return resolve(self.model, "model", parts=(self.part,) if self.part else (), folder=True) / self.part

    def _config(self) -> dict[str, Any]:
        path = self._path() / "config.json"
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise WrongWeightsError(
                f"{path} is not a valid tokenizer configuration: {error}. Pass the folder of a tokenizer"
            ) from error

    def _setting(self, *names: str) -> Any:
        config = self._config()
        config = config.get(_INNER, config)
        for name in names:
            if name in config:
                return config[name]
        raise WrongWeightsError(
            f"{self._path()} is not a tokenizer: its configuration must have {' or '.join(names)}. Pass another folder"
        )


def _read(model_class: Any, folder: Path, config: dict[str, Any]) -> nn.Module:
    """Load a tokenizer of transformers from its own folder, or from that of the model that contains it."""
    if _INNER not in config:
        return load_pretrained(model_class, folder)
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            names = [name for name in weights.keys() if "vqmodel." in name]  # noqa: SIM118 not a dictionary
            tensors |= {name.rpartition("vqmodel.")[2]: weights.get_tensor(name) for name in names}
    model = construct(model_class, config[_INNER])
    load_strictly(model, tensors, folder, torch.float32)
    return model


class DiffusersTokenizer(FolderTokenizer):
    """A `VQModel` of diffusers: `amused`, `vq-diffusion`, `diffusers`.

    Args:
        model: see `FolderTokenizer`.
        part: see `FolderTokenizer`.
        low: value of black pixels: 0 for aMUSEd, -1 for VQ-Diffusion and most others. White is 1.
        name: see `FolderTokenizer`.
        side: see `ImageTokenizer`.
    """

    def __init__(
        self, model: str, part: str = "vqvae", low: float = -1.0, name: str | None = None, side: int | None = None
    ) -> None:
        super().__init__(model, part, name, side)
        self.low = low

    @override
    def identity(self) -> dict[str, object]:
        return {**super().identity(), "low": self.low}

    @override
    def read(self) -> nn.Module:
        from diffusers import VQModel

        _check_side(self.side, 2 ** (len(self._setting("block_out_channels")) - 1))
        return load_pretrained(VQModel, self._path())

    @override
    def encode(self, images: Tensor) -> Tensor:
        pixels = self.low + (1 - self.low) * images.float() / 255
        return self.network.quantize(self.network.encode(pixels).latents)[2][2].view(1, -1)


class TransformersTokenizer(FolderTokenizer):
    """Base class of tokenizers in transformers, alone or inside the checkpoint of their model."""

    model_class: str

    @override
    def read(self) -> nn.Module:
        import transformers

        _check_side(self.side, 2 ** (len(self._setting("channel_multiplier")) - 1))
        return _read(getattr(transformers, self.model_class), self._path(), self._config())


class JanusTokenizer(TransformersTokenizer):
    """The tokenizer of Janus, with the same tokens as the generator: `janus`.

    Args:
        model: see `FolderTokenizer`; the folder of the whole model or of its tokenizer.
        name: see `FolderTokenizer`.
        side: see `ImageTokenizer`.
    """

    model_class, default_side = "JanusVQVAE", 384

    def __init__(
        self, model: str = "deepseek-community/Janus-Pro-1B", name: str | None = "janus", side: int | None = None
    ) -> None:
        super().__init__(model, "", name, side)

    @override
    def encode(self, images: Tensor) -> Tensor:
        return nearest_codes(self.network, from_uint8(images))


class Emu3Tokenizer(TransformersTokenizer):
    """The tokenizer of Emu3: `emu3`.

    Args:
        model: see `FolderTokenizer`; the folder of the whole model or of its tokenizer.
        name: see `FolderTokenizer`.
        side: see `ImageTokenizer`.
    """

    model_class, default_side = "Emu3VQVAE", 512

    def __init__(self, model: str = "BAAI/Emu3-Gen-hf", name: str | None = "emu3", side: int | None = None) -> None:
        super().__init__(model, "", name, side)

    @override
    def encode(self, images: Tensor) -> Tensor:
        sizes = torch.tensor([images.shape[-2:]])
        return self.network.encode(from_uint8(images), sizes).image_tokens[0].reshape(1, -1)


def llamagen_vq16(checkpoint: str = "peizesun/llamagen_t2i:vq_ds16_t2i.pt", side: int | None = None) -> ImageTokenizer:
    """VQ-16 tokenizer of LlamaGen: 16,384 entries, one token per 16 x 16 pixels."""
    return LlamaGenTokenizer("VQ-16", checkpoint, side)


def llamagen_vq8(checkpoint: str, side: int | None = None) -> ImageTokenizer:
    """VQ-8 tokenizer of LlamaGen: 16,384 entries, one token per 8 x 8 pixels; `checkpoint` is `vq_ds8_c2i.pt`."""
    return LlamaGenTokenizer("VQ-8", checkpoint, side)


def amused(model: str = "amused/amused-256", side: int | None = None) -> ImageTokenizer:
    """Tokenizer of aMUSEd: 8,192 entries, one token per 16 x 16 pixels."""
    return DiffusersTokenizer(model, "vqvae", 0.0, "amused", side)


def vq_diffusion(model: str = "microsoft/vq-diffusion-ithq", side: int | None = None) -> ImageTokenizer:
    """Tokenizer of VQ-Diffusion: 4,096 entries, one token per 8 x 8 pixels."""
    return DiffusersTokenizer(model, "vqvae", -1.0, "vq-diffusion", side)


def _check_side(side: int, downsample: int) -> None:
    if side % downsample:
        raise ConfigValueError(f"side must be a multiple of {downsample} pixels, got {side}. Choose another side")
