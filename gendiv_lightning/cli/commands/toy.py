"""`gendiv toy train` and `gendiv toy evaluate`: train and evaluate the toy models."""

from __future__ import annotations

import argparse
from pathlib import Path

from gendiv_lightning.console.text import write
from gendiv_lightning.errors import ConfigValueError

HELP = "train and evaluate the toy models"
DESCRIPTION = """
The toy models are small generators and feature networks, trained on Postcards, a toy dataset with known ground truth.
Their weights are part of the package. `train` trains one of them again; `evaluate` prints how good they are.

examples:
  gendiv toy evaluate llamagen
  gendiv toy train tokenizer --steps 100
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gendiv toy train` and `gendiv toy evaluate`."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="toy", required=True)
    train = commands.add_parser("train", help="train one toy model; run the same command again to resume")
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
        help="model to train. The generators need tokenizer and tokenizer-local; amused and vq-diffusion also need "
        "clip",
    )
    train.add_argument("--steps", type=int, help="optimizer steps (default: from the recipe)")
    train.add_argument("--seed", type=int, default=0, help="seed of all random numbers (default: 0)")
    train.add_argument(
        "--work", type=Path, default=Path("runs/toy"), help="folder for checkpoints and logs (default: runs/toy)"
    )
    train.add_argument("--export", type=Path, help="folder for the weights (default: WORK/weights)")
    evaluate = commands.add_parser("evaluate", help="print the quality gates of the toy models")
    evaluate.add_argument(
        "family",
        nargs="?",
        choices=("llamagen", "amused", "vq-diffusion", "latent-diffusion", "all"),
        default="all",
        help="model family (default: all)",
    )
    evaluate.add_argument(
        "--prompts", type=int, default=1024, help="number of held-out captions (default and maximum: 1024)"
    )
    evaluate.add_argument("--samples", type=int, default=8, help="images per caption (default: 8)")


def run(arguments: argparse.Namespace) -> int:
    """Train one model, or evaluate."""
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
        raise ConfigValueError(
            f"--prompts must be in 1..{NUM_HELD_OUT} and --samples at least 2, got {arguments.prompts} and "
            f"{arguments.samples}. Correct them"
        )
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
        write(f"all stated factors correct, {kind:14} {share:.3f}\n")
    return 0 if all(gate.passed for gate in found) else 1
