"""Are different models more alike than samples of one of them? Distances of samples across and within models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gendiv_lightning.analysis.decompose import read_prompts
from gendiv_lightning.analysis.effects import Interval
from gendiv_lightning.errors import ImageSizeError, NotComparableError
from gendiv_lightning.functional.bootstrap import bootstrap_mean, bootstrap_ratio
from gendiv_lightning.functional.pairwise import split, split_paths
from gendiv_lightning.records import PromptSamples
from gendiv_lightning.runs.load import Run

if TYPE_CHECKING:
    from gendiv_lightning.metrics.diversity import DiversityMetric


class Pair(NamedTuple):
    """Two models.

    Attributes:
        models: their places.
        distance: mean distance of a sample of one and a sample of the other.
        homogeneity: mean distance within the two over it. 1: samples of different models differ no more than those of
            one model; near 0: the models show different images.
    """

    models: tuple[int, int]
    distance: Interval
    homogeneity: Interval


class ModelDistances(NamedTuple):
    """Distances within and between models, over the prompts for which all are defined.

    Attributes:
        within: mean distance of two samples of each model.
        pairs: of models.
        homogeneity: over all pairs.
        num_prompts: that entered.
        num_dropped: prompts of all models that did not, since a model has no two samples that are independent draws.
    """

    within: tuple[Interval, ...]
    pairs: tuple[Pair, ...]
    homogeneity: Interval
    num_prompts: int
    num_dropped: int


def compare_models(runs: Sequence[Run], metric: DiversityMetric, side: int | None = None) -> ModelDistances:
    """Distances within and between models, prompt by prompt.

    Args:
        runs: one of each model, over one prompt set; numbers of samples may differ, all means over pairs are unbiased.
        metric: the distance, loaded.
        side: pixels per side that all images are brought to, with antialiasing; None leaves them as they are.

    Raises:
        ValueError: the runs have no prompt in common, none with two independent samples of each model, or images of
            different sizes.
    """
    shared = set.intersection(*(set(run.prompts) for run in runs))
    if not shared:
        raise NotComparableError("these runs have no prompt in common. Give runs over one prompt set")
    together = _read_together(runs, shared)
    found = torch.stack([model_matrix(_resized(all_samples, side), metric) for all_samples in together])  # (P, M, M)
    is_defined = ~found.isnan().flatten(1).any(1)
    if not is_defined.any():
        raise NotComparableError(
            "no prompt has two independent samples of every model. Give runs with two or more samples per prompt, on "
            "different paths"
        )
    found, num_dropped = found[is_defined], int((~is_defined).sum())
    within = found.diagonal(dim1=1, dim2=2)
    pairs, everything = [], []
    for a, b in combinations(range(len(runs)), 2):
        across, own = found[:, a, b], within[:, [a, b]].mean(1)
        everything.append((own, across))
        pairs.append(Pair((a, b), _mean(across), Interval(*bootstrap_ratio(own, across))))
    own, across = (torch.stack(columns).mean(0) for columns in zip(*everything, strict=True))
    overall = Interval(*bootstrap_ratio(own, across))
    return ModelDistances(tuple(map(_mean, within.T)), tuple(pairs), overall, len(found), num_dropped)


def model_matrix(samples: Sequence[PromptSamples], metric: DiversityMetric) -> Tensor:
    """(M, M) mean distances of two draws from two models, for one prompt; on the diagonal of two from one.

    Args:
        samples: of each model. Paraphrases are pooled; two samples of one path do not count as independent draws.
        metric: the distance.
    """
    sizes = {tuple(each.images.shape[2:]) for each in samples}
    if len(sizes) > 1:
        raise ImageSizeError(
            f"models must have images of one size to be compared, got {' and '.join(map(str, sorted(sizes)))}. Pass "
            "--resize PIXELS"
        )
    rows = []
    for model, each in enumerate(samples):
        groups = each.groups
        is_shared = len(groups.unique(dim=0)) < len(groups)
        path = groups[:, 1] if is_shared else torch.zeros_like(groups[:, 1])
        rows.append(torch.stack([torch.full_like(path, model), groups[:, 0], path], 1))
    cells, cell = torch.cat(rows).unique(dim=0, return_inverse=True)
    images = torch.cat([each.images for each in samples]).to(metric.device)
    matrix = metric.mean_distances(images, cell).double()
    owner, found = cells[:, 0], torch.zeros(len(samples), len(samples), dtype=torch.float64)
    for a in range(len(samples)):
        own = matrix[owner == a][:, owner == a]
        has_paths = bool((cells[owner == a][:, 2] != 0).any())
        found[a, a] = split_paths(own, cells[owner == a][:, 1]).total if has_paths else split(own).total
        for b in range(a):
            found[a, b] = found[b, a] = matrix[owner == a][:, owner == b].mean()
    return found


def _resized(samples: Sequence[PromptSamples], side: int | None) -> Sequence[PromptSamples]:
    if side is None:
        return samples
    size = (side, side)
    return [s._replace(images=F.interpolate(s.images, size, mode="bicubic", antialias=True)) for s in samples]


def _mean(column: Tensor) -> Interval:
    return Interval(*bootstrap_mean(column))


def _read_together(runs: Sequence[Run], shared: set[str]) -> Iterator[list[PromptSamples]]:
    """Samples of all runs, prompt by prompt; what comes early of a run waits for the others."""
    # One progress bar for all: the runs are read side by side.
    readers = {place: read_prompts(run.folder, None if place else "Reading") for place, run in enumerate(runs)}
    waiting: dict[str, dict[int, PromptSamples]] = {}
    while readers:
        for place, reader in [*readers.items()]:
            samples = next(reader, None)
            if samples is None:
                del readers[place]
                continue
            prompt = runs[place].prompts[samples.place]
            if prompt in shared:
                mine = waiting.setdefault(prompt, {})
                mine[place] = samples
                if len(mine) == len(runs):
                    yield [mine[number] for number in range(len(runs))]
                    del waiting[prompt]
