"""A golden case: what was run and what came of it, read from files, and the findings of the check that compares.

A case is a JSON that says what was run (configuration, tolerance, meaning of each tensor), with tensors and weights in
safetensors files beside it. All is read from there: a folder may hold other shapes, scales, seeds and sizes. Every
tensor that a JSON names must be read by its check, unless its description calls it informational or diagnostic.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from gendiv_lightning.sampling import Noise, TokenSampler
from gendiv_lightning.weights.load import load_strictly, read_checkpoint

Config = TypeVar("Config")


class CaseResult(NamedTuple):
    """What came of a case.

    Attributes:
        name: file name without ".json".
        error: largest absolute difference of the numbers compared, for texts and listings the number of entries that
            differ; NaN if nothing was compared.
        passed: whether all is within the case's own tolerance and nothing was left unchecked.
        detail: what failed, or how much was checked.
    """

    name: str
    error: float
    passed: bool
    detail: str


class Case:
    """A golden case and the findings about it: a check reads tensors by name and compares."""

    def __init__(self, path: Path) -> None:
        self.folder = path.parent
        self.spec: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        self.name: str = self.spec.get("case", "manifest" if "models" in self.spec else path.stem)
        self.tensors = load_file(self.folder / self.spec["io_file"]) if "io_file" in self.spec else {}
        self.meanings: dict[str, str] = {name: t.get("what", "") for name, t in self.spec.get("tensors", {}).items()}
        self.names = sorted({*self.meanings, *self.tensors})
        self.read: set[str] = set()
        self.errors: list[float] = []
        self.failures: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise ValueError(f"there is no tensor {name!r} in {self.spec.get('io_file', 'the case')}")
        self.read.add(name)
        return self.tensors[name]

    def weights(self) -> dict[str, Tensor]:
        """The stored weights."""
        return load_file(self.folder / self.spec["weights_file"])

    def number(self, name: str, pattern: str, default: float) -> float:
        """A number that the description of tensor `name` states, group 1 of `pattern`."""
        found = re.search(pattern, self.meanings.get(name, ""))
        return float(found[1]) if found else default

    def guided(self, what: str) -> Iterator[tuple[str, float, int]]:
        """Tensors of `what` with guidance scale and interval (-1 is none): "greedy_cfg7p5_interval3" has 7.5 and 3."""
        for name in self.names:
            if found := re.fullmatch(rf"{what}_cfg(\d+(?:p\d+)?)(?:_interval(\d+))?", name):
                yield name, float(found[1].replace("p", ".")), int(found[2] or -1)

    def tolerance(self, suffix: str) -> float:
        """The stated tolerance whose name ends in `suffix` ("atol", "rtol"); 0 where none is."""
        stated = self.spec.get("tolerance")
        values = [v for k, v in stated.items() if k.endswith(suffix)] if isinstance(stated, dict) else []
        return float(values[0]) if values else 0.0

    def compare(self, name: str, got: Tensor, where: Tensor | None = None) -> None:
        """Hold `got` against tensor `name`, if the case has it, within the case's tolerance, at the entries `where`."""
        self._compare(name, got, where, self.tolerance("atol"), self.tolerance("rtol"))

    def exact(self, name: str, got: Tensor, where: Tensor | None = None, levels: float = 0.0) -> None:
        """The same for integers and booleans, which may differ by `levels`."""
        self._compare(name, got, where, levels, 0.0)

    def _compare(self, name: str, got: Tensor, where: Tensor | None, atol: float, rtol: float) -> None:
        if name not in self:
            return
        expected = self[name].double()
        if got.shape != expected.shape:
            self.failures.append(f"{name}: shape {tuple(got.shape)}, not {tuple(expected.shape)}")
            return
        chosen = torch.ones_like(expected, dtype=torch.bool) if where is None else where.expand_as(expected)
        difference = (got.double() - expected).abs().nan_to_num(nan=torch.inf, posinf=torch.inf)[chosen]
        if not difference.numel():
            self.failures.append(f"{name}: no entry to compare")
            return
        self.errors.append(difference.max().item())
        close = difference.isfinite() & (difference <= atol + rtol * expected.abs()[chosen])
        if not close.all():
            num_wrong, num_compared = int((~close).sum()), close.numel()
            self.failures.append(f"{name}: {num_wrong} of {num_compared} off, by up to {self.errors[-1]:.2g}")

    def same(self, what: str, got: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
        """Hold two listings against each other, entry by entry."""
        wrong = [key for key in {**expected, **got} if got.get(key) != expected.get(key)]
        self.errors.append(len(wrong))
        if wrong:
            self.failures.append(f"{what}: {len(wrong)} of {len(expected)} differ, first {wrong[0]!r}")

    def result(self, name: str) -> CaseResult:
        """The findings, once the check is through."""
        aside = {key for key, what in self.meanings.items() if re.search("(?i)informational|diagnostic", what)}
        if unread := sorted({*self.names} - self.read - aside):
            self.failures.append(f"nothing checks {', '.join(unread)}")
        if not self.errors:
            self.failures.append("nothing was compared")
        detail = "; ".join(self.failures) or f"{len(self.errors)} comparisons"
        return CaseResult(name, max(self.errors, default=torch.nan), not self.failures, detail)


def read_config(config_class: type[Config], values: Mapping[str, Any]) -> Config:
    """A configuration from those of the official values that it has."""
    known = {field.name for field in fields(config_class)}
    return config_class(**{key: value for key, value in values.items() if key in known})


def load_weights(case: Case, model: nn.Module) -> None:
    """The stored weights, or those of the recipe."""
    if "recipe_seed" not in case.spec:
        path = case.folder / case.spec["weights_file"]
        load_strictly(model, read_checkpoint(path), path, torch.float32)
        return
    state = model.state_dict()
    fill_by_recipe(state, case.spec["recipe_seed"])
    check_digests(case, state)


def fill_by_recipe(state: Mapping[str, Tensor], seed: int) -> None:
    """Put the recipe's numbers into tensors."""
    for key, tensor in state.items():
        tensor.copy_(_recipe(key, tensor.shape, seed))


def check_digests(case: Case, state: Mapping[str, Tensor]) -> None:
    """Hold weights against the digests that the case states of some."""
    checks = case.spec["checks"]
    digests = {key: hashlib.sha256(state[key].numpy().tobytes()).hexdigest() for key in checks}
    case.same("sha256 of weights", digests, checks)


def _recipe(key: str, shape: torch.Size, seed: int) -> Tensor:
    """Weights that a name and a seed determine, of about unit gain; the rule is the string "recipe" of such a case."""
    if key == "quantize.codebook_used":
        return torch.zeros(shape)
    draws = torch.from_numpy(np.random.RandomState((zlib.crc32(key.encode()) + seed) % 2**32).standard_normal(shape))
    if "norm" in key and key.endswith("weight") and len(shape) == 1:
        return 1 + 0.1 * draws
    if key.endswith("bias"):
        return 0.05 * draws
    if key.endswith(("embeddings.weight", "embedding_table.weight", "uncond_embedding", "quantize.embedding.weight")):
        return draws
    return draws / (shape[-1] if key.startswith("pos_") else prod(shape[1:])) ** 0.5


def greedy_sampler(num_samples: int, codebook_size: int, **knobs: Any) -> TokenSampler:
    """A sampler that takes the most probable token."""
    path, execution = (Noise.of(0, role, [("golden", row) for row in range(num_samples)]) for role in ("path", "exec"))
    return TokenSampler(path, execution.off(), codebook_size, **knobs)


def all_layers(keys: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """Shapes by state-dict key, "layers.{0..11}." written out."""
    shapes = {}
    for key, shape in keys.items():
        span = re.search(r"\{(\d+)\.\.(\d+)\}", key)
        numbers = range(int(span[1]), int(span[2]) + 1) if span else [0]
        shapes.update({key.replace(span[0], str(i)) if span else key: shape for i in numbers})
    return shapes
