"""The protocol of a run: everything that can change a number, as plain values. Its hash is the fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Difference(NamedTuple):
    """One key in which two protocols differ.

    Attributes:
        key: path to the value, such as `generator.guidance` or `metrics[0].method`.
        before: value in the first protocol; None if the key is missing.
        now: value in the second protocol.
    """

    key: str
    before: Any
    now: Any

    def is_below(self, *parents: str) -> bool:
        """Whether the key is one of `parents`, or below one of them."""
        return any(self.key == parent or self.key.startswith((f"{parent}.", f"{parent}[")) for parent in parents)

    def __str__(self) -> str:
        return f"{self.key} ({_short(self.before)} before, {_short(self.now)} now)"


def _short(value: Any, most: int = 70) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def fingerprint_of(protocol: Mapping[str, Any]) -> str:
    """SHA-256 of a protocol, as 64 hexadecimal digits; the order of its keys does not matter."""
    return hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """All keys in which two protocols differ, sorted; lists of equal length are compared item by item."""
    return sorted(_differences(before, now, ""), key=lambda difference: difference.key)


def _differences(before: Any, now: Any, key: str) -> Iterator[Difference]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in before.keys() | now.keys():
            yield from _differences(before.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for place, pair in enumerate(zip(before, now, strict=True)):
            yield from _differences(*pair, f"{key}[{place}]")
    elif before != now:
        yield Difference(key, before, now)
