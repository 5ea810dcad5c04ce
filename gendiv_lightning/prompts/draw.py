"""Draw prompts from a long stream in one pass, with memory that does not grow with the stream (bottom-k sampling).

Every prompt has a rank: a hash of the seed, its id and its text. Prompts are selected in order of rank, so the draw is
random and depends only on the seed and the prompts, not on the order of files or records.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from gendiv_lightning.errors import TooLittleDataError
from gendiv_lightning.prompts.filters import DROPPED, NearDuplicates, PromptFilter
from gendiv_lightning.records import LENGTHS, Prompt, length_class, prompt_id
from gendiv_lightning.storage.tables import Unreadable

Strata = Literal["length", "source"]
Rank = tuple[int, int]
OUTCOMES = (*DROPPED, "duplicate", "same_id", "near_duplicate", "drawn")
SPARE = 4  # candidates kept per requested prompt, because some are near-duplicates


class PromptPick(NamedTuple):
    """The drawn prompts, in order of rank, and the outcome of every record of the stream.

    Attributes:
        prompts: the drawn prompts. Unless stratified, the first n are those that a draw of n would give.
        counts: number of records by outcome; they add up to `read`.
        unreadable: records that could not be read, with reasons; not counted elsewhere.
    """

    prompts: list[Prompt]
    counts: dict[str, int]
    unreadable: list[str]


@dataclass
class _Lowest:
    """The prompts with the lowest ranks so far, each with its number of occurrences."""

    capacity: int
    kept: dict[Rank, tuple[Prompt, int]] = field(default_factory=dict)
    heap: list[Rank] = field(default_factory=list)  # negated: the highest rank first
    overflows: bool = False

    def add(self, rank: Rank, prompt: Prompt) -> None:
        if rank in self.kept:
            other, copies = self.kept[rank]
            self.kept[rank] = min(prompt, other), copies + 1
            return
        heapq.heappush(self.heap, (-rank[0], -rank[1]))
        self.kept[rank] = prompt, 1
        if len(self.heap) > self.capacity:
            first, second = heapq.heappop(self.heap)
            del self.kept[-first, -second]
            self.overflows = True


def pick_prompts(
    read: Callable[[], Iterable[Prompt | Unreadable]],
    num: int,
    seed: int,
    *,
    keep: PromptFilter,
    near_duplicates: float = 0.8,
    stratify: Strata | None = None,
) -> PromptPick:
    """Draw `num` prompts from a stream that pass a filter and are not near-duplicates of each other.

    Of prompts that share an id, such as captions of one image, only one is drawn.

    Args:
        read: starts the stream; called again if most candidates turn out to be near-duplicates.
        num: number of prompts to draw.
        seed: seed of the draw.
        keep: the filter.
        near_duplicates: threshold of similarity, see `NearDuplicates`.
        stratify: draw the same number from each length class, or from each source, in the stream.

    Raises:
        TooLittleDataError: too few prompts remain.
    """
    NearDuplicates(near_duplicates)  # fails before the stream is read
    capacity = SPARE * num
    while True:
        strata, outcomes, unreadable = _read(read(), seed, keep, stratify, capacity)
        picked, selected, incomplete = _select(strata, num, near_duplicates)
        outcomes.update(selected)
        # Too few candidates may have been kept. With more of them, those drawn so far are drawn again.
        if not incomplete or not all(strata[name].overflows for name in incomplete):
            break
        capacity *= SPARE
    outcomes["not_drawn"] = outcomes["read"] - sum(outcomes[outcome] for outcome in OUTCOMES)
    counts = {outcome: outcomes[outcome] for outcome in ("read", *OUTCOMES, "not_drawn")}
    if incomplete or not strata:
        few = ", ".join(f"{sum(_stratum(p, stratify) == name for p in picked)} {name}".strip() for name in incomplete)
        raise TooLittleDataError(
            f"too few prompts pass the filters to draw {num}: {few or 0} ({in_words(counts)}). Draw fewer, or "
            "filter less"
        )
    return PromptPick(picked, counts, unreadable)


def in_words(counts: dict[str, int]) -> str:
    """The outcomes of a draw as a line; outcomes that did not occur are omitted."""
    return ", ".join(f"{number:,} {outcome.replace('_', ' ')}" for outcome, number in counts.items() if number)


def _read(
    prompts: Iterable[Prompt | Unreadable], seed: int, keep: PromptFilter, stratify: Strata | None, capacity: int
) -> tuple[dict[str, _Lowest], Counter[str], list[str]]:
    """The candidates of each stratum, the numbers of records read and filtered out, and the unreadable records."""
    strata, outcomes, unreadable = dict[str, _Lowest](), Counter[str](), list[str]()
    for prompt in prompts:
        if isinstance(prompt, Unreadable):
            unreadable.append(prompt.where)
            continue
        outcomes["read"] += 1
        reason = keep.reason(prompt)
        if reason is None:
            strata.setdefault(_stratum(prompt, stratify), _Lowest(capacity)).add(_rank(prompt, seed), prompt)
        else:
            outcomes[reason] += 1
    return strata, outcomes, unreadable


def _select(
    strata: dict[str, _Lowest], num: int, near_duplicates: float
) -> tuple[list[Prompt], Counter[str], list[str]]:
    """Select candidates by rank until each stratum is complete.

    Returns:
        The selected prompts, the outcomes of the candidates, and the strata with too few candidates.
    """
    names = sorted(strata, key=lambda name: (LENGTHS.index(name) if name in LENGTHS else 0, name))
    missing = {name: num // len(names) + (index < num % len(names)) for index, name in enumerate(names)}
    near, ids, texts = NearDuplicates(near_duplicates), set[str](), set[str]()
    picked, outcomes = list[Prompt](), Counter[str]()
    candidates = ((rank, name, *kept) for name, lowest in strata.items() for rank, kept in lowest.kept.items())
    for _, name, prompt, copies in sorted(candidates):
        text = prompt_id(prompt.text, "")
        if not missing[name]:
            continue
        if prompt.id in ids:
            outcomes["same_id"] += copies
        elif text in texts:
            outcomes["duplicate"] += copies
        elif not near.add(prompt.text):
            outcomes["near_duplicate"] += copies
        else:
            outcomes.update(drawn=1, duplicate=copies - 1)
            picked.append(prompt)
            ids.add(prompt.id)
            texts.add(text)
            missing[name] -= 1
    return picked, outcomes, [name for name, number in missing.items() if number]


def _stratum(prompt: Prompt, stratify: Strata | None) -> str:
    if stratify is None:
        return ""
    return length_class(prompt.text) if stratify == "length" else prompt.source


def _rank(prompt: Prompt, seed: int) -> Rank:
    """Rank by id first, so that records with the same id have one chance together."""
    return _hash(f"{seed} {prompt.id}"), _hash(f"{seed} {prompt_id(prompt.text, '')}")


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
