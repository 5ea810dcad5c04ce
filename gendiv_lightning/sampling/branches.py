"""Shared computation of rows with equal noise: as long as they share all noise, the network runs on one of them.

Outputs equal those of a run on all rows up to rounding, which can depend on the number of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gendiv_lightning.sampling.sampler import Sampler


class Branches(NamedTuple):
    """Groups of rows that are still identical.

    Attributes:
        first: (G,) int64, index of the first row of each group.
        group: (B,) int64, index of the group of each row.
    """

    first: Tensor
    group: Tensor

    def take(self, rows: Tensor) -> Tensor:
        """Select the first row of each group: k blocks of B rows (k B, ...) become (k G, ...)."""
        return torch.cat([block[self.first] for block in rows.split(len(self.group))])

    def spread(self, rows: Tensor) -> Tensor:
        """Copy the row of each group to all its rows: (k G, ...) become (k B, ...)."""
        return torch.cat([block[self.group] for block in rows.split(len(self.first))])


def branches_at(sampler: Sampler, step: int) -> Branches | None:
    """Return the groups of rows with equal noise in all decisions before `step`, or None if no rows share noise.

    Rows of a group have the same prompt and paraphrase, and therefore the same condition.
    """
    path, execution = sampler.path, sampler.exec
    if path.trunk is None or execution.trunk is None or step > min(path.branch_step, execution.branch_step):
        return None
    keys, group = torch.stack([path.trunk, execution.trunk], 1).unique(dim=0, return_inverse=True)
    if len(keys) == len(group):
        return None
    rows = torch.arange(len(group), device=group.device)
    first = torch.full_like(keys[:, 0], len(group)).scatter_reduce(0, group, rows, "amin")
    return Branches(first, group)


def run_branches(network: Callable[..., Tensor], branches: Branches | None, *inputs: Tensor) -> Tensor:
    """Compute `network(*inputs)` for inputs (k B, ...) on one row per group, or on all rows if there are no groups."""
    if branches is None:
        return network(*inputs)
    return branches.spread(network(*map(branches.take, inputs)))
