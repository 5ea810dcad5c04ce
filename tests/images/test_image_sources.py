"""The same images in folders, tars, Parquet, a saved dataset and a dataset that is streamed: same order, same bytes."""

import io
import tarfile
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gendiv_lightning.datamodules import ImageData
from gendiv_lightning.images.sources import ImageSource, _HubImages, open_images

NUM = 11


def image_bytes(number):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (20 * number, 0, 255 - number)).save(buffer, "PNG")
    return buffer.getvalue()


DATA = [image_bytes(number) for number in range(NUM)]


def folder(root):
    for number, data in enumerate(DATA):
        path = root / "images" / str(number // 4) / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root / "images"


def tars(root, folder="tars"):
    (root / folder).mkdir(parents=True)
    for shard, numbers in enumerate((range(5), range(5, NUM))):
        with tarfile.open(root / folder / f"{shard}.tar", "w") as file:
            for number in numbers:
                # the kinds differ, and those of the first five samples are all alike
                for suffix, content in (("jpg" if number < 6 else "png", DATA[number]), ("json", b'{"caption": "a"}')):
                    info = tarfile.TarInfo(f"{number:02}.{suffix}")
                    info.size = len(content)
                    file.addfile(info, io.BytesIO(content))
    return root / folder


def parquet(root, folder="table"):
    (root / folder).mkdir(parents=True)
    for shard, rows in enumerate((DATA[:5], DATA[5:])):
        images = [{"bytes": data, "path": "x.png"} for data in rows]
        table = pa.table({"image": images, "caption": ["a"] * len(rows)})
        pq.write_table(table, root / folder / f"{shard}.parquet", row_group_size=2)
    return root / folder


def saved(root):
    from datasets import Dataset, DatasetDict, Image

    rows = {"picture": [{"bytes": data, "path": None} for data in DATA], "n": list(range(NUM))}
    DatasetDict({"val": Dataset.from_dict(rows).cast_column("picture", Image())}).save_to_disk(str(root / "saved"))
    return root / "saved"


LOCAL = {"folder": folder, "tars": tars, "parquet": parquet, "saved": saved}


@pytest.mark.parametrize("layout", LOCAL.values(), ids=LOCAL)
def test_every_layout_gives_the_same_images_in_the_same_order(layout, tmp_path):
    source = open_images(str(layout(tmp_path)))
    assert source.num_images == NUM
    assert [item.read() for item in source.items] == DATA
    assert len({item.name for item in source.items}) == NUM
    few = open_images(str(layout(tmp_path / "again")), limit=3)
    assert [item.read() for item in few.items] == DATA[:3]
    assert source.version == open_images(str(tmp_path / source.name)).version != few.version


def test_ignored_files_are_counted(tmp_path):
    (folder(tmp_path) / "notes.md").touch()
    assert open_images(str(tmp_path / "images")).notes == ["1 file was ignored, not images: 1 .md"]
    assert open_images(str(parquet(tmp_path))).notes == []


def stream_of(folder, limit=None):
    """A local folder, read like a dataset on the Hub."""
    return ImageSource(folder.name, "", _HubImages(str(folder), None, "train", None, None, limit))


@pytest.mark.parametrize("layout", [tars, parquet, folder])
@pytest.mark.parametrize("world_size", [1, 3])
def test_a_stream_is_sharded_with_each_image_once(layout, world_size, tmp_path):
    source = layout(tmp_path)
    met = []
    for rank in range(world_size):
        data = ImageData("owner/name", image_size=8, batch_size=2)
        data._images = stream_of(source)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size)
        for batch in data.val_dataloader():
            met += zip(batch.indices.tolist(), batch.images[:, 0, 0, 0].tolist(), strict=True)
    assert sorted(met) == [(number, 20 * number) for number in range(NUM)]
    few = stream_of(source, limit=4)
    assert few.num_images is None
    assert [item.read() for item in few.items] == DATA[:4]


def test_a_missing_source_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="/nowhere/images"):
        open_images("/nowhere/images")
    with pytest.raises(ValueError, match="nobody/nothing"):
        open_images("nobody/nothing")
    with pytest.raises(ValueError, match=r"val.*train.*--split"):
        open_images(str(saved(tmp_path)), split="train")


def test_a_compressed_tar_is_rejected(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w:gz") as file:
        file.add(__file__, "a.png")
    with pytest.raises(ValueError, match="damaged"):
        open_images(str(tmp_path / "a.tar"))
