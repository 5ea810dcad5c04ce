"""`RunFolder`: write and read the files of a run. Every file is written atomically.

    runs/<name>/  config.yaml  fingerprint.json  environment.json  description.json  prompts.jsonl  prompts.card.json
                  samples/*.parquet  metrics.json  per_prompt.parquet  usage.safetensors  grid.png  log/  wandb/
                  index.jsonl  run.lock

A prompt is finished when the shard with its samples exists; the run is finished when `metrics.json` exists. The index
contains a checksum of every file, which is verified when a file is read.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from gendiv_lightning.errors import DamagedRunError, MissingRunError, RunDiffersError, UnfinishedRunError
from gendiv_lightning.records import NoiseKey, SampleBatch
from gendiv_lightning.records.estimate import Estimate
from gendiv_lightning.runs import files, schema
from gendiv_lightning.runs.index import NAME as INDEX
from gendiv_lightning.runs.index import RunIndex
from gendiv_lightning.runs.lock import NAME as LOCK
from gendiv_lightning.runs.protocol import differences, fingerprint_of
from gendiv_lightning.runs.shards import ADVICE, picture_in, read_batch, read_shard, to_table
from gendiv_lightning.storage.atomic import write_atomically
from gendiv_lightning.storage.parquet import write_parquet

FILES = (  # in order of deletion: the completion marker first, so a half-deleted run never looks finished
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
    INDEX,  # last, since it tells which of these files are the run's
)
FOLDERS = ("samples", "log", "wandb")
_SHARD = re.compile(r"\d{7,}-[0-9a-f]{8}\.parquet")
RESTORE = "Restore the files, or delete metrics.json and run the same command again"
_LOGS = ("metrics.csv", "hparams.yaml")


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.samples, self.index = self.path / "samples", RunIndex(self.path)

    def write(self, name: str, write: Callable[[Path], object]) -> None:
        """Write a file of the run atomically, and add its checksum to the index."""
        path = self.path / name
        write_atomically(path, write, before_replace=lambda content: self.index.add(path, content))

    def _write_json(self, name: str, value: Any) -> None:
        self.write(name, lambda path: path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8"))

    def checked(self, name: str) -> Path:
        """The path of a file of the run; raises DamagedRunError if the file exists and does not match its checksum."""
        path = self.path / name
        if path.exists():
            self.index.check(path, "Restore the folder from a copy, or run the command again with --overwrite true")
        return path

    @property
    def is_finished(self) -> bool:
        """Whether the run is complete."""
        return (self.path / "metrics.json").exists()

    def check(self, protocol: Mapping[str, Any]) -> None:
        """Raise RunDiffersError, with the keys that differ, if the folder contains a run with another protocol."""
        there = self.path / "fingerprint.json"
        if not there.exists():
            if self.shards() or self.is_finished:
                found = "samples" if self.shards() else "results"
                raise RunDiffersError(
                    f"{self.path} contains {found} but no fingerprint.json, so the run cannot be identified. Choose "
                    "another --run_dir"
                )
            return
        differing = differences(files.read_protocol(self.checked(there.name)), json.loads(json.dumps(protocol)))
        if differing:
            raise RunDiffersError(
                f"{self.path} contains another run, which differs in: {'; '.join(map(str, differing))}. "
                "Choose another --run_dir, or pass --overwrite true to delete that run"
            )

    def start(self, protocol: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Create the folder, or resume the run in it. Half-written files of a killed process are removed.

        The caller must hold the lock of the run.

        Raises:
            RunDiffersError: the folder contains a run with another protocol.
        """
        self.check(protocol)
        self.path.mkdir(parents=True, exist_ok=True)
        for leftovers in (*(self.path.glob(f".{name}.*") for name in FILES), self.samples.glob(".*.parquet.*")):
            for leftover in leftovers:
                leftover.unlink()
        if not self.is_finished:
            self.index.forget_missing()
        self._write_json("fingerprint.json", {"fingerprint": fingerprint_of(protocol), "protocol": protocol})
        self._write_json("environment.json", environment)

    def delete(self) -> None:
        """Delete the run in the folder, but no other files in it.

        With an index, files of a run that are not listed there are somebody else's. A run of version 0.1 has no index.

        Raises:
            MissingRunError: the folder is not a run folder.
        """
        if not self.path.exists() or not any(self.path.iterdir()):
            return
        listed = self.index.files()
        is_run = (self.path / "fingerprint.json").exists() or listed or self.shards()
        if not is_run and not {path.name for path in self.path.iterdir()} <= {LOCK, *FOLDERS}:
            raise MissingRunError(
                f"--overwrite: {self.path} is not a run folder, so nothing was deleted. Choose another --run_dir"
            )
        try:
            fingerprint = files.read_json(self.path / "fingerprint.json").get("fingerprint", "")
        except DamagedRunError:  # or missing: which folders of W&B are this run's is unknown, so all are left
            fingerprint = ""
        (self.path / "metrics.json").unlink(missing_ok=True)
        for shard in self.shards():
            shard.unlink()
        for name in _LOGS:
            (self.path / "log" / name).unlink(missing_ok=True)
        for logged in (self.path / "wandb").glob(f"*run-*-{self.wandb_id(fingerprint)}"):
            shutil.rmtree(logged)
        for name in FILES:
            if not listed or name in listed or name in ("fingerprint.json", INDEX):
                (self.path / name).unlink(missing_ok=True)
        for folder in FOLDERS:
            if (self.path / folder).is_dir() and not any((self.path / folder).iterdir()):
                (self.path / folder).rmdir()

    def wandb_id(self, fingerprint: str) -> str:
        """Id of the run at W&B: the same for a resumed run, another one for another name of the folder."""
        return hashlib.sha256(f"{fingerprint} {self.path.name}".encode()).hexdigest()[:16]

    # --- samples ---

    def write_samples(self, batch: SampleBatch, codebook_size: int) -> None:
        """Write one Parquet shard with all rows of whole prompts."""
        ids = [prompt.id for prompt in batch.batch.prompts]
        digest = hashlib.sha256("".join(ids).encode()).hexdigest()[:8]
        table = to_table(batch, codebook_size)
        self.write(
            f"samples/{min(batch.batch.indices):07d}-{digest}.parquet",
            lambda path: write_parquet(table, path, compression="zstd", write_page_checksum=True),
        )

    def shards(self) -> list[Path]:
        """All shards, in order of their first prompt. Other files in the folder are ignored."""
        return sorted(path for path in self.samples.glob("*.parquet") if _SHARD.fullmatch(path.name))

    def finished_prompts(self, names: Mapping[str, Sequence[NoiseKey]] | None = None, seed: int = 0) -> frozenset[str]:
        """Ids of the prompts whose samples are stored.

        Args:
            names: noise keys that the samples of each prompt must have, by the prompt's id; None skips the check.
            seed: root seed that they must have.

        Raises:
            DamagedRunError: a prompt is in two shards; a shard cannot be read, or contains other samples than `names`.
        """
        shard_of: dict[str, Path] = {}
        for shard in self.shards():
            column = read_shard(shard, [*schema.NOISE_KEY, schema.SEED]).to_pydict()
            found: dict[str, list[NoiseKey]] = {}
            for key in zip(*(column[part] for part in schema.NOISE_KEY), strict=True):
                found.setdefault(key[0], []).append(NoiseKey(*key))
            for prompt, keys in found.items():
                if prompt in shard_of:
                    raise DamagedRunError(
                        f"prompt {prompt} is both in {shard_of[prompt]} and in {shard.name}, because two processes "
                        "wrote "
                        "this run at the same time. Delete one of the two shards"
                    )
                if names is not None and sorted(keys) != sorted(names.get(prompt, ())):
                    raise DamagedRunError(
                        f"{shard} contains other samples of prompt {prompt} than this run's design. {ADVICE}"
                    )
                shard_of[prompt] = shard
            if names is not None and set(column[schema.SEED]) != {seed}:
                raise DamagedRunError(f"{shard} was sampled with another seed than {seed}. {ADVICE}")
        return frozenset(shard_of)

    def check_whole(self) -> None:
        """Raise DamagedRunError if a file of a finished run is missing."""
        missing = self.index.missing() if self.is_finished else []
        if missing:
            raise DamagedRunError(
                f"{self.path} is incomplete: {', '.join(missing[:3])}{' and others' if len(missing) > 3 else ''} "
                f"({len(missing)} files) are missing. {RESTORE}"
            )

    def read_pictures(self, indices: Iterable[int], limit: int) -> dict[int, tuple[str, list[bytes]]]:
        """Texts and first images of some prompts, read only from the shards that contain them.

        Args:
            indices: indices in the prompt set.
            limit: maximum number of images per prompt.

        Returns:
            By index, the original prompt and PNG files.

        Raises:
            DamagedRunError: a shard is damaged.
        """
        chosen, shards = set(indices), self.shards()
        # The name of a shard contains its first prompt.
        starts = [int(shard.name.partition("-")[0]) for shard in shards]
        found: dict[int, tuple[str, list[bytes]]] = {}
        seen: set[Path] = set()
        for number in sorted(chosen):
            for shard in reversed(shards[: bisect_right(starts, number)]):  # with one rank it is the first of these
                if number in found:
                    break
                if shard not in seen:
                    seen.add(shard)
                    found |= self._pictures_in(shard, chosen, limit)
        return found

    def _pictures_in(self, shard: Path, chosen: set[int], limit: int) -> dict[int, tuple[str, list[bytes]]]:
        index = read_shard(shard, [schema.PROMPT_INDEX])[schema.PROMPT_INDEX].to_pylist()
        if chosen.isdisjoint(index):
            return {}
        self.index.check(shard, ADVICE)
        table = read_shard(shard, [schema.IMAGE, schema.PROMPT])
        found: dict[int, tuple[str, list[bytes]]] = {}
        for row, number in enumerate(index):
            if number in chosen:
                _, images = found.setdefault(number, (table[schema.PROMPT][row].as_py(), []))
                if len(images) < limit:
                    images.append(picture_in(shard, table[schema.IMAGE][row].as_py()))
        return found

    def sample_names(self) -> Iterator[tuple[Path, NoiseKey]]:
        """The shard and the noise key of every stored sample."""
        for shard in self.shards():
            column = read_shard(shard, list(schema.NOISE_KEY)).to_pydict()
            for name in zip(*(column[part] for part in schema.NOISE_KEY), strict=True):
                yield shard, NoiseKey(*name)

    def prompt_texts(self) -> list[str]:
        """The text of every stored prompt, each once; raises DamagedRunError as `finished_prompts` does."""
        self.finished_prompts()
        texts = (read_shard(shard, [schema.PROMPT])[schema.PROMPT].to_pylist() for shard in self.shards())
        return list(dict.fromkeys(text for column in texts for text in column))

    def read_samples(self, shards: Iterable[Path] | None = None) -> Iterator[SampleBatch]:
        """The shards as the batches that they were written from, except that paraphrases without samples are empty.

        Raises:
            DamagedRunError: a shard is damaged, or, if all are read, samples of a finished run are missing.
        """
        if shards is None:
            self._check_prompts()
        for shard in self.shards() if shards is None else shards:
            self.index.check(shard, ADVICE)
            yield read_batch(shard)

    def _check_prompts(self) -> None:
        """Raise DamagedRunError if the shards of a finished run contain other prompts than were measured."""
        if not self.is_finished or not (self.path / "per_prompt.parquet").exists():
            return
        measured = set(self.read_per_prompt()[schema.PROMPT_ID].to_pylist())
        stored = self.finished_prompts()
        if stored != measured:
            raise DamagedRunError(
                f"{self.path} measured {len(measured)} prompts, but contains samples of {len(stored)}, so shards are "
                f"missing. {RESTORE}"
            )

    # --- results ---

    def write_prompt_card(self, card: Mapping[str, Any]) -> None:
        """Write `prompts.card.json`: how many prompts were read, dropped and truncated."""
        self._write_json("prompts.card.json", card)

    def read_prompt_card(self) -> dict[str, Any]:
        """`prompts.card.json`; empty for a run of a version that did not write it."""
        path = self.checked("prompts.card.json")
        return files.read_prompt_card(path) if path.exists() else {}

    def write_description(self, description: Mapping[str, Any]) -> None:
        """Write `description.json`: generator, probes and metrics in words, see `runs/description.py`."""
        self._write_json("description.json", description)

    def write_per_prompt(self, table: pa.Table) -> None:
        """Write `per_prompt.parquet`: one row of numbers per prompt."""
        self.write("per_prompt.parquet", lambda path: write_parquet(table, path, write_page_checksum=True))

    def write_metrics(self, estimates: Mapping[str, Estimate]) -> None:
        """Write `metrics.json`, the last file, which marks the run as finished. NaN is written as null."""
        self._write_json("metrics.json", to_plain(estimates))

    def read_protocol(self) -> dict[str, Any]:
        """Everything that can change a number of the run.

        Raises:
            MissingRunError: the folder contains no run.
            DamagedRunError: files of the run are missing or damaged.
        """
        path = self.checked("fingerprint.json")
        if not path.exists():
            raise MissingRunError(
                f"{self.path} is not a run folder, because it has no fingerprint.json. Give the folder of a run"
            )
        self.check_whole()
        return files.read_protocol(path)

    def read_environment(self) -> dict[str, Any]:
        """`environment.json`: the machine that made the run."""
        return files.read_environment(self.checked("environment.json"))

    def read_per_prompt(self) -> pa.Table:
        """`per_prompt.parquet`: one row of numbers per prompt.

        Raises:
            UnfinishedRunError: the run is not finished.
            DamagedRunError: the file is damaged.
        """
        self.read_protocol()
        if not self.is_finished:
            raise UnfinishedRunError(
                f"the run in {self.path} is not finished. Run the same `gendiv predict` again to resume it"
            )
        return files.read_per_prompt(self.checked("per_prompt.parquet"))

    def read_metrics(self) -> dict[str, Estimate]:
        """`metrics.json`."""
        return files.read_estimates(self.checked("metrics.json"))


def to_plain(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, Any]]:
    """Estimates in the format of `metrics.json`: sorted by name, with None for NaN."""
    return {name: _finite(estimate._asdict()) for name, estimate in sorted(estimates.items())}


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
