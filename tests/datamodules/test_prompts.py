"""Prompt sets, sampling designs and sharding over ranks."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import lightning.pytorch as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gendiv_lightning.datamodules import PromptData, UnfinishedPrompts
from gendiv_lightning.prompts.design import Design, name_samples
from gendiv_lightning.prompts.prompt_set import read_manifest, write_manifest
from gendiv_lightning.records import NoiseKey, Paraphrase, Prompt, SampleDesign, prompt_id
from gendiv_lightning.sampling import Description

TEXTS = [f"postcard number {number}" for number in range(11)]


class SpreadOverWordings(Design, pl.Callback):
    def __init__(self, design):
        self.asked = design

    def design(self, design):
        return self.asked

    def identity(self, codebook_size):
        return {}

    def describe(self, codebook_size):
        return Description("spread", "spread")


def write_lines(folder, lines=TEXTS, name="cards.txt"):
    path = folder / name
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def on_rank(data, rank, world_size, *, callbacks=(), use_distributed_sampler=False):
    data.trainer = SimpleNamespace(
        global_rank=rank,
        world_size=world_size,
        callbacks=list(callbacks),
        _accelerator_connector=SimpleNamespace(use_distributed_sampler=use_distributed_sampler),
    )
    return data


def wordings(*lengths):
    return Prompt("p", "base", tuple(Paraphrase(f"wording {n}", length) for n, length in enumerate(lengths, start=1)))


# prompt sets


def test_empty_prompts_and_duplicates_are_dropped_over_long_ones_kept_and_all_are_counted(tmp_path):
    lines = ["a house", "", "  ", "A  House ", "a hill", "one two three four"]
    prompt_set = PromptData(write_lines(tmp_path, lines), max_words=3).prompt_set()
    assert [prompt.text for prompt in prompt_set.prompts] == ["a house", "a hill", "one two three four"]
    assert prompt_set.report == (6, 3, 2, 1, 1)
    assert str(prompt_set.report) == "6 read, 3 kept, 2 empty and 1 duplicate dropped, 1 over-long kept"


def test_limit_counts_prompts_that_are_kept(tmp_path):
    prompt_set = PromptData(write_lines(tmp_path, ["a", "", "a", "b", "c"]), limit=2).prompt_set()
    assert [prompt.text for prompt in prompt_set.prompts] == ["a", "b"]


def test_ids_depend_only_on_the_text_and_the_name_of_the_set(tmp_path):
    one = PromptData(write_lines(tmp_path)).prompt_set()
    (tmp_path / "elsewhere").mkdir()
    other = PromptData(write_lines(tmp_path / "elsewhere", TEXTS[::-1])).prompt_set()
    assert one.name == other.name == "cards"
    assert {p.text: p.id for p in one.prompts} == {p.text: p.id for p in other.prompts}
    assert one.prompts[3].id == prompt_id(TEXTS[3], "cards")


def test_an_empty_prompt_set_is_an_error_that_names_the_file(tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.txt contains no prompts \(2 read, 0 kept, 2 empty"):
        PromptData(write_lines(tmp_path, ["", " "], name="nothing.txt")).prompt_set()


def test_two_prompts_with_the_same_id_are_an_error(tmp_path):
    path = write_lines(tmp_path, ['{"id": 1, "prompt": "a"}', '{"id": 1, "prompt": "b"}'], name="ids.jsonl")
    with pytest.raises(ValueError, match=r"ids\.jsonl.*'1'"):
        PromptData(path).prompt_set()


def test_a_manifest_is_a_prompt_file_that_restores_the_set_exactly(tmp_path):
    lines = [
        json.dumps(
            {"prompt": ' "quoted"\u2028line ', "paraphrases": [{"text": "a\nb", "length": "long"}], "source": "ü"}
        ),
        json.dumps({"prompt_id": "own", "prompt": "second"}),
    ]
    prompt_set = PromptData(write_lines(tmp_path, lines, name="set.jsonl")).prompt_set()
    manifest = tmp_path / "run" / "prompts.jsonl"
    write_manifest(prompt_set, manifest)
    assert read_manifest(manifest) == prompt_set.prompts
    again = PromptData(str(manifest)).prompt_set()
    assert (again.prompts, again.sha256) == (prompt_set.prompts, prompt_set.sha256)
    assert [entry.name for entry in manifest.parent.iterdir()] == ["prompts.jsonl"]
    first = json.loads(manifest.read_text(encoding="utf-8").split("\n")[0])
    assert list(first) == ["id", "text", "source", "sha256", "paraphrases"]


def test_a_manifest_with_a_changed_text_is_rejected(tmp_path):
    manifest = tmp_path / "prompts.jsonl"
    write_manifest(PromptData(write_lines(tmp_path)).prompt_set(), manifest)
    manifest.write_text(manifest.read_text().replace("number 3", "number three"))
    with pytest.raises(ValueError, match=r"prompts\.jsonl.*changed"):
        read_manifest(manifest)


def test_the_hash_depends_on_ids_texts_and_paraphrases_but_not_on_the_source(tmp_path):
    base = {"id": "1", "prompt": "a", "source": "x", "paraphrases": [{"text": "b"}]}
    changes = [{}, {"source": "y"}, {"id": "2"}, {"prompt": "c"}, {"paraphrases": [{"text": "d"}]}]
    hashes = [
        PromptData(write_lines(tmp_path, [json.dumps(base | change)], name="set.jsonl")).prompt_set().sha256
        for change in changes
    ]
    assert hashes[0] == hashes[1]
    assert len({*hashes}) == 4


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_streamed_dataset_is_read_once_and_then_from_its_manifest(tmp_path, suffix):
    source = tmp_path / "captions"
    source.mkdir()
    captions = ["a house", "", "a house", "a hill", "a tree", "the sun"]
    if suffix == ".parquet":
        pq.write_table(pa.table({"caption": captions}), source / "part.parquet")
    else:
        write_lines(source, [json.dumps({"caption": caption}) for caption in captions], name="part.jsonl")

    def make(**arguments):
        return PromptData(dataset=str(source), cache_dir=str(tmp_path / "cache"), **arguments)

    streamed = make(limit=3, max_words=1).prompt_set()
    shutil.rmtree(source)
    cached = make(limit=3, max_words=1).prompt_set()
    assert cached == streamed
    assert [prompt.text for prompt in cached.prompts] == ["a house", "a hill", "a tree"]
    assert cached.report == (5, 3, 1, 1, 3)
    assert cached.name == "captions"
    with pytest.raises((FileNotFoundError, ConnectionError, ValueError)):
        make(limit=2).prompt_set()


def test_the_environment_sets_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GENDIV_CACHE", str(tmp_path / "cache"))
    (tmp_path / "captions").mkdir()
    write_lines(tmp_path / "captions", ['{"caption": "a house"}'], name="part.jsonl")
    PromptData(dataset=str(tmp_path / "captions")).prompt_set()
    assert {path.suffix for path in (tmp_path / "cache" / "prompts").iterdir()} == {".json", ".jsonl"}


# arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of path"),
        ({"dataset": "name"}, "exactly one of path"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"num_samples": 0}, "num_samples must be at least 1"),
        ({"prompts_per_batch": 0}, "prompts_per_batch must be at least 1"),
        ({"max_words": 0}, "max_words must be at least 1"),
        ({"revision": "main"}, "revision applies to a dataset"),
        ({"split": "train"}, "split applies to a dataset"),
    ],
)
def test_impossible_arguments_fail_in_the_constructor(tmp_path, arguments, message):
    path = write_lines(tmp_path) if arguments else None
    with pytest.raises(ValueError, match=message):
        PromptData(path, **arguments)


def test_a_missing_file_and_an_unknown_format_fail_in_the_constructor(tmp_path):
    with pytest.raises(ValueError, match=r"there\.txt"):
        PromptData(str(tmp_path / "there.txt"))
    with pytest.raises(ValueError, match=r"cards\.doc"):
        PromptData(write_lines(tmp_path, name="cards.doc"))


# plans


def test_without_paraphrases_each_sample_has_its_own_path_of_the_original_prompt():
    assert name_samples(wordings(), SampleDesign(3)) == [NoiseKey("p", 0, s, s) for s in range(3)]


@pytest.mark.parametrize(
    ("length", "num_paraphrases", "expected"),
    [
        ("any", 2, [1, 2]),
        ("short", 2, [2, 5]),
        ("long", 1, [1]),
        ("mixed", 3, [2, 3, 1]),
        ("mixed", 4, [2, 5, 3, 1]),
        ("mixed", 5, [2, 5, 3, 6, 1]),
    ],
)
def test_samples_cycle_through_the_chosen_paraphrases(length, num_paraphrases, expected):
    prompt = wordings("long", "short", "medium", "long", "short", "medium")
    keys = name_samples(prompt, SampleDesign(2 * num_paraphrases, num_paraphrases, length))
    assert [key.paraphrase for key in keys] == expected * 2
    assert [key.sample for key in keys] == [key.path for key in keys] == list(range(2 * num_paraphrases))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (SampleDesign(6, 3, "short"), r"prompt p \('base'\) has 1 paraphrases of length 'short', but 3 are required"),
        (SampleDesign(6, 3, "mixed"), "has 0 paraphrases of length 'long', but 1 are required"),
        (SampleDesign(10, 5, "any"), "has 2 paraphrases of length 'any', but 5 are required"),
        (SampleDesign(5, 2), "must be a multiple of num_paraphrases.* got 5 samples for 2 paraphrases"),
        (SampleDesign(2, 2), "at least 2 samples per paraphrase"),
        (SampleDesign(4, 2, "tiny"), "length must be one of short, medium, long, mixed, any; got 'tiny'"),
        (SampleDesign(4, -1), "num_paraphrases must be at least 0"),
        (SampleDesign(0), "num_samples must be at least 1"),
    ],
)
def test_impossible_designs_are_errors(plan, message):
    with pytest.raises(ValueError, match=message):
        name_samples(wordings("short", "medium"), plan)


def test_a_design_changes_the_samples_and_too_few_paraphrases_fail_in_setup(tmp_path):
    lines = [json.dumps({"prompt": "base", "paraphrases": [{"text": "one"}, {"text": "two"}]})]
    path = write_lines(tmp_path, lines, name="set.jsonl")
    data = on_rank(PromptData(path), 0, 1, callbacks=[SpreadOverWordings(SampleDesign(4, 2))])
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert batch.texts == ["one", "two", "one", "two"]
    with pytest.raises(ValueError, match="has 2 paraphrases"):
        on_rank(PromptData(path), 0, 1, callbacks=[SpreadOverWordings(SampleDesign(6, 3))]).setup("predict")


# batches and ranks


def test_a_batch_contains_all_samples_of_its_prompts(tmp_path):
    data = PromptData(write_lines(tmp_path), num_samples=2, seed=7, prompts_per_batch=3)
    batches = list(data.predict_dataloader())
    prompts = data.prompt_set().prompts
    assert [len(batch.prompts) for batch in batches] == [3, 3, 3, 2]
    batch = batches[1]
    assert (batch.seed, batch.prompts, batch.indices) == (7, prompts[3:6], (3, 4, 5))
    assert batch.rows == (0, 0, 1, 1, 2, 2)
    assert batch.keys == tuple(NoiseKey(prompt.id, 0, s, s) for prompt in prompts[3:6] for s in range(2))
    assert batch.texts == [TEXTS[n] for n in (3, 3, 4, 4, 5, 5)]


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("num_finished", [0, 4, 10, 11])
def test_every_unfinished_prompt_occurs_once_over_all_ranks(tmp_path, world_size, num_finished):
    data, seen = PromptData(write_lines(tmp_path), prompts_per_batch=2), []
    finished = frozenset(prompt.id for prompt in data.prompt_set().prompts[:num_finished])
    folder = SimpleNamespace(finished_prompts=lambda: finished)
    run = SimpleNamespace(
        parts=SimpleNamespace(data=data),
        prompt_set=data.prompt_set(),
        design=SampleDesign(data.num_samples),
    )
    for rank in range(world_size):
        unfinished = on_rank(UnfinishedPrompts(run, folder), rank, world_size)
        unfinished.setup("predict")
        own = [index for batch in unfinished.predict_dataloader() for index in batch.indices]
        assert own == list(range(num_finished, len(TEXTS)))[rank::world_size]
        seen += own
    assert sorted(seen) == list(range(num_finished, len(TEXTS)))


def test_lightning_must_not_shard_a_second_time(tmp_path):
    path = write_lines(tmp_path)
    with pytest.raises(ValueError, match="use_distributed_sampler false"):
        on_rank(PromptData(path), 0, 2, use_distributed_sampler=True).setup("predict")
    on_rank(PromptData(path), 0, 1, use_distributed_sampler=True).setup("predict")


def test_a_real_trainer_passes_batches_on_unchanged(tmp_path):
    class Keep(pl.LightningModule):
        def predict_step(self, batch):
            return batch

    data = PromptData(write_lines(tmp_path), prompts_per_batch=4)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    received = trainer.predict(Keep(), data)
    assert received == list(PromptData(data.path, prompts_per_batch=4).predict_dataloader())
    assert isinstance(received[0].prompts, tuple)
    assert isinstance(received[0].keys[0], NoiseKey)


def test_identity_contains_only_what_changes_a_number(tmp_path):
    path = write_lines(tmp_path)
    identity = PromptData(path).identity()
    assert identity == PromptData(path, prompts_per_batch=1, cache_dir="elsewhere", max_words=1).identity()
    for change in ({"seed": 1}, {"num_samples": 4}, {"limit": 3}):
        assert PromptData(path, **change).identity() != identity
