"""`gendiv attributes`: make the list of attributes that the metric `attributes` reads off the images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from gendiv_lightning import plugins
from gendiv_lightning.cli.language_models import (
    add_request_arguments,
    check_positive,
    language_model,
    license_of,
    read_instruction,
)
from gendiv_lightning.cli.options import check_output_file, options_given
from gendiv_lightning.console.text import write
from gendiv_lightning.errors import OptionConflictError, OutputError
from gendiv_lightning.storage.named_files import expand

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gendiv_lightning.attributes.propose import Proposal, Proposed
    from gendiv_lightning.prompts.prompt_set import PromptSet

HELP = "list what each prompt leaves open and what it states, for the attributes metric"
DESCRIPTION = """
Asks a language model once about each prompt: which visible attributes does it leave open, which does it state, and
what are their values? Writes LIST.jsonl for the metric attributes[SCORER,list=LIST.jsonl], and LIST.card.json with
model, instruction and seed. The list is a prompt set, too: `--data.path` accepts it, and prompts keep their ids and
paraphrases. Read it before you use it; everything can be edited. Answers are cached in ~/.cache/gendiv
(GENDIV_CACHE): after an interruption the same command resumes and repeats no paid request. Invalid answers are
requested again; if none is valid, the error names the prompt and nothing is written.

MODEL is one of
  a name at an endpoint with OpenAI's chat completions API, such as vLLM, Ollama or OpenAI, in the environment variables
    OPENAI_BASE_URL and OPENAI_API_KEY; pip install "gendiv_lightning[paraphrase]"
  local:NAME, a chat model of transformers, by folder or Hub name
  postcards, the grammar of the toy dataset, and other registered names (gendiv list attributes)
Without --model, PROMPTS is an existing list in another format, which is rewritten: the CSV of GRADE, the folder
dense_prompts of COCO-DIMCIM, or any table with the columns prompt, attribute and attribute_values.

A line of the list, here in several lines:
  {"prompt": "a red car", "attributes": [
    {"name": "colour of the car", "values": ["red", "blue", "white"], "stated": "red"},
    {"name": "weather", "values": ["sunny", "rainy", "snowy"], "question": "What is the weather like?",
     "captions": [["a red car in the sun"], ["a red car in the rain"], ["a red car in the snow"]]}]}

examples:
  gendiv attributes toy:postcards.jsonl --model postcards --limit 4 --out postcards_attributes.jsonl
  OPENAI_BASE_URL=http://localhost:8000/v1 \\
      gendiv attributes coco.jsonl --model Qwen/Qwen3-8B --out coco_attributes.jsonl
  gendiv predict --config configs/llamagen.yaml --data.path coco_attributes.jsonl
  gendiv measure runs/llamagen-1a2b3c4d --metrics 'attributes[clip,list=coco_attributes.jsonl]'
  gendiv attributes COCO-DIMCIM/dense_prompts --out dimcim.jsonl
