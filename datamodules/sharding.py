"""Helpers of the data modules: shard items over ranks, check counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from lightning.pytorch import Trainer

from gendiv_lightning.errors import ConfigValueError

Item = TypeVar("Item")


def shard(items: Sequence[Item], trainer: Trainer | None) -> Sequence[Item]:
    """The items of this rank: every `world_size`-th item, without padding or duplicates.

    Raises:
        ConfigValueError: Lightning would shard the data a second time and add duplicates.
    """
    if trainer is None or trainer.world_size == 1:
        return items
    if trainer._accelerator_connector.use_distributed_sampler:  # Lightning has no public name for it
        raise ConfigValueError(
            f"use_distributed_sampler is true on {trainer.world_size} ranks, so Lightning would shard the data again "
            "and "
            "add duplicates. Set --trainer.use_distributed_sampler false"
        )
    return items[trainer.global_rank :: trainer.world_size]


def check_positive(**counts: int | None) -> None:
    """Raise ConfigValueError for a count below 1; None means that there is no limit."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ConfigValueError(f"{name} must be at least 1, got {count}. Give a positive integer")
