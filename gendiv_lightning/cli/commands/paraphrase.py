"""`gendiv paraphrase`: paraphrases of prompts, each held against its prompt."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gendiv_lightning import plugins
from gendiv_lightning.cli.commands.prompts import COUNT_TOKENS
from gendiv_lightning.console.text import write
from gendiv_lightning.errors import ConfigValueError, OptionConflictError, OutputError, PromptError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gendiv_lightning.prompts.paraphrase.generate import Judge, Reworded, Rewording
    from gendiv_lightning.prompts.paraphrase.request import Paraphraser
    from gendiv_lightning.prompts.prompt_set import PromptSet

HELP = "make or check a paraphrase set, for the Paraphrase probe"
DESCRIPTION = """
Asks a model for paraphrases of each prompt, drops what is no paraphrase (duplicates, copies of the prompt, other
lengths, texts that are too far from it) and asks again for what is missing. It writes SET.jsonl, which `--data.path`
takes, and SET.card.json: model, instruction, similarities, what was dropped. Prompts keep their ids, and so their
noise. Answers are kept in ~/.cache/gendiv (GENDIV_CACHE): killed at any point, the same command goes on, pays for
nothing twice and ends with the same files. It ends with status 1 where prompts got too few paraphrases.

MODEL is one of
  a name at any OpenAI-compatible endpoint (OpenAI, vLLM, Ollama): address and key are OPENAI_BASE_URL and
    OPENAI_API_KEY of the environment; the key is never stored. It needs pip install "gendiv_lightning[paraphrase]"
  local:NAME, a chat model of transformers, by folder or Hub name
  postcards, the grammar of the toy dataset

SIMILARITIES are one or more of, separated by commas; the first is filtered by, the others stand beside
  a CLIP, as in clip_score[...]; tiny-clip is the embedded world's
  sentence:NAME, a sentence encoder of transformers, by folder or Hub name
  nli:NAME, a classifier of entailment: the smaller of the probabilities of both directions

