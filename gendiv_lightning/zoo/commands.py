"""`gendiv zoo train` and `gendiv zoo evaluate`."""

from __future__ import annotations

import argparse
import sys


def train(arguments: argparse.Namespace) -> int:
    """Train one embedded model and export it."""
    from gendiv_lightning.zoo.train import train as run

    run(
        arguments.name,
        num_steps=arguments.steps,
        seed=arguments.seed,
        work=arguments.work,
        export=arguments.export or arguments.work / "weights",
    )
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    """Print the gates; exit status 1 if one is missed."""
    from gendiv_lightning.zoo.captions import NUM_HELD_OUT
    from gendiv_lightning.zoo.evaluate import FAMILIES

    if not 1 <= arguments.prompts <= NUM_HELD_OUT or arguments.samples < 2:
        raise ValueError(f"--prompts must be in 1..{NUM_HELD_OUT}, --samples at least 2")
    names = list(FAMILIES) if arguments.family == "all" else [arguments.family]
    return max(_evaluate(name, arguments.prompts, arguments.samples) for name in names)


def _evaluate(name: str, num_prompts: int, num_samples: int) -> int:
    from gendiv_lightning.zoo.evaluate import FAMILIES, all_right_by_kind, gates, sample_held_out

    rows = sample_held_out(FAMILIES[name].load(), num_prompts, num_samples)
    found = gates(rows, FAMILIES[name].coherence_bar)
    sys.stdout.write(f"{name}: {num_prompts} held-out captions x {num_samples} samples\n")
    for gate in found:
        sys.stdout.write(
            f"{gate.name:32} {gate.value:.3f}  (>= {gate.bar:.2f})  {'pass' if gate.passed else 'MISSED'}\n"
        )
    for kind, share in all_right_by_kind(rows).items():
        sys.stdout.write(f"all stated right, {kind:14} {share:.3f}\n")
    return 0 if all(gate.passed for gate in found) else 1
