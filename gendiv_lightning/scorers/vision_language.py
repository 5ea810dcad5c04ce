"""`TransformersScorer`: a vision-language model of transformers on this machine.

Notation: N images, A answers.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from weakref import WeakValueDictionary

import torch
from PIL import Image
from torch import Tensor
from typing_extensions import override

from gendiv_lightning.errors import (
    ConfigValueError,
    MissingWeightsError,
    NonFiniteError,
    PackageError,
    WrongWeightsError,
)
from gendiv_lightning.features.base import exact
from gendiv_lightning.scorers.reading import LETTERS, YES_OR_NO, ReadingScorer, is_answer
from gendiv_lightning.weights.hash import sha256
from gendiv_lightning.weights.load import DTYPES, first_line, load_pretrained, reading
from gendiv_lightning.weights.resolve import fetch_one_of

Dtype = Literal["float32", "bfloat16", "float16"]
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")


class TransformersScorer(ReadingScorer):
    """A vision-language model of transformers on this machine.

    It is any `AutoModelForImageTextToText` with a chat template, and runs with one image at a time. The answer for an
    image therefore does not depend on its batch. Probabilities are those of the whole vocabulary at the first token of
    the answer, so none is missing. Only safetensors are read, and no code of a repository is executed.

    Args:
        model: folder in the format of `save_pretrained`, with model and processor, or `OWNER/REPO` on the Hub.
        dtype: float32 is exact. bfloat16 and float16 need half the memory; probabilities then depend on the device.

    Raises:
        ConfigValueError: an argument is invalid.
    """

    def __init__(self, model: str, dtype: Dtype = "float32") -> None:
        if not model.strip():
            raise ConfigValueError("model must not be empty. Give a folder, or OWNER/REPO on the Hub")
        if dtype not in DTYPES:
            raise ConfigValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}. Choose one of them")
        self.model, self.dtype = model, dtype
        self._network: _Network | None = None

    @property
    @override
    def tag(self) -> str:
        return Path(self.model).expanduser().resolve().name

    @override
    def identity(self) -> dict[str, object]:
        """Name, hash of local weights, dtype and templates."""
        folder = Path(self.model).expanduser()
        return {
            "scorer": "transformers",
            "model": folder.resolve().name if folder.is_dir() else self.model,
            "weights": sha256(folder) if folder.is_dir() else None,
            "dtype": self.dtype,
            **self.templates,
        }

    @override
    def load(self) -> None:
        """Load the model, unless a scorer with the same identity already has.

        Raises:
            MissingWeightsError: the model is not on this machine and could not be downloaded, or has no safetensors.
            WrongWeightsError: it is not a complete vision-language model, or cannot answer with single tokens.
        """
        if self._network is None:
            key = json.dumps([self.model, self.identity()])
            network = _NETWORKS.get(key)
            if network is None:
                network = _NETWORKS[key] = _read(self.model, DTYPES[self.dtype])
            self._network = network

    @override
    @torch.no_grad()
    def probabilities_of(self, answers: Sequence[str], images: Tensor, text: str) -> Tensor:
        self.load()
        assert self._network is not None, "load sets the network"
        with exact(images.device):
            rows = [self._network.first_token(image, text) for image in images]
        if not rows:
            return torch.empty(0, len(answers), dtype=torch.float64)
        ids = [self._network.ids_of(answer) for answer in answers]
        table = torch.stack(rows)
        return torch.stack([table[:, those].sum(1) for those in ids], 1)


@dataclass(eq=False)
class _Network:
    """A model with its processor.

    Attributes:
        model: the model of transformers.
        processor: its processor.
        tokens: text of each entry of the vocabulary.
        dtype: dtype of the model.
    """

    model: Any
    processor: Any
    tokens: list[str]
    dtype: torch.dtype

    def first_token(self, image: Tensor, text: str) -> Tensor:
        """Probabilities float64 of the first token of the answer to a text about an image (3, H, W) uint8."""
        self.model.to(image.device)
        picture = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
        content = [{"type": "image", "image": picture}, {"type": "text", "text": text}]
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(image.device, self.dtype)
        # Logits of all positions of a large vocabulary take more memory than the image.
        only_last = (
            {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(self.model.forward).parameters else {}
        )
        logits = self.model(**inputs, **only_last).logits[0, -1]
        if not logits.isfinite().all():
            raise NonFiniteError(
                "the vision-language model: its logits are not finite. Set dtype to float32; in float32 the checkpoint "
                "itself contains such values"
            )
        return logits.double().cpu().softmax(0)

    def ids_of(self, answer: str) -> list[int]:
        """Entries of the vocabulary that are an answer."""
        return [number for number, token in enumerate(self.tokens) if is_answer(token, answer)]


_NETWORKS: WeakValueDictionary[str, _Network] = WeakValueDictionary()  # while they are in use


def _read(name: str, dtype: torch.dtype) -> _Network:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = Path(name).expanduser()
    advice = "Pass a folder with model and processor, or load it once where the Hub can be reached"
    if not folder.is_dir() and not _HUB_NAME.fullmatch(name):
        raise MissingWeightsError(f"model: there is no folder {name!r}. {advice}")
    if folder.is_dir() and not any((folder / file).exists() for file in _WEIGHT_FILES):
        raise MissingWeightsError(f"model: {folder} has no model.safetensors, and other formats are not read. {advice}")
    try:
        with reading("vision-language model", name, advice):
            if not folder.is_dir():
                fetch_one_of(name, _WEIGHT_FILES)
            source = str(folder) if folder.is_dir() else name
            processor = AutoProcessor.from_pretrained(source, trust_remote_code=False)
            model = load_pretrained(AutoModelForImageTextToText, source, dtype)
    except ImportError as error:
        raise PackageError(f"model: {name} needs a package that is missing: {first_line(error)}. Install it") from error
    if not hasattr(processor, "tokenizer") or processor.chat_template is None:
        raise WrongWeightsError(
            f"model: {name} must have a processor of images and text with a chat template. Choose a model that chats"
        )
    tokens = processor.tokenizer.batch_decode([[number] for number in range(len(processor.tokenizer))])
    network = _Network(model, processor, tokens, dtype)
    if missing := [answer for answer in (*YES_OR_NO, *LETTERS) if not network.ids_of(answer)]:
        raise WrongWeightsError(
            f"model: the vocabulary of {name} must contain yes, no and the letters A to {LETTERS[-1]} as tokens; "
            f"missing: {', '.join(missing)}. Choose another model"
        )
    return network
