"""Time of a run over a large prompt set until its first samples, and time of resuming it.

    OMP_NUM_THREADS=1 python benchmarks/prompt_sets.py --prompts 100000

Captions are synthetic: words, numbers and punctuation, one in ten with quotes and brackets. The run uses the toy
LlamaGen with one batch of eight samples, so that nearly all of the time is spent on prompts. Times are processor
seconds of the complete command, including imports and the batch: the first start counts the tokens of all captions, and
resuming reads the counts from the cache. It ends with an error if a limit is exceeded, or if the two runs did not
finish two batches.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

WORDS = (
    "red blue small large old wooden glass house tree dog cat river mountain sky bridge lamp chair table boat "
    "train child woman man painting photo of a the with near under over behind in on at night light soft dark detailed"
)
LIMITS = {"first start": 20.0, "resume": 10.0}  # processor seconds


def write_prompts(path: Path, number: int) -> None:
    """Write captions that are all different."""
    generator, words = random.Random(0), WORDS.split()
    with path.open("w", encoding="utf-8") as file:
        for index in range(number):
            text = " ".join(generator.choices(words, k=generator.randint(6, 20)))
            text = f'{text}, "{index}" (detailed)' if index % 10 == 0 else f"{text}, number {index}."
            file.write(json.dumps({"prompt": text}) + "\n")


def start(folder: Path) -> float:
    """Processor seconds of a run with one batch."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", "from gendiv_lightning.cli.main import main; main()"]
    options = ["--config", "configs/tiny/llamagen.yaml", "--measure.metrics", "[pixel_cosine]", "--data.limit", "null"]
    options += ["--data.path", "prompts.jsonl", "--data.num_samples", "2", "--data.prompts_per_batch", "4"]
    options += ["--run_dir", "run", "--wandb", "disabled", "--trainer.limit_predict_batches", "1"]
    environment = {**os.environ, "GENDIV_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    with (folder / "log.txt").open("a") as log:
        subprocess.run([*command, "predict", *options], cwd=folder, env=environment, check=True, stdout=log, stderr=log)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the times, and exit with an error if they exceed the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=100_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_prompts(folder / "prompts.jsonl", arguments.prompts)
        times = {what: start(folder) for what in LIMITS}
        prompts = {
            prompt
            for shard in folder.glob("run/samples/*.parquet")
            for prompt in pq.read_table(shard, columns=["prompt_id"])["prompt_id"].to_pylist()
        }
    for what, seconds in times.items():
        sys.stdout.write(f"{what}, {arguments.prompts:,} prompts: {seconds:.1f} s (limit {LIMITS[what]:g} s)\n")
    if len(prompts) != 8:
        sys.exit(f"expected two batches of 4 prompts, but {len(prompts)} prompts were sampled")
    if any(seconds > LIMITS[what] for what, seconds in times.items()):
        sys.exit("a limit is exceeded")


if __name__ == "__main__":
    main()
