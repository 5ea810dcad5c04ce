"""The decomposition of analytic generators, sampled and measured as a run does: what is held against their truth."""

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
    """The samples of all prompts that `Decompose` plans, by the project's own loop, noise and recorder."""
    batch = make_batch(seed, generator.prompts, probe.design(SampleDesign()))
    return split_by_prompt(generator.sample(batch, recorders=(TokenMarginals, ParaphraseLikelihood)))


def measure(prompts: list[PromptSamples], *, counts: bool = False) -> dict[str, Tensor]:
    """Estimates (P,) by name, of `TokenEntropy` and `SequenceEntropy`; counting tokens takes most of the time."""
    found: dict[str, Tensor] = {}
    for metric in (TokenEntropy(), SequenceEntropy()):
        rows = [metric.measure(samples if counts else samples._replace(tokens=None)) for samples in prompts]
        found |= dict(zip(metric.names, torch.tensor(rows, dtype=torch.float64).T, strict=True))
    return found