"""
_OF_A_MODEL = ("per_prompt", "seed", "concurrency", "timeout", "instruction", "column", "limit", "device")
_OF_A_LANGUAGE_MODEL = ("per_prompt", "seed", "concurrency", "timeout", "instruction", "device")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gendiv attributes`."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("prompts", type=expand, metavar="PROMPTS", help="prompt file, as for --data.path")
    parser.add_argument("--model", help="model that proposes the attributes, see above")
    parser.add_argument("--out", type=Path, metavar="LIST", required=True, help="file for the list, .jsonl")
    parser.add_argument(
        "--per-prompt", type=int, default=6, metavar="N", help="maximum number of attributes per prompt (default: 6)"
    )
    add_request_arguments(parser)
    parser.add_argument("--license", help="license of the list, recorded in the metadata")


def run(arguments: argparse.Namespace) -> int:
    """Propose attributes, or rewrite a list, and write them."""
    _check_arguments(arguments)
    if arguments.model is None:
        return _rewrite(arguments)
    from gendiv_lightning.prompts.files import read_prompts
    from gendiv_lightning.prompts.prompt_set import collect_prompts

    read = read_prompts(arguments.prompts, column=arguments.column)
    prompt_set = collect_prompts(
        read, name=arguments.prompts.stem, source=arguments.prompts.name, limit=arguments.limit
    )
    return _make(prompt_set, arguments)


def _check_arguments(arguments: argparse.Namespace) -> None:
    from gendiv_lightning.features.base import check_device
    from gendiv_lightning.prompts.files import check_prompt_file

    check_output_file(arguments.out, "--out", ".jsonl")
    if arguments.out.resolve() == arguments.prompts.resolve():
        raise OutputError(f"--out {arguments.out} would overwrite PROMPTS. Choose another name")
    check_positive(arguments, ("per_prompt", "concurrency", "limit", "timeout"))
    if arguments.model is None or arguments.model in plugins.registered("attributes"):
        given = options_given(arguments, _OF_A_MODEL if arguments.model is None else _OF_A_LANGUAGE_MODEL)
        if given:
            raise OptionConflictError(f"{', '.join(given)} applies to a language model. Remove it, or choose a --model")
    if arguments.model is not None:
        check_prompt_file(arguments.prompts)
        check_device(arguments.device)


def _rewrite(arguments: argparse.Namespace) -> int:
    from gendiv_lightning.attributes.lists import read_attributes
    from gendiv_lightning.attributes.propose import Proposed, write_list
    from gendiv_lightning.records import Prompt, prompt_id

    listed = read_attributes(arguments.prompts)
    prompts = [Prompt(prompt_id(text, listed.name), text, (), arguments.prompts.name) for text in listed.prompts]
    found = [Proposed(prompt, listed.of(prompt.text)) for prompt in prompts]
    write_list(arguments.out, found)
    write(f"{arguments.out}: {_in_words(found)}\n")
    return 0


def _make(prompt_set: PromptSet, arguments: argparse.Namespace) -> int:
    from gendiv_lightning.attributes.propose import Proposal, Proposed, write_list
    from gendiv_lightning.attributes.request import INSTRUCTION
    from gendiv_lightning.prompts.prompt_set import write_card

    license_of_prompts = license_of(arguments.prompts)
    facts = {
        "name": arguments.out.stem,
        "prompts": {
            "name": prompt_set.name,
            "sha256": prompt_set.sha256,
            "num": len(prompt_set.prompts),
            "license": license_of_prompts,
        },
        "license": arguments.license,
    }
    if arguments.model in plugins.registered("attributes"):
        attributes_of = plugins.load("attributes", arguments.model)
        found = [Proposed(prompt, attributes_of(prompt.text)) for prompt in prompt_set.prompts]
        facts |= {"model": {"model": arguments.model}}
    else:
        proposal = Proposal(
            language_model(arguments),
            arguments.per_prompt,
            arguments.seed,
            read_instruction(arguments.instruction) if arguments.instruction else INSTRUCTION,
            arguments.concurrency,
        )
        found = proposal.propose(prompt_set.prompts)
        facts |= _facts(proposal, found)
    write_list(arguments.out, found)
    write_card(arguments.out, facts)
    write(f"{arguments.out}: {_in_words(found)} by {arguments.model}\n")
    return 0


def _facts(proposal: Proposal, found: Sequence[Proposed]) -> dict[str, object]:
    return {
        "model": proposal.model.identity(),
        "instruction": proposal.instruction,
        "seed": proposal.seed,
        "per_prompt": proposal.per_prompt,
        "date": max(proposed.date for proposed in found),
        "invalid_answers": sum(proposed.num_invalid for proposed in found),
    }


def _in_words(found: Sequence[Proposed]) -> str:
    stated = [attribute.stated is not None for proposed in found for attribute in proposed.attributes]
    return f"{len(stated) - sum(stated)} open and {sum(stated)} stated attributes of {len(found)} prompts"
