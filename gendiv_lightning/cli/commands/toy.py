"""`gendiv toy train` and `gendiv toy evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from gendiv_lightning.console.text import write
from gendiv_lightning.errors import ConfigValueError

HELP = "train and evaluate the embedded models"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gendiv toy train` and `gendiv toy evaluate`."""
    commands = parser.add_subparsers(dest="toy", required=True)
    train = commands.add_parser("train", help="train one embedded model; interrupted, the same call goes on")
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
            "amused-refine",
            "vq-diffusion",
            "latent-autoencoder",
            "latent-diffusion",
        ),
        help="which; the generators need tokenizer and tokenizer-local, amused and vq-diffusion need clip too",
    )
    train.add_argument("--steps", type=int, help="optimiser steps (default: the recipe's)")
    train.add_argument("--seed", type=int, default=0, help="root of all randomness (default: 0)")
    train.add_argument("--work", type=Path, default=Path("runs/toy"), help="checkpoints and logs (default: runs/toy)")
    train.add_argument("--export", type=Path, help="folder that gets the weights (default: WORK/weights)")
    evaluate = commands.add_parser("evaluate", help="print the gates of the embedded models")
    evaluate.add_argument(
        "family",
        nargs="?",
        choices=("llamagen", "amused", "vq-diffusion", "latent-diffusion", "all"),
        default="all",
        help="default: all",
    )
    evaluate.add_argument(
        "--prompts", type=int, default=1024, help="held-out images to write captions for (default and most: 1024)"
    )
    evaluate.add_argument("--samples", type=int, default=8, help="images a caption (default: 8)")


def run(arguments: argparse.Namespace) -> int:
    """Train or evaluate."""
    return _train(arguments) if arguments.toy == "train" else _evaluate_all(arguments)


def _train(arguments: argparse.Namespace) -> int:
    from gendiv_lightning.toy.train import train

    train(
        arguments.name,
        num_steps=arguments.steps,
        seed=arguments.seed,
        work=arguments.work,
        export=arguments.export or arguments.work / "weights",
    )
    return 0


def _evaluate_all(arguments: argparse.Namespace) -> int:
    from gendiv_lightning.toy.captions import NUM_HELD_OUT
    from gendiv_lightning.toy.evaluate import FAMILIES

    if not 1 <= arguments.prompts <= NUM_HELD_OUT or arguments.samples < 2:
        raise ConfigValueError(f"--prompts must be in 1..{NUM_HELD_OUT}, --samples at least 2")
    names = list(FAMILIES) if arguments.family == "all" else [arguments.family]
    return max(_evaluate(name, arguments.prompts, arguments.samples) for name in names)


def _evaluate(name: str, num_prompts: int, num_samples: int) -> int:
    from gendiv_lightning.toy.evaluate import FAMILIES, all_right_by_kind, gates, sample_held_out

    rows = sample_held_out(FAMILIES[name].load(), num_prompts, num_samples)
    found = gates(rows, FAMILIES[name].coherence_bar)
    write(f"{name}: {num_prompts} held-out captions x {num_samples} samples\n")
    for gate in found:
        write(f"{gate.name:32} {gate.value:.3f}  (>= {gate.bar:.2f})  {'pass' if gate.passed else 'MISSED'}\n")
    for kind, share in all_right_by_kind(rows).items():
        write(f"all stated right, {kind:14} {share:.3f}\n")
    return 0 if all(gate.passed for gate in found) else 1
