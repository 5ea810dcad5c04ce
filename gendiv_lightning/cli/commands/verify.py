"""`gendiv verify`: some samples of a run, made again and compared."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from gendiv_lightning.errors import ConfigValueError, DamagedRunError, RunDiffersError, UnfinishedRunError

if TYPE_CHECKING:
    from gendiv_lightning.records import LatentSamples, NoiseKey, Prompt, PromptBatch, SampleBatch, TokenSamples
    from gendiv_lightning.runs.folder import RunFolder

    Samples = TokenSamples | LatentSamples

HELP = "make random samples of a run again, and compare tokens and images"
DESCRIPTION = """
Rebuilds generator, prompts and probes from the config.yaml of a run and checks that everything that determines a sample
is the same (weights, settings, probes, prompts; differing keys are named). It then draws some of the stored samples,
makes them again, and compares: tokens must be equal, and pixels within one of 255 levels. Samples that differ are
listed, and the exit status is 1. Other versions of libraries are reported, but do not fail the run by themselves.

A sample depends on its name alone (seed, prompt, paraphrase, path, sample), not on the samples in its batch. One
dependence remains: another kind of device can change the last digit of a logit, and with it a token whose random number
lies exactly on a boundary.

examples:
  gendiv verify runs/tiny-llamagen-1a2b3c4d
  gendiv verify runs/tiny-llamagen-1a2b3c4d --num 64 --seed 1
"""
PIXEL_LEVELS = 1  # rounding: the decoder may see other rows beside a sample


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gendiv verify`."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder; it need not be finished")
    parser.add_argument("--num", type=int, default=16, metavar="N", help="samples to make again (default: 16)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of samples (default: 0)")


def run(arguments: argparse.Namespace) -> int:
    """Check the protocol, draw samples, make them again, compare, print."""
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
    with _config_of(folder) as file:
        config = read_config(file)
    run = assemble(config.parts, thorough=False)
    _check(folder.path, upgrade_protocol(protocol), run.protocol)
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
        f"{printable(label.title)}, run {label.fingerprint}: {len(stored)} of {num_stored} samples, drawn by seed "
        f"{arguments.seed}, made again on {device}\n"
    )
    for key, difference in sorted(wrong.items()):
        prompt, paraphrase, path, sample = key
        name = f"prompt {printable(prompt)}, wording {paraphrase}, path {path}, sample {sample}"
        write(f"  {name}: {printable(difference)}\n")
    if wrong:
        write(f"DIFFERENT: {len(wrong)} of {len(stored)} samples are not those of this run's config\n")
        return 1
    write(f"VERIFIED: tokens and images of all {len(stored)} are those that are stored\n")
    return 0


@contextmanager
def _config_of(folder: RunFolder) -> Iterator[Path]:
    """The run's config, as this version has it."""
    import yaml

    from gendiv_lightning.runs.former import upgrade_config

    path = folder.path / "config.yaml"
    if not path.exists():
        raise DamagedRunError(f"{path} is missing: without its config a run cannot be made again")
    with TemporaryDirectory() as temporary:
        file = Path(temporary) / "config.yaml"
        file.write_text(yaml.safe_dump(upgrade_config(yaml.safe_load(path.read_text(encoding="utf-8")))))
        yield file


def _check(path: Path, there: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise ValueError if something that determines a sample differs; print what else does."""
    import json

    from gendiv_lightning.console.text import printable, write
    from gendiv_lightning.runs.protocol import differences

    found = differences(there, json.loads(json.dumps(now)))
    others = [d for d in found if d.is_below("versions", "metrics")]  # they decide no sample
    if len(others) < len(found):
        refused = "; ".join(str(d) for d in found if d not in others)
        raise RunDiffersError(
            f"{path} cannot be verified, what its config makes now differs in: {refused}. Put back the weights, files "
            "and settings that it was made with"
        )
    for difference in others:
        write(f"Note, no reason to fail: {printable(str(difference))}\n", sys.stderr)


def _draw(folder: RunFolder, num: int, seed: int) -> tuple[int, dict[NoiseKey, tuple[SampleBatch, int]]]:
    """How many samples are stored, and some of them by their names, as a batch and a row in it."""
    import random

    if num < 1:
        raise ConfigValueError(f"--num must be at least 1, got {num}")
    names = list(folder.sample_names())
    if not names:
        raise UnfinishedRunError(
            f"{folder.path} holds no samples yet. Run the same `gendiv predict` again to resume it"
        )
    drawn = random.Random(seed).sample(names, min(num, len(names)))
    wanted = {key for _, key in drawn}
    stored = {
        key: (batch, row)
        for batch in folder.read_samples(sorted({shard for shard, _ in drawn}))
        for row, key in enumerate(batch.batch.keys)
        if key in wanted
    }
    return len(names), stored


def _batches(
    keys: list[NoiseKey], prompts: dict[str, tuple[int, Prompt]], seed: int, size: int
) -> Iterator[PromptBatch]:
    """The samples of some names, as rows of batches."""
    from gendiv_lightning.records import PromptBatch

    for start in range(0, len(keys), size):
        part = keys[start : start + size]
        ids = list(dict.fromkeys(key.prompt for key in part))
        places, texts = zip(*(prompts[name] for name in ids), strict=True)
        rows = tuple(ids.index(key.prompt) for key in part)
        yield PromptBatch(seed, texts, places, tuple(part), rows)


def _difference(stored: SampleBatch, there: int, again: SampleBatch, row: int) -> str:
    """What differs between a stored sample and the same one made again; empty for nothing."""
    if stored.batch.texts[there] != again.batch.texts[row]:
        return f"its wording is {stored.batch.texts[there]!r} there, {again.batch.texts[row]!r} now"
    tokens = _token_difference(stored.samples, there, again.samples, row)
    if tokens:
        return tokens
    levels = int((stored.images[there].int() - again.images[row].int()).abs().max())
    same = "" if tokens is None else "same tokens, but "
    return f"{same}pixels differ by up to {levels} of 255 levels" if levels > PIXEL_LEVELS else ""


def _token_difference(stored: Samples, there: int, again: Samples, row: int) -> str | None:
    """What differs between tokens; empty for nothing, None for a generator of continuous latents, which has none."""
    from gendiv_lightning.records import TokenSamples

    if not (isinstance(stored, TokenSamples) and isinstance(again, TokenSamples)):
        return None
    before, now = stored.tokens[there], again.tokens[row]
    if before.shape != now.shape:
        return f"{len(before)} tokens there, {len(now)} now"
    places = (before != now).nonzero().flatten().tolist()
    if not places:
        return ""
    first = places[0]
    return (
        f"{len(places)} of {len(now)} tokens differ, the first at position {first} ({before[first]} there, "
        f"{now[first]} now)"
    )
