"""The probes of the paper, the runs that answer its questions, and its claims compared with the measurements.

This is the only module that names probes and families, because the claims are about three probes and three families;
all other code reads the descriptions that runs store. A claim is decided by the position of an interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gendiv_lightning.analysis.branch import branches_of
from gendiv_lightning.analysis.effects import Interval, codebook_size, share_left, share_within
from gendiv_lightning.analysis.verdict import Verdict, judge_runs
from gendiv_lightning.runs.load import Family, Setting

PAPER = "arXiv 2512.01831"
RULE = (
    "Each claim is a share with a threshold, taken from the rule of the verdict. It agrees if the whole 95 % interval "
    "is on the side of the claim, is contradicted if the whole interval is on the other side, and is undecided "
    "otherwise."
)
DOES_NOT_APPLY = "does not apply"
NO_TOKENS = (
    "{} has continuous latents instead of tokens. Codebook subsets, token entropies and codebook usage do not apply "
    "to it; distances, path and execution do."
)
ARGMAX, SUBSET, PARAPHRASE, DECOMPOSE = "Argmax", "CodebookSubset", "Paraphrase", "Decompose"
FREQUENT, WITHOUT_FREQUENT, MIXED = "most_frequent", "drop_most_frequent", "mixed"
LLAMAGEN, AMUSED, VQ_DIFFUSION = "llamagen", "amused", "vqdiffusion"

# --- the runs that answer the questions of the paper ---


def arm_of(setting: Setting) -> str:
    """The arm of the paper for a setting: baseline, argmax, subset, paraphrase or enhanced; otherwise "other"."""
    probes = {probe["probe"] for probe in setting.probes} - {DECOMPOSE}
    if probes and setting.label.select == WITHOUT_FREQUENT:
        return "enhanced"
    arms = {ARGMAX: "argmax", SUBSET: "subset", PARAPHRASE: "paraphrase"}
    return "baseline" if not probes else arms.get(next(iter(probes)), "other") if len(probes) == 1 else "other"


def argmax_of(family: Family) -> Setting | None:
    """The setting with execution noise off."""
    return family.first(ARGMAX)


def single_probes(family: Family) -> list[Setting]:
    """Settings with a baseline and one probe that isolates a source; subsets and branches are shown as curves."""
    in_curves = [*family.find(SUBSET), *branches_of(family).values()]
    return [
        setting
        for setting in family.settings
        if len(setting.probes) == 1
        and setting.description.probes[0].isolates
        and family.baseline_of(setting)
        and not any(setting is other for other in in_curves)
    ]


def subset_curve(family: Family, select: str = FREQUENT) -> list[tuple[float, Setting]]:
    """Allowed shares of the codebook and their settings, with the baseline of the first as the whole codebook."""
    subsets = [s for s in family.find(SUBSET) if s.label.select == select and family.baseline_of(s)]
    if not subsets:
        return []
    whole = family.baseline_of(subsets[0])
    curve = [(s.label.ratio or math.nan, s) for s in subsets if family.baseline_of(s) == whole]
    return sorted([*curve, *([(1.0, whole)] if whole else [])], key=lambda point: point[0])


def quarter_of(family: Family) -> Setting | None:
    """The subset of the most frequent entries that is closest to a quarter of the codebook."""
    subsets = [point for point in subset_curve(family) if point[0] < 1]
    return min(subsets, key=lambda point: abs(point[0] - 0.25))[1] if subsets else None


def mixed_paraphrases(family: Family) -> Setting | None:
    """The setting with paraphrases of mixed length, or otherwise of another length."""
    return min(family.find(PARAPHRASE), key=lambda s: s.label.paraphrase_length != MIXED, default=None)


def enhanced(family: Family) -> Setting | None:
    """The setting of the enhancement: the most frequent entries dropped, and mixed paraphrases."""
    for setting in family.find(SUBSET, PARAPHRASE):
        if setting.label.select == WITHOUT_FREQUENT and setting.label.paraphrase_length == MIXED:
            return setting
    return None


class Profile(NamedTuple):
    """The three runs of one design that a verdict needs; None for a missing run.

    Attributes:
        plain: paths crossed with executions, without probes.
        argmax: the same with execution noise off.
        subset: the same with only the most frequent entries, with the share closest to a quarter.
    """

    plain: Setting | None
    argmax: Setting | None
    subset: Setting | None


def find_profile(family: Family) -> Profile:
    """The runs that a verdict needs."""
    plain = family.first(DECOMPOSE)
    if plain is None:
        return Profile(None, None, None)
    argmax, subsets = (
        [s for s in family.find(probe, DECOMPOSE) if family.baseline_of(s) == plain] for probe in (ARGMAX, SUBSET)
    )
    subsets = [setting for setting in subsets if setting.label.select == FREQUENT]
    subsets.sort(key=lambda setting: abs((setting.label.ratio or 0) - 0.25))
    return Profile(plain, *(next(iter(settings), None) for settings in (argmax, subsets)))


def find_verdict(family: Family, name: str) -> Verdict | None:
    """The verdict by a distance; None if a run or the distance is missing, or there is only one prompt."""
    plain, argmax, subset = find_profile(family)
    if plain is None or argmax is None or subset is None:
        return None
    if any(f"{name}/within" not in setting.columns for setting in (plain, argmax, subset)):
        return None
    if plain.estimates[f"{name}/within"].num_prompts < 2 or "codebook/perplexity" not in plain.estimates:
        return None
    return judge_runs(plain, argmax, subset, name)


# --- the commands that make them ---

_ADD = "--probes+="
_DROP = f"{_ADD}{SUBSET} --probes.select={WITHOUT_FREQUENT} --probes.ratio=0.05"
RUNS = {  # suffix of the config, and the options added to it
    "baseline": ("", ""),
    "argmax": ("_argmax", ""),
    "subset": ("_subset", "--probes.ratio=0.25"),
    "paraphrases": ("_paraphrase", ""),
    "decompose": ("_decompose", ""),
    "decompose under argmax": ("_decompose", f"{_ADD}{ARGMAX}"),
    "decompose under subset": ("_decompose", f"{_ADD}{SUBSET} --probes.ratio=0.25"),
    "the enhancement": ("_paraphrase", _DROP),
}


def command_for(family: Family, run: str) -> str:
    """The command that makes a run, in backticks; for a generator without configs, the run in words.

    Args:
        family: family of the missing run.
        run: a key of `RUNS`.
    """
    config, (suffix, added) = family.generator.config, RUNS[run]
    if not config:
        return f"the same generator with {run}"
    is_toy = bool(family.identity.get("embedded"))
    folder, counts = ("configs/tiny", f"toy:{config}") if is_toy else ("configs", f"runs/{config}_codebook/")
    words = ["gendiv fit-free predict --config", f"{folder}/{config}{suffix}.yaml"]
    if added:
        words.append(added)
    if SUBSET in added:
        words.append(f"--probes.usage={counts}{'_' if is_toy else ''}usage.safetensors")
    return f"`{' '.join(words)}`"


def takes_counts(probe: str, arguments: Mapping[str, Any]) -> bool:
    """Whether a probe selects entries by frequency, and so needs codebook counts.

    Args:
        probe: name or class path.
        arguments: arguments as in a config.
    """
    return probe.rpartition(".")[2] == SUBSET and arguments.get("select") not in ("random", "list")


def run_of(family: Family, run: str) -> Setting | None:
    """The setting of a key of `RUNS`; None if it is missing."""
    profile = find_profile(family)
    return {
        "baseline": family.baseline,
        "argmax": argmax_of(family),
        "subset": quarter_of(family),
        "paraphrases": mixed_paraphrases(family),
        "decompose": profile.plain,
        "decompose under argmax": profile.argmax,
        "decompose under subset": profile.subset,
        "the enhancement": enhanced(family),
    }[run]


# --- the claims of the paper ---


class Claim(NamedTuple):
    """A finding of the paper about a family, as a number that can be measured.

    Attributes:
        words: what the paper reports.
        criterion: the share and its threshold in words.
        measure: computes the share by a distance; None if runs are missing.
        needs: the run that it needs, a key of `RUNS`.
        family: name in the protocol; empty for every family.
        low: minimum of the share.
        high: maximum of the share.
    """

    words: str
    criterion: str
    measure: Callable[[Family, str], Interval | None]
    needs: str
    family: str = ""
    low: float = -math.inf
    high: float = math.inf


class Finding(NamedTuple):
    """A claim and its outcome: agrees, contradicted, undecided, not measured, or does not apply."""

    claim: Claim
    share: Interval | None
    outcome: str


def check_claims(family: Family, distance: str) -> list[Finding]:
    """All claims about a family."""
    claims = [claim for claim in CLAIMS if claim.family in ("", family.identity["generator"])]
    shares = [claim.measure(family, distance) for claim in claims]
    return [
        Finding(claim, share, outcome_of(claim, share) if applies(family, claim.needs) else DOES_NOT_APPLY)
        for claim, share in zip(claims, shares, strict=True)
    ]


def applies(family: Family, run: str) -> bool:
    """Whether a family can make the run of a key of `RUNS`; subsets need tokens from a codebook."""
    return family.draws_tokens or not (run == "subset" or SUBSET in RUNS[run][1])


def outcome_of(claim: Claim, share: Interval | None) -> str:
    """The outcome of a claim by `RULE`; a share without an interval is undecided."""
    if share is None or math.isnan(share.value):
        return "not measured"
    if claim.low <= share.low and share.high <= claim.high:
        return "agrees"
    return "contradicted" if share.high < claim.low or claim.high < share.low else "undecided"


def _path_share(family: Family, distance: str) -> Interval | None:
    plain = find_profile(family).plain
    return plain and share_within(plain, f"{distance}/sampler_path", f"{distance}/within")


def _execution_share(family: Family, distance: str) -> Interval | None:
    plain = find_profile(family).plain
    return plain and share_within(plain, f"{distance}/exec", f"{distance}/within")


def _codebook_share(family: Family, distance: str) -> Interval | None:
    baseline = family.baseline
    if baseline is None or "codebook/perplexity" not in baseline.estimates:
        return None
    size = codebook_size(baseline)
    return Interval(*(end / size for end in baseline.estimates["codebook/perplexity"][:3]))


def _left(choose: Callable[[Family], Setting | None]) -> Callable[[Family, str], Interval | None]:
    """A function that returns the share of the baseline's diversity that remains in a setting."""

    def measure(family: Family, distance: str) -> Interval | None:
        setting = choose(family)
        baseline = setting and family.baseline_of(setting)
        return setting and baseline and share_left(setting, baseline, distance)

    return measure


