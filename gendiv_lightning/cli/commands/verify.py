"""`gendiv verify`: sample some images of a run again and compare them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gendiv_lightning.errors import ConfigValueError, DamagedRunError, RunDiffersError, UnfinishedRunError

if TYPE_CHECKING:
    from gendiv_lightning.records import LatentSamples, NoiseKey, Prompt, PromptBatch, SampleBatch, TokenSamples
    from gendiv_lightning.runs.folder import RunFolder

    Samples = TokenSamples | LatentSamples

HELP = "sample some images of a run again, and compare tokens and pixels"
DESCRIPTION = """
Rebuilds generator, prompts and probes from the config.yaml of a run and checks that nothing that determines a sample
has changed (weights, settings, probes, prompts; differing keys are listed). Then draws some of the stored samples,
samples them again and compares: tokens must be equal, and pixels must agree within 1 of 255 levels. Samples that differ
are listed, and the exit status is 1. Different library versions are reported, but are not a failure by themselves.

A sample depends only on its key (seed, prompt, paraphrase, path, sample), not on the other samples in its batch. One
dependence remains: another kind of device can change the last digit of a logit, and with it a token whose uniform draw
is exactly on a boundary.

examples:
  gendiv verify runs/tiny-llamagen-1a2b3c4d
  gendiv verify runs/tiny-llamagen-1a2b3c4d --num 64 --seed 1
"""
PIXEL_LEVELS = 1  # rounding: the decoder may see a sample in another batch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gendiv verify`."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, finished or not")
    parser.add_argument("--num", type=int, default=16, metavar="N", help="samples to compare (default: 16)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw of samples (default: 0)")


def run(arguments: argparse.Namespace) -> int:
    """Check the protocol, draw samples, sample them again, compare, print."""
    from gendiv_lightning.cli.predict import read_config, sample_again
    from gendiv_lightning.console.text import printable, write
    from gendiv_lightning.runs.assemble import assemble
    from gendiv_lightning.runs.folder import RunFolder
    from gendiv_lightning.runs.former import upgrade_protocol
    from gendiv_lightning.runs.labels import label_of
    from gendiv_lightning.runs.load import read_header

    folder = RunFolder(arguments.run)
    protocol, description = read_header(folder)
    num_stored, stored = _draw(folder, arguments.num, arguments.seed)
    config = read_config(_config_of(folder))
    run = assemble(config.parts, thorough=False)
    _check(folder.path, upgrade_protocol(protocol), run.protocol)
    expected = len(run.prompt_set.prompts) * run.design.num_samples
    if folder.is_finished and num_stored != expected:
        raise DamagedRunError(
            f"{folder.path} is finished, but contains {num_stored} samples of {expected}. Run the same `gendiv predict`"
            " again after deleting metrics.json"
        )
    prompts = {prompt.id: (place, prompt) for place, prompt in enumerate(run.prompt_set.prompts)}
    wrong = {key: "its prompt is not in the prompt set" for key in stored if key.prompt not in prompts}
    known = {key: row for key, row in stored.items() if key not in wrong}
    batches = list(_batches(list(known), prompts, run.parts.data.seed, run.parts.generator.batch_size))
    sampled, device = sample_again(config, run, batches)
    for again in sampled:
        for row, key in enumerate(again.batch.keys):
            difference = _difference(*known[key], again, row)
            wrong |= {key: difference} if difference else {}
    label = label_of(protocol, description)
    write(
        f"{printable(label.title)}, run {label.fingerprint}: {len(stored)} of {num_stored} samples, drawn with seed "
        f"{arguments.seed}, sampled again on {device}\n"
    )
    for key, difference in sorted(wrong.items()):
        prompt, paraphrase, path, sample = key
        name = f"prompt {printable(prompt)}, paraphrase {paraphrase}, path {path}, sample {sample}"
        write(f"  {name}: {printable(difference)}\n")
    if wrong:
        write(f"DIFFERENT: {len(wrong)} of {len(stored)} samples differ from those of this run's config\n")
        return 1
    write(f"VERIFIED: all {len(stored)} samples equal the stored ones\n")
    return 0


def _config_of(folder: RunFolder) -> Path:
    path = folder.path / "config.yaml"
    if not path.exists():
        raise DamagedRunError(f"{path} is missing, so the run cannot be sampled again. Restore the file")
    return path


def _check(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise ValueError if something that determines a sample differs; print the other differences."""
    import json

    from gendiv_lightning.console.text import printable, write
    from gendiv_lightning.runs.protocol import differences

    found = differences(before, json.loads(json.dumps(now)))
    others = [d for d in found if d.is_below("versions", "metrics")]  # these do not determine samples
    if len(others) < len(found):
        refused = "; ".join(str(d) for d in found if d not in others)
        raise RunDiffersError(
            f"{path} cannot be verified: its config now gives a different {refused}. Restore the weights, files and "
            "settings of the run"
        )
    for difference in others:
        write(f"Note (not a failure): {printable(str(difference))}\n", sys.stderr)


