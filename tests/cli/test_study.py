"""A study: the cells of its YAML, and that they are plain runs, whatever happens to the study."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from running import ROOT, contents, gendiv, metrics_of, run, samples_of, without_link

from gendiv_lightning.cli import main as cli
from gendiv_lightning.cli import predict as fit_free
from gendiv_lightning.runs.folder import RunFolder
from gendiv_lightning.runs.load import find_runs
from gendiv_lightning.study import launch
from gendiv_lightning.study.folder import StudyFolder
from gendiv_lightning.study.launch import run_as_jobs
from gendiv_lightning.study.matrix import read_study

TINY = ROOT / "configs" / "tiny"
USAGE = "toy:llamagen_usage.safetensors"


@pytest.fixture
def write(weights, tmp_path):
    """Write a study of the tiny LlamaGen with random weights; given entries replace the default ones."""

    def write(**entries) -> Path:
        settings = {
            "model.gpt_checkpoint": str(weights / "gpt.pt"),
            "model.vq_checkpoint": str(weights / "vq.pt"),
            "model.text_encoder": str(weights / "t5"),
            "data.path": "toy:postcards.jsonl",
            "data.limit": 2,
            "data.num_samples": 4,
            "data.prompts_per_batch": 1,
            "trainer.enable_progress_bar": False,
            "wandb": "disabled",
        }
        study = {
            "generators": {"tiny": {"config": str(TINY / "llamagen.yaml"), "usage": USAGE}},
            "metrics": ["pixel_cosine"],
            "settings": settings,
            "probes": {"baseline": None, "argmax": {"Argmax": None}},
        }
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump({**study, **entries}, sort_keys=False))
        return path

    return write


def study(*words):
    """The exit status of `gendiv study` in this process, or its message."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(["study", "--config", *map(str, words)])
    return stopped.value.code


def index(folder):
    return {cell["name"]: cell for cell in json.loads((folder / "study.json").read_text())["cells"]}


# --- the cells of the YAML ---


def test_lists_are_swept_and_every_cell_has_its_own_name(write):
    probes = {
        "subset": {"CodebookSubset": {"ratio": [0.25, 0.5]}},
        "both": {"CodebookSubset": {"ratio": [0.25, 0.5]}, "Paraphrase": {"length": ["short", "mixed"]}},
    }
    cells = {cell.name: cell for cell in read_study(write(probes=probes, seeds=[0, 3]))}
    assert list(cells)[:2] == ["tiny-subset-0.25-seed0", "tiny-subset-0.5-seed0"]
    assert len(cells) == 2 * (2 + 4)
    chosen = cells["tiny-both-0.5-mixed-seed3"]
    assert chosen.probes == {"CodebookSubset": {"ratio": 0.5, "usage": USAGE}, "Paraphrase": {"length": "mixed"}}
    assert [probe["class_path"] for probe in chosen.config["probes"]] == ["CodebookSubset", "Paraphrase"]
    assert chosen.config["measure"]["metrics"] == ["pixel_cosine"]


def test_baseline_and_probe_configs_differ_only_in_their_probes(write):
    """The same prompts, numbers of samples and seed: the same noise, so that differences are paired."""
    cells = read_study(write(probes={"baseline": None, "subset": {"CodebookSubset": {"ratio": 0.25}}}, seeds=[5]))
    for cell in cells:
        del cell.config["probes"]
    assert cells[0].config == cells[1].config
    assert cells[0].config["data"]["init_args"]["seed"] == 5


def test_a_probe_may_have_its_own_settings(write):
    probes = {"baseline": None, "few": {"Argmax": None, "settings": {"data.limit": 1, "data.max_words": 9}}}
    baseline, few = read_study(write(probes=probes))
    assert [cell.config["data"]["init_args"]["limit"] for cell in (baseline, few)] == [2, 1]
    assert few.config["data"]["init_args"]["max_words"] == 9
    assert list(few.probes) == ["Argmax"]


def test_a_random_or_listed_subset_gets_no_counts(write):
    probes = {
        "random": {"CodebookSubset": {"select": "random", "size": 9}},
        "list": {"CodebookSubset": {"select": "list", "tokens": [[1, 2]]}},
    }
    assert all("usage" not in cell.probes["CodebookSubset"] for cell in read_study(write(probes=probes)))


