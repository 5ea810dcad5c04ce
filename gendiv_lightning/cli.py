"""The command `gendiv`. It imports nothing heavy: each command brings what it needs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gendiv_lightning import __version__

EPILOG = """
Where does the diversity of an image generator come from? Take a generator apart with three probes on its sampling loop
(codebook subset, argmax, paraphrase), and measure what is left.

start here, offline, on a CPU, in about a minute:
  gendiv fit-free predict --config configs/tiny/llamagen.yaml          samples, a grid, metrics, in runs/
  gendiv fit-free predict --config configs/tiny/llamagen_argmax.yaml   same noise, argmax probe: diversity falls to 0

then:
  gendiv fit-free predict --help             every value of a config can be set on the command line
  gendiv fit-free validate --config configs/tiny/llamagen_codebook.yaml   how often is each codebook entry used?
  gendiv doctor                              is all in place here? with --golden FOLDER: does it compute what it should?
  gendiv zoo evaluate                        how good are the embedded models?
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of everything but `fit-free`, which has Lightning's own."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "gendiv", description="Diversity of image generators, measured.", epilog=EPILOG, formatter_class=raw
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser(
        "fit-free", help="predict: generate under probes and measure; validate: codebook usage", add_help=False
    )

    doctor = commands.add_parser("doctor", help="check the environment, the embedded weights, and reference values")
    doctor.add_argument(
        "--golden", type=Path, metavar="FOLDER", help="run every reference case of a folder; exit 1 if one fails"
    )

    zoo = commands.add_parser("zoo", help="train and evaluate the embedded models").add_subparsers(
        dest="zoo", required=True
    )
    train = zoo.add_parser("train", help="train one embedded model; interrupted, the same call goes on")
    train.add_argument(
        "name",
        choices=(
            "tokenizer",
            "tokenizer-local",
            "perceptual",
            "clip",
            "llamagen",
            "amused-tokenizer",
            "amused",
            "vq-diffusion",
        ),
        help="which; the generators need tokenizer and tokenizer-local, amused and vq-diffusion need clip too",
    )
    train.add_argument("--steps", type=int, help="optimiser steps (default: the recipe's)")
    train.add_argument("--seed", type=int, default=0, help="root of all randomness (default: 0)")
    train.add_argument("--work", type=Path, default=Path("runs/zoo"), help="checkpoints and logs (default: runs/zoo)")
    train.add_argument(
        "--export",
        type=Path,
        help="folder that gets the weights (default: WORK/weights)",
    )
    evaluate = zoo.add_parser("evaluate", help="print the gates of the embedded models")
    evaluate.add_argument(
        "family", nargs="?", choices=("llamagen", "amused", "vq-diffusion", "all"), default="all", help="default: all"
    )
    evaluate.add_argument(
        "--prompts", type=int, default=1024, help="held-out images to write captions for (default and most: 1024)"
    )
    evaluate.add_argument("--samples", type=int, default=8, help="images a caption (default: 8)")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["fit-free"]:
        from gendiv_lightning.fit_free import main as fit_free

        return fit_free(None if argv is None else arguments[1:])
    parsed = build_parser().parse_args(arguments or ["--help"])
    if parsed.command == "doctor":
        from gendiv_lightning.doctor import doctor

        sys.exit(doctor(parsed.golden))
    from gendiv_lightning.zoo import commands

    try:
        sys.exit(commands.train(parsed) if parsed.zoo == "train" else commands.evaluate(parsed))
    except ValueError as error:
        sys.exit(f"gendiv: {error}")
