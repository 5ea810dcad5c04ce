"""Which prompts of a long stream come into a set. One pass, in memory that does not grow with the stream.

Every prompt has a rank, a hash of the seed and of its own id and text. Prompts are taken in the order of their ranks,
so the pick is a random one and depends on the seed and the prompts alone: not on the order of files or records.
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
FATES = (*DROPPED, "duplicate", "same_id", "near_duplicate", "drawn")
SPARE = 4  # candidates that are kept for each prompt wanted: some are near-duplicates


class PromptPick(NamedTuple):
    """What was drawn, in the order of ranks, and what became of every record of the stream.

    Attributes:
        prompts: the pick. Its first n prompts are what a pick of n would be, unless it is stratified.
        counts: of records by their fate; they add up to `read`.
        unreadable: records that could not be read, with the reasons; they are in no count.
    """

    prompts: list[Prompt]
    counts: dict[str, int]
    unreadable: list[str]


@dataclass
class _Lowest:
    """The prompts of the lowest ranks met so far, each with the number of times that it came."""

    capacity: int
    found: dict[Rank, tuple[Prompt, int]] = field(default_factory=dict)
    heap: list[Rank] = field(default_factory=list)  # negated: the highest rank first
    overflows: bool = False

    def add(self, rank: Rank, prompt: Prompt) -> None:
        if rank in self.found:
            other, copies = self.found[rank]
            self.found[rank] = min(prompt, other), copies + 1
            return
        heapq.heappush(self.heap, (-rank[0], -rank[1]))
        self.found[rank] = prompt, 1
        if len(self.heap) > self.capacity:
            first, second = heapq.heappop(self.heap)
            del self.found[-first, -second]
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
    """Draw `num` prompts of a stream that pass a filter, none the near-duplicate of another.

    Of prompts that share an id (captions of one image) one is drawn.

    Args:
        read: starts the stream; called again where most of the candidates turn out near-duplicates.
        num: how many to draw.
        seed: of the draw.
        keep: the filter.
        near_duplicates: see `NearDuplicates`.
        stratify: draw equally many of each length class, or of each source, that is there.

    Raises:
        ValueError: there are too few.
    """
    NearDuplicates(near_duplicates)  # fails before the stream is read
    capacity = SPARE * num
    while True:
        strata, fates, unreadable = _read(read(), seed, keep, stratify, capacity)
        picked, walked, lacking = _walk(strata, num, near_duplicates)
        fates.update(walked)
        # Memory may have held too few candidates; what was drawn of them stays the same with more.
        if not lacking or not all(strata[name].overflows for name in lacking):
            break
        capacity *= SPARE
    fates["not_drawn"] = fates["read"] - sum(fates[fate] for fate in FATES)
    counts = {fate: fates[fate] for fate in ("read", *FATES, "not_drawn")}
    if lacking or not strata:
        few = ", ".join(f"{sum(_stratum(p, stratify) == name for p in picked)} {name}".strip() for name in lacking)
        raise TooLittleDataError(
            f"too few prompts pass the filters to draw {num}: {few or 0} ({in_words(counts)}): ask for fewer, or "
            "filter less"
        )
    return PromptPick(picked, counts, unreadable)


def in_words(counts: dict[str, int]) -> str:
    """The counts of a pick as a line; what did not happen is left out."""
    return ", ".join(f"{number:,} {fate.replace('_', ' ')}" for fate, number in counts.items() if number)


def _read(
    prompts: Iterable[Prompt | Unreadable], seed: int, keep: PromptFilter, stratify: Strata | None, capacity: int
) -> tuple[dict[str, _Lowest], Counter[str], list[str]]:
    """The candidates of each stratum, how many records there were and were filtered out, and the unreadable ones."""
    strata, fates, unreadable = dict[str, _Lowest](), Counter[str](), list[str]()
    for prompt in prompts:
        if isinstance(prompt, Unreadable):
            unreadable.append(prompt.where)
            continue
        fates["read"] += 1
        reason = keep.reason(prompt)
        if reason is None:
            strata.setdefault(_stratum(prompt, stratify), _Lowest(capacity)).add(_rank(prompt, seed), prompt)
        else:
            fates[reason] += 1
    return strata, fates, unreadable


def _walk(strata: dict[str, _Lowest], num: int, near_duplicates: float) -> tuple[list[Prompt], Counter[str], list[str]]:
    """Take candidates by rank until each stratum has its share: the pick, the fates met, the strata that lack some."""
    names = sorted(strata, key=lambda name: (LENGTHS.index(name) if name in LENGTHS else 0, name))
    lack = {name: num // len(names) + (place < num % len(names)) for place, name in enumerate(names)}
    near, ids, texts = NearDuplicates(near_duplicates), set[str](), set[str]()
    picked, fates = list[Prompt](), Counter[str]()
    candidates = ((rank, name, *found) for name, lowest in strata.items() for rank, found in lowest.found.items())
    for _, name, prompt, copies in sorted(candidates):
        text = prompt_id(prompt.text, "")
        if not lack[name]:
            continue
        if prompt.id in ids:
            fates["same_id"] += copies
        elif text in texts:
            fates["duplicate"] += copies
        elif not near.add(prompt.text):
            fates["near_duplicate"] += copies
        else:
            fates.update(drawn=1, duplicate=copies - 1)
            picked.append(prompt)
            ids.add(prompt.id)
            texts.add(text)
            lack[name] -= 1
    return picked, fates, [name for name, number in lack.items() if number]


def _stratum(prompt: Prompt, stratify: Strata | None) -> str:
    if stratify is None:
        return ""
    return length_class(prompt.text) if stratify == "length" else prompt.source


def _rank(prompt: Prompt, seed: int) -> Rank:
    """By id first, so that what shares one has one chance, however many records it has."""
    return _hash(f"{seed} {prompt.id}"), _hash(f"{seed} {prompt_id(prompt.text, '')}")


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
