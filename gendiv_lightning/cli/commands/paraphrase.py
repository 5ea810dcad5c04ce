"""`gendiv paraphrase`: generate or check paraphrases of prompts."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gendiv_lightning import plugins
from gendiv_lightning.cli.commands.prompts import COUNT_TOKENS
from gendiv_lightning.cli.language_models import (
    add_request_arguments,
    check_positive,
    language_model,
    license_of,
    read_instruction,
)
from gendiv_lightning.cli.options import check_output_file
from gendiv_lightning.console.text import write
from gendiv_lightning.errors import (
    ConfigValueError,
    OptionConflictError,
    OutputError,
    PromptError,
    restated,
)
from gendiv_lightning.storage.named_files import expand

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gendiv_lightning.prompts.paraphrase.generate import Judge, Reworded, Rewording
    from gendiv_lightning.prompts.paraphrase.request import Paraphraser
    from gendiv_lightning.prompts.prompt_set import PromptSet

HELP = "generate or check paraphrases of prompts, for the Paraphrase design"
DESCRIPTION = """
Requests paraphrases of each prompt from a language model, drops unsuitable ones (duplicates, copies of the prompt,
wrong length, too low similarity) and requests replacements. Writes SET.jsonl, which `--data.path` accepts, and
SET.card.json with model, instruction, similarities and the number of dropped texts. Prompts keep their ids, and so
their noise. Answers are cached in ~/.cache/gendiv (GENDIV_CACHE): after an interruption the same command resumes,
repeats no paid request and writes identical files. The exit status is 1 if a prompt has too few paraphrases.

MODEL is one of
  a model name at an OpenAI-compatible endpoint (OpenAI, vLLM, Ollama): the environment variables OPENAI_BASE_URL and
    OPENAI_API_KEY give address and key; the key is never stored. Needs pip install "gendiv_lightning[paraphrase]"
  local:NAME, a chat model of transformers, by folder or Hub name
  postcards, the grammar of the toy dataset

SIMILARITIES are one or more of these, separated by commas; the first is used for filtering, all are recorded
  a CLIP, as in clip_score[...]; tiny-clip is the CLIP of the toy dataset
  sentence:NAME, a sentence encoder of transformers, by folder or Hub name
  nli:NAME, an entailment classifier: the smaller probability of both directions

