"""What the lenses say of a run of the embedded world beside what is true, and whose error the difference is.

The truth of postcards is known: H_total of a caption is log2 of the number of images that it fits, wordings and paths
tell nothing. A perfect generator (`PerfectPostcards`) is sampled for the same prompts, by the same design and noise:
    run - truth = (run - perfect by the lens) + (perfect by the lens - truth) = model error + estimator error.
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

LEGEND = """The truth is that of the captions. A perfect generator draws each postcard that a caption fits with the same
probability, for the same prompts, wordings and noise, and is measured by the same lenses. What these say beside the
truth is their own error; what the run has beyond the perfect generator is the model's. Where tokens are drawn more than
once (aMUSEd, VQ-Diffusion) that is so for counts and for lens C: lens A by distributions and lens B speak of the draws,
and what these have beyond the tokens that stay is in the last column too. Paired by prompt, 95 % BCa intervals."""


class Comparison(NamedTuple):
    """A number of a lens, (P,) each: its truth, of the perfect generator by the lens, of the run by the lens."""

    lens: str
    part: str
    truth: Tensor
    perfect: Tensor
    run: Tensor


RECORDERS = (TokenMarginals, ParaphraseLikelihood)


def compare_with_truth(
    batches: Iterable[SampleBatch], columns: Mapping[str, Tensor], metric: PromptMetric
) -> list[Comparison]:
    """Sample the perfect generator where a run was sampled, measure it with the same lenses.

    Args:
        batches: all samples of the run, of which the prompts and the names of the noise are read.
        columns: (P,) the run's numbers by name, by the prompts' places.
        metric: the distance of lens C, loaded.
    """
    generator, metrics = PerfectPostcards(), (TokenEntropy(), SequenceEntropy(), metric)
    generator.load()
    captions: dict[int, str] = {}
    for sampled in batches:
        batch = sampled.batch
        captions |= {place: prompt.text for place, prompt in zip(batch.indices, batch.prompts, strict=True)}
        for samples in split_by_prompt(generator.sample(batch, recorders=RECORDERS)):
            for each in metrics:
                each.update(samples)
    estimates, perfect = compute_metrics(metrics)
    truths = [_truth(captions[place]) for place in sorted(captions)]
    found = []
    for lens in find_lenses(estimates):
        if "plug-in" in lens.title:
            continue
        total = torch.tensor([truth.get(lens.total, math.nan) for truth in truths], dtype=torch.float64)
        # Where the run has no total, what it has of the perfect generator's is all of it: nothing is left to a path.
        whole = ("H_total", lens.total) if _is_there(columns, lens.total) else ("H_exec", lens.execution)
        for part, name in (whole, ("sampler path", lens.sampler_path), ("wording", lens.prompt_path)):
            truth = total if name == whole[1] else torch.zeros(len(truths), dtype=torch.float64)
            if _is_there(columns, name):
                found.append(Comparison(lens.title, part, truth, perfect[name], columns[name]))
    return found


def _is_there(columns: Mapping[str, Tensor], name: str) -> bool:
    return name in columns and not bool(columns[name].isnan().all())


def _truth(caption: str) -> dict[str, float]:
    """H_total by the name of what estimates it. That of a distance has no closed form."""
    grids = fitting_grids(parse(caption))
    counts = torch.nn.functional.one_hot(grids, int(grids.max()) + 1).sum(0)
    token = plugin_entropy(counts).mean().item()
    return {"h_total/token": token, "h_total/token/counts": token, "h_total/sequence": math.log2(len(grids))}


def format_truth(found: Iterable[Comparison]) -> str:
    """An aligned table, a row a number."""
    rows = [("lens", "truth", "a perfect generator", "estimator error", "this run", "model error")]
    for lens, part, truth, perfect, run in found:
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
    """`compare_with_truth` as a table."""
    return format_truth(compare_with_truth(batches, columns, metric))
