"""Write a paraphrase set in the format that `PromptData` reads, and summarize it for metadata and terminal."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from gendiv_lightning.console.tables import format_table
from gendiv_lightning.prompts.paraphrase.generate import Judge, Reworded
from gendiv_lightning.records import LENGTHS, Prompt
from gendiv_lightning.storage.atomic import write_atomically

QUANTILES = {"min": 0.0, "5 %": 0.05, "median": 0.5, "max": 1.0}


def write_set(path: Path, found: Sequence[Reworded], model: str, seed: int) -> None:
    """Write JSONL, one object per prompt, in the order of the prompts. Prompts keep their ids, and so their noise."""
    lines = [json.dumps(_record(reworded, model, seed), ensure_ascii=False) for reworded in found]
    text = "".join(f"{line}\n" for line in lines)
    write_atomically(path, lambda unfinished: unfinished.write_bytes(text.encode()))


def _record(reworded: Reworded, model: str, seed: int) -> dict[str, Any]:
    paraphrases = []
    for scored in reworded.paraphrases:
        record: dict[str, Any] = {"text": scored.text, "length": scored.length, "model": model, "seed": seed}
        record["similarity"] = scored.similarity
        if len(scored.similarities) > 1:
            record["similarities"] = scored.similarities
        paraphrases.append(record)
    prompt = reworded.prompt
    return {"prompt_id": prompt.id, "prompt": prompt.text, "paraphrases": paraphrases, "source": prompt.source}


def check_set(prompts: Sequence[Prompt], judge: Judge) -> list[Reworded]:
    """Filter the paraphrases of an existing set like answers of a model."""
    from tqdm import tqdm

    found = []
    for prompt in tqdm(prompts, desc="Checking", unit="prompt", delay=2):
        reworded, seen = Reworded(prompt), list[str]()
        for text, length in prompt.paraphrases:
            verdict = judge.judge(prompt.text, text, length, seen)
            seen.append(text)
            if isinstance(verdict, str):
                reworded.dropped[verdict] += 1
            else:
                reworded.paraphrases.append(verdict)
        found.append(reworded)
    return found


def dropped(found: Sequence[Reworded]) -> dict[str, int]:
    """Number of dropped texts by reason, including unreadable answers."""
    return dict(sorted(sum((reworded.dropped for reworded in found), Counter[str]()).items()))


def distribution(found: Sequence[Reworded]) -> dict[str, dict[str, dict[str, float]]]:
    """For each similarity and length class: count, mean and quantiles."""
    names = list(dict.fromkeys(name for r in found for scored in r.paraphrases for name in scored.similarities))
    return {
        name: {length: _summary(values) for length in LENGTHS if (values := _values(found, name, length))}
        for name in names
    }


def _values(found: Sequence[Reworded], name: str, length: str) -> list[float]:
    return [scored.similarities[name] for r in found for scored in r.paraphrases if scored.length == length]


def _summary(values: list[float]) -> dict[str, float]:
    numbers = torch.tensor(values, dtype=torch.float64)
    quantiles = {name: round(numbers.quantile(share).item(), 4) for name, share in QUANTILES.items()}
    return {"paraphrases": len(values), "mean": round(numbers.mean().item(), 4), **quantiles}


def format_distribution(found: Sequence[Reworded]) -> str:
    """The distribution as a table."""
    rows = [("similarity to the prompt", "length", "paraphrases", "mean", *QUANTILES)]
    for name, classes in distribution(found).items():
        for length, summary in classes.items():
            numbers = [f"{summary[column]:.4f}" for column in ("mean", *QUANTILES)]
            rows.append((name, length, str(summary["paraphrases"]), *numbers))
    return format_table(rows)
