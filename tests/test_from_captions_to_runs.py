"""From a tar of captions to samples of three toy families; killed at any point, the result is the same.

The toy text encoders only know the words of postcards, so the captions in the tar are those of postcards.
"""

import io
import json
import os
import random
import signal
import subprocess
import tarfile
import time

import pytest
from chat_server import serving
from running import TINY, gendiv, run, samples_of

from gendiv_lightning.prompts.prompt_set import read_manifest
from gendiv_lightning.runs.folder import RunFolder
from gendiv_lightning.toy.captions import prompts

pytestmark = pytest.mark.slow
FAMILIES = ("llamagen", "amused", "vq_diffusion")
SCHEMA = ["image_name", "md5_pil_hash", "md5_file_hash", "sha512_hash", "url", "original_prompt", "resolution"]


def write_tar(path, num_captions=40):
    """Captions in the schema of DALL-E 3; one in ten is missing, and one in ten is of another source."""
    rng = random.Random(0)
    with tarfile.open(path, "w") as tar:
        for place, prompt in enumerate(prompts(num_captions)):
            record = dict.fromkeys(SCHEMA, "x") | {"width": 8, "height": 8, "short_caption": "x", "long_caption": "x"}
            record["source"] = "Midjourney" if place % 10 == 5 else "DALL-E 3"
            record["short_caption2"] = None if place % 10 == 0 else prompt.text
            for suffix, data in (("json", json.dumps(record).encode()), ("jpg", rng.randbytes(900))):
                info = tarfile.TarInfo(f"{place:04}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def killed_and_run_again(line, is_under_way, environment):
    """Start a command, kill it once it is running, and run it again to its end."""
    with subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 600
        while process.poll() is None and not is_under_way() and time.monotonic() < until:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    ended = run(line, timeout=1200, environment=environment)
    assert ended.returncode == 0, ended.stderr
    return ended


def test_captions_become_paraphrases_and_runs_and_survive_a_kill_at_each_step(tmp_path):
    write_tar(tmp_path / "dalle.tar")
    whole = make(tmp_path, tmp_path / "whole", kills=False)
    killed = make(tmp_path, tmp_path / "killed", kills=True)
    assert whole.keys() == killed.keys()
    assert {name for name in whole if whole[name] != killed[name]} == set()


def make(source, folder, kills):
    """All steps on the command line; returns their files by name."""
    folder.mkdir()
    environment = dict(os.environ) | {"GENDIV_CACHE": str(folder / "cache"), "OPENAI_API_KEY": "none"}

    def command(words, is_under_way):
        line = gendiv(*map(str, words))
        if kills:
            return killed_and_run_again(line, is_under_way, environment)
        ended = run(line, timeout=1200, environment=environment)
        assert ended.returncode == 0, ended.stderr
        return ended

    captions, wordings = folder / "set.jsonl", folder / "wordings.jsonl"
    draw = ["prompts", source / "dalle.tar", "--column", "short_caption2", "--source", "dall", "--num", 3]
    command([*draw, "--near-duplicates", 1, "--out", captions], lambda: any(folder.glob("*set.jsonl*")))
    assert len(read_manifest(captions)) == 3
    with serving(seconds=0.05 if kills else 0.0) as server:
        environment["OPENAI_BASE_URL"] = server.url
        ask = ["paraphrase", captions, "--model", "tiny", "--per-prompt", 4, "--similarity", "tiny-clip"]
        command([*ask, "--concurrency", 1, "--out", wordings], lambda: sum(server.answered.values()) >= 3)
        assert sum(server.answered.values()) <= len(server.answered) + 1  # requests in flight are repeated
    command(["paraphrase", wordings, "--check", "--similarity", "tiny-clip"], lambda: True)
    found = {path.name: path.read_bytes() for path in folder.glob("[!.]*.json*")}  # hidden: unfinished when killed
    for family in FAMILIES:
        run_folder = RunFolder(folder / family)
        config = ["fit-free", "predict", "--config", TINY / f"{family}_enhance.yaml", "--wandb", "disabled"]
        data = ["--data.path", wordings, "--data.prompts_per_batch", 1, "--run_dir", run_folder.path]
        ended = command([*config, *data], lambda folder=run_folder: bool(folder.shards()))
        assert "0 of 3 prompts, 0 of 12 paraphrases" in ended.stderr
        found[f"{family} samples"] = samples_of(run_folder)
        names = ("prompts.jsonl", "prompts.card.json", "metrics.json", "fingerprint.json")
        found |= {f"{family} {name}": (run_folder.path / name).read_bytes() for name in names}
        assert len(found[f"{family} samples"]) == 24
    return found
