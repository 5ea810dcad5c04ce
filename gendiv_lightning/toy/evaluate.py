"""The gates of an embedded generator: held-out captions, default sampling settings, read by the exact oracle."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from gendiv_lightning.functional.entropy import chao_wang_jost_entropy
from gendiv_lightning.generators.base import Generator
from gendiv_lightning.records import NoiseKey, Prompt, PromptBatch, prompt_id, split_by_prompt
from gendiv_lightning.toy import captions, presets, world
from gendiv_lightning.toy.metric import stated_right

STATED = {"short": (1, 2), "medium": (3,), "long": (5,)}


class Gate(NamedTuple):
    """One figure against the bar that committed weights are held to."""

    name: str
    value: float
    bar: float

    @property
    def passed(self) -> bool:
        """Whether the figure reaches the bar."""
        return self.value >= self.bar


class Row(NamedTuple):
    """A caption's samples: kind by stated groups, meaning, images (N,) as the oracle reads them, distances (N,)."""

    kind: str
    stated: dict[str, int]
    images: Tensor
    distances: Tensor


def sample_held_out(generator: Generator, num_prompts: int, num_samples: int, seed: int = 0) -> list[Row]:
    """Caption each held-out image (a third state 1 or 2 groups, a third 3, a third all 5), sample, read."""
    rng, kinds, meanings, prompts = random.Random(seed), [], [], []
    for place, image in enumerate(captions.held_out()[:num_prompts].tolist()):
        kinds.append(list(STATED)[place % 3])
        meanings.append(captions.meaning(image, rng.choice(STATED[kinds[-1]]), rng))
        text = captions.wording(meanings[-1], rng.choice(("short", "medium", "long")), rng)
        prompts.append(Prompt(prompt_id(text, f"held-out {place}"), text))
    rows = []
    for places in tqdm(torch.arange(num_prompts).split(16), desc="captions", unit="16 captions", leave=False):
        batch = _batch([prompts[place] for place in places], places.tolist(), num_samples, seed)
        for samples in split_by_prompt(generator.sample(batch)):
            rows.append(Row(kinds[samples.place], meanings[samples.place], *world.read(samples.images)))
    return rows


def _batch(prompts: list[Prompt], places: list[int], num_samples: int, seed: int) -> PromptBatch:
    keys = tuple(NoiseKey(prompt.id, 0, s, s) for prompt in prompts for s in range(num_samples))
    rows = tuple(row for row in range(len(prompts)) for _ in range(num_samples))
    return PromptBatch(seed, tuple(prompts), tuple(places), keys, rows)


def gates(rows: list[Row], coherence_bar: float) -> list[Gate]:
    """The gates: stated factors right .95, all of them .92, each free factor's entropy .9 of the truth, coherence."""
    right = [stated_right(row.images, row.stated) for row in rows]
    found = [Gate("stated factors right", _mean(lambda r: r.float().mean().item(), right), 0.95)]
    found.append(Gate("all stated right", _mean(lambda r: r.all(1).float().mean().item(), right), 0.92))
    for factor, (group, _) in world.FACTORS.items():
        free = [world.factors_of(row.images)[factor] for row in rows if group not in row.stated]
        entropy = _mean(lambda values: float(chao_wang_jost_entropy(values.bincount())), free)
        found.append(Gate(f"free entropy, {factor}", entropy / world.factor_entropy(factor), 0.90))
    coherent = [(row.distances < world.COHERENT_RMS).float().mean().item() for row in rows]
    return [*found, Gate("coherence", _mean(float, coherent), coherence_bar)]


def all_right_by_kind(rows: list[Row]) -> dict[str, float]:
    """Share of images that show all that the caption states, by how much it states."""
    return {
        kind: _mean(
            lambda row: stated_right(row.images, row.stated).all(1).float().mean().item(),
            [r for r in rows if r.kind == kind],
        )
        for kind in STATED
    }


def _mean(number: Callable, items: list) -> float:
    return sum(map(number, items)) / len(items) if items else math.nan


class Family(NamedTuple):
    """An embedded generator at its default sampling settings, and the coherence that its family is held to.

    Attributes:
        preset: makes it.
        coherence_bar: least share of images that show what the caption states.
    """

    preset: Callable[..., Generator]
    coherence_bar: float

    def load(self, batch_size: int = 64) -> Generator:
        """The generator, its weights loaded."""
        generator = self.preset(batch_size=batch_size)
        generator.load()
        return generator


FAMILIES = {
    "llamagen": Family(presets.llamagen, 0.95),
    "amused": Family(presets.amused, 0.90),
    "vq-diffusion": Family(presets.vq_diffusion, 0.85),
    "latent-diffusion": Family(presets.latent_diffusion, 0.90),
}
