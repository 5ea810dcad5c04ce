"""Runs with different numbers of samples: what grows with the number is brought down to the smallest of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gendiv_lightning.analysis.decompose import read_prompts
from gendiv_lightning.functional.bootstrap import bootstrap_mean
from gendiv_lightning.functional.rarefaction import rarefied_entries, rarefied_vendi
from gendiv_lightning.records.estimate import Estimate
from gendiv_lightning.runs.load import Run
from gendiv_lightning.storage.codebook_counts import read_usage

if TYPE_CHECKING:
    from gendiv_lightning.metrics.vendi import Vendi

VENDI, COVERAGE = "diversity/vendi[", "codebook/coverage"
ENTRIES, SHARE = "codebook/prompt_entries", "codebook/prompt_coverage"
# Numbers that depend on the number of samples and cannot be brought down from what a run stores.
DEPENDENT = (
    *("diversity/vendi_set", "diversity/conditional_vendi", "diversity/information_vendi", "codebook["),
    *("quality/fid", "quality/fd", "quality/precision", "quality/recall", "quality/density", "quality/coverage"),
    "attributes/coverage[",
    *("codebook/entropy_plugin_bits", "codebook/gini", "codebook/prompt_gini"),
    # Entropies of few tokens: the correction leaves a bias that changes with their number.
    *("codebook/information_bits", "codebook/prompt_entropy_bits", "codebook/prompt_perplexity"),
)
BOOTSTRAP = "BCa bootstrap over prompts"
DEPENDENT_ENDS = ("/plugin", "/order1", "/unseen")


def num_samples(run: Run) -> int:
    """Samples per prompt of a run that can be rarefied, see `why_not`."""
    return int(run.protocol["data"]["num_samples"])


def why_not(run: Run) -> str:
    """Why a random part of the samples of a run is no smaller run of its design; empty if it is."""
    if any("num_paths" in probe for probe in run.protocol["probes"]):
        return "the samples of a prompt share paths"
    if any(probe.get("num_paraphrases") for probe in run.protocol["probes"]):
        return "every paraphrase of a prompt has the same number of samples"
    return ""


def rarefy(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """The runs, which must be such that they can be rarefied (`why_not`), at the smallest number of samples per prompt.

    Vendi scores are measured again on the stored images, as means over random subsets. Distinct codebook entries and
    coverage are expectations over all subsets. Unbiased and bias-corrected numbers stay as they are, and what cannot be
    brought down is left out.

    Returns:
        The runs with these numbers in the place of theirs, and the names of the numbers that were left out.
    """
    kept = min(map(num_samples, runs))
    shared = set.intersection(*(set(run.estimates) for run in runs))
    dropped = sorted(name for name in shared if name.startswith(DEPENDENT) or name.endswith(DEPENDENT_ENDS))
    return [_rarefied(run, kept, dropped) for run in runs], dropped


def _rarefied(run: Run, kept: int, dropped: Sequence[str]) -> Run:
    estimates = {name: estimate for name, estimate in run.estimates.items() if name not in dropped}
    columns = {name: column for name, column in run.columns.items() if name not in dropped}
    if num_samples(run) == kept:
        return run._replace(estimates=estimates, columns=columns)
    metrics = {name: _vendi(name) for name in columns if name.startswith(VENDI)}
    size = len(read_usage(run.folder.path / "usage.safetensors")[0]) if COVERAGE in estimates else 0
    found: dict[str, Tensor] = {name: torch.full((len(run.prompts),), math.nan).double() for name in metrics}
    distinct, unseen = torch.full((len(run.prompts),), math.nan).double(), torch.ones(size, dtype=torch.float64)
    for samples in read_prompts(run.folder, "Rarefying"):
        for name, metric in metrics.items():
            if kept > 1:  # as in `Vendi`, one image has no score
                found[name][samples.place] = rarefied_vendi(metric.features(samples.images), kept, metric.q)
        if size and samples.tokens is not None:
            missing = rarefied_entries(samples.tokens, kept, size)
            distinct[samples.place] = (1 - missing).sum()
            unseen *= missing
    if size:
        found |= {ENTRIES: distinct, SHARE: distinct / size}
    columns |= found
    word = f"rarefied to {kept} samples per prompt"
    for name, column in found.items():
        known = column[~column.isnan()]
        mean = bootstrap_mean(known)
        estimates[name] = Estimate(*mean, *_sizes(estimates[name], kept, len(known)), f"{word}; {BOOTSTRAP}")
    if size:
        value, before = (1 - unseen).mean().item(), estimates[COVERAGE]
        sizes = _sizes(before, kept, before.num_prompts)
        estimates[COVERAGE] = Estimate(value, math.nan, math.nan, *sizes, word)
    return run._replace(estimates=estimates, columns=columns)


def _sizes(estimate: Estimate, kept: int, num_prompts: int) -> tuple[int, int, int]:
    """Numbers of prompts, paths and samples at `kept` samples per prompt, which share one path or none."""
    num_samples = kept * num_prompts
    return num_prompts, min(num_samples, estimate.num_paths), num_samples


def _vendi(name: str) -> Vendi:
    """The metric of a number's name, with its network."""
    from gendiv_lightning.metrics.registry import make_metric
    from gendiv_lightning.metrics.vendi import Vendi

    metric = make_metric(name.removeprefix("diversity/"))
    assert isinstance(metric, Vendi), "the name is its own"
    metric.load()
    return metric
