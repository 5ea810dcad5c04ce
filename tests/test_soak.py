"""Soak: runs that are killed repeatedly give the results of undisturbed ones; slow, `GENDIV_KILLS=10` shortens it.

A trial starts a run, kills it at a random moment (SIGKILL, SIGTERM or SIGINT; with two ranks sometimes only rank 0),
starts it again at once on another number of ranks and with batches of another size, and lets it finish in the end.
"""

import os
import random
import signal
import subprocess
import time

import pytest
from running import TINY, gendiv, metrics_of, samples_of

from gendiv_lightning.runs.folder import RunFolder

KILLS = int(os.environ.get("GENDIV_KILLS", "100"))
FAMILIES = ("llamagen", "amused", "vq_diffusion")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
PROMPTS, SAMPLES = 12, 4


def command(family, folder, ranks, batch):
    words = ["predict", "--config", str(TINY / f"{family}.yaml"), "--run_dir", str(folder), "--wandb", "disabled"]
    words += ["--data.limit", str(PROMPTS), "--data.num_samples", str(SAMPLES), "--data.prompts_per_batch", str(batch)]
    if ranks > 1:
        words += ["--trainer.devices", str(ranks), "--trainer.strategy", "ddp"]
    return gendiv(*words)


def start(line, log):
    """Start a separate process group, so that a kill can reach all ranks or only rank 0."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.Popen(line, stdout=log, stderr=log, start_new_session=True, env=environment)


def stop(process, draw):
    number = draw.choice(SIGNALS)
    if draw.random() < 0.5:
        process.send_signal(number)  # only rank 0: the other ranks must notice
    else:
        os.killpg(process.pid, number)
    if number != signal.SIGKILL:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def wait_for_samples(folder, process, draw, seconds):
    """Wait for a moment before or while a run writes samples."""
    deadline = time.monotonic() + seconds
    enough = len(folder.shards()) + draw.randrange(4)
    while time.monotonic() < deadline and process.poll() is None and len(folder.shards()) <= enough:
        time.sleep(0.02)
    time.sleep(draw.random() * 0.3)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    found = {}
    for family in FAMILIES:
        folder = tmp_path_factory.mktemp(family)
        ended = subprocess.run(command(family, folder, 1, 4), capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        found[family] = samples_of(RunFolder(folder)), metrics_of(RunFolder(folder))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_killed_runs_end_like_undisturbed_ones(family, undisturbed, tmp_path):
    draw, kills, trials = random.Random(family), 0, 0
    while kills < KILLS // len(FAMILIES) + 1:
        folder = RunFolder(tmp_path / f"run{trials}")
        with (tmp_path / f"log{trials}").open("w+") as log:
            for _ in range(draw.randrange(2, 6)):
                process = start(command(family, folder.path, draw.choice((1, 1, 2)), draw.choice((1, 2, 3, 5))), log)
                wait_for_samples(folder, process, draw, 120)
                if process.poll() is not None:
                    break
                stop(process, draw)
                kills += 1
            process = start(command(family, folder.path, draw.choice((1, 2)), draw.choice((1, 4))), log)
            status = process.wait(600)
            log.seek(0)
            assert status == 0, log.read()[-3000:]
        samples, metrics = undisturbed[family]
        assert samples_of(folder) == samples
        again = metrics_of(folder)
        assert again.keys() == metrics.keys()
        for name, estimate in metrics.items():
            assert again[name] == pytest.approx(estimate, abs=1e-6), name  # h_ numbers: last digits of other batches
        trials += 1
    print(f"{family}: {kills} kills, {trials} runs, all with the undisturbed result")  # noqa: T201
