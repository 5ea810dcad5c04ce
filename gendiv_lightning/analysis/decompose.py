"""Further analyses of a decomposed run: entropies from counts, tests of groups, factorial effects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from gendiv_lightning.analysis.effects import Interval
from gendiv_lightning.errors import MetricInputError, UnknownNameError
from gendiv_lightning.functional import entropy
from gendiv_lightning.functional.bootstrap import bootstrap_mean
from gendiv_lightning.functional.comparison import factorial_effects, holm, sign_flip_test
from gendiv_lightning.functional.kernel_entropy import squared_distances
from gendiv_lightning.functional.permanova import Permanova, permanova
from gendiv_lightning.records import Estimate, PromptSamples, split_by_prompt
from gendiv_lightning.runs.folder import RunFolder
from gendiv_lightning.runs.load import DISTANCES, Run, Setting

if TYPE_CHECKING:
    from gendiv_lightning.features.base import ImageFeatures
    from gendiv_lightning.metrics.base import SampleMetric
    from gendiv_lightning.metrics.diversity import DiversityMetric

ESTIMATORS = ("plugin", "miller_madow", "grassberger", "chao_shen", "chao_wang_jost")


class CountEntropy(NamedTuple):
    """H_total in bits per token, from counts only, by one estimator of `functional.entropy`."""

    estimator: str
    bits: Interval


class GroupTests(NamedTuple):
    """Whether samples of a group are more alike than expected by chance; None if there is only one group.

    Attributes:
        paths: groups are the sampler paths of a paraphrase.
        paraphrases: groups are the paraphrases of a prompt.
    """

    paths: Permanova | None
    paraphrases: Permanova | None


class Effect(NamedTuple):
    """A main effect or interaction of a 2 x 2 x 2 design on a distance.

    Attributes:
        switches: some of 0 (path free, not frozen), 1 (tokens drawn, not argmax), 2 (paraphrases pooled, not one).
        mean: mean over prompts with its interval.
        p_value: p-value by sign flips, Holm-corrected over all effects.
    """

    switches: tuple[int, ...]
    mean: Interval
    p_value: float


def read_prompts(folder: RunFolder, what: str | None) -> Iterator[PromptSamples]:
    """All samples, prompt by prompt, with a progress bar of this name; None for no bar."""
    shards = tqdm(folder.shards(), desc=what, unit="shard", delay=2, leave=False, disable=what is None)
    for batch in folder.read_samples(shards):
        yield from split_by_prompt(batch)


def find_distance(run: Run, distance: str | None) -> str:
    """Name of a distance for which a run has the parts of the decomposition.

    Args:
        run: the run.
        distance: name as in configs; None for the first of `DISTANCES` that exists.

    Raises:
        UnknownNameError: the run has no such numbers.
    """
    measured = [
        name.removesuffix("/exec") for name in run.estimates if name.startswith("diversity/") and "/exec" in name
    ]
    known = [name for name in DISTANCES if name in measured] or measured
    if distance is None and known:
        return known[0]
    if f"diversity/{distance}" in measured:
        return f"diversity/{distance}"
    names = ", ".join(name.removeprefix("diversity/") for name in measured) or "none"
    raise UnknownNameError(f"--distance {distance}: {run.folder.path} has no numbers of it. Choose from: {names}")


def distance_metric(name: str) -> DiversityMetric:
    """The distance of a number's name, with its network loaded."""
    from gendiv_lightning.metrics.diversity import DiversityMetric
    from gendiv_lightning.metrics.registry import make_metric

    metric = make_metric(name.removeprefix("diversity/"))
    assert isinstance(metric, DiversityMetric), "the run contains its parts"
    metric.load()
    return metric


def count_entropies(prompts: Iterable[PromptSamples]) -> list[CountEntropy]:
    """H_total from counts by every estimator; large differences mean too few samples. Empty without tokens."""
    rows: dict[str, list[Tensor]] = {name: [] for name in ESTIMATORS}
    for samples in prompts:
        if samples.tokens is None:
            return []
        _, entries = samples.tokens.unique(return_inverse=True)
        counts = torch.nn.functional.one_hot(entries).sum(0)
        for name, values in rows.items():
            values.append(getattr(entropy, f"{name}_entropy")(counts).mean())
    return [CountEntropy(name, Interval(*bootstrap_mean(torch.stack(values)))) for name, values in rows.items()]


