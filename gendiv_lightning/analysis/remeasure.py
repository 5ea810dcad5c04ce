"""Metrics of stored images, so that finished runs can be compared by numbers that they did not measure."""

from __future__ import annotations

from collections.abc import Sequence

from gendiv_lightning.analysis.decompose import read_prompts
from gendiv_lightning.metrics.base import SampleMetric, compute_metrics
from gendiv_lightning.metrics.registry import make_metrics
from gendiv_lightning.runs.load import Run
from gendiv_lightning.storage.codebook_counts import read_usage


def make_metrics_of(run: Run, names: Sequence[str]) -> list[SampleMetric]:
    """Metrics by name for the stored samples of a run; ValueError if one is unknown or needs more than they contain."""
    usage = run.folder.path / "usage.safetensors"
    return make_metrics(names, codebook_size=len(read_usage(usage)[0]) if usage.is_file() else None)


def remeasure(run: Run, names: Sequence[str]) -> Run:
    """A run with the numbers of these metrics, measured on its stored samples, in the place of its own."""
    metrics = make_metrics_of(run, names)
    for metric in metrics:
        metric.load()
        metric.check_prompts(run.folder.prompt_texts())
    for samples in read_prompts(run.folder, f"Measuring {run.folder.path.name}"):
        for metric in metrics:
            metric.update(samples)
    estimates, columns = compute_metrics(metrics)
    return run._replace(estimates=estimates, columns=columns)
