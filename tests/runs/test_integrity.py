"""Every file of a run has a checksum: every reader reports damaged and missing files."""

import json
import random
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from gendiv_lightning.records import Estimate, NoiseKey, Prompt, PromptBatch, SampleBatch, TokenSamples
from gendiv_lightning.runs.folder import RunFolder
from gendiv_lightning.runs.index import NAME as INDEX

PROTOCOL = {"generator": {"generator": "toy"}, "probes": [], "data": {"seed": 0}, "metrics": [], "versions": {}}


def batch_of(number, seed=0):
    prompt = Prompt(f"id{number}", f"prompt {number}", (), "source")
    keys = tuple(NoiseKey(prompt.id, 0, sample, sample) for sample in range(2))
    generator = torch.Generator().manual_seed(number)
    tokens = torch.randint(9, (2, 4), generator=generator)
    images = torch.randint(256, (2, 3, 4, 4), generator=generator).to(torch.uint8)
    values = torch.rand(2, 4, generator=generator)
    return SampleBatch(
        PromptBatch(seed, (prompt,), (number,), keys, (0, 0)), TokenSamples(tokens, values, -values), images
    )


def write_run(path, num_prompts=3, finish=True):
    folder = RunFolder(path)
    folder.start(PROTOCOL, {"python": "3"})
    for number in range(num_prompts):
        folder.write_samples(batch_of(number), 9)
    if finish:
        ids = [f"id{number}" for number in range(num_prompts)]
        folder.write_per_prompt(pa.table({"prompt_id": ids, "prompt": ids, "x": [0.5] * num_prompts}))
        folder.write_metrics({"x": Estimate(0.5, 0.4, 0.6, num_prompts, 2, 2, "mean")})
    return folder


def read_all(path):
    """Read everything that a command reads from a run."""
    folder = RunFolder(path)
    protocol, table, metrics = folder.read_protocol(), folder.read_per_prompt().to_pydict(), folder.read_metrics()
    samples = [
        (b.batch, b.samples.tokens.tolist(), b.images.tolist(), b.samples.entropy.tolist())
        for b in folder.read_samples()
    ]
    return protocol, table, metrics, samples


def test_a_whole_run_reads_as_it_was_written(tmp_path):
    write_run(tmp_path)
    protocol, _, metrics, samples = read_all(tmp_path)
    assert protocol == PROTOCOL
    assert metrics["x"].value == 0.5
    assert [s[0].prompts[0].text for s in samples] == ["prompt 0", "prompt 1", "prompt 2"]


@pytest.mark.parametrize("num_flips", [100, pytest.param(3000, marks=pytest.mark.slow)])
def test_no_flipped_bit_silently_changes_what_is_read(tmp_path, num_flips):
    write_run(tmp_path)
    expected = read_all(tmp_path)
    draw = random.Random(0)
    files = sorted(p for p in tmp_path.rglob("*") if p.is_file() and p.name != "environment.json")
    errors = []
    for _ in range(num_flips):
        path = draw.choice(files)
        content = bytearray(path.read_bytes())
        place = draw.randrange(len(content))
        whole = bytes(content)
        content[place] ^= 1 << draw.randrange(8)
        path.write_bytes(bytes(content))
        try:
            assert read_all(tmp_path) == expected, f"bit {place} of {path.name} changed a value in silence"
        except ValueError as error:
            errors.append(str(error))
        path.write_bytes(whole)
    assert len(errors) > 0.8 * num_flips
    assert [error for error in errors if str(tmp_path) not in error] == []


def test_the_error_of_a_damaged_shard_names_it_and_the_way_out(tmp_path):
    folder = write_run(tmp_path)
    shard = folder.shards()[1]
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=rf"{shard.name} is damaged.*Delete it"):
        read_all(tmp_path)


def test_a_missing_shard_of_a_finished_run_is_noticed_on_opening(tmp_path):
    folder = write_run(tmp_path)
    folder.shards()[0].unlink()
    with pytest.raises(ValueError, match=r"incomplete: samples/0000000-\w+.parquet \(1 files\)"):
        RunFolder(tmp_path).read_protocol()


def test_a_listed_shard_that_never_came_or_was_deleted_is_forgotten_on_resumption(tmp_path):
    folder = write_run(tmp_path, num_prompts=2, finish=False)
    with (tmp_path / INDEX).open("a") as file:  # a kill between the line and the shard
        file.write(json.dumps({"file": "samples/0000002-0123abcd.parquet", "sha256": "0" * 64}) + "\n")
    deleted = folder.shards()[1]
    deleted.rename(folder.samples / "0000001-0123abcd.parquet")  # sampled again, under another grouping
    write_run(tmp_path, num_prompts=1)
    assert RunFolder(tmp_path).read_protocol() == PROTOCOL
    assert deleted.name not in (tmp_path / INDEX).read_text()


