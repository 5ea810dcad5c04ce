"""CPU time of `gendiv compare` for two large runs, and of its tests with and without shared random draws.

    OMP_NUM_THREADS=1 python benchmarks/compare_runs.py                    # 20,000 prompts, 65 numbers
    OMP_NUM_THREADS=1 python benchmarks/compare_runs.py --prompts 2000

Writes two run folders with random numbers, compares them with the command, and then compares some of their numbers one
at a time. Ends with an error if any bit of an interval or p-value differs.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from gendiv_lightning.cli.main import main as gendiv
from gendiv_lightning.functional.comparison import compare, compare_all
from gendiv_lightning.records.estimate import Estimate
from gendiv_lightning.runs.folder import to_plain

ONE_BY_ONE = 3


def write_run(folder: Path, numbers: Tensor, seed: int) -> Path:
    """Write a run folder that contains only these numbers (P, T)."""
    num_prompts, names = len(numbers), [f"diversity/number_{number}" for number in range(numbers.shape[1])]
    data = {"seed": seed, "num_prompts": num_prompts, "num_samples": 2, "prompt_set": "random", "prompts_sha256": ""}
    protocol = {"generator": {"generator": "none"}, "probes": [], "data": data, "metrics": [], "versions": {}}
    folder.mkdir()
    (folder / "fingerprint.json").write_text(json.dumps({"protocol": protocol}))
    estimates = {
        name: Estimate(column.mean().item(), 0, 0, num_prompts, num_prompts, 2 * num_prompts, "random")
        for name, column in zip(names, numbers.T, strict=True)
    }
    (folder / "metrics.json").write_text(json.dumps(to_plain(estimates)))
    ids = [str(number) for number in range(num_prompts)]
    columns = {name: column.numpy() for name, column in zip(names, numbers.T, strict=True)}
    pq.write_table(pa.table({"prompt_id": ids, "prompt": ids, **columns}), folder / "per_prompt.parquet")
    return folder


def time_command(a: Path, b: Path) -> float:
    """CPU seconds of `gendiv compare` in this process, after its imports."""
    started = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        gendiv(["compare", str(a), str(b)])
    return time.process_time() - started


def main() -> None:
    """Write the runs, time the comparisons, and check that they agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=20_000)
    parser.add_argument("--numbers", type=int, default=65)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    size = (arguments.prompts, arguments.numbers)
    first = torch.randn(size, generator=generator, dtype=torch.float64)
    second = first + 0.01 * torch.randn(size, generator=generator, dtype=torch.float64)
    with tempfile.TemporaryDirectory() as temporary:
        runs = [write_run(Path(temporary) / name, numbers, 0) for name, numbers in (("a", first), ("b", second))]
        command = time_command(*runs)
    pairs = list(zip(first.T, second.T, strict=True))
    started = time.process_time()
    together = compare_all(pairs)
    shared = time.process_time() - started
    started = time.process_time()
    apart = [compare(a, b) for a, b in pairs[:ONE_BY_ONE]]
    single = (time.process_time() - started) * arguments.numbers / ONE_BY_ONE
    assert together[:ONE_BY_ONE] == apart, "shared draws must give the same numbers, bit for bit"
    print(f"{arguments.prompts} prompts, {arguments.numbers} numbers; CPU seconds on one core")
    print(f"  gendiv compare                 {command:7.1f}")
    print(f"  of which intervals and tests   {shared:7.1f}")
    print(f"  the same, number by number     {single:7.1f}   (from {ONE_BY_ONE} of them)")


if __name__ == "__main__":
    main()
