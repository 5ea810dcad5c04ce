"""`RunFolder`: what a run leaves on disk, written whole or not at all, and read back. It knows no trainer.

    runs/<name>/  config.yaml  fingerprint.json  environment.json  prompts.jsonl  prompts.card.json
                  samples/*.parquet  metrics.json  per_prompt.parquet  usage.safetensors  grid.png  log/  wandb/

A prompt is finished when the shard that holds its samples is there; the run is finished when `metrics.json` is.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import platform
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from gendiv_lightning.records import NoiseKey, Paraphrase, Prompt, PromptBatch, SampleBatch, TokenSamples, length_class
from gendiv_lightning.records.estimate import Estimate
from gendiv_lightning.storage.atomic import write_atomically

FILES = (  # in the order in which a run is deleted: at no time does a part of it look like the whole
    "metrics.json",
    "per_prompt.parquet",
    "usage.safetensors",
    "grid.png",
    "prompts.jsonl",
    "prompts.card.json",
    "environment.json",
    "config.yaml",
    "fingerprint.json",
)
FOLDERS = ("samples", "log", "wandb")


def fingerprint_of(protocol: Mapping[str, Any]) -> str:
    """Hash of everything that can change a number, as 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()


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
        before = json.loads(there.read_text())["protocol"]
        differing = sorted(differences(before, json.loads(json.dumps(protocol))))
        if differing:
            raise ValueError(
                f"{self.path} holds another run, which differs in: {'; '.join(differing)}. "
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
        table = _to_table(batch, codebook_size)
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
            for prompt in set(_read(shard, ["prompt_id"])["prompt_id"].to_pylist()):
                if prompt in shard_of:
                    raise ValueError(
                        f"prompt {prompt} is both in {shard_of[prompt]} and in {shard.name}: two processes wrote this "
                        "run at once; delete one of the two shards"
                    )
                shard_of[prompt] = shard
        return frozenset(shard_of)

    def shards_of(self, places: Iterable[int]) -> list[Path]:
        """The shards that hold the prompts at some places of the prompt set."""
        wanted = set(places)
        return [s for s in self.shards() if wanted & set(_read(s, ["prompt_index"])["prompt_index"].to_pylist())]

    def sample_names(self) -> Iterator[tuple[Path, NoiseKey]]:
        """The shard and the name of every stored sample."""
        for shard in self.shards():
            column = _read(shard, ["prompt_id", "paraphrase", "path", "sample"]).to_pydict()
            for name in zip(*(column[part] for part in ("prompt_id", "paraphrase", "path", "sample")), strict=True):
                yield shard, NoiseKey(*name)

    def read_samples(self, shards: Iterable[Path] | None = None) -> Iterator[SampleBatch]:
        """The shards as the batches that they were written from, but that wordings without a sample come empty."""
        for shard in self.shards() if shards is None else shards:
            yield _from_table(_read(shard))

    # --- results ---

    def write_prompt_card(self, card: Mapping[str, Any]) -> None:
        """`prompts.card.json`: what became of the prompts on their way into the run."""
        _write_json(self.path / "prompts.card.json", card)

    def read_prompt_card(self) -> dict[str, Any]:
        """`prompts.card.json`; empty for a run of a version that wrote none."""
        path = self.path / "prompts.card.json"
        return json.loads(path.read_text()) if path.exists() else {}

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
        return json.loads(path.read_text())["protocol"]

    def read_per_prompt(self) -> pa.Table:
        """`per_prompt.parquet`: a row of numbers a prompt.

        Raises:
            ValueError: the run is not finished.
        """
        self.read_protocol()
        if not self.is_finished:
            raise ValueError(
                f"the run in {self.path} is not finished: the same `gendiv fit-free predict` goes on with it"
            )
        return pq.read_table(self.path / "per_prompt.parquet")

    def read_metrics(self) -> dict[str, Estimate]:
        """`metrics.json`."""
        flat = json.loads((self.path / "metrics.json").read_text())
        return {name: Estimate(**_nan_for_null(values)) for name, values in flat.items()}


def _nan_for_null(values: dict[str, Any]) -> dict[str, Any]:
    return {k: math.nan if v is None else v for k, v in values.items()}


def to_plain(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, Any]]:
    """Estimates as `metrics.json` has them, sorted by name, with None for NaN."""
    return {name: _finite(estimate._asdict()) for name, estimate in sorted(estimates.items())}


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def _read(shard: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        with pq.ParquetFile(shard) as file:
            return file.read(columns)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{shard} is damaged ({error}): delete it, and its prompts are sampled again") from error


def differences(before: Any, now: Any, key: str = "") -> Iterator[str]:
    """Keys of two protocols that differ, with both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in before.keys() | now.keys():
            yield from differences(before.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for place, pair in enumerate(zip(before, now, strict=True)):
            yield from differences(*pair, f"{key}[{place}]")
    elif before != now:
        yield f"{key} ({before!r} there, {now!r} now)"


def _png(image: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _unpng(png: bytes) -> Tensor:
    with Image.open(io.BytesIO(png)) as image:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _to_table(batch: SampleBatch, codebook_size: int) -> pa.Table:
    from datasets import Features, List, Value
    from datasets import Image as ImageFeature

    token = "uint8" if codebook_size <= 1 << 8 else "uint16" if codebook_size <= 1 << 16 else "uint32"
    features = Features(
        {
            "image": ImageFeature(),
            "prompt": Value("string"),
            "text": Value("string"),
            "prompt_id": Value("string"),
            "prompt_index": Value("int32"),
            "paraphrase": Value("int16"),
            "path": Value("int32"),
            "sample": Value("int32"),
            "seed": Value("int64"),
            "source": Value("string"),
            "tokens": List(Value(token)),
            "entropy_bits": List(Value("float32")),
            "log2_prob": List(Value("float32")),
            "marginal_bits": List(Value("float64")),  # of the prompt, the same in each of its rows
            "wording_log2_prob": List(Value("float32")),
        }
    )
    prompts, keys, samples = batch.batch.prompts, batch.batch.keys, batch.samples
    with ThreadPoolExecutor() as pool:  # zlib releases the interpreter lock
        images = list(pool.map(_png, batch.images))
    columns = {
        "image": [{"bytes": png, "path": None} for png in images],
        "prompt": [prompts[row].text for row in batch.batch.rows],
        "text": batch.batch.texts,
        "prompt_id": [key.prompt for key in keys],
        "prompt_index": [batch.batch.indices[row] for row in batch.batch.rows],
        "paraphrase": [key.paraphrase for key in keys],
        "path": [key.path for key in keys],
        "sample": [key.sample for key in keys],
        "seed": [batch.batch.seed] * len(keys),
        "source": [prompts[row].source for row in batch.batch.rows],
        "tokens": list(samples.tokens.numpy().astype(token)),
        "entropy_bits": list(samples.entropy.float().numpy()),
        "log2_prob": list(samples.log_prob.float().numpy()),
        "marginal_bits": [[] if batch.marginals is None else batch.marginals[row].numpy() for row in batch.batch.rows],
        "wording_log2_prob": [[]] * len(keys)
        if batch.wording_log_prob is None
        else list(batch.wording_log_prob.numpy()),
    }
    return pa.table(columns, schema=features.arrow_schema)


def _to_prompt(column: dict[str, list[Any]], row: int) -> Prompt:
    prompt = column["prompt_id"][row]
    names = zip(column["prompt_id"], column["paraphrase"], column["text"], strict=True)
    wordings = {paraphrase: text for owner, paraphrase, text in names if owner == prompt}
    texts = [wordings.get(number, "") for number in range(1, max(wordings) + 1)]
    paraphrases = tuple(Paraphrase(text, length_class(text)) for text in texts)
    return Prompt(prompt, column["prompt"][row], paraphrases, column["source"][row])


def _from_table(table: pa.Table) -> SampleBatch:
    column = {name: table[name].to_pylist() for name in table.column_names}
    indices = sorted(set(column["prompt_index"]))
    prompts = tuple(_to_prompt(column, column["prompt_index"].index(index)) for index in indices)
    names = zip(column["prompt_id"], column["paraphrase"], column["path"], column["sample"], strict=True)
    rows = tuple(indices.index(i) for i in column["prompt_index"])
    batch = PromptBatch(column["seed"][0], prompts, tuple(indices), tuple(NoiseKey(*name) for name in names), rows)
    samples = TokenSamples(
        torch.tensor(column["tokens"]), torch.tensor(column["entropy_bits"]), torch.tensor(column["log2_prob"])
    )
    marginals = torch.tensor(
        [column["marginal_bits"][rows.index(place)] for place in range(len(prompts))], dtype=torch.float64
    )
    scores = torch.tensor(column["wording_log2_prob"])
    return SampleBatch(
        batch,
        samples,
        torch.stack([_unpng(image["bytes"]) for image in column["image"]]),
        marginals if marginals.numel() else None,
        scores if scores.numel() else None,
    )
