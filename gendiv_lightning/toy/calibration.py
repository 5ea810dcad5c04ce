"""Samples analytic generators and measures their decomposition as a run does, for comparison with the ground truth."""

from __future__ import annotations

import torch
from torch import Tensor

from gendiv_lightning.callbacks import Decompose
from gendiv_lightning.metrics.decomposition import SequenceEntropy, TokenEntropy
from gendiv_lightning.prompts.design import make_batch
from gendiv_lightning.recorders import ParaphraseLikelihood, TokenMarginals
from gendiv_lightning.records import PromptSamples, SampleDesign, split_by_prompt
from gendiv_lightning.toy.analytic import AnalyticGenerator


def sample_crossed(generator: AnalyticGenerator, probe: Decompose, seed: int = 0) -> list[PromptSamples]:
    """Sample all prompts in the design of `Decompose`, with the sampling loop, noise and recorders of runs."""
    batch = make_batch(seed, generator.prompts, probe.design(SampleDesign()))
    return split_by_prompt(generator.sample(batch, recorders=(TokenMarginals, ParaphraseLikelihood)))


def measure(prompts: list[PromptSamples], *, counts: bool = False) -> dict[str, Tensor]:
    """Estimates (P,) of `TokenEntropy` and `SequenceEntropy` by name; `counts` includes the slow token counts."""
    estimates: dict[str, Tensor] = {}
    for metric in (TokenEntropy(), SequenceEntropy()):
        rows = [metric.measure(samples if counts else samples._replace(tokens=None)) for samples in prompts]
        estimates |= dict(zip(metric.names, torch.tensor(rows, dtype=torch.float64).T, strict=True))
    return estimates
