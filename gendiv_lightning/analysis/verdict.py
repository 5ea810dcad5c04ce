"""Classify a model as compression-prioritised, diversity-prioritised or decoupled, by a rule that is printed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gendiv_lightning.errors import MetricInputError, TooLittleDataError

if TYPE_CHECKING:
    from torch import Tensor

    from gendiv_lightning.runs.load import Setting

RULE = """The rule, for the distance of two samples of one paraphrase (shares are ratios of means over prompts):
  decoupled                 at least 1/2 of the diversity remains under Argmax, the subset changes it by at most 10 %
  compression-prioritised   less than 1/10 remains under Argmax, paths are less than 1/10 of it, perplexity below K / 2
  diversity-prioritised     execution is more than 1/2 of it, and the subset removes more than 10 %
  undecided                 none or several of these, or the same answer in fewer than 9 of 10 bootstrap resamples"""
NUM_RESAMPLES = 2000


class Verdict(NamedTuple):
    """The kind of model by `RULE`, and how certain it is.

    Attributes:
        kind: a kind of the rule.
        certainty: share of bootstrap resamples over prompts with this answer, before it may become "undecided".
        shares: share remaining under Argmax, share remaining under the subset, share of paths, perplexity over K.
    """

    kind: str
    certainty: float
    shares: tuple[float, float, float, float]


def judge_runs(plain: Setting, argmax: Setting, subset: Setting, name: str) -> Verdict:
    """Apply `RULE` to three runs of one design.

    Args:
        plain: run with the `Decompose` design.
        argmax: the same run under `Argmax`.
        subset: the same run under `CodebookSubset`.
        name: name of the distance.

    Raises:
        MetricInputError: a number that the rule needs is missing from a run.
        TooLittleDataError: there are fewer than two prompts.
    """
    from gendiv_lightning.analysis.effects import codebook_size

    needed = ((plain, f"{name}/exec"), *((setting, f"{name}/within") for setting in (plain, argmax, subset)))
    for setting, number in needed:
        if number not in setting.columns:
            raise MetricInputError(
                f"{setting.runs[0].folder.path} has no {number}. Add the distance to the metrics of the run, or choose "
                "another one"
            )
    perplexity = plain.value("codebook/perplexity") / codebook_size(plain)
    within = [setting.columns[f"{name}/within"] for setting in (plain, argmax, subset)]
    return judge(within[0], plain.columns[f"{name}/exec"], within[1], within[2], perplexity)


def judge(
    total: Tensor, execution: Tensor, argmax: Tensor, subset: Tensor, perplexity_share: float, seed: int = 0
) -> Verdict:
    """Apply `RULE`.

    Args:
        total: (P,) diversity of each prompt within a paraphrase, from a run with `Decompose`.
        execution: (P,) diversity given the path.
        argmax: (P,) the same as `total` under `Argmax`.
        subset: (P,) the same as `total` under `CodebookSubset`.
        perplexity_share: 2^H(C) over K of the baseline.
        seed: seed of the bootstrap.
    """
    import torch  # not at the top: `--help` prints the rule and must start quickly

    columns = torch.stack([total, execution, argmax, subset], 1).double()
    columns = columns[~columns.isnan().any(1)]
    if len(columns) < 2:
        raise TooLittleDataError(
            f"a verdict needs at least two prompts that all runs have, got {len(columns)}. Use more prompts"
        )
    draws = torch.randint(len(columns), (NUM_RESAMPLES, len(columns)), generator=torch.Generator().manual_seed(seed))
    whole, *resampled = (_shares(means) for means in (columns.mean(0), *columns[draws].mean(1)))
    kind = _kind(whole, perplexity_share)
    certainty = sum(_kind(shares, perplexity_share) == kind for shares in resampled) / NUM_RESAMPLES
    return Verdict(kind if certainty >= 0.9 else "undecided", certainty, (*whole, perplexity_share))


def _shares(means: Tensor) -> tuple[float, float, float]:
    total, execution, argmax, subset = means.tolist()
    return argmax / total, subset / total, 1 - execution / total


def _kind(shares: tuple[float, float, float], perplexity_share: float) -> str:
    survives_argmax, survives_subset, path = shares
    found = {
        "decoupled": survives_argmax >= 0.5 and abs(1 - survives_subset) <= 0.1,
        "compression-prioritised": survives_argmax < 0.1 and path < 0.1 and perplexity_share < 0.5,
        "diversity-prioritised": path < 0.5 and survives_subset < 0.9,
    }
    kinds = [kind for kind, is_so in found.items() if is_so]
    return kinds[0] if len(kinds) == 1 else "undecided"