def _draw(folder: RunFolder, num: int, seed: int) -> tuple[int, dict[NoiseKey, tuple[SampleBatch, int]]]:
    """The number of stored samples, and some of them by key, each as a batch and its row."""
    import random

    if num < 1:
        raise ConfigValueError(f"--num must be at least 1, got {num}. Give the number of samples to compare")
    names = list(folder.sample_names())
    if not names:
        raise UnfinishedRunError(
            f"{folder.path} contains no samples yet. Run the same `gendiv predict` again to resume it"
        )
    drawn = random.Random(seed).sample(names, min(num, len(names)))
    keys = {key for _, key in drawn}
    stored = {
        key: (batch, row)
        for batch in folder.read_samples(sorted({shard for shard, _ in drawn}))
        for row, key in enumerate(batch.batch.keys)
        if key in keys
    }
    return len(names), stored


def _batches(
    keys: list[NoiseKey], prompts: dict[str, tuple[int, Prompt]], seed: int, size: int
) -> Iterator[PromptBatch]:
    """Batches of the samples with these keys."""
    from gendiv_lightning.records import PromptBatch

    for start in range(0, len(keys), size):
        part = keys[start : start + size]
        ids = list(dict.fromkeys(key.prompt for key in part))
        indices, texts = zip(*(prompts[name] for name in ids), strict=True)
        rows = tuple(ids.index(key.prompt) for key in part)
        yield PromptBatch(seed, texts, indices, tuple(part), rows)


def _difference(stored: SampleBatch, stored_row: int, again: SampleBatch, row: int) -> str:
    """Describe the difference between a stored sample and its repetition; empty if there is none."""
    if stored.batch.texts[stored_row] != again.batch.texts[row]:
        return f"its text was {stored.batch.texts[stored_row]!r} and is {again.batch.texts[row]!r} now"
    tokens = _token_difference(stored.samples, stored_row, again.samples, row)
    if tokens:
        return tokens
    levels = int((stored.images[stored_row].int() - again.images[row].int()).abs().max())
    same = "" if tokens is None else "same tokens, but "
    return f"{same}pixels differ by up to {levels} of 255 levels" if levels > PIXEL_LEVELS else ""


def _token_difference(stored: Samples, stored_row: int, again: Samples, row: int) -> str | None:
    """Describe the difference of tokens; empty if there is none, None for generators with continuous latents."""
    from gendiv_lightning.records import TokenSamples

    if not (isinstance(stored, TokenSamples) and isinstance(again, TokenSamples)):
        return None
    before, now = stored.tokens[stored_row], again.tokens[row]
    if before.shape != now.shape:
        return f"{len(before)} tokens before, {len(now)} now"
    positions = (before != now).nonzero().flatten().tolist()
    if not positions:
        return ""
    first = positions[0]
    return (
        f"{len(positions)} of {len(now)} tokens differ, the first at position {first} ({before[first]} before, "
        f"{now[first]} now)"
    )
