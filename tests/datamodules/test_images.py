"""Folders of images and postcards as batches of squares."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from gendiv_lightning.datamodules import ImageData
from gendiv_lightning.datamodules.images import crop_center
from gendiv_lightning.toy.images import PostcardImages
from gendiv_lightning.toy.postcards import render


def on_rank(data, rank, world_size, *, use_distributed_sampler=False):
    data.trainer = SimpleNamespace(
        global_rank=rank,
        world_size=world_size,
        _accelerator_connector=SimpleNamespace(use_distributed_sampler=use_distributed_sampler),
    )
    return data


def write_images(folder, names, size=(20, 16)):
    for shade, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (10 * shade, 0, 255)).save(path)


def read_all(data):
    batches = list(data.val_dataloader())
    if isinstance(data, ImageData):
        batches = [data.on_before_batch_transfer(batch, 0) for batch in batches]
    return torch.cat([batch.images for batch in batches]), torch.cat([batch.indices for batch in batches])


def test_an_image_of_the_right_size_is_unchanged():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert (np.array(crop_center(Image.fromarray(pixels), 16)) == pixels).all()


@pytest.mark.parametrize(("width", "height", "left", "top"), [(24, 16, 4, 0), (16, 21, 0, 2), (31, 16, 7, 0)])
def test_the_crop_is_the_middle_of_the_long_side(width, height, left, top):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    cropped = np.array(crop_center(Image.fromarray(pixels), 16))
    assert (cropped == pixels[top : top + 16, left : left + 16]).all()


def test_a_power_of_two_is_reduced_by_box_filters_only():
    blocks = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    pixels = blocks.repeat(4, axis=0).repeat(4, axis=1)
    assert (np.array(crop_center(Image.fromarray(pixels), 8)) == blocks).all()


@pytest.mark.parametrize("size", [(100, 67), (67, 100), (9, 40), (33, 16), (500, 16)])
def test_every_shape_becomes_a_square_and_keeps_a_plain_colour(size):
    cropped = crop_center(Image.new("RGB", size, (12, 200, 99)), 16)
    assert cropped.size == (16, 16)
    assert cropped.getextrema() == ((12, 12), (200, 200), (99, 99))


def test_images_are_ordered_by_relative_path_with_their_indices(tmp_path):
    write_images(tmp_path, ["b/0.png", "a.PNG", "a/1.png", "z.bmp"])
    (tmp_path / "notes.txt").write_text("no image")
    data = ImageData(str(tmp_path), image_size=8, batch_size=3, num_workers=0)
    images, indices = read_all(data)
    assert [item.name for item in data.images().items] == ["a.PNG", "a/1.png", "b/0.png", "z.bmp"]
    assert (images.dtype, images.shape) == (torch.uint8, (4, 3, 8, 8))
    assert indices.tolist() == [0, 1, 2, 3]
    assert images[:, 0, 0, 0].tolist() == [10, 20, 0, 30]
    assert (images[:, 2] == 255).all()


def test_grey_palette_and_transparent_images_become_rgb(tmp_path):
    for mode in ("L", "P", "RGBA", "1"):
        Image.new(mode, (8, 8)).save(tmp_path / f"{mode}.png")
    images, _ = read_all(ImageData(str(tmp_path), image_size=8, num_workers=0))
    assert images.shape == (4, 3, 8, 8)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_image_occurs_once_over_all_ranks(tmp_path, world_size):
    write_images(tmp_path, [f"{number}.png" for number in range(7)])
    dealt = []
    for rank in range(world_size):
        data = on_rank(ImageData(str(tmp_path), image_size=8, batch_size=2, num_workers=0), rank, world_size)
        dealt.append(read_all(data)[1].tolist())
    assert dealt == [list(range(7))[rank::world_size] for rank in range(world_size)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_unreadable_files_are_skipped_and_listed(tmp_path, num_workers):
    write_images(tmp_path, [f"{number}.png" for number in range(6)])
    (tmp_path / "1.png").write_bytes(b"no image")
    whole = (tmp_path / "4.png").read_bytes()
    (tmp_path / "4.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "5.png").write_bytes(whole.replace(b"IDAT", b"IDAX"))
    data = ImageData(str(tmp_path), image_size=8, batch_size=2, num_workers=num_workers, max_corrupt=0.5)
    images, indices = read_all(data)
    assert indices.tolist() == [0, 2, 3]
    assert len(images) == 3
    assert data.corrupt.names == ["1.png", "4.png", "5.png"]
    with pytest.warns(UserWarning, match=r"3 unreadable images were skipped: .*1\.png"):
        data.teardown("validate")


def test_too_many_corrupt_files_are_an_error_that_names_them(tmp_path):
    write_images(tmp_path, [f"{number}.png" for number in range(8)])
    for number in (2, 3):
        (tmp_path / f"{number}.png").write_bytes(b"no image")
    data = ImageData(str(tmp_path), image_size=8, num_workers=0, max_corrupt=0.25)
    assert len(read_all(data)[0]) == 6
    with pytest.raises(
        ValueError, match=r"2 of 8 images cannot be read, more than a share of 0\.2; the last are 2\.png .*3\.png"
    ):
        read_all(ImageData(str(tmp_path), image_size=8, num_workers=0, max_corrupt=0.2))
    with pytest.raises(ValueError, match="max_corrupt"):
        ImageData(str(tmp_path), max_corrupt=3)


def test_a_missing_or_empty_folder_fails_in_setup(tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        ImageData(str(tmp_path / "nowhere")).setup("validate")
    with pytest.raises(ValueError, match="contains no images"):
        ImageData(str(tmp_path)).setup("validate")


@pytest.mark.parametrize("argument", ["image_size", "batch_size", "limit"])
def test_counts_below_one_fail_in_the_constructor(argument):
    with pytest.raises(ValueError, match=f"{argument}.* 1"):
        ImageData("anywhere", **{argument: 0})


def test_identity_depends_on_names_sizes_and_limit_but_not_on_the_path(tmp_path):
    for place in ("one", "two"):
        write_images(tmp_path / place, ["a.png", "b.png"])
    identity = ImageData(str(tmp_path / "one")).identity()
    assert identity == ImageData(str(tmp_path / "two"), batch_size=1).identity()
    assert identity != ImageData(str(tmp_path / "one"), limit=1).identity()
    assert identity != ImageData(str(tmp_path / "one"), image_size=8).identity()
    (tmp_path / "two" / "b.png").rename(tmp_path / "two" / "c.png")
    assert identity != ImageData(str(tmp_path / "two")).identity()


def test_postcards_are_distinct_indexed_and_reproducible():
    images, indices = read_all(PostcardImages(num_images=50, batch_size=16))
    assert len(indices.unique()) == 50
    assert (images == render(indices)).all()
    assert indices.tolist() == read_all(PostcardImages(num_images=50, batch_size=7))[1].tolist()
    assert indices.tolist() != read_all(PostcardImages(num_images=50, seed=1))[1].tolist()


def test_postcards_are_sharded_over_two_ranks():
    whole = read_all(PostcardImages(num_images=9))[1].tolist()
    halves = [read_all(on_rank(PostcardImages(num_images=9, batch_size=2), rank, 2))[1].tolist() for rank in range(2)]
    assert halves == [whole[0::2], whole[1::2]]


def test_a_rank_without_an_image_gets_an_empty_loader(tmp_path):
    write_images(tmp_path, ["only.png"])
    for data in (ImageData(str(tmp_path), num_workers=0), PostcardImages(num_images=1)):
        assert [len(list(on_rank(data, rank, 2).val_dataloader())) for rank in range(2)] == [1, 0]


def test_more_postcards_than_exist_are_an_error():
    with pytest.raises(ValueError, match="52500"):
        PostcardImages(num_images=52501)


@pytest.mark.parametrize("make", [lambda folder: ImageData(str(folder)), lambda _: PostcardImages()])
def test_lightning_must_not_shard_a_second_time(tmp_path, make):
    write_images(tmp_path, ["a.png"])
    with pytest.raises(ValueError, match="use_distributed_sampler false"):
        on_rank(make(tmp_path), 0, 2, use_distributed_sampler=True).setup("validate")
