"""A diffusers pipeline as a folder of parts, each with a configuration and weights, loaded part by part.

The pipelines of aMUSEd and VQ-Diffusion are deprecated in diffusers. Their model classes are not, and are used here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from gendiv_lightning.errors import UnsafeInputError, WrongWeightsError, listed
from gendiv_lightning.weights.hash import sha256
from gendiv_lightning.weights.load import load_pretrained, load_strictly, read_checkpoint
from gendiv_lightning.weights.pieces import SUFFIX, whole
from gendiv_lightning.weights.resolve import MissingWeightsError, resolve


class PipelineFolder:
    """The parts of a pipeline on disk.

    Args:
        name: a folder, `OWNER/REPO` on the Hub, or `toy:FOLDER`.
        parts: the subfolders that it must have.
        key: the configuration key of the name, for errors.
        advice: alternatives for the user, for errors.

    Raises:
        MissingWeightsError: the folder could not be found or downloaded, or a part is missing.
    """

    def __init__(self, name: str, parts: Sequence[str], key: str, advice: str = "") -> None:
        self.path, self.parts = resolve(name, key, advice=advice, parts=parts, folder=True), tuple(parts)
        missing = [part for part in parts if not (self.path / part).is_dir()]
        if missing:
            raise MissingWeightsError(
                f"{key}: {self.path} must contain the folders {', '.join(parts)}; missing: {', '.join(missing)}.\n"
                f"{advice}"
            )

    @property
    def is_toy(self) -> bool:
        """Whether `gendiv.json` beside the parts marks these as the weights of a toy model."""
        path = self.path / "gendiv.json"
        return path.exists() and bool(json.loads(path.read_text()).get("toy"))

    def config(self, part: str) -> dict[str, Any]:
        """The configuration of a part, including schedulers."""
        path = self.path / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
        try:
            config = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise WrongWeightsError(f"{path} cannot be read as the configuration of a part: {error}") from error
        if not isinstance(config, dict):
            raise WrongWeightsError(
                f"{path} cannot be read as the configuration of a part: it is a {type(config).__name__}"
            )
        return config

    def setting(self, part: str, name: str) -> Any:
        """One setting of a part's configuration; ValueError if it is missing."""
        config = self.config(part)
        if name not in config:
            raise WrongWeightsError(
                f"{self.path / part} does not belong to this model: its configuration has no {name!r}"
            )
        return config[name]

    def check(self, part: str, expected: dict[str, Any], key: str) -> None:
        """Raise ValueError if the part's configuration differs from `expected`; called before weights are loaded."""
        given = self.config(part)
        wrong = [
            f"{name} {given.get(name)}, not {value}" for name, value in expected.items() if given.get(name) != value
        ]
        if wrong:
            raise WrongWeightsError(f"{key}: {self.path / part} does not match the settings: {'; '.join(wrong)}")

    def identity(self) -> dict[str, object]:
        """SHA-256 of each part."""
        return {part: self._hash(part) for part in self.parts}

    def _hash(self, part: str) -> str:
        with whole(self.path / part) as folder:
            return sha256(folder)

    def load(self, model_class: Any, part: str, dtype: torch.dtype, **defaults: object) -> Any:
        """Load the model of a part, frozen; all weights must be present.

        Args:
            model_class: a model class of diffusers or transformers.
            part: the subfolder.
            dtype: dtype of the parameters.
            defaults: settings that the class requires but old configurations do not have.

        Raises:
            ValueError: weights are missing, have another shape, or cannot be read.
        """
        config = self.config(part)
        with whole(self.path / part) as folder:
            if defaults.keys() - config.keys():
                model = model_class.from_config({**defaults, **config})
                load_strictly(model, read_weights(folder), folder, dtype)
                return model
            return load_pretrained(model_class, folder, dtype)


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a part, of all its shards.

    Raises:
        ValueError: there is no weight file, a shard is missing, or a file cannot be read.
    """
    return {name: tensor for file in weight_files(folder) for name, tensor in read_checkpoint(file).items()}


def weight_files(folder: Path) -> list[Path]:
    """The weight file in a part's folder, or the shards that its index lists; safetensors is preferred.

    Raises:
        ValueError: there is none, or a shard is missing.
    """
    for ending in ("safetensors", "bin"):
        if indices := sorted(folder.glob(f"*.{ending}.index.json")):
            return _shards(indices[0])
        if files := sorted(file for kind in (ending, f"{ending}{SUFFIX}") for file in folder.glob(f"*.{kind}")):
            return files[:1]
    raise WrongWeightsError(f"{folder} contains no weight file (.safetensors or .bin)")


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        if outside := [name for name in names if Path(name).name != name]:
            raise UnsafeInputError(f"{index} names {outside[0]!r}, which is not in its folder. Download it again")
        files = [index.parent / name for name in names]
    except UnsafeInputError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise WrongWeightsError(f"{index} cannot be read as an index of shards: {error}") from error
    if missing := [file.name for file in files if not file.exists()]:
        raise WrongWeightsError(f"{index} lists files that are missing: {listed(missing)}. Download them")
    return files