examples:
  gendiv paraphrase toy:postcards.jsonl --model postcards --out postcards8.jsonl
  OPENAI_BASE_URL=http://localhost:8000/v1 gendiv paraphrase coco.jsonl --model Qwen/Qwen3-8B --per-prompt 8 \\
      --similarity sentence:sentence-transformers/all-MiniLM-L6-v2 --min-similarity 0.6 --out coco8.jsonl
  gendiv paraphrase coco8.jsonl --check --similarity nli:cross-encoder/nli-deberta-v3-base
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gendiv paraphrase`."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("prompts", type=Path, metavar="PROMPTS", help="prompt file, as in --data.path")
    parser.add_argument("--out", type=Path, metavar="SET", help="the paraphrase set, .jsonl")
    parser.add_argument("--check", action="store_true", help="judge the paraphrases in PROMPTS; exit 1 if one fails")
    parser.add_argument("--model", help="who rewords, see above")
    parser.add_argument("--per-prompt", type=int, default=8, metavar="N", help="paraphrases of a prompt (default: 8)")
    parser.add_argument(
        "--length",
        choices=("short", "medium", "long", "mixed"),
        default="mixed",
        help="short (to 12 words), medium (to 40), long, or mixed: evenly from the three (default: mixed)",
    )
    parser.add_argument(
        "--similarity",
        metavar="SIMILARITIES",
        help="see above (default: the CLIP of clip_score; for postcards tiny-clip)",
    )
    parser.add_argument("--min-similarity", type=float, metavar="X", help="drop what is below (default: keep all)")
    parser.add_argument("--seed", type=int, default=0, help="of the requests (default: 0)")
    parser.add_argument("--concurrency", type=int, default=8, metavar="N", help="most requests at a time (default: 8)")
    parser.add_argument("--timeout", type=float, default=120, metavar="SECONDS", help="of a request (default: 120)")
    parser.add_argument("--instruction", type=Path, metavar="FILE", help="tell the model this instead of the default")
    parser.add_argument("--column", help="column of the prompt (default: prompt, caption, text, short_caption)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N prompts")
    parser.add_argument("--count-tokens", action="append", default=[], metavar="TOKENIZER", help=COUNT_TOKENS)
    parser.add_argument("--license", help="of the paraphrases, for the card")
    parser.add_argument("--device", default="cpu", help="where local models run: cpu, cuda (default: cpu)")


def run(arguments: argparse.Namespace) -> int:
    """Check what PROMPTS has, or ask and write."""
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
    from gendiv_lightning.prompts.files import check_prompt_file
    from gendiv_lightning.storage.files import check_regular

    check_prompt_file(arguments.prompts)
    for name in ("per_prompt", "concurrency", "limit", "timeout"):
        value = getattr(arguments, name)
        if value is not None and value <= 0:
            raise ConfigValueError(f"--{name.replace('_', '-')} must be above 0, got {value}")
    if arguments.check:
        if arguments.out or arguments.model:
            raise OptionConflictError("--check judges what is there: leave out --out and --model")
        return
    if not arguments.out or not arguments.model:
        raise OptionConflictError("give --out SET.jsonl and --model (or --check, to judge a set that is there)")
    if arguments.out.suffix != ".jsonl":
        raise OutputError(f"--out must end in .jsonl, got {arguments.out}")
    if arguments.out.is_dir():
        raise OutputError(f"--out {arguments.out} is a folder, and a file is needed: choose a name in it")
    if arguments.instruction is not None:
        check_regular(arguments.instruction)
    if arguments.out.resolve() == arguments.prompts.resolve():
        raise OutputError(f"--out {arguments.out} is PROMPTS itself: give the set a name of its own")


def _judge(arguments: argparse.Namespace) -> Judge:
    from gendiv_lightning.features.clip import DEFAULT_BACKBONE
    from gendiv_lightning.prompts.paraphrase.generate import Judge
    from gendiv_lightning.prompts.paraphrase.similarity import make_similarity

    registered = plugins.registered("paraphrasers").get(arguments.model or "")
    default = registered.load().similarity if registered else DEFAULT_BACKBONE
    names = (arguments.similarity or default).split(",")
    similarities = [make_similarity(name.strip(), arguments.device) for name in names]
    for similarity in similarities:
        similarity.load()
    return Judge(similarities, arguments.min_similarity)


def _paraphraser(arguments: argparse.Namespace) -> Paraphraser:
    from gendiv_lightning.prompts.paraphrase.endpoint import Endpoint
    from gendiv_lightning.prompts.paraphrase.local import ChatModel

    if arguments.model in plugins.registered("paraphrasers"):
        return plugins.load("paraphrasers", arguments.model)()
    kind, _, name = arguments.model.partition(":")
    if kind == "local" and name:
        return ChatModel(name, arguments.device)
    return Endpoint(arguments.model, arguments.timeout)


def _check(prompt_set: PromptSet, judge: Judge) -> int:
    from gendiv_lightning.prompts.paraphrase.set_files import check_set, dropped, format_distribution

    if not any(prompt.paraphrases for prompt in prompt_set.prompts):
        raise PromptError(f"{prompt_set.name} has no paraphrases to check: make some with --model and --out")
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

    counters = [TokenCounter(name) for name in arguments.count_tokens]
    instruction = arguments.instruction.read_text(encoding="utf-8") if arguments.instruction else INSTRUCTION
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
    write_card(arguments.out, {**_card(prompt_set, rewording, found, arguments), "tokens": tokens})
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
            f"({few[0].text[:60]!r}): lower --min-similarity, or take another --seed, --length or --model\n",
            sys.stderr,
        )
    return 1 if few else 0


def _card(
    prompt_set: PromptSet, rewording: Rewording, found: Sequence[Reworded], arguments: argparse.Namespace
) -> dict[str, Any]:
    from gendiv_lightning.prompts.paraphrase.set_files import distribution, dropped

    judge = rewording.judge
    return {
        "name": arguments.out.stem,
        "prompts": {
            "name": prompt_set.name,
            "sha256": prompt_set.sha256,
            "num": len(prompt_set.prompts),
            "license": _license(arguments.prompts),
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


def _license(prompts: Path) -> str | None:
    """What the card of a prompt set states, if it has one."""
    card = prompts.with_suffix(".card.json")
    facts = json.loads(card.read_text(encoding="utf-8")) if card.is_file() else {}
    return facts.get("source", {}).get("license")


def _in_words(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())
