"""Files of a run are complete or absent, and are read as they were written."""

import errno
import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from gendiv_lightning.records import NoiseKey, Paraphrase, Prompt, PromptBatch, SampleBatch, TokenSamples
from gendiv_lightning.records.estimate import Estimate
from gendiv_lightning.runs.environment import environment
from gendiv_lightning.runs.folder import RunFolder
from gendiv_lightning.runs.protocol import Difference, differences, fingerprint_of
from gendiv_lightning.storage.atomic import write_atomically

PROTOCOL = {"generator": {"gpt": "tiny", "guidance": 1.5}, "probes": [], "data": {"seed": 0}}


def sample(*places, codebook_size=256, num_samples=2):
    """Random samples of the prompts at some indices, with a paraphrase for every second one."""
    generator = torch.Generator().manual_seed(sum(places))
    prompts = tuple(Prompt(f"id-{p}", f"prompt {p}", (Paraphrase(f"other {p}", "short"),), "set") for p in places)
    named = [(row, NoiseKey(p.id, s % 2, s, s)) for row, p in enumerate(prompts) for s in range(num_samples)]
    rows, keys = zip(*named, strict=True)
    tokens = torch.randint(codebook_size, (len(rows), 9), generator=generator)
    samples = TokenSamples(tokens, torch.rand(tokens.shape, generator=generator), -torch.rand(tokens.shape))
    images = torch.randint(256, (len(rows), 3, 8, 8), generator=generator, dtype=torch.uint8)
    return SampleBatch(PromptBatch(5, prompts, places, keys, rows), samples, images)


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "runs" / "a=1")  # "=" looks like a partition to Parquet readers
    folder.start(PROTOCOL, environment())
    return folder


def test_a_shard_is_read_as_it_was_written(folder):
    written = sample(3, 1)
    folder.write_samples(written, 256)
    (read,) = folder.read_samples()
    assert read.batch.texts == [written.batch.texts[row] for row in (0, 1, 2, 3)]
    assert read.batch.keys == written.batch.keys
    assert read.batch.seed == 5
    assert [read.batch.indices[row] for row in read.batch.rows] == [3, 3, 1, 1]
    assert [read.batch.prompts[row].id for row in read.batch.rows] == [key.prompt for key in read.batch.keys]
    assert torch.equal(read.images, written.images)
    for there, expected in zip(read.samples, written.samples, strict=True):
        assert torch.equal(there, expected)


@pytest.mark.parametrize(
    ("codebook_size", "kind"), [(256, "uint8"), (257, "uint16"), (16384, "uint16"), (65537, "uint32")]
)
def test_tokens_have_the_smallest_unsigned_type(folder, codebook_size, kind):
    written = sample(0, codebook_size=codebook_size)
    written.samples.tokens[0, 0] = codebook_size - 1
    folder.write_samples(written, codebook_size)
    table = pq.ParquetFile(folder.shards()[0]).read()
    assert str(table.schema.field("tokens").type.value_type) == kind
    assert np.array(table["tokens"].to_pylist())[0, 0] == codebook_size - 1


def test_a_prompt_is_finished_when_its_shard_exists(folder):
    assert folder.finished_prompts() == frozenset()
    folder.write_samples(sample(4, 7), 256)
    assert folder.finished_prompts() == {"id-4", "id-7"}
    assert not folder.is_finished
    folder.write_metrics({})
    assert folder.is_finished


def test_shards_are_in_the_order_of_their_first_prompt(folder):
    for places in ((12, 13), (2, 30), (5,)):
        folder.write_samples(sample(*places), 256)
    assert [batch.batch.indices[0] for batch in folder.read_samples()] == [2, 5, 12]


def test_a_file_is_complete_or_absent(tmp_path):
    def fail_half_way(path):
        path.write_text("half")
        raise RuntimeError("power")

    write_atomically(tmp_path / "file", lambda path: path.write_text("whole"))
    with pytest.raises(RuntimeError, match="power"):
        write_atomically(tmp_path / "file", fail_half_way)
    assert (tmp_path / "file").read_text() == "whole"


def test_a_full_disk_is_an_error_with_the_path_and_leaves_nothing(tmp_path):
    def fill_the_disk(path):
        path.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"The disk is full\..*'.*/file'"):
        write_atomically(tmp_path / "file", fill_the_disk)
    assert list(tmp_path.iterdir()) == []


