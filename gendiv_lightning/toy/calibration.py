"""The decomposition of analytic generators, sampled and measured as a run does: what is held against their truth."""

from __future__ import annotations

import torch
from torch import Tensor

from gendiv_lightning.callbacks import Decompose
from gendiv_lightning.datamodules.prompts import plan_rows
from gendiv_lightning.metrics.decomposition import SequenceEntropy, TokenEntropy
from gendiv_lightning.records import PromptBatch, PromptSamples, SamplePlan, split_by_prompt
from gendiv_lightning.sampling import plan_samples
from gendiv_lightning.toy.analytic import AnalyticGenerator


def sample_crossed(generator: AnalyticGenerator, probe: Decompose, seed: int = 0) -> list[PromptSamples]:
    """The samples of all prompts that `Decompose` plans, by the project's own loop, noise and recorder."""
    plan = plan_samples(SamplePlan(), [probe])
    named = [(row, key) for row, prompt in enumerate(generator.prompts) for key in plan_rows(prompt, plan)]
    rows, keys = zip(*named, strict=True)
    places = tuple(range(len(generator.prompts)))
    batch = PromptBatch(seed, generator.prompts, places, keys, rows, scores_wordings=plan.scores_wordings)
    return split_by_prompt(generator.sample(batch))


def measure(prompts: list[PromptSamples], *, counts: bool = False) -> dict[str, Tensor]:
    """Estimates (P,) by name, of `TokenEntropy` and `SequenceEntropy`; counting tokens takes most of the time."""
    found: dict[str, Tensor] = {}
    for metric in (TokenEntropy(), SequenceEntropy()):
        rows = [metric.measure(samples if counts else samples._replace(tokens=None)) for samples in prompts]
        found |= dict(zip(metric.names, torch.tensor(rows, dtype=torch.float64).T, strict=True))
    return found
