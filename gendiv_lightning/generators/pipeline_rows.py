"""Row operations on arguments and results of diffusers pipelines: tensors and lists, nested in containers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def map_rows(value: Any, size: int, change: Callable[[Any], Any]) -> Any:
    """Apply a function to all tensors and lists with `size` rows, at any depth."""
    if isinstance(value, Tensor):
        return change(value) if value.ndim and len(value) == size else value
    if isinstance(value, list) and len(value) == size:
        return change(value)
    if isinstance(value, list | tuple):
        return type(value)(map_rows(item, size, change) for item in value)
    if isinstance(value, dict):  # includes the output classes of diffusers
        return type(value)(**{name: map_rows(item, size, change) for name, item in value.items()})
    return value


def rows_are_equal(value: Any, size: int, num_rows: int) -> bool:
    """Whether every block of `num_rows` rows repeats a single row, in all tensors and lists with `size` rows."""
    outcomes: list[bool] = []

    def compare(rows: Any) -> Any:
        repeated = repeat_rows(one_of_each(rows, num_rows), num_rows)
        pairs = zip(rows, repeated, strict=True)
        outcomes.append(all(torch.equal(x, y) if isinstance(x, Tensor) else x == y for x, y in pairs))
        return rows

    map_rows(value, size, compare)
    return all(outcomes)


def one_of_each(rows: Any, num_rows: int) -> Any:
    """The first row of each block of `num_rows` rows of a tensor or a list; some networks need contiguous tensors."""
    taken = rows[::num_rows]
    return taken.contiguous() if isinstance(taken, Tensor) else taken


def repeat_rows(rows: Any, num_rows: int) -> Any:
    """Repeat each row of a tensor or a list `num_rows` times in a row."""
    if isinstance(rows, Tensor):
        return rows.repeat_interleave(num_rows, 0)
    return [row for row in rows for _ in range(num_rows)]
