"""What the paper reported, beside what was measured. A claim is decided by where an interval lies, never by a name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from gendiv_lightning.analysis.effects import codebook_size, find_profile, quarter_of, share_left, share_within
from gendiv_lightning.report.document import Number
from gendiv_lightning.runs.load import Family, Setting

PAPER = "arXiv 2512.01831"
RULE = (
    "A claim is turned into a share with a threshold, those of the verdict's rule. It agrees if the whole 95 % "
    "interval lies on the claim's side, is contradicted if the whole interval lies on the other, and is undecided "
    "otherwise."
)


class Claim(NamedTuple):
    """A finding of the paper about a family, as a number that can be measured.

    Attributes:
        kind: the family's name in the protocol; empty for every family.
        words: what the paper reports.
        criterion: the share, and what it must be.
        low: the share must not be below this.
        high: nor above this.
        measure: the share, by a distance; None where runs are missing.
        needs: probes to run for it.
    """

    kind: str
    words: str
    criterion: str
    low: float
    high: float
    measure: Callable[[Family, str], Number | None]
    needs: str


class Finding(NamedTuple):
    """A claim and what became of it: agrees, contradicted, undecided, or not measured."""

    claim: Claim
    number: Number | None
    outcome: str


def check_claims(family: Family, distance: str) -> list[Finding]:
    """All claims about a family."""
    mine = [claim for claim in CLAIMS if claim.kind in ("", family.identity["generator"])]
    numbers = [claim.measure(family, distance) for claim in mine]
    return [Finding(claim, number, outcome_of(claim, number)) for claim, number in zip(mine, numbers, strict=True)]


def enhanced(family: Family) -> Setting | None:
    """The enhancement: the most frequent entries dropped, and mixed paraphrases."""
    for setting in family.find("CodebookSubset", "Paraphrase"):
        if setting.label.select == "drop_most_frequent" and setting.label.paraphrase_length == "mixed":
            return setting
    return None


def outcome_of(claim: Claim, number: Number | None) -> str:
    """See `RULE`; a number without an interval decides nothing."""
    if number is None or math.isnan(number.value):
        return "not measured"
    if claim.low <= number.low and number.high <= claim.high:
        return "agrees"
    return "contradicted" if number.high < claim.low or claim.high < number.low else "undecided"


def _path_share(family: Family, distance: str) -> Number | None:
    plain = find_profile(family).plain
    return plain and share_within(plain, f"{distance}/sampler_path", f"{distance}/within")


def _execution_share(family: Family, distance: str) -> Number | None:
    plain = find_profile(family).plain
    return plain and share_within(plain, f"{distance}/exec", f"{distance}/within")


def _codebook_share(family: Family, distance: str) -> Number | None:
    baseline = family.baseline
    if baseline is None or "codebook/perplexity" not in baseline.estimates:
        return None
    size = codebook_size(baseline)
    value, low, high = (end / size for end in baseline.estimates["codebook/perplexity"][:3])
    return Number(value, low, high, digits=0, percent=True)


def _left(choose: Callable[[Family], Setting | None]) -> Callable[[Family, str], Number | None]:
    """What is left of the baseline's diversity in a setting."""

    def measure(family: Family, distance: str) -> Number | None:
        setting = choose(family)
        baseline = setting and family.baseline_of(setting)
        return setting and baseline and share_left(setting, baseline, distance)

    return measure


def _execution_under_subset(family: Family, distance: str) -> Number | None:
    plain, _, subset = find_profile(family)
    return plain and subset and share_left(subset, plain, f"{distance}/exec")


INFINITY = math.inf
CLAIMS = (
    Claim(
        "llamagen",
        "autoregressive: negligible path diversity",
        "sampler path, share of the diversity of one wording: below 10 %",
        -INFINITY,
        0.1,
        _path_share,
        "decompose",
    ),
    Claim(
        "llamagen",
        "autoregressive: collapsed use of the codebook",
        "perplexity over K: below 50 %",
        0,
        0.5,
        _codebook_share,
        "baseline",
    ),
    Claim(
        "amused",
        "masked: high execution diversity",
        "execution, share of the diversity of one wording: above 50 %",
        0.5,
        INFINITY,
        _execution_share,
        "decompose",
    ),
    Claim(
        "amused",
        "masked: strongly sensitive to sampling",
        "left under argmax: below 50 %",
        -INFINITY,
        0.5,
        _left(lambda family: family.first("Argmax")),
        "argmax",
    ),
    Claim(
        "amused",
        "masked: strongly sensitive to the codebook's size",
        "left under the most frequent quarter (or the nearest share measured): below 90 %",
        -INFINITY,
        0.9,
        _left(quarter_of),
        "subset",
    ),
    Claim(
        "vqdiffusion",
        "diffusion: diversity relies on the path",
        "sampler path, share of the diversity of one wording: above 50 %",
        0.5,
        INFINITY,
        _path_share,
        "decompose",
    ),
    Claim(
        "vqdiffusion",
        "diffusion: execution randomness is stable under the probes",
        "execution diversity left under the subset: 90 to 110 %",
        0.9,
        1.1,
        _execution_under_subset,
        "decompose under subset",
    ),
    Claim(
        "",
        "dropping frequent entries with mixed paraphrases raises diversity without training",
        "left under both: above 100 %",
        1.0,
        INFINITY,
        _left(enhanced),
        "the enhancement",
    ),
)
