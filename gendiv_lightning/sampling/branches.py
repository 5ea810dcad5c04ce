"""Work that rows share for as long as they share all noise: their inputs are equal, so a network runs on one of them.

Outputs equal those of all rows up to the last digits, in which a network's results may depend on the number of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gendiv_lightning.sampling.sampler import Sampler


class Branches(NamedTuple):
    """Groups of rows that no decision so far tells apart.

    Attributes:
        first: (G,) int64, the first row of each group.
        group: (B,) int64, the group of each row.
    """

    first: Tensor
    group: Tensor

    def take(self, rows: Tensor) -> Tensor:
        """One row of each group: (k B, ...), k blocks of B rows, to (k G, ...)."""
        return torch.cat([block[self.first] for block in rows.split(len(self.group))])

    def spread(self, rows: Tensor) -> Tensor:
        """The reverse: (k G, ...) to (k B, ...)."""
        return torch.cat([block[self.group] for block in rows.split(len(self.first))])


def branches_at(sampler: Sampler, step: int) -> Branches | None:
    """The groups of rows whose noise is the same in all decisions before `step`; None where no rows share theirs.

    Rows of one group have one prompt and one paraphrase, and so one condition.
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
    """`network(*inputs)` for inputs (k B, ...), on one row of each group; on all rows without groups."""
    if branches is None:
        return network(*inputs)
    return branches.spread(network(*map(branches.take, inputs)))
