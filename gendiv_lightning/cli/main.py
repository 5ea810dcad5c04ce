"""The command `gendiv`. This module imports nothing heavy: each command imports what it needs."""

from __future__ import annotations

import argparse
import gc
import io
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

from gendiv_lightning import __version__
from gendiv_lightning.cli.options import Parser, check_numbers, check_words
from gendiv_lightning.console.text import printable
from gendiv_lightning.errors import command_line_text

COMMANDS = (
    *("attributes", "branch", "check-generator", "compare", "configs", "decompose", "doctor", "drift", "list"),
    *("measure", "new", "paraphrase", "power", "prompts", "reference", "report", "show", "study", "toy", "verify"),
)
ALIASES = {"plan": "power", "zoo": "toy"}  # for one release

EPILOG = """
Where does the diversity of an image generator come from? gendiv changes one source of randomness at a time with probes
on the sampling loop (codebook subset, argmax, frozen path, paraphrase), and measures how much diversity is left.

start here, offline, on a CPU, in about a minute:
  gendiv predict --config configs/tiny/llamagen.yaml          samples, a grid and metrics, in runs/
  gendiv predict --config configs/tiny/llamagen_argmax.yaml   same noise, argmax probe: diversity drops to 0

measure generators:
  gendiv predict --help                      all options; every value of a config can be set on the command line
  gendiv study --config configs/tiny/study.yaml   the whole comparison, generators x probes; then `gendiv report`
  gendiv branch CONFIG --steps 0,1,2,4       when is the picture decided? the share of diversity fixed by each step
  gendiv validate --config configs/tiny/llamagen_codebook.yaml   count how often each codebook entry is used

analyze runs:
  gendiv show RUN                            the numbers and the grid of one run, in the terminal
  gendiv compare RUN RUN                     what a probe changes, prompt by prompt, with intervals and p-values
  gendiv decompose RUN                       H_total = H_path + H_exec by several decompositions, and a verdict
  gendiv drift RUN RUN                       do images under a probe still show what their prompts state?
  gendiv report RUNS --out report            everything as one page: the answer in words, pictures and tables
  gendiv verify RUN                          sample a few images of a run again and compare them with the stored ones
  gendiv power --pilot RUN --width 0.01 ...  how many prompts and samples does a question need?

prepare data:
  gendiv prompts CAPTIONS --num M --out SET  draw a prompt set from files or a dataset: filtered, with a fixed seed
  gendiv attributes PROMPTS --out LIST ...   list what each prompt leaves open and states, for the attributes metric
  gendiv paraphrase PROMPTS --out SET ...    generate paraphrases, each checked for similarity to its prompt
  gendiv measure IMAGES                      compute the metrics on your own images, grouped by prompt
  gendiv reference IMAGES --out FILE         compute statistics of real images, for FID

extend and check:
  gendiv list                                everything that is registered: generators, probes, metrics, features
  gendiv configs list                        the configs that the package ships; `gendiv configs copy` copies them
  gendiv new generator NAME                  write a package with the template of a generator and its test
  gendiv check-generator MODEL               run the contract tests on any generator
  gendiv doctor                              check this installation; with --golden FOLDER, also reference values
  gendiv toy evaluate                        how good are the toy models?
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands except `predict` and `validate`, which use Lightning's."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        "gendiv",
        description="Measure the diversity of image generators and where it comes from.",
        epilog=EPILOG,
        formatter_class=raw,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser("predict", help="generate images under probes, and measure them", add_help=False)
    commands.add_parser("validate", help="count how often a tokenizer uses each codebook entry", add_help=False)
    commands.add_parser("fit-free", help="long form: `fit-free predict`, `fit-free validate`", add_help=False)

    for name in COMMANDS:
        command = _module(name)
        aliases = [old for old, new in ALIASES.items() if new == name]
        command.add_arguments(commands.add_parser(name, help=command.HELP, aliases=aliases))
    return parser


def _module(command: str) -> ModuleType:
    return import_module(f"gendiv_lightning.cli.commands.{command.replace('-', '_')}")


@contextmanager
def say_if_slow(line: str, seconds: float = 1.0) -> Iterator[None]:
    """Write a line to standard error if the block takes longer than `seconds`, on rank zero only."""
    timer = threading.Timer(seconds, lambda: sys.stderr.write(f"gendiv: {line}\n"))
    timer.daemon = True
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def expand_home(word: str) -> str:
    """Expand `~` in a word of the command line: `~/FILE` or `--OPTION=~/FILE`."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return f"{option}{equals}{os.path.expanduser(value)}" if value.startswith("~") else word


def _escape_unprintable() -> None:
    """Escape characters that the terminal's encoding cannot show; otherwise printing the results could fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command."""
    try:
        _run(argv)
    except KeyboardInterrupt:
        sys.stderr.write("gendiv: interrupted\n")
        sys.exit(130)  # as shells report SIGINT


def _run(argv: list[str] | None) -> None:
    _escape_unprintable()
    arguments = sys.argv[1:] if argv is None else argv
    sys.path.append(os.getcwd())  # a config may name a class in a local module; last, so that it shadows nothing
    if arguments[:1] in (["fit-free"], ["predict"], ["validate"]):
        with say_if_slow("loading PyTorch Lightning and the generators ..."):
            from gendiv_lightning.cli.predict import main as predict

        if argv is None:
            gc.freeze()  # otherwise each collection walks all imports: seconds with a large prompt set
        return predict(None if argv is None else arguments[arguments[0] == "fit-free" :])
    arguments = [expand_home(word) for word in arguments]
    try:
        check_words(arguments)
        parsed = build_parser().parse_args(arguments or ["--help"])
        check_numbers(parsed)
        name = ALIASES.get(parsed.command, parsed.command)
        sys.exit(_module(name).run(parsed))
    except (ValueError, OSError) as error:
        sys.exit(printable(command_line_text(error, str(error)), keep="\n"))