def test_a_finished_run_forgets_no_shard(tmp_path):
    folder = write_run(tmp_path)
    folder.shards()[0].unlink()
    folder.start(PROTOCOL, {"python": "3"})
    with pytest.raises(ValueError, match="incomplete"):
        folder.read_protocol()


def test_a_missing_shard_of_an_old_run_is_noticed_when_samples_are_read(tmp_path):
    folder = write_run(tmp_path)
    (tmp_path / INDEX).unlink()
    folder.shards()[0].unlink()
    assert RunFolder(tmp_path).read_metrics()
    with pytest.raises(ValueError, match="measured 3 prompts, but contains samples of 2"):
        list(RunFolder(tmp_path).read_samples())


def test_a_run_without_an_index_opens(tmp_path):
    write_run(tmp_path)
    expected = read_all(tmp_path)
    (tmp_path / INDEX).unlink()
    assert read_all(tmp_path) == expected


def test_a_line_truncated_by_a_crash_does_not_hide_another(tmp_path):
    folder = write_run(tmp_path, finish=False)
    with (tmp_path / INDEX).open("a") as file:
        file.write('{"file": "samples/half')
    folder.write_samples(batch_of(7), 9)
    names = RunFolder(tmp_path).index.files()
    assert any(name.startswith("samples/0000007") for name in names)
    assert len(names) == 6


def test_samples_are_checked_against_the_design(tmp_path):
    folder = write_run(tmp_path, finish=False)
    names = {f"id{n}": [NoiseKey(f"id{n}", 0, s, s) for s in range(2)] for n in range(3)}
    assert folder.finished_prompts(names) == {"id0", "id1", "id2"}
    with pytest.raises(ValueError, match="id1 than this run's design"):
        folder.finished_prompts({**names, "id1": names["id1"][:1]})
    with pytest.raises(ValueError, match="another seed than 1"):
        folder.finished_prompts(names, seed=1)


def test_overwriting_deletes_only_the_run(tmp_path):
    folder = write_run(tmp_path)
    own_files = [tmp_path / "samples" / "mine.parquet", tmp_path / "log" / "diary.txt", tmp_path / "notes.md"]
    for path in own_files:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    folder.delete()
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted(own_files)


@pytest.mark.parametrize("damaged", [b"{", b"[]", b"\xff", b'{"fingerprint": 3}'])
def test_a_run_with_a_damaged_fingerprint_can_be_overwritten(tmp_path, damaged):
    folder = write_run(tmp_path)
    (tmp_path / "wandb" / "offline-run-1-other").mkdir(parents=True)
    (tmp_path / "fingerprint.json").write_bytes(damaged)
    folder.delete()
    assert [path.name for path in tmp_path.rglob("*")] == ["wandb", "offline-run-1-other"]


def test_files_with_the_names_of_a_run_make_no_run(tmp_path):
    own = {name: tmp_path / name for name in ("prompts.jsonl", "config.yaml", INDEX, "samples/mine.parquet")}
    for path in own.values():
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    with pytest.raises(ValueError, match="nothing was deleted"):
        RunFolder(tmp_path).delete()
    assert all(path.exists() for path in own.values())


def test_overwriting_leaves_files_that_the_index_does_not_list(tmp_path):
    folder = write_run(tmp_path, finish=False)
    (tmp_path / "prompts.jsonl").write_text("mine")  # the run was killed before it wrote its own
    folder.delete()
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.jsonl"]


@pytest.mark.parametrize("num_deleted", [1, 5, 6, 7])
def test_deleting_goes_on_after_a_kill(tmp_path, monkeypatch, num_deleted):
    folder = write_run(tmp_path)
    unlink, deleted = Path.unlink, []

    def kill(path, **settings):
        if path.exists():
            deleted.append(path)
            if len(deleted) > num_deleted:
                raise KeyboardInterrupt
        unlink(path, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", kill)
        with pytest.raises(KeyboardInterrupt):
            folder.delete()
    assert not folder.is_finished
    RunFolder(tmp_path).delete()
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    folder = RunFolder(tmp_path)

    def fail(path):
        path.write_text("half")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        folder.write("metrics.json", fail)
    assert list(tmp_path.iterdir()) == []
    assert json.dumps(folder.index.files()) == "{}"
