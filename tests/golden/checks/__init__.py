"""Golden cases: what official code gave against what this package gives (`gendiv doctor --golden FOLDER`).

A folder holds cases (`*.json`, see `case.py`); the kind of each says which check runs it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError

from gendiv_lightning.golden import llamagen, meissonic, var
from gendiv_lightning.golden.case import Case, CaseResult

# Whatever a case can get wrong: files, names, shapes, numbers, and the packages that only some kinds need.
_BAD_CASE = (
    OSError, SafetensorError, LookupError, ValueError, TypeError, AttributeError, RuntimeError, ArithmeticError,
    AssertionError, ImportError,
)  # fmt: skip
CHECKS: dict[str, Callable[[Case], None]] = {**llamagen.CHECKS, **meissonic.CHECKS, **var.CHECKS}


def run_cases(folder: Path) -> Iterator[CaseResult]:
    """Run every case (`*.json`) of a folder, by name. A case that cannot be run is a failure, and the others go on."""
    for path in sorted(folder.glob("*.json")):
        yield run_case(path)


def check_folder(folder: Path, write: Callable[[str], None]) -> int:
    """Run every case of a folder; write a line a case (name, largest error, verdict, detail) and a summary.

    Returns the exit status: 0 if there is a case and all pass, else 1.
    """
    passed = []
    for result in run_cases(folder):
        passed.append(result.passed)
        write(f"{result.name:<16} {result.error:9.2e}  {'pass' if result.passed else 'FAIL'}  {result.detail}")
    if not passed:
        write(f"no golden case (*.json) in {folder}")
    else:
        write(f"{sum(passed)} of {len(passed)} golden cases pass")
    return 0 if passed and all(passed) else 1


@torch.no_grad()
def run_case(path: Path) -> CaseResult:
    """Run one case; whatever is wrong with it becomes a failed result."""
    try:
        case = Case(path)
        CHECKS[_kind(case.name)](case)
        return case.result(path.stem)
    except _BAD_CASE as error:
        reason = " ".join(str(error).split())[:300]
        return CaseResult(path.stem, torch.nan, False, f"{type(error).__name__}: {reason}")


def _kind(case: str) -> str:
    """The longest kind that the name of a case begins with: "gpt_full_b" is a "gpt_full"."""
    kinds = [kind for kind in CHECKS if re.match(rf"{kind}(?![a-zA-Z0-9])", case)]
    if not kinds:
        raise ValueError(
            f"unknown kind of case {case!r}, known are {', '.join(CHECKS)}; update the package or drop the case"
        )
    return max(kinds, key=len)
