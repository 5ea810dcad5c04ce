"""Pictures of some prompts of a long run: the right ones, from few of its shards."""

import io

import pytest
import torch
from PIL import Image

from gendiv_lightning.records import NoiseKey, Prompt, PromptBatch, SampleBatch, TokenSamples
from gendiv_lightning.runs import folder as run_folder
from gendiv_lightning.runs.folder import RunFolder


def batch(places):
    """Two samples of each prompt, whose colour is the index of the prompt."""
    prompts = tuple(Prompt(str(place), f"prompt {place}") for place in places)
    rows = tuple(row for row in range(len(places)) for _ in range(2))
    keys = tuple(NoiseKey(prompts[row].id, 0, n % 2, n % 2) for n, row in enumerate(rows))
    images = torch.stack([torch.full((3, 4, 4), places[row], dtype=torch.uint8) for row in rows])
    tokens = torch.zeros(len(rows), 1)
    samples = TokenSamples(tokens.long(), tokens, tokens)
    return SampleBatch(PromptBatch(0, prompts, tuple(places), keys, rows), samples, images)


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_pictures_of_some_prompts_are_read_from_few_shards(tmp_path, monkeypatch, num_ranks):
    run = RunFolder(tmp_path)
    per_round = 2 * num_ranks  # each rank samples every num_ranks-th prompt, two at a time
    for first in range(0, 20 * per_round, per_round):
        for rank in range(num_ranks):
            run.write_samples(batch([first + rank, first + rank + num_ranks]), 16)
    opened = []
    read_shard = run_folder.read_shard

    def count(path, columns):
        opened.append(path)
        return read_shard(path, columns)

    monkeypatch.setattr(run_folder, "read_shard", count)
    places = [0, 3, 7, 20 * per_round - 1]
    found = run.read_pictures(places, limit=1)
    assert sorted(found) == places
    for place, (text, images) in found.items():
        assert text == f"prompt {place}"
        (image,) = images
        with Image.open(io.BytesIO(image)) as picture:
            assert picture.getpixel((0, 0)) == (place,) * 3
    assert len(set(opened)) <= num_ranks * len(places) < len(run.shards())
    assert run.read_pictures([1000], limit=1) == {}


def test_a_damaged_shard_is_named(tmp_path):
    run = RunFolder(tmp_path)
    run.write_samples(batch([0, 1]), 16)
    (shard,) = run.shards()
    shard.write_bytes(shard.read_bytes()[:-40])
    with pytest.raises(ValueError, match=shard.name):
        run.read_pictures([0], limit=1)
