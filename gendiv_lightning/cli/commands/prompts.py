"""`gendiv prompts`: draw a prompt set from a file, a folder of tars or Parquet, or a dataset on the Hub."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gendiv_lightning.cli.options import check_output_file
from gendiv_lightning.console.text import printable, write
from gendiv_lightning.errors import ConfigValueError, OptionConflictError, OutputError, PromptError, TooLittleDataError

if TYPE_CHECKING:
    from gendiv_lightning.records import Prompt
    from gendiv_lightning.storage.tables import Unreadable

HELP = "draw a prompt set from captions in files or in a dataset"
COUNT_TOKENS = (
    "count how many texts exceed the limit of a text encoder, and record it in the metadata; folder or Hub name, "
    "with a "
    "limit if the tokenizer has none: openai/clip-vit-large-patch14, google/flan-t5-xl:120; repeat for several"
)
DESCRIPTION = """
Streams captions, filters them, removes near-duplicates and draws M of them with a fixed seed. Writes SET.jsonl, which
`--data.path` accepts, and SET.card.json with source, license, filters, the number of captions that each filter dropped,
and hashes. The draw depends only on the seed and the captions, not on the order of files; the same command writes the
same bytes.

SOURCE is one of
  a file: .jsonl, .json, .csv, .tsv, .parquet, .txt, .tar
  a folder of WebDataset tars (captions in their .json), Parquet or JSONL files
  MSCOCO: its folder, or annotations/captions_val2014.json; one caption per image is drawn
  a dataset on the Hugging Face Hub, by name; it is streamed, not downloaded

