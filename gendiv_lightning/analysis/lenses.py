"""The decompositions H_total = H_exec + H_path by the names of their numbers: tokens, sequences, distances, kernels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from gendiv_lightning.records.estimate import Estimate

_PARTS = ("h_total", "h_exec", "h_sampler_path", "h_prompt_path")
_DISTANCE_PARTS = ("exec", "sampler_path", "prompt_path")


class Lens(NamedTuple):
    """Names of the numbers of one decomposition in `metrics.json`; empty for parts that it cannot measure."""

    title: str
    unit: str
    total: str
    execution: str
    sampler_path: str
    prompt_path: str


def find_lenses(estimates: Mapping[str, Estimate]) -> list[Lens]:
    """The decompositions of a run: A by tokens, counts and plug-in, B by sequences, C by distances, K by kernels."""
    token = [
        Lens(f"A tokens{title}", "bits/token", *(f"{part}/token{suffix}" for part in _PARTS))
        for title, suffix in (("", ""), (", counts", "/counts"), (", plug-in", "/plugin"))
    ]
    sequence = Lens("B sequences", "bits/image", "h_total/sequence", "h_exec/sequence", "", "h_prompt_path/sequence")
    bases = [name.removesuffix("/exec") for name in estimates if name.endswith("/exec")]
    perceptual = [
        Lens(f"C {base.split('/')[-1]}", "distance", base, *(f"{base}/{part}" for part in _DISTANCE_PARTS))
        for base in bases
    ]
    kernels = [
        Lens(f"K {tag.replace('/order1', ', order 1')}", "bits/image", *(f"{part}/{tag}" for part in _PARTS))
        for tag in (name.removeprefix("h_exec/") for name in estimates if name.startswith("h_exec/kernel"))
    ]
    common = [
        Lens(f"A {base}, counts", "bits/token", *(f"{base}/{part}" for part in _PARTS))
        for base in (name.removesuffix("/h_exec") for name in estimates if name.endswith("/h_exec"))
    ]
    return [
        lens for lens in (*token, *common, sequence, *perceptual, *kernels) if is_defined(estimates.get(lens.execution))
    ]


def residual(estimates: Mapping[str, Estimate], lens: Lens) -> float:
    """H_total - H_exec - H_path, which is only rounding; NaN if the decomposition has no total."""
    parts = [estimates[name].value for name in lens[3:] if name in estimates]
    known = [part for part in parts if not math.isnan(part)]
    return estimates[lens.total].value - sum(known)


def is_defined(estimate: Estimate | None) -> bool:
    """Whether a number was measured on any prompt."""
    return estimate is not None and estimate.num_prompts > 0