def test_only_half_written_files_of_a_killed_process_are_removed(folder):
    folder.write_samples(sample(0), 256)
    leftovers = [folder.path / ".metrics.json.12", folder.samples / ".0000000-ab.parquet.34"]
    foreign = [folder.path / ".gitignore", folder.path / "notes.txt", folder.samples / ".keep"]
    for path in leftovers + foreign:
        path.write_text("")
    folder.start(PROTOCOL, environment())
    assert not any(path.exists() for path in leftovers)
    assert all(path.exists() for path in foreign)
    assert folder.finished_prompts() == {"id-0"}


def test_the_error_of_a_damaged_shard_names_it(folder):
    folder.write_samples(sample(0), 256)
    (shard,) = folder.shards()
    shard.write_bytes(shard.read_bytes()[:-40])
    with pytest.raises(ValueError, match=rf"{shard.name} is damaged .* Delete it"):
        folder.finished_prompts()


def test_a_prompt_in_two_shards_is_an_error(folder):
    folder.write_samples(sample(1, 2), 256)
    folder.write_samples(sample(2, 3), 256)
    with pytest.raises(ValueError, match="prompt id-2 is both in"):
        folder.finished_prompts()


def test_another_protocol_is_rejected_with_each_key(folder):
    other = {"generator": {"gpt": "tiny", "guidance": 3.0}, "probes": [], "data": {"seed": 0, "limit": 4}}
    with pytest.raises(ValueError, match="contains another run") as refused:
        folder.check(other)
    assert "data.limit (None before, 4 now); generator.guidance (1.5 before, 3.0 now)." in str(refused.value)
    folder.check(json.loads(json.dumps(PROTOCOL)))


def test_differing_items_of_lists_are_listed():
    before = {"metrics": [{"names": ["a", "b"], "method": "old"}, {"names": ["c"]}], "probes": [1]}
    now = {"metrics": [{"names": ["a", "b"], "method": "new"}, {"names": ["c"]}], "probes": []}
    assert differences(before, now) == [Difference("metrics[0].method", "old", "new"), Difference("probes", [1], [])]


def test_a_difference_is_below_whole_keys_only():
    difference = Difference("metrics[0].method", "old", None)
    assert difference.is_below("data", "metrics")
    assert not difference.is_below("metric", "metrics[0].met")
    assert str(difference) == "metrics[0].method ('old' before, None now)"


def test_samples_without_a_fingerprint_are_rejected(folder):
    folder.write_samples(sample(0), 256)
    (folder.path / "fingerprint.json").unlink()
    with pytest.raises(ValueError, match="no fingerprint"):
        folder.check(PROTOCOL)


def test_results_without_a_fingerprint_are_no_finished_run(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_metrics({})  # as `gendiv measure --out` does
    with pytest.raises(ValueError, match="contains results but no fingerprint"):
        folder.check(PROTOCOL)


def test_deleting_removes_the_run_and_nothing_else(folder):
    folder.write_samples(sample(0), 256)
    folder.write_metrics({})
    (folder.path / "notes.txt").write_text("mine")
    folder.delete()
    assert [path.name for path in folder.path.iterdir()] == ["notes.txt"]


def test_deleting_a_folder_that_is_not_a_run_is_an_error(tmp_path):
    RunFolder(tmp_path / "absent").delete()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="nothing was deleted"):
        RunFolder(tmp_path).delete()
    assert (tmp_path / "notes.txt").exists()


def test_metrics_come_back_and_nan_is_null(folder):
    estimates = {
        "b/two": Estimate(0.25, math.nan, math.inf, 1, 2, 3, "by hand"),
        "a/one": Estimate(1.0, 0.5, 1.5, 4, 5, 6, "by eye"),
    }
    folder.write_metrics(estimates)
    flat = json.loads((folder.path / "metrics.json").read_text())
    assert list(flat) == ["a/one", "b/two"]
    assert [flat["b/two"]["low"], flat["b/two"]["high"]] == [None, None]
    read = folder.read_metrics()
    assert read["a/one"] == estimates["a/one"]
    assert math.isnan(read["b/two"].low)


def test_the_fingerprint_does_not_depend_on_the_order_of_keys():
    turned = dict(reversed(list(PROTOCOL.items())))
    assert fingerprint_of(PROTOCOL) == fingerprint_of(turned)
    assert fingerprint_of(PROTOCOL) != fingerprint_of({**PROTOCOL, "data": {"seed": 1}})