examples:
  gendiv prompts ProGamerGov/synthetic-dataset-1m-dalle3-high-quality-captions --column short_caption2 \\
      --source dall --english --num 1000 --seed 0 --out dalle3.jsonl
  gendiv prompts dalle3/ --column long_caption --num 300 --stratify length --out lengths.jsonl
  gendiv prompts data/coco --num 30000 --out coco30k.jsonl
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gendiv prompts`."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("source", metavar="SOURCE", help="captions, see above")
    parser.add_argument("--out", type=Path, required=True, metavar="SET", help="file for the prompt set, .jsonl")
    parser.add_argument("--num", type=int, required=True, metavar="M", help="number of prompts to draw")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw (default: 0)")
    parser.add_argument("--column", help="column with the captions (default: prompt, caption, text, short_caption)")
    parser.add_argument(
        "--id",
        metavar="NAME",
        help="column that identifies what a caption describes, such as an image; one caption of each is drawn",
    )
    parser.add_argument(
        "--source",
        dest="sources",
        action="append",
        default=[],
        metavar="TEXT",
        help="keep only captions whose source contains TEXT",
    )
    parser.add_argument("--min-words", type=int, metavar="N", help="drop captions with fewer words")
    parser.add_argument("--max-words", type=int, metavar="N", help="drop captions with more words")
    parser.add_argument(
        "--english",
        action="store_true",
        help="drop captions that are not English, judged by letters and frequent words; very short ones may pass",
    )
    parser.add_argument(
        "--near-duplicates",
        type=float,
        default=0.8,
        metavar="SHARE",
        help="similarity above which captions are duplicates (Jaccard, of 5-character shingles; default: 0.8)",
    )
    parser.add_argument(
        "--stratify",
        choices=("length", "source"),
        help="draw the same number from each length class, or from each source",
    )
    parser.add_argument("--count-tokens", action="append", default=[], metavar="TOKENIZER", help=COUNT_TOKENS)
    parser.add_argument(
        "--max-corrupt",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="share of unreadable records to tolerate (default: 0.01)",
    )
    parser.add_argument("--license", help="license of the captions, if their README states none")
    hub = parser.add_argument_group("datasets (folders or names on the Hub)")
    hub.add_argument("--split", help="split to read (default: train)")
    hub.add_argument("--config", help="configuration of the dataset")
    hub.add_argument("--revision", help="commit, branch or tag (default: the newest; recorded in the metadata)")


def run(arguments: argparse.Namespace) -> int:
    """Stream the captions, draw prompts, write the set and its metadata."""
    from gendiv_lightning.console.tables import format_truncation
    from gendiv_lightning.prompts.draw import in_words, pick_prompts
    from gendiv_lightning.prompts.files import find_captions
    from gendiv_lightning.prompts.filters import PromptFilter
    from gendiv_lightning.prompts.prompt_set import collect_prompts, write_card, write_manifest
    from gendiv_lightning.prompts.stream import find_prompt_files
    from gendiv_lightning.prompts.token_counts import TokenCounter
    from gendiv_lightning.records import length_class
    from gendiv_lightning.storage.sources import describe_source, is_saved_dataset

    _check(arguments)
    source = str(find_captions(Path(arguments.source)))
    if Path(source).is_file() and (arguments.split or arguments.config or arguments.revision):
        raise OptionConflictError(
            f"--split, --config and --revision apply to datasets, but {source} is a file. Remove them"
        )
    origin = describe_source(source, arguments.revision)
    if Path(source).is_dir() and not is_saved_dataset(Path(source)):
        notes = find_prompt_files(Path(source), arguments.split).notes
        write("".join(f"{printable(note)}\n" for note in notes), sys.stderr)
    counters = [TokenCounter(name) for name in arguments.count_tokens]
    keep = PromptFilter(tuple(arguments.sources), arguments.min_words, arguments.max_words, arguments.english)
    try:
        drawn = pick_prompts(
            lambda: _read(source, origin["version"], arguments),
            arguments.num,
            arguments.seed,
            keep=keep,
            near_duplicates=arguments.near_duplicates,
            stratify=arguments.stratify,
        )
    except TooLittleDataError as error:
        raise TooLittleDataError(f"{source}: {error}") from error
    unreadable = drawn.unreadable
    if len(unreadable) > arguments.max_corrupt * (drawn.counts["read"] + len(unreadable)):
        raise PromptError(
            f"{len(unreadable)} records of {source} cannot be read, more than a share of {arguments.max_corrupt:g}; "
            "the "
            f"last are {'; '.join(unreadable[-3:])}. Fetch them again, or raise --max-corrupt"
        )
    prompt_set = collect_prompts(drawn.prompts, name=arguments.out.stem, source=source)
    texts = {"prompts": [prompt.text for prompt in prompt_set.prompts]}
    tokens = {counter.label: counter.facts(texts) for counter in counters}
    write_manifest(prompt_set, arguments.out)
    card = {
        "name": prompt_set.name,
        "prompts_sha256": prompt_set.sha256,
        "source": {
            **origin,
            "license": arguments.license or origin["license"],
            **{name: getattr(arguments, name) for name in ("column", "id", "split", "config")},
        },
        "draw": {"num": arguments.num, "seed": arguments.seed, "stratify": arguments.stratify},
        "filters": {**asdict(keep), "near_duplicates": arguments.near_duplicates},
        "counts": drawn.counts,
        "lengths": Counter(length_class(prompt.text) for prompt in drawn.prompts),
        "sources": Counter(prompt.source for prompt in drawn.prompts),
        "tokens": tokens,
        "unreadable": unreadable,
    }
    write_card(arguments.out, card)
    write(f"{arguments.out}: {arguments.num} prompts of {origin['name']}\n{in_words(drawn.counts)}\n")
    for label, facts in tokens.items():
        write(f"{label}: {format_truncation(facts)}\n")
    if unreadable:
        write(printable(f"{len(unreadable)} records cannot be read: {'; '.join(unreadable[:10])}") + "\n", sys.stderr)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    counts = {name: getattr(arguments, name) for name in ("num", "min_words", "max_words")}
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ConfigValueError(
                f"--{name.replace('_', '-')} must be at least 1, got {count}. Give a positive integer"
            )
    if counts["min_words"] and counts["max_words"] and counts["min_words"] > counts["max_words"]:
        raise OptionConflictError(
            f"--min-words {counts['min_words']} is above --max-words {counts['max_words']}. Swap them"
        )
    if not 0 <= arguments.max_corrupt <= 1:
        raise ConfigValueError(
            f"--max-corrupt must be a share in [0, 1], got {arguments.max_corrupt}. Give 0.01 for 1 %"
        )
    check_output_file(arguments.out, "--out", ".jsonl")
    source = Path(arguments.source).resolve()
    if source == arguments.out.resolve() or source in arguments.out.resolve().parents:
        raise OutputError(
            f"--out {arguments.out} must not be inside SOURCE, which would be read next time. Choose another folder"
        )


def _read(source: str, version: str, arguments: argparse.Namespace) -> Iterable[Prompt | Unreadable]:
    from tqdm import tqdm

    from gendiv_lightning.prompts.files import scan_prompts
    from gendiv_lightning.prompts.stream import stream_prompts

    columns: dict[str, Any] = {"column": arguments.column, "id_column": arguments.id}
    if Path(source).is_file():
        prompts = scan_prompts(source, **columns)
    else:
        dataset = {"split": arguments.split or "train", "config": arguments.config}
        revision = None if Path(source).is_dir() else version  # the one in the metadata
        prompts = stream_prompts(source, revision=revision, **dataset, **columns)
    return tqdm(prompts, desc=f"Reading {Path(source).name}", unit=" prompts", delay=2)
