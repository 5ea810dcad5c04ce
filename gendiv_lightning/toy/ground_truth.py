"""Compares the decompositions of a run on postcards with the ground truth, and attributes the difference.

The ground truth is known: H_total of a caption is log2 of the number of images that it fits, and paraphrases and paths
carry no information. A perfect generator (`PerfectPostcards`) is sampled for the same prompts, design and noise:
    run - truth = (run - measured perfect generator) + (measured perfect generator - truth)
                = model error + estimator error.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from gendiv_lightning.analysis.lenses import find_lenses
from gendiv_lightning.console.tables import format_table
from gendiv_lightning.functional.bootstrap import bootstrap_mean
from gendiv_lightning.functional.entropy import plugin_entropy
from gendiv_lightning.metrics.base import PromptMetric, compute_metrics
from gendiv_lightning.metrics.decomposition import SequenceEntropy, TokenEntropy
from gendiv_lightning.recorders import ParaphraseLikelihood, TokenMarginals
from gendiv_lightning.records import SampleBatch, split_by_prompt
from gendiv_lightning.toy.captions import parse
from gendiv_lightning.toy.perfect import PerfectPostcards, fitting_grids

LEGEND = """The ground truth is that of the captions. A perfect generator draws each postcard that a caption fits with
equal probability, for the same prompts, paraphrases and noise, and is measured in the same way. Its difference from the
ground truth is the estimator error; the difference between the run and the perfect generator is the model error. For
models that draw tokens more than once (aMUSEd, VQ-Diffusion) this holds only for counts and for the perceptual
decomposition. The other two describe the draws, so the last column also contains the entropy of discarded draws. Paired
by prompt, 95 % BCa intervals."""


class Comparison(NamedTuple):
    """One number (P,) of a decomposition: its ground truth, and its estimates for the perfect generator and the run."""

    lens: str
    part: str
    truth: Tensor
    perfect: Tensor
    run: Tensor


RECORDERS = (TokenMarginals, ParaphraseLikelihood)


def compare_with_truth(
    batches: Iterable[SampleBatch], columns: Mapping[str, Tensor], metric: PromptMetric
) -> list[Comparison]:
    """Sample the perfect generator for the prompts of a run, and measure both in the same way.

    Args:
        batches: all samples of the run; only their prompts and noise keys are used.
        columns: (P,) the run's numbers by name, ordered by prompt index.
        metric: the distance of the perceptual decomposition, loaded.
    """
    generator, metrics = PerfectPostcards(), (TokenEntropy(), SequenceEntropy(), metric)
    generator.load()
    captions: dict[int, str] = {}
    for sampled in batches:
        batch = sampled.batch
        captions |= {index: prompt.text for index, prompt in zip(batch.indices, batch.prompts, strict=True)}
        for samples in split_by_prompt(generator.sample(batch, recorders=RECORDERS)):
            for each in metrics:
                each.update(samples)
    estimates, perfect = compute_metrics(metrics)
    truths = [_ground_truth(captions[index]) for index in sorted(captions)]
    comparisons = []
    for lens in find_lenses(estimates):
        if "plug-in" in lens.title:
            continue
        total = torch.tensor([truth.get(lens.total, math.nan) for truth in truths], dtype=torch.float64)
        # Without a total in the run, its execution is compared: for a perfect generator, which has no path, both agree.
        whole = ("H_total", lens.total) if _is_defined(columns, lens.total) else ("H_exec", lens.execution)
        for part, name in (whole, ("sampler path", lens.sampler_path), ("prompt path", lens.prompt_path)):
            truth = total if name == whole[1] else torch.zeros(len(truths), dtype=torch.float64)
            if _is_defined(columns, name):
                comparisons.append(Comparison(lens.title, part, truth, perfect[name], columns[name]))
    return comparisons


def _is_defined(columns: Mapping[str, Tensor], name: str) -> bool:
    return name in columns and not bool(columns[name].isnan().all())


def _ground_truth(caption: str) -> dict[str, float]:
    """True H_total by the name of its estimator; a distance has no closed form."""
    grids = fitting_grids(parse(caption))
    counts = torch.nn.functional.one_hot(grids, int(grids.max()) + 1).sum(0)
    token = plugin_entropy(counts).mean().item()
    return {"h_total/token": token, "h_total/token/counts": token, "h_total/sequence": math.log2(len(grids))}


def format_truth(comparisons: Iterable[Comparison]) -> str:
    """Format comparisons as an aligned table with one row per number."""
    rows = [("decomposition", "ground truth", "perfect generator", "estimator error", "this run", "model error")]
    for lens, part, truth, perfect, run in comparisons:
        known = "-" if truth.isnan().all() else f"{truth.mean().item():.3f}"
        errors = [_mean(difference, sign="+") for difference in (perfect - truth, run - perfect)]
        rows.append((f"{lens}, {part}", known, _mean(perfect), errors[0], _mean(run), errors[1]))
    return f"{format_table(rows)}\n{LEGEND}"


def _mean(column: Tensor, sign: str = "") -> str:
    column = column[~column.isnan()]
    if not len(column):
        return "-"
    value, low, high = bootstrap_mean(column)
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def report_truth(batches: Iterable[SampleBatch], columns: Mapping[str, Tensor], metric: PromptMetric) -> str:
    """Run `compare_with_truth` and format the result as a table."""
    return format_truth(compare_with_truth(batches, columns, metric))
