"""A prompt set as a record, and as a manifest on disk that restores it exactly."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from gendiv_lightning import __version__
from gendiv_lightning.errors import PromptError
from gendiv_lightning.prompts.files import all_readable, read_prompts
from gendiv_lightning.prompts.stream import stream_prompts
from gendiv_lightning.records import Prompt, prompt_id
from gendiv_lightning.storage.atomic import cache_folder, write_atomically
from gendiv_lightning.storage.sources import dataset_name


class PromptReport(NamedTuple):
    """Number of records of a source by outcome; `over_long` prompts are counted but kept, uncut."""

    read: int
    kept: int
    empty: int
    duplicates: int
    over_long: int

    def __str__(self) -> str:
        return (
            f"{self.read} read, {self.kept} kept, {self.empty} empty and {self.duplicates} duplicate dropped, "
            f"{self.over_long} over-long kept"
        )


@dataclass(frozen=True)
class PromptSet:
    """Prompts to sample, without duplicates.

    Attributes:
        name: file stem or dataset name.
        prompts: prompts in the order of their source.
        sha256: hash of ids, texts and paraphrases.
        report: how many records were read, kept and dropped.
    """

    name: str
    prompts: tuple[Prompt, ...]
    sha256: str
    report: PromptReport


def collect_prompts(
    prompts: Iterable[Prompt], *, name: str, source: str, limit: int | None = None, max_words: int | None = None
) -> PromptSet:
    """The first `limit` prompts that are neither empty nor repeat an earlier text, ignoring white space and case.

    Raises:
        PromptError: no prompt is left, or two different texts share an id.
    """
    kept: dict[str, Prompt] = {}
    read = empty = duplicates = 0
    for prompt in prompts:
        read += 1
        normalised = prompt_id(prompt.text, "")
        if not prompt.text.strip():
            empty += 1
        elif normalised in kept:
            duplicates += 1
        else:
            kept[normalised] = prompt
        if len(kept) == limit:
            break
    over_long = sum(max_words is not None and len(prompt.text.split()) > max_words for prompt in kept.values())
    report = PromptReport(read, len(kept), empty, duplicates, over_long)
    if not kept:
        raise PromptError(f"{source} contains no prompts ({report}). Choose another file or column")
    repeated = [id for id, count in Counter(prompt.id for prompt in kept.values()).items() if count > 1]
    if repeated:
        raise PromptError(
            f"{source}: different prompts share the id {repeated[0]!r}. Make `id` unique or omit it, or draw one "
            "prompt per id with `gendiv prompts`"
        )
    return PromptSet(name, tuple(kept.values()), _hash_prompts(kept.values()), report)


def write_manifest(prompt_set: PromptSet, path: str | Path) -> None:
    """Write a prompt set as JSONL, one object per prompt: id, text, source, sha256 of the text, paraphrases."""
    lines = [
        json.dumps(
            {
                "id": prompt.id,
                "text": prompt.text,
                "source": prompt.source,
                "sha256": _sha256(prompt.text),
                "paraphrases": [paraphrase._asdict() for paraphrase in prompt.paraphrases],
            },
            ensure_ascii=False,
        )
        for prompt in prompt_set.prompts
    ]
    text = "".join(f"{line}\n" for line in lines)
    write_atomically(Path(path), lambda unfinished: unfinished.write_bytes(text.encode()))


def write_card(path: str | Path, facts: dict[str, Any]) -> None:
    """Write the metadata of a prompt set to `SET.card.json` next to `SET.jsonl`: provenance, and the file's hash.

    The set must already exist. Equal facts give the same bytes, so they should contain no date.
    """
    path = Path(path)
    facts = {"gendiv": __version__, **facts, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path.with_suffix(".card.json"), lambda unfinished: unfinished.write_bytes(text.encode()))


def read_manifest(path: str | Path) -> tuple[Prompt, ...]:
    """The prompts of a manifest, as they were written.

    Raises:
        PromptError: a text does not match its hash.
    """
    prompts = tuple(read_prompts(path, column="text"))
    with Path(path).open(encoding="utf-8") as file:
        hashes = [json.loads(line).get("sha256") for line in file if line.strip()]
    for prompt, sha256 in zip(prompts, hashes, strict=True):
        if sha256 != _sha256(prompt.text):
            raise PromptError(
                f"{path}: the text of prompt {prompt.id} was changed. Delete the file; it will be written again"
            )
    return prompts


def materialise_dataset(
    dataset: str,
    *,
    config: str | None,
    split: str,
    column: str | None,
    revision: str | None,
    limit: int | None,
    max_words: int | None,
    cache_dir: str | Path | None,
) -> PromptSet:
    """The prompts of a Hugging Face dataset: streamed to a cached manifest the first time, read from it afterwards.

    A metadata file next to the manifest records its source and the dropped records.
    """
    origin = {
        "dataset": os.path.abspath(dataset) if Path(dataset).is_dir() else dataset,
        "config": config,
        "split": split,
        "column": column,
        "revision": revision,
        "limit": limit,
    }
    folder = (Path(cache_dir).expanduser() if cache_dir else cache_folder()) / "prompts"
    manifest = folder / f"{_sha256(json.dumps(origin))[:16]}.jsonl"
    card = manifest.with_suffix(".json")
    if manifest.exists() and card.exists():
        return _read_cached(manifest, card, max_words)
    prompts = all_readable(stream_prompts(dataset, config=config, split=split, column=column, revision=revision))
    prompt_set = collect_prompts(prompts, name=dataset_name(dataset), source=dataset, limit=limit, max_words=max_words)
    facts = {"name": prompt_set.name, "origin": origin, "report": prompt_set.report._asdict()}
    write_atomically(card, lambda path: path.write_text(json.dumps(facts, indent=2), encoding="utf-8"))
    write_manifest(prompt_set, manifest)
    return prompt_set


def _read_cached(manifest: Path, card: Path, max_words: int | None) -> PromptSet:
    facts = json.loads(card.read_text(encoding="utf-8"))
    prompts = read_manifest(manifest)
    prompt_set = collect_prompts(prompts, name=facts["name"], source=str(manifest), max_words=max_words)
    read = {count: facts["report"][count] for count in ("read", "empty", "duplicates")}
    return replace(prompt_set, report=prompt_set.report._replace(**read))


def _hash_prompts(prompts: Iterable[Prompt]) -> str:
    return _sha256(json.dumps([(prompt.id, prompt.text, prompt.paraphrases) for prompt in prompts]))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
