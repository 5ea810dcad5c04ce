"""The command `gendiv`. It imports nothing heavy: each command brings what it needs."""

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
from gendiv_lightning.console.text import printable
from gendiv_lightning.errors import command_line_text

COMMANDS = (
    *("branch", "check-generator", "compare", "configs", "decompose", "doctor", "list", "measure", "new", "paraphrase"),
    *("power", "prompts", "reference", "report", "show", "study", "toy", "verify"),
)
ALIASES = {"plan": "power", "zoo": "toy"}  # for one release

EPILOG = """
Where does the diversity of an image generator come from? Take a generator apart with three probes on its sampling loop
(codebook subset, argmax, paraphrase), and measure what is left.

start here, offline, on a CPU, in about a minute:
  gendiv predict --config configs/tiny/llamagen.yaml          samples, a grid, metrics, in runs/
  gendiv predict --config configs/tiny/llamagen_argmax.yaml   same noise, argmax probe: diversity falls to 0

then:
  gendiv predict --help                      every value of a config can be set on the command line
  gendiv study --config configs/tiny/study.yaml   the whole comparison: generators x probes, then `gendiv report`
  gendiv branch CONFIG --steps 0,1,2,4       when is the picture decided? diversity that is fixed by each step
  gendiv decompose RUN                       H_total = H_path + H_exec by three lenses, and a verdict
  gendiv report RUNS --out report            all of it as one page: the answer in words, pictures, tables
  gendiv show RUN                            the numbers and the grid of one run, in the terminal
  gendiv compare RUN RUN                     what a probe changes, prompt by prompt, with intervals and p-values
  gendiv verify RUN                          random samples of a run made again: are they the stored ones?
  gendiv power --pilot RUN --width 0.01 ...  how many prompts and samples does a question need?
  gendiv prompts CAPTIONS --num M --out SET  a prompt set out of files or a dataset, filtered, drawn by seed
  gendiv paraphrase PROMPTS --out SET ...    other wordings of prompts, each held against its prompt
  gendiv measure IMAGES                      the metrics on anyone's images, grouped by prompt
  gendiv reference IMAGES --out FILE         statistics of real images, for FID
  gendiv validate --config configs/tiny/llamagen_codebook.yaml   how often is each codebook entry used?
  gendiv configs list                        the configs that the package ships; `gendiv configs copy` copies them
  gendiv list                                what is registered: generators, probes, metrics, features, configs
  gendiv check-generator MODEL               does anybody's generator keep the contract?
  gendiv new generator NAME                  a package with the template of a generator, and its test
  gendiv doctor                              is all in place here? with --golden FOLDER: does it compute what it should?
  gendiv toy evaluate                        how good are the embedded models?
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of everything but `predict` and `validate`, which have Lightning's own."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "gendiv", description="Diversity of image generators, measured.", epilog=EPILOG, formatter_class=raw
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser("predict", help="generate images under probes and measure them", add_help=False)
    commands.add_parser("validate", help="count how a tokenizer uses its codebook on images", add_help=False)
    commands.add_parser("fit-free", help="the same two as `fit-free predict` and `fit-free validate`", add_help=False)

    for name in COMMANDS:
        command = _module(name)
        aliases = [old for old, new in ALIASES.items() if new == name]
        command.add_arguments(commands.add_parser(name, help=command.HELP, aliases=aliases))
    return parser


def _module(command: str) -> ModuleType:
    return import_module(f"gendiv_lightning.cli.commands.{command.replace('-', '_')}")


@contextmanager
def say_if_slow(line: str, seconds: float = 1.0) -> Iterator[None]:
    """Write a line to standard error if the block takes longer than that; not on the other ranks of a run."""
    timer = threading.Timer(seconds, lambda: sys.stderr.write(f"gendiv: {line}\n"))
    timer.daemon = True
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def expand_home(word: str) -> str:
    """A word of the command line, `~/FILE` or `--OPTION=~/FILE`, with the home folder in the place of `~`."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return f"{option}{equals}{os.path.expanduser(value)}" if value.startswith("~") else word


def _print_what_the_terminal_can() -> None:
    """Escape characters that the terminal's encoding lacks, so that results are not lost at the last moment."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command."""
    _print_what_the_terminal_can()
    arguments = sys.argv[1:] if argv is None else argv
    sys.path.append(os.getcwd())  # a config may name a class of a module beside it; last, so that it shadows nothing
    if arguments[:1] in (["fit-free"], ["predict"], ["validate"]):
        with say_if_slow("loading PyTorch Lightning and the generators ..."):
            from gendiv_lightning.cli.predict import main as predict

        if argv is None:
            gc.freeze()  # or each collection walks all that was imported: seconds over a large prompt set
        return predict(None if argv is None else arguments[arguments[0] == "fit-free" :])
    arguments = [expand_home(word) for word in arguments]
    parsed = build_parser().parse_args(arguments or ["--help"])
    try:
        name = ALIASES.get(parsed.command, parsed.command)
        sys.exit(_module(name).run(parsed))
    except (ValueError, OSError) as error:
        sys.exit(printable(command_line_text(error, str(error)), keep="\n"))
