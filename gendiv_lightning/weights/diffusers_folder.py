"""A diffusers pipeline as a folder of parts, each a folder with a configuration and weights, loaded part by part.

The pipelines of aMUSEd and VQ-Diffusion are deprecated in diffusers, their model classes are not: those are used.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from gendiv_lightning.errors import WrongWeightsError
from gendiv_lightning.weights.hash import sha256
from gendiv_lightning.weights.load import load_pretrained, load_strictly, read_checkpoint
from gendiv_lightning.weights.pieces import SUFFIX, whole
from gendiv_lightning.weights.resolve import MissingWeightsError, resolve


class PipelineFolder:
    """The parts of a pipeline on disk.

    Args:
        name: a folder, `OWNER/REPO` on the Hub, or `toy:FOLDER`.
        parts: the folders that it must have.
        key: the configuration key that holds the name, for errors.
        advice: what else the user can do, for errors.

    Raises:
        MissingWeightsError: it could not be found or downloaded, or a part is missing.
    """

    def __init__(self, name: str, parts: Sequence[str], key: str, advice: str = "") -> None:
        self.path, self.parts = resolve(name, key, advice=advice, parts=parts, folder=True), tuple(parts)
        missing = [part for part in parts if not (self.path / part).is_dir()]
        if missing:
            raise MissingWeightsError(
                f"{key}: {self.path} must hold the folders {', '.join(parts)}; missing: {', '.join(missing)}.\n{advice}"
            )

    @property
    def is_toy(self) -> bool:
        """Whether `gendiv.json` beside the parts says that these are a toy's weights."""
        path = self.path / "gendiv.json"
        return path.exists() and bool(json.loads(path.read_text()).get("toy"))

    def config(self, part: str) -> dict[str, Any]:
        """The configuration of a part (of a scheduler too)."""
        path = self.path / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
        try:
            config = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise WrongWeightsError(f"{path} cannot be read as a part's configuration: {error}") from error
        if not isinstance(config, dict):
            raise WrongWeightsError(
                f"{path} cannot be read as a part's configuration: it holds a {type(config).__name__}"
            )
        return config

    def setting(self, part: str, name: str) -> Any:
        """One setting of a part's configuration; ValueError if it does not say."""
        config = self.config(part)
        if name not in config:
            raise WrongWeightsError(
                f"{self.path / part} is not a part of such a model: its configuration must have {name!r}"
            )
        return config[name]

    def check(self, part: str, wanted: dict[str, Any], key: str) -> None:
        """Raise ValueError if the part's configuration says otherwise; before any weights are loaded."""
        given = self.config(part)
        wrong = [f"{name} {given.get(name)}, not {value}" for name, value in wanted.items() if given.get(name) != value]
        if wrong:
            raise WrongWeightsError(
                f"{key}: {self.path / part} is another model than the settings say: {'; '.join(wrong)}"
            )

    def identity(self) -> dict[str, object]:
        """SHA-256 of each part."""
        return {part: self._hash(part) for part in self.parts}

    def _hash(self, part: str) -> str:
        with whole(self.path / part) as folder:
            return sha256(folder)

    def load(self, model_class: Any, part: str, dtype: torch.dtype, **defaults: object) -> Any:
        """A part's model, of a class of diffusers or transformers, whole or not at all, frozen.

        Args:
            model_class: the class.
            part: the folder.
            dtype: of the parameters.
            defaults: settings that the class needs and that configurations written before it do not have.

        Raises:
            ValueError: weights are missing, of another shape, or cannot be read.
        """
        config = self.config(part)
        with whole(self.path / part) as folder:
            if defaults.keys() - config.keys():
                model = model_class.from_config({**defaults, **config})
                file = weight_file(folder)
                load_strictly(model, read_checkpoint(file), file, dtype)
                return model
            return load_pretrained(model_class, folder, dtype)


def weight_file(folder: Path) -> Path:
    """The file of weights in a part's folder, or its list of pieces; safetensors before others.

    Raises:
        ValueError: there is none.
    """
    endings = ["*.safetensors", f"*.safetensors{SUFFIX}", "*.bin"]
    files = [file for ending in endings for file in sorted(folder.glob(ending))]
    if not files:
        raise WrongWeightsError(f"{folder} holds no file of weights (.safetensors or .bin)")
    return files[0]