def test_a_study_finds_shipped_configs_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = {"generators": {"toy": {"config": "configs/tiny/llamagen.yaml"}}, "probes": {"baseline": None}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    (cell,) = read_study(tmp_path / "study.yaml")
    assert cell.config["model"]["class_path"] == "gendiv_lightning.generators.LlamaGen"


def test_a_generator_may_have_its_own_probes_and_metrics(write):
    def entry(**more):
        return {"config": str(TINY / "llamagen.yaml"), **more}

    few = entry(probes=["argmax"], metrics=["ssim"])
    cells = read_study(write(generators={"all": entry(), "few": few}))
    assert [cell.name for cell in cells] == ["all-baseline-seed0", "all-argmax-seed0", "few-argmax-seed0"]
    assert [cell.config["measure"]["metrics"] for cell in cells] == [["pixel_cosine"], ["pixel_cosine"], ["ssim"]]


@pytest.mark.parametrize(
    ("entries", "fragments"),
    [
        (
            {"generators": {"tiny": {"config": "x", "probes": ["argmin"]}}},
            ["tiny.probes", "argmin", "baseline, argmax"],
        ),
        ({"generators": {"tiny": {"config": "x", "probes": "argmax"}}}, ["tiny.probes", "must be a list"]),
        ({"generators": {"tiny": {"config": "x", "probes": []}}}, ["tiny.probes", "must be a list"]),
        ({"probs": {}}, ["unknown key 'probs'", "generators, probes, seeds"]),
        ({"probes": {}}, ["probes must have names"]),
        ({"probes": {"a/b": None}}, ["probes", "a/b"]),
        ({"seeds": "0"}, ["seeds must be a list"]),
        ({"seeds": [0, 0]}, ["two cells have the name"]),
        ({"generators": {"tiny": {"file": "x"}}}, ["generators.tiny", "unknown key 'file'"]),
        ({"generators": {"tiny": {"config": "nowhere.yaml"}}}, ["nowhere.yaml"]),
        ({"probes": {"argmax": "Argmax"}}, ["probes.argmax must be a mapping"]),
        ({"probes": {"wrong": {"Argmxa": None}}}, ["cell tiny-wrong-seed0", "Argmxa"]),
        (
            {"probes": {"sub": {"CodebookSubset": {"ratio": [0.5, 1.5]}}}},
            ["cell tiny-sub-1.5-seed0", "(0, 1], got 1.5"],
        ),
        ({"probes": {"sub": {"CodebookSubset": {"ration": 0.5}}}}, ["cell tiny-sub-seed0", "ration"]),
        ({"probes": {"para": {"Paraphrase": {"num_paraphrases": 4}}}}, ["num_samples must be", "4 paraphrases"]),
        ({"probes": {"more": {"settings": {"data.limitt": 1}}}}, ["cell tiny-more-seed0", "limitt"]),
        ({"metrics": ["no_such_metric"]}, ["no_such_metric"]),
    ],
    ids=lambda given: given[-1] if isinstance(given, list) else "-".join(given),
)
def test_a_bad_study_is_one_clear_line_before_anything_runs(write, tmp_path, entries, fragments):
    message = study(write(**entries), "--out", tmp_path / "out")
    assert message.startswith("gendiv: error GD")
    assert all(words in message for words in fragments), message
    assert not (tmp_path / "out" / "study.json").exists()


def test_broken_yaml_is_an_error(tmp_path):
    (tmp_path / "study.yaml").write_text("generators: {")
    assert "study.yaml is not valid YAML" in study(tmp_path / "study.yaml", "--out", tmp_path / "out")


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("**/study*.yaml")), ids=lambda path: path.stem)
def test_the_studies_of_the_repository_expand(path):
    cells = read_study(path)
    assert len({cell.name for cell in cells}) == len(cells)
    if "eta" in path.stem:  # a sweep of one continuous model
        assert {cell.generator for cell in cells} == {"latent_diffusion"}
        assert {cell.probe for cell in cells} >= {"eta000", "eta100", "euler", "ancestral"}
    else:
        with_tokens = {"llamagen", "amused", "vq_diffusion"}
        assert {cell.generator for cell in cells} - {"latent_diffusion"} == with_tokens
        subsets = {cell.generator for cell in cells if "CodebookSubset" in cell.probes}
        assert subsets == with_tokens
        assert {cell.probe for cell in cells} >= {"baseline", "argmax", "subset", "random", "enhancement", "decompose"}


