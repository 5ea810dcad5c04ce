"""`Noise`: uniforms that depend only on (seed, role, key, step, position), not on the batch or the device.

Each row's key is a hash of its name. Numbers come from SplitMix64 (Steele, Lea & Flood 2014, OOPSLA) used as a
counter-based generator: number c of a row is the finaliser applied to key + (c + 1) * gamma, all modulo 2^64.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Name = tuple[str | int, ...]


def _signed(x: int) -> int:
    return x - (1 << 64) if x >= 1 << 63 else x


_GAMMA = _signed(0x9E3779B97F4A7C15)
_MULTIPLY_1 = _signed(0xBF58476D1CE4E5B9)
_MULTIPLY_2 = _signed(0x94D049BB133111EB)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch shifts int64 arithmetically, so the copies of the sign bit are masked out."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _finalise(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MULTIPLY_1
    x = (x ^ _shift(x, 27)) * _MULTIPLY_2
    return x ^ _shift(x, 31)


def _key(seed: int, role: str, name: Name) -> int:
    digest = hashlib.sha256(repr((seed, role, *name)).encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


@dataclass(frozen=True)
class Noise:
    """The uniforms of one role ("path" or "exec") for B rows.

    Attributes:
        seed: root seed.
        role: name of the stream; different roles never share numbers.
        names: name of each row, such as (prompt, paraphrase, sample); equal names get equal numbers.
        keys: (B,) int64, derived from the above, on the device that draws the numbers.
        is_off: decisions take their mode instead of drawing.
        trunk: (B,) int64, keys of the steps before `branch_step`; None if all steps use `keys`.
        branch_step: first step that uses `keys` again.
    """

    seed: int
    role: str
    names: tuple[Name, ...]
    keys: Tensor
    is_off: bool = False
    trunk: Tensor | None = None
    branch_step: int = 0

    @classmethod
    def of(cls, seed: int, role: str, names: Sequence[Name], device: torch.device | str = "cpu") -> Noise:
        """Noise for rows with these names."""
        keys = torch.tensor([_key(seed, role, name) for name in names], dtype=torch.int64, device=device)
        return cls(seed, role, tuple(names), keys)

    def shared(self) -> Noise:
        """Noise shared by all rows whose names differ only in the last part, the number of the path or sample."""
        shared = Noise.of(self.seed, self.role, [name[:-1] for name in self.names], self.keys.device)
        return replace(shared, is_off=self.is_off)

    def branch(self, step: int) -> Noise:
        """The noise of `shared` before a step, and each row's own noise from that step on."""
        return replace(self, trunk=self.shared().keys, branch_step=step)

    def take(self, rows: Sequence[int]) -> Noise:
        """The noise restricted to some rows."""
        trunk = None if self.trunk is None else self.trunk[list(rows)]
        return replace(self, names=tuple(self.names[row] for row in rows), keys=self.keys[list(rows)], trunk=trunk)

    def to(self, device: torch.device | str) -> Noise:
        """The same noise, drawn on another device."""
        trunk = None if self.trunk is None else self.trunk.to(device)
        return replace(self, keys=self.keys.to(device), trunk=trunk)

    def off(self) -> Noise:
        """No noise: decisions take their mode."""
        return replace(self, is_off=True)

    def uniform(self, step: int, rows: Tensor, positions: Tensor) -> Tensor:
        """Uniforms (N,) float64 in the open interval (0, 1), by row and position, for one step of a loop."""
        return self._uniform(step, self._keys_of(step)[rows], positions)

    def uniform_grid(self, step: int, num_positions: int) -> Tensor:
        """Uniforms (B, num_positions) of all rows at the first `num_positions` positions."""
        positions = torch.arange(num_positions, device=self.keys.device)
        return self._uniform(step, self._keys_of(step)[:, None], positions)

    def _keys_of(self, step: int) -> Tensor:
        return self.keys if self.trunk is None or step >= self.branch_step else self.trunk

    def _uniform(self, step: int, keys: Tensor, positions: Tensor) -> Tensor:
        assert not self.is_off, f"the {self.role} noise is off, so nothing may be drawn from it"
        bits = _finalise(keys + (positions + 1 + (step << 32)) * _GAMMA)
        return (_shift(bits, 12).double() + 0.5) * 2.0**-52