examples:
  gendiv paraphrase toy:postcards.jsonl --model postcards --out postcards8.jsonl
  OPENAI_BASE_URL=http://localhost:8000/v1 gendiv paraphrase coco.jsonl --model Qwen/Qwen3-8B --per-prompt 8 \\
      --similarity sentence:sentence-transformers/all-MiniLM-L6-v2 --min-similarity 0.6 --out coco8.jsonl
  gendiv paraphrase coco8.jsonl --check --similarity nli:cross-encoder/nli-deberta-v3-base
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gendiv paraphrase`."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("prompts", type=expand, metavar="PROMPTS", help="prompt file, as for --data.path")
    parser.add_argument("--out", type=Path, metavar="SET", help="file for the paraphrase set, .jsonl")
    parser.add_argument(
        "--check",
        action="store_true",
        help="check the existing paraphrases in PROMPTS; the exit status is 1 if one fails",
    )
    parser.add_argument("--model", help="model that writes the paraphrases, see above")
    parser.add_argument("--per-prompt", type=int, default=8, metavar="N", help="paraphrases per prompt (default: 8)")
    parser.add_argument(
        "--length",
        choices=("short", "medium", "long", "mixed"),
        default="mixed",
        help="short (up to 12 words), medium (up to 40), long, or mixed: the same number of each (default: mixed)",
    )
    parser.add_argument(
        "--similarity",
        metavar="SIMILARITIES",
        help="similarity measures, see above (default: the CLIP of clip_score, or tiny-clip for postcards)",
    )
    parser.add_argument(
        "--min-similarity", type=float, metavar="X", help="drop paraphrases with a lower similarity (default: keep all)"
    )
    add_request_arguments(parser)
    parser.add_argument("--count-tokens", action="append", default=[], metavar="TOKENIZER", help=COUNT_TOKENS)
    parser.add_argument("--license", help="license of the paraphrases, recorded in the metadata")


def run(arguments: argparse.Namespace) -> int:
    """Check the paraphrases in PROMPTS, or generate paraphrases and write them."""
    from gendiv_lightning.prompts.files import read_prompts
    from gendiv_lightning.prompts.prompt_set import collect_prompts

    _check_arguments(arguments)
    read = read_prompts(arguments.prompts, column=arguments.column)
    prompt_set = collect_prompts(
        read, name=arguments.prompts.stem, source=arguments.prompts.name, limit=arguments.limit
    )
    if arguments.check:
        return _check(prompt_set, _judge(arguments))
    return _make(prompt_set, arguments)


def _check_arguments(arguments: argparse.Namespace) -> None:
    from gendiv_lightning.features.base import check_device
    from gendiv_lightning.prompts.files import check_prompt_file

    check_prompt_file(arguments.prompts)
    check_device(arguments.device)
    if arguments.instruction is not None:
        read_instruction(arguments.instruction)
    if arguments.min_similarity is not None and not -1 <= arguments.min_similarity <= 1:
        raise ConfigValueError(f"--min-similarity must be in [-1, 1], got {arguments.min_similarity:g}. Correct it")
    check_positive(arguments, ("per_prompt", "concurrency", "limit", "timeout"))
    if arguments.check:
        if arguments.out or arguments.model:
            raise OptionConflictError("--check reads existing paraphrases and writes nothing. Remove --out and --model")
        return
    if not arguments.out or not arguments.model:
        raise OptionConflictError(
            "--out or --model is missing. Give --out SET.jsonl and --model, or --check to check an existing set"
        )
    check_output_file(arguments.out, "--out", ".jsonl")
    if arguments.out.resolve() == arguments.prompts.resolve():
        raise OutputError(f"--out {arguments.out} would overwrite PROMPTS. Choose another name")


def _judge(arguments: argparse.Namespace) -> Judge:
    from gendiv_lightning.features.clip import DEFAULT_BACKBONE
    from gendiv_lightning.prompts.paraphrase.generate import Judge
    from gendiv_lightning.prompts.paraphrase.similarity import make_similarity

    registered = plugins.registered("paraphrasers").get(arguments.model or "")
    default = registered.load().similarity if registered else DEFAULT_BACKBONE
    names = (arguments.similarity or default).split(",")
    similarities = []
    for name in names:
        try:
            similarities.append(make_similarity(name.strip(), arguments.device))
        except ValueError as error:
            raise restated(error, f"--similarity {name.strip()}: {error}") from error
    for similarity in similarities:
        similarity.load()
    return Judge(similarities, arguments.min_similarity)


def _paraphraser(arguments: argparse.Namespace) -> Paraphraser:
    if arguments.model in plugins.registered("paraphrasers"):
        return plugins.load("paraphrasers", arguments.model)()
    return language_model(arguments)


def _check(prompt_set: PromptSet, judge: Judge) -> int:
    from gendiv_lightning.prompts.paraphrase.set_files import check_set, dropped, format_distribution

    if not any(prompt.paraphrases for prompt in prompt_set.prompts):
        raise PromptError(f"{prompt_set.name} has no paraphrases to check. Generate some with --model and --out")
    found = check_set(prompt_set.prompts, judge)
    wrong = dropped(found)
    write(f"{format_distribution(found)}\n\n{_in_words(wrong) or 'nothing wrong'}\n")
    for reworded in [r for r in found if r.dropped][:10]:
        write(f"{reworded.prompt.id} ({reworded.prompt.text[:60]!r}): {_in_words(reworded.dropped)}\n", sys.stderr)
    return 1 if wrong else 0


def _make(prompt_set: PromptSet, arguments: argparse.Namespace) -> int:
    from gendiv_lightning.console.tables import format_truncation
    from gendiv_lightning.prompts.paraphrase.generate import Rewording
    from gendiv_lightning.prompts.paraphrase.request import INSTRUCTION
    from gendiv_lightning.prompts.paraphrase.set_files import dropped, format_distribution, write_set
    from gendiv_lightning.prompts.prompt_set import write_card
    from gendiv_lightning.prompts.token_counts import TokenCounter

    license_of_prompts = license_of(arguments.prompts)
    counters = [TokenCounter(name) for name in arguments.count_tokens]
    instruction = read_instruction(arguments.instruction) if arguments.instruction else INSTRUCTION
    rewording = Rewording(
        _paraphraser(arguments),
        _judge(arguments),
        arguments.per_prompt,
        arguments.length,
        arguments.seed,
        instruction,
        arguments.concurrency,
    )
    found = rewording.reword(prompt_set.prompts)
    write_set(arguments.out, found, rewording.paraphraser.name, rewording.seed)
    kinds = {
        "prompts": [reworded.prompt.text for reworded in found],
        "paraphrases": [scored.text for reworded in found for scored in reworded.paraphrases],
    }
    tokens = {counter.label: counter.facts(kinds) for counter in counters}
    write_card(arguments.out, {**_card(prompt_set, license_of_prompts, rewording, found, arguments), "tokens": tokens})
    num_paraphrases = sum(len(reworded.paraphrases) for reworded in found)
    counts = f"{num_paraphrases} paraphrases of {len(found)} prompts by {rewording.paraphraser.name}"
    write(f"{arguments.out}: {counts}\ndropped: {_in_words(dropped(found)) or 'nothing'}\n\n")
    write(f"{format_distribution(found)}\n")
    for label, facts in tokens.items():
        write(f"{label}: {format_truncation(facts)}\n")
    few = [reworded.prompt for reworded in found if reworded.missing]
    if few:
        write(
            f"{len(few)} prompts got fewer than {arguments.per_prompt} paraphrases, the first {few[0].id} "
            f"({few[0].text[:60]!r}). Lower --min-similarity, or change --seed, --length or --model\n",
            sys.stderr,
        )
    return 1 if few else 0


def _card(
    prompt_set: PromptSet,
    license_of_prompts: Any,
    rewording: Rewording,
    found: Sequence[Reworded],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    from gendiv_lightning.prompts.paraphrase.set_files import distribution, dropped

    judge = rewording.judge
    return {
        "name": arguments.out.stem,
        "prompts": {
            "name": prompt_set.name,
            "sha256": prompt_set.sha256,
            "num": len(prompt_set.prompts),
            "license": license_of_prompts,
        },
        "model": rewording.paraphraser.identity(),
        "instruction": rewording.instruction,
        "seed": rewording.seed,
        "date": max(reworded.last_answer for reworded in found),
        "wanted": {"per_prompt": rewording.per_prompt, "length": rewording.length},
        "counts": {
            "paraphrases": sum(len(reworded.paraphrases) for reworded in found),
            "missing": sum(reworded.missing for reworded in found),
            "dropped": dropped(found),
        },
        "similarity": {
            "models": {similarity.name: similarity.identity() for similarity in judge.similarities},
            "min_similarity": judge.min_similarity,
            "distribution": distribution(found),
        },
        "license": arguments.license,
    }


def _in_words(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())