def test_the_cells_of_the_embedded_study_are_sound(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert study(TINY / "study.yaml", "--out", tmp_path / "out", "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(read_study(TINY / "study.yaml"))
    assert lines[0].startswith("gendiv fit-free predict --config ")
    assert not (tmp_path / "out" / "study.json").exists()


# --- running it ---


def test_a_study_runs_its_cells_past_a_failed_one_and_skips_what_is_finished(write, tmp_path, capsys):
    (tmp_path / "one.txt").write_text("a postcard\n")
    bad = {"Paraphrase": {"num_paraphrases": 2}, "settings": {"data.path": str(tmp_path / "one.txt")}}
    config = write(probes={"bad": bad, "baseline": None, "argmax": {"Argmax": None}})
    out = tmp_path / "out"
    assert study(config, "--out", out, "--jobs", "2") == 1
    output = capsys.readouterr()
    assert re.search(r"tiny-bad-seed0 failed: gendiv: error GD305: .* has 0 paraphrases", output.out)
    assert f"Next: gendiv report {out} --out {out / 'report'}" in output.out
    assert {name: cell["status"] for name, cell in index(out).items()} == {
        "tiny-bad-seed0": "failed",
        "tiny-baseline-seed0": "finished",
        "tiny-argmax-seed0": "finished",
    }
    assert "Run folder" in (out / "logs" / "tiny-baseline-seed0.log").read_text()
    before = contents(out / "tiny-baseline-seed0")

    (tmp_path / "one.txt").write_text("")
    study(config, "--out", out)
    assert "3 cells" in (output := capsys.readouterr()).err
    assert "2 already finished" in output.err
    assert "contains no prompts" in output.out
    assert contents(out / "tiny-baseline-seed0") == before

    line = ["predict", "--config", str(out / "configs/tiny-baseline-seed0.yaml"), "--run_dir", str(tmp_path / "plain")]
    fit_free.main(line)
    plain, cell = contents(tmp_path / "plain"), before
    assert plain.keys() == cell.keys()
    same = [
        name for name in plain if name not in ("config.yaml", "log/hparams.yaml", "environment.json", "index.jsonl")
    ]
    assert [name for name in same if plain[name] != cell[name]] == []


def test_a_killed_study_ends_its_cells_and_can_be_resumed(write, tmp_path):
    slow = yaml.safe_load(write().read_text())["settings"] | {"model.batch_size": 1, "data.limit": 8}
    config, out = write(settings=slow), tmp_path / "out"
    cell = RunFolder(out / "tiny-baseline-seed0")
    line = gendiv("study", "--config", str(config), "--out", str(out))
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        for _ in range(2400):
            if cell.shards():
                break
            assert process.poll() is None, "the study ended before it was killed"
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    for _ in range(200):
        if not _mentioning(str(out)):
            break
        time.sleep(0.05)
    assert _mentioning(str(out)) == []
    assert 1 <= len(cell.shards()) < 8
    there = {shard: shard.read_bytes() for shard in cell.shards()}
    assert index(out)["tiny-baseline-seed0"]["status"] == "running"

    assert study(config, "--out", out) == 0
    assert {shard: shard.read_bytes() for shard in cell.shards() if shard in there} == there
    fit_free.main(
        ["predict", "--config", str(out / "configs/tiny-baseline-seed0.yaml"), "--run_dir", str(tmp_path / "plain")]
    )
    assert samples_of(cell) == samples_of(RunFolder(tmp_path / "plain"))
    assert metrics_of(cell) == metrics_of(RunFolder(tmp_path / "plain"))


def _mentioning(words):
    """Processes with an open file below a path: the logs of running cells."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            targets = [os.readlink(link) for link in (process / "fd").iterdir()]
        except OSError:
            continue
        found += [process.name for target in targets if target.startswith(words)]
    return found


def test_a_cell_with_changed_settings_is_not_finished(write, tmp_path, capsys):
    out = tmp_path / "out"
    only = {"baseline": None}
    assert study(write(probes=only), "--out", out) == 0
    more = yaml.safe_load(write().read_text())["settings"] | {"data.num_samples": 6}
    for _ in range(2):
        assert study(write(probes=only, settings=more), "--out", out) == 1
        assert "data.num_samples (4 before, 6 now)" in capsys.readouterr().out


def test_two_studies_cannot_run_in_one_folder(write, tmp_path):
    config = write()
    with StudyFolder(tmp_path / "out", read_study(config)).lock():
        assert "another `gendiv study` is running" in study(config, "--out", tmp_path / "out")


def test_cells_run_as_jobs_of_submitit(write, tmp_path):
    folder = StudyFolder(tmp_path / "out", read_study(write(probes={"baseline": None})))
    folder.write_configs()
    run_as_jobs(folder, "local", {"timeout_min": 5})
    entry = index(folder.path)["tiny-baseline-seed0"]
    assert entry["status"] == "finished"
    assert entry["job"]
    assert RunFolder(folder.path / "tiny-baseline-seed0").is_finished


def test_a_missing_cluster_and_bad_parameters_are_errors(write, tmp_path):
    words = (write(), "--out", tmp_path / "out", "--launch", "slurm")
    assert "slurm" in study(*words)
    assert "KEY=VALUE, got 'gpu'" in study(*words, "--slurm", "gpu")
    assert "--jobs must be at least 1" in study(write(), "--jobs", "0")


def test_the_help_teaches(capsys):
    with pytest.raises(SystemExit):
        cli.main(["study", "--help"])
    shown = capsys.readouterr().out
    assert "a list is swept" in shown
    assert run(gendiv("study")).returncode == 2


def test_the_batch_script_of_a_slurm_cluster_has_the_parameters(write, tmp_path, monkeypatch):
    """Replacements of slurm's commands keep the script and run nothing."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, does in (("srun", "exit 1"), ("sbatch", f'cp "$1" {tmp_path}/script; echo "Submitted batch job 17"')):
        (commands / name).write_text(f"#!/bin/sh\n{does}\n")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(commands), prepend=os.pathsep)
    monkeypatch.setattr(launch, "_wait_for", lambda *_: None)
    folder = StudyFolder(tmp_path / "out", read_study(write()))
    run_as_jobs(folder, "slurm", {"slurm_partition": "gpu", "timeout_min": 240, "gpus_per_node": 1})
    script = (tmp_path / "script").read_text()
    for line in ("--partition=gpu", "--time=240", "--gpus-per-node=1", "--job-name=gendiv", "--array=0-1"):
        assert f"#SBATCH {line}" in script
    assert [cell["job"] for cell in index(folder.path).values()] == ["17_0", "17_1"]


def test_former_cells_are_listed_and_not_reported(write, tmp_path, capsys):
    out = tmp_path / "out"
    assert study(write(metrics=["pixel_cosine"]), "--out", out) == 0
    assert study(write(probes={"baseline": None}), "--out", out) == 0
    assert f"{out / 'tiny-argmax-seed0'} is no longer a cell of this study" in capsys.readouterr().out
    runs, left_out = find_runs([out])
    assert [run.folder.path.name for run in runs] == ["tiny-baseline-seed0"]
    assert left_out == [f"{out / 'tiny-argmax-seed0'} is not a cell of the study, or its cell failed"]


def test_a_base_config_of_version_0_1_keeps_its_measure(tmp_path):
    """Its metrics and probes are among `trainer.callbacks`."""
    callbacks = [{"class_path": "gendiv_lightning.callbacks.Measure", "init_args": {"metrics": ["ssim"]}}]
    (tmp_path / "old.yaml").write_text(yaml.safe_dump({"model": {}, "trainer": {"callbacks": callbacks}}))
    study = {
        "generators": {"old": {"config": "old.yaml"}},
        "probes": {"argmax": {"Argmax": None}},
        "metrics": ["lpips"],
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    (cell,) = read_study(tmp_path / "study.yaml")
    assert cell.config["trainer"]["callbacks"][0]["init_args"]["metrics"] == ["lpips"]
    assert "measure" not in cell.config
    assert cell.config["probes"] == [{"class_path": "Argmax"}]


@pytest.mark.parametrize(
    "content", ["", "[]", '{"cells": {}}', '{"cells": [1]}', '{"cells": [{"name": "a"}]}', b"\xff\xfe"]
)
def test_a_malformed_index_is_one_line_with_its_name(write, tmp_path, content):
    out = tmp_path / "out"
    out.mkdir()
    (out / "study.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SystemExit) as stopped:
        cli.main(["report", str(out)])
    for message in (study(write(probes={"baseline": None}), "--out", out, "--dry-run"), stopped.value.code):
        assert f"{out / 'study.json'} is damaged" in message
        assert "\n" not in without_link(message)
