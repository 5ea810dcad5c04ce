"""Quality gates of the toy models: held-out captions and default sampling settings, read by an exact classifier."""

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
from gendiv_lightning.toy import captions, postcards, presets
from gendiv_lightning.toy.metric import stated_right

STATED = {"short": (1, 2), "medium": (3,), "long": (5,)}


class Gate(NamedTuple):
    """A figure and the threshold that committed weights must reach."""

    name: str
    value: float
    bar: float

    @property
    def passed(self) -> bool:
        """Whether the figure reaches the threshold."""
        return self.value >= self.bar


class Row(NamedTuple):
    """Samples of a caption: its kind by number of stated groups, its meaning, the images read (N,), distances (N,)."""

    kind: str
    stated: dict[str, int]
    images: Tensor
    distances: Tensor


def sample_held_out(generator: Generator, num_prompts: int, num_samples: int, seed: int = 0) -> list[Row]:
    """Write a caption for each held-out image (in turn 1 or 2, 3, and all 5 groups), sample it, and read the images."""
    rng, kinds, meanings, prompts = random.Random(seed), [], [], []
    for index, image in enumerate(captions.held_out()[:num_prompts].tolist()):
        kinds.append(list(STATED)[index % 3])
        meanings.append(captions.meaning(image, rng.choice(STATED[kinds[-1]]), rng))
        text = captions.make_caption(meanings[-1], rng.choice(("short", "medium", "long")), rng)
        prompts.append(Prompt(prompt_id(text, f"held-out {index}"), text))
    rows = []
    for indices in tqdm(torch.arange(num_prompts).split(16), desc="captions", unit="16 captions", leave=False):
        batch = _batch([prompts[index] for index in indices], indices.tolist(), num_samples, seed)
        for samples in split_by_prompt(generator.sample(batch)):
            rows.append(Row(kinds[samples.place], meanings[samples.place], *postcards.read(samples.images)))
    return rows


def _batch(prompts: list[Prompt], indices: list[int], num_samples: int, seed: int) -> PromptBatch:
    keys = tuple(NoiseKey(prompt.id, 0, s, s) for prompt in prompts for s in range(num_samples))
    rows = tuple(row for row in range(len(prompts)) for _ in range(num_samples))
    return PromptBatch(seed, tuple(prompts), tuple(indices), keys, rows)


def gates(rows: list[Row], coherence_bar: float) -> list[Gate]:
    """The gates: stated factors right 0.95, all of them 0.92, entropy of free factors 0.9 of the truth, coherence."""
    right = [stated_right(row.images, row.stated) for row in rows]
    result = [Gate("stated factors right", _mean(lambda r: r.float().mean().item(), right), 0.95)]
    result.append(Gate("all stated right", _mean(lambda r: r.all(1).float().mean().item(), right), 0.92))
    for factor, (group, _) in postcards.FACTORS.items():
        free = [postcards.factors_of(row.images)[factor] for row in rows if group not in row.stated]
        entropy = _mean(lambda values: float(chao_wang_jost_entropy(values.bincount())), free)
        result.append(Gate(f"free entropy, {factor}", entropy / postcards.factor_entropy(factor), 0.90))
    coherent = [(row.distances < postcards.COHERENT_RMS).float().mean().item() for row in rows]
    return [*result, Gate("coherence", _mean(float, coherent), coherence_bar)]


def all_right_by_kind(rows: list[Row]) -> dict[str, float]:
    """Share of images that show everything that the caption states, by kind of caption."""
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
    """A toy model at its default sampling settings, and the coherence gate of its family.

    Attributes:
        preset: constructor of the generator.
        coherence_bar: minimum share of images that are valid postcards.
    """

    preset: Callable[..., Generator]
    coherence_bar: float

    def load(self, batch_size: int = 64) -> Generator:
        """The generator with its weights loaded."""
        generator = self.preset(batch_size=batch_size)
        generator.load()
        return generator


FAMILIES = {
    "llamagen": Family(presets.llamagen, 0.95),
    "amused": Family(presets.amused, 0.90),
    "vq-diffusion": Family(presets.vq_diffusion, 0.85),
    "latent-diffusion": Family(presets.latent_diffusion, 0.90),
}