def _execution_under_subset(family: Family, distance: str) -> Interval | None:
    plain, _, subset = find_profile(family)
    return plain and subset and share_left(subset, plain, f"{distance}/exec")


CLAIMS = (
    Claim(
        family=LLAMAGEN,
        words="autoregressive: negligible path diversity",
        criterion="sampler path, share of the diversity of one paraphrase: below 10 %",
        high=0.1,
        measure=_path_share,
        needs="decompose",
    ),
    Claim(
        family=LLAMAGEN,
        words="autoregressive: collapsed use of the codebook",
        criterion="perplexity over K: below 50 %",
        low=0,
        high=0.5,
        measure=_codebook_share,
        needs="baseline",
    ),
    Claim(
        family=AMUSED,
        words="masked: high execution diversity",
        criterion="execution, share of the diversity of one paraphrase: above 50 %",
        low=0.5,
        measure=_execution_share,
        needs="decompose",
    ),
    Claim(
        family=AMUSED,
        words="masked: strongly sensitive to sampling",
        criterion="left under argmax: below 50 %",
        high=0.5,
        measure=_left(argmax_of),
        needs="argmax",
    ),
    Claim(
        family=AMUSED,
        words="masked: strongly sensitive to the codebook's size",
        criterion="left under the most frequent quarter (or the nearest share measured): below 90 %",
        high=0.9,
        measure=_left(quarter_of),
        needs="subset",
    ),
    Claim(
        family=VQ_DIFFUSION,
        words="diffusion: diversity relies on the path",
        criterion="sampler path, share of the diversity of one paraphrase: above 50 %",
        low=0.5,
        measure=_path_share,
        needs="decompose",
    ),
    Claim(
        family=VQ_DIFFUSION,
        words="diffusion: execution randomness is stable under the probes",
        criterion="execution diversity left under the subset: 90 to 110 %",
        low=0.9,
        high=1.1,
        measure=_execution_under_subset,
        needs="decompose under subset",
    ),
    Claim(
        words="dropping frequent entries with mixed paraphrases raises diversity without training",
        criterion="left under both: above 100 %",
        low=1.0,
        measure=_left(enhanced),
        needs="the enhancement",
    ),
)