def find_bandwidth(prompts: Iterable[PromptSamples], features: ImageFeatures) -> float:
    """Median distance of two samples of a prompt that share no path, in the features' unit, to four digits.

    Raises:
        ValueError: no prompt has two such samples, or most of them are equal.
    """
    distances = []
    for samples in prompts:
        _, cell = samples.groups.unique(dim=0, return_inverse=True)
        apart = (cell[:, None] != cell).triu()
        distances.append(squared_distances(features(samples.images)).cpu()[apart].sqrt())
    median = torch.cat(distances).median().item() if distances and sum(map(len, distances)) else 0.0
    if not median > 0:
        raise MetricInputError(
            "no bandwidth: most samples of a prompt on different paths have equal features, or there are none. Give "
            "one in the brackets, as in --kernel 'tiny,bandwidth=0.5'"
        )
    return float(f"{median:.4g}")


def measure_stored(prompts: Iterable[PromptSamples], metric: SampleMetric) -> dict[str, Estimate]:
    """A metric, loaded, of stored samples."""
    for samples in prompts:
        metric.update(samples)
    return metric.compute()


def compare_groups(prompts: Iterable[PromptSamples], metric: DiversityMetric) -> GroupTests:
    """PERMANOVA within prompts; the network of the distance must be loaded."""
    matrices, groups = [], []
    for samples in prompts:
        matrices.append(metric.matrix(samples).cpu())
        groups.append(samples.groups)

    def paths() -> Iterator[tuple[Tensor, Tensor]]:
        for group, matrix in zip(groups, matrices, strict=True):
            for paraphrase in group[:, 0].unique():
                is_own = group[:, 0] == paraphrase
                yield matrix[is_own][:, is_own], group[is_own, 1]

    def paraphrases() -> Iterator[tuple[Tensor, Tensor]]:
        yield from ((matrix, group[:, 0]) for group, matrix in zip(groups, matrices, strict=True))

    return GroupTests(_permanova(paths()), _permanova(paraphrases()))


def _permanova(groups: Iterator[tuple[Tensor, Tensor]]) -> Permanova | None:
    try:
        return permanova(groups)
    except ValueError:  # there is only one group
        return None


def find_effects(plain: Setting, argmax: Setting, name: str) -> list[Effect]:
    """Effects of a 2 x 2 x 2 design: path free or frozen, tokens drawn or argmax, paraphrases pooled or one.

    Each paraphrase has its own frozen path, as under `FreezePath`, so it only affects pairs within a paraphrase, which
    are 1 / Q of all pairs.

    Args:
        plain: a run that crosses paths with executions.
        argmax: the same run with execution noise off.
        name: name of the distance.

    Raises:
        MetricInputError: a part of the distance is missing from a run.
    """
    (design,) = plain.design
    num_paraphrases = max(1, design["num_paraphrases"])
    both = torch.stack([_cells(setting, name, num_paraphrases) for setting in (argmax, plain)], 1)
    effects = factorial_effects(both)
    corrected = holm(torch.tensor([sign_flip_test(values) for values in effects.values()])).tolist()
    return [
        Effect(switches, Interval(*bootstrap_mean(values)), p_value)
        for (switches, values), p_value in zip(effects.items(), corrected, strict=True)
    ]


def _cells(setting: Setting, name: str, num_paraphrases: int) -> Tensor:
    """Distances (2, 2, P): path frozen or free, by one paraphrase or all."""
    missing = [part for part in ("", "/within", "/sampler_path") if f"{name}{part}" not in setting.columns]
    if missing:
        raise MetricInputError(
            f"{setting.runs[0].folder.path} has no {name}{missing[0]}. Add the distance to the metrics of the run, or "
            "choose another one"
        )
    total, within, path = (setting.columns[f"{name}{part}"] for part in ("", "/within", "/sampler_path"))
    return torch.stack([torch.stack([within - path, total - path / num_paraphrases]), torch.stack([within, total])])
