"""Runs to report on: random weights, prompts that try to break out of a page."""

import json

import pytest
from running import predict

HOSTILE = """<script>alert(1)</script> "a & b' onload=x `code` | \\ _ {red} $x$ # %"""


@pytest.fixture(scope="session")
def hostile():
    """A prompt that tries to break out of a page."""
    return HOSTILE


@pytest.fixture(scope="session")
def study(weights, tmp_path_factory):
    """Folder of runs of one generator: baseline and argmax with two seeds, two subsets; 4 hostile prompts."""
    folder = tmp_path_factory.mktemp("study")
    texts = [f"{HOSTILE} {number}" for number in range(4)]
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"id": str(n), "text": text}) + "\n" for n, text in enumerate(texts)))
    add = "--probes+="
    names = ["lpips[tiny]", "pixel_cosine", "clip_score[tiny-clip]", "fd[tiny-clip]", "token_entropy"]
    metrics = f"--measure.metrics={json.dumps(names)}"  # without those of postcards, which accept only a few words

    def run(name, *more):
        return predict(weights, folder / name, metrics, "--data.path", str(prompts), "--data.limit", "4", *more)

    run("baseline")
    run("baseline-1", "--data.seed", "1")
    run("argmax", f"{add}Argmax")
    run("argmax-1", f"{add}Argmax", "--data.seed", "1")
    usage = f"usage={folder / 'baseline' / 'usage.safetensors'}"
    for name, *subset in (("random-0.5", "select=random", "ratio=0.5"), ("top-0.25", "ratio=0.25", usage)):
        run(name, f"{add}CodebookSubset", *(f"--probes.{setting}" for setting in subset))
    return folder


@pytest.fixture(scope="session")
def decomposed(weights, tmp_path_factory):
    """Folder of the three runs of a verdict, 3 prompts each."""
    folder = tmp_path_factory.mktemp("decomposed")
    add = "--probes+="
    subset = [f"{add}CodebookSubset", "--probes.ratio=0.25"]
    one_wording = "--probes.num_paraphrases=0"
    usage = "--probes.usage=" + str(folder / "plain" / "usage.safetensors")
    for name, more in {"plain": [], "argmax": [f"{add}Argmax"], "subset": [*subset, usage]}.items():
        predict(weights, folder / name, one_wording, *more, config="llamagen_decompose")
    return folder


FEW_METRICS = ("--measure.metrics=[pixel_cosine]", "--measure.reference=null")


@pytest.fixture(scope="session")
def drifting(weights, tmp_path_factory):
    """Folder of a baseline, a subset and a temperature, 6 prompts x 4 samples each."""
    folder = tmp_path_factory.mktemp("drifting")
    subset = ("--probes+=CodebookSubset", "--probes.select=random", "--probes.ratio=0.1")
    predict(weights, folder / "plain", *FEW_METRICS, limit=6)
    predict(weights, folder / "subset", *FEW_METRICS, *subset, limit=6)
    predict(weights, folder / "warm", *FEW_METRICS, "--probes+=Temperature", "--probes.temperature=3", limit=6)
    return folder
