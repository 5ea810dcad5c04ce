"""`RunFolder`: what a run leaves on disk, written whole or not at all, and read back. It knows no trainer.

    runs/<name>/  config.yaml  fingerprint.json  environment.json  description.json  prompts.jsonl  prompts.card.json
                  samples/*.parquet  metrics.json  per_prompt.parquet  usage.safetensors  grid.png  log/  wandb/

A prompt is finished when the shard that holds its samples is there; the run is finished when `metrics.json` is.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import shutil
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from gendiv_lightning.records import NoiseKey, SampleBatch
from gendiv_lightning.records.estimate import Estimate
from gendiv_lightning.runs import files, schema
from gendiv_lightning.runs.protocol import differences, fingerprint_of
from gendiv_lightning.runs.shards import read_batch, read_shard, to_table
from gendiv_lightning.storage.atomic import write_atomically

FILES = (  # in the order in which a run is deleted: at no time does a part of it look like the whole
    "metrics.json",
    "per_prompt.parquet",
    "usage.safetensors",
    "grid.png",
    "prompts.jsonl",
    "prompts.card.json",
    "description.json",
    "environment.json",
    "config.yaml",
    "fingerprint.json",
)
FOLDERS = ("samples", "log", "wandb")


def environment() -> dict[str, Any]:
    """Machine and versions: where the numbers were made, for the reader; nothing is compared by it."""
    packages = ("torch", "torchvision", "lightning", "torchmetrics", "transformers", "datasets", "lpips", "numpy")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["CPU"],
        "versions": {name: version(name) for name in packages},
    }


def _write_json(path: Path, value: Any) -> None:
    write_atomically(path, lambda p: p.write_text(json.dumps(value, indent=2) + "\n"))


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.samples = self.path / "samples"

    @property
    def is_finished(self) -> bool:
        """Whether all of the run is there."""
        return (self.path / "metrics.json").exists()

    def check(self, protocol: Mapping[str, Any]) -> None:
        """Raises ValueError if the folder holds a run of another protocol, and names the keys that differ."""
        there = self.path / "fingerprint.json"
        if not there.exists():
            if self.shards():
                raise ValueError(
                    f"{self.path} holds samples, and no fingerprint.json says whose: give another --run_dir"
                )
            return
        differing = differences(files.read_protocol(there), json.loads(json.dumps(protocol)))
        if differing:
            raise ValueError(
                f"{self.path} holds another run, which differs in: {'; '.join(map(str, differing))}. "
                "Give another --run_dir, or --overwrite true to delete that run"
            )

    def start(self, protocol: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Make the folder, or go on with the run that is there; files that a killed process left half-written go.

        Raises:
            ValueError: the folder holds a run of another protocol.
        """
        self.check(protocol)
        self.path.mkdir(parents=True, exist_ok=True)
        for leftovers in (*(self.path.glob(f".{name}.*") for name in FILES), self.samples.glob(".*.parquet.*")):
            for leftover in leftovers:
                leftover.unlink()
        _write_json(self.path / "fingerprint.json", {"fingerprint": fingerprint_of(protocol), "protocol": protocol})
        _write_json(self.path / "environment.json", environment)

    def delete(self) -> None:
        """Remove the run that is in the folder, and nothing else that may be there.

        Raises:
            ValueError: the folder is no run's.
        """
        if not self.path.exists() or not any(self.path.iterdir()):
            return
        there = {path.name for path in self.path.iterdir()}
        if not (self.path / "fingerprint.json").exists() and not there <= {*FILES, *FOLDERS}:
            raise ValueError(f"--overwrite: {self.path} is not the folder of a run, nothing is deleted")
        (self.path / "metrics.json").unlink(missing_ok=True)
        for folder in FOLDERS:
            shutil.rmtree(self.path / folder, ignore_errors=True)
        for name in FILES:
            (self.path / name).unlink(missing_ok=True)

    # --- samples ---

    def write_samples(self, batch: SampleBatch, codebook_size: int) -> None:
        """One Parquet shard with all rows of whole prompts."""
        ids = [prompt.id for prompt in batch.batch.prompts]
        digest = hashlib.sha256("".join(ids).encode()).hexdigest()[:8]
        table = to_table(batch, codebook_size)
        self.samples.mkdir(exist_ok=True)
        path = self.samples / f"{min(batch.batch.indices):07d}-{digest}.parquet"
        write_atomically(path, lambda p: pq.write_table(table, p, compression="zstd"))

    def shards(self) -> list[Path]:
        """All shards, in order of their first prompt."""
        return sorted(self.samples.glob("*.parquet"))

    def finished_prompts(self) -> frozenset[str]:
        """Ids of the prompts whose samples are there.

        Raises:
            ValueError: a prompt is in two shards, or a shard cannot be read.
        """
        shard_of: dict[str, Path] = {}
        for shard in self.shards():
            for prompt in set(read_shard(shard, [schema.PROMPT_ID])[schema.PROMPT_ID].to_pylist()):
                if prompt in shard_of:
                    raise ValueError(
                        f"prompt {prompt} is both in {shard_of[prompt]} and in {shard.name}: two processes wrote this "
                        "run at once; delete one of the two shards"
                    )
                shard_of[prompt] = shard
        return frozenset(shard_of)

    def shards_of(self, places: Iterable[int]) -> list[Path]:
        """The shards that hold the prompts at some places of the prompt set."""
        chosen, index = set(places), schema.PROMPT_INDEX
        return [s for s in self.shards() if chosen & set(read_shard(s, [index])[index].to_pylist())]

    def sample_names(self) -> Iterator[tuple[Path, NoiseKey]]:
        """The shard and the name of every stored sample."""
        for shard in self.shards():
            column = read_shard(shard, list(schema.NOISE_KEY)).to_pydict()
            for name in zip(*(column[part] for part in schema.NOISE_KEY), strict=True):
                yield shard, NoiseKey(*name)

    def read_samples(self, shards: Iterable[Path] | None = None) -> Iterator[SampleBatch]:
        """The shards as the batches that they were written from, but that wordings without a sample come empty."""
        for shard in self.shards() if shards is None else shards:
            yield read_batch(shard)

    # --- results ---

    def write_prompt_card(self, card: Mapping[str, Any]) -> None:
        """`prompts.card.json`: what became of the prompts on their way into the run."""
        _write_json(self.path / "prompts.card.json", card)

    def read_prompt_card(self) -> dict[str, Any]:
        """`prompts.card.json`; empty for a run of a version that wrote none."""
        path = self.path / "prompts.card.json"
        return files.read_json(path) if path.exists() else {}

    def write_per_prompt(self, table: pa.Table) -> None:
        """`per_prompt.parquet`: a row of numbers a prompt."""
        write_atomically(self.path / "per_prompt.parquet", lambda p: pq.write_table(table, p))

    def write_metrics(self, estimates: Mapping[str, Estimate]) -> None:
        """`metrics.json`, the last file, which marks the run as finished. NaN is written as null."""
        _write_json(self.path / "metrics.json", to_plain(estimates))

    def read_protocol(self) -> dict[str, Any]:
        """Everything that can change a number of the run.

        Raises:
            ValueError: the folder holds no run.
        """
        path = self.path / "fingerprint.json"
        if not path.exists():
            raise ValueError(f"{self.path} is no run folder: it has no fingerprint.json")
        return files.read_protocol(path)

    def read_environment(self) -> dict[str, Any]:
        """`environment.json`: the machine that made the run."""
        return files.read_json(self.path / "environment.json")

    def read_per_prompt(self) -> pa.Table:
        """`per_prompt.parquet`: a row of numbers a prompt.

        Raises:
            ValueError: the run is not finished, or the file is damaged.
        """
        self.read_protocol()
        if not self.is_finished:
            raise ValueError(
                f"the run in {self.path} is not finished: the same `gendiv fit-free predict` goes on with it"
            )
        return files.read_per_prompt(self.path / "per_prompt.parquet")

    def read_metrics(self) -> dict[str, Estimate]:
        """`metrics.json`."""
        return files.read_estimates(self.path / "metrics.json")


def to_plain(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, Any]]:
    """Estimates as `metrics.json` has them, sorted by name, with None for NaN."""
    return {name: _finite(estimate._asdict()) for name, estimate in sorted(estimates.items())}


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
