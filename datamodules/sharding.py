"""What the data modules share: dealing items to ranks, checking counts. It knows no prompt and no image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from lightning.pytorch import Trainer

from gendiv_lightning.errors import ConfigValueError

Item = TypeVar("Item")


def deal(items: Sequence[Item], trainer: Trainer | None) -> Sequence[Item]:
    """The items of this rank: every `world_size`-th from its own number on, nothing padded, nothing twice.

    Raises:
        ValueError: if Lightning would deal a second time and add duplicates.
    """
    if trainer is None or trainer.world_size == 1:
        return items
    if trainer._accelerator_connector.use_distributed_sampler:  # Lightning has no public name for it
        raise ConfigValueError(
            f"use_distributed_sampler is true on {trainer.world_size} ranks: Lightning would deal the data again and "
            "pad it with duplicates. Set --trainer.use_distributed_sampler false."
        )
    return items[trainer.global_rank :: trainer.world_size]


def check_positive(**counts: int | None) -> None:
    """Raises ValueError for a count below 1; None, where it is allowed, means no bound."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ConfigValueError(f"{name} must be at least 1, got {count}")
