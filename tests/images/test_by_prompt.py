"""Images by prompt: the same images are the same samples in any layout; broken images are counted and listed."""

import csv
import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from gendiv_lightning.images.by_prompt import find_images
from gendiv_lightning.images.by_prompt import load_prompts as load_into
from gendiv_lightning.images.decode import CorruptImages

PROMPTS = {"a red house": 3, "the moon, at left": 2}


def load_prompts(images, resize=None, max_corrupt=0.01):
    """The samples of each prompt, and the images that could not be read."""
    corrupt = CorruptImages(max_corrupt, images.num_images)
    corrupt.add(images.unreadable)
    return list(load_into(images, corrupt, resize)), corrupt


def png(seed, size=(16, 16)):
    pixels = torch.randint(0, 256, (*size[::-1], 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def rows():
    """(prompt, number, file) of all images."""
    return [(prompt, n, png(place * 10 + n)) for place, (prompt, num) in enumerate(PROMPTS.items()) for n in range(num)]


def folders(root):
    for prompt, n, data in rows():
        folder = root / f"{list(PROMPTS).index(prompt)}"
        folder.mkdir(exist_ok=True)
        (folder / "prompt.txt").write_text(f"{prompt}\n")
        (folder / f"{n}.png").write_bytes(data)
    return root


def table(suffix):
    def write(root):
        named = [{"file_name": f"images/{i}.png", "prompt": prompt} for i, (prompt, _, _) in enumerate(rows())]
        (root / "images").mkdir()
        for row, (_, _, data) in zip(named, rows(), strict=True):
            (root / row["file_name"]).write_bytes(data)
        with (root / f"metadata.{suffix}").open("w", newline="") as file:
            if suffix == "csv":
                writer = csv.DictWriter(file, ["file_name", "prompt"])
                writer.writeheader()
                writer.writerows(named)
            else:
                file.writelines(json.dumps(row) + "\n" for row in named)
        return root

    return write


def parquet(root):
    columns = {"image": [{"bytes": data, "path": None} for _, _, data in rows()], "prompt": [r[0] for r in rows()]}
    pq.write_table(pa.table(columns), root / "part.parquet", row_group_size=2)
    return root


def tar(suffix):
    def write(root):
        with tarfile.open(root / "0.tar", "w") as file:
            for i, (prompt, _, data) in enumerate(rows()):
                text = json.dumps({"caption": prompt}) if suffix == "json" else prompt
                for name, content in ((f"{i}.png", data), (f"{i}.{suffix}", text.encode())):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    file.addfile(info, io.BytesIO(content))
        return root / "0.tar"

    return write


def beside(suffix):
    def write(root):
        for i, (prompt, _, data) in enumerate(rows()):
            (root / f"{i}.png").write_bytes(data)
            text = json.dumps({"caption": prompt}) if suffix == "json" else f"{prompt}\n"
            (root / f"{i}.{suffix}").write_text(text)
        return root

    return write


def nested(root):
    """Samples in their own folders, and the prompt in a file with more fields, as in GenEval."""
    for place, (prompt, n, data) in enumerate(rows()):
        folder = root / f"{list(PROMPTS).index(prompt):05}"
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        (folder / "metadata.jsonl").write_text(json.dumps({"tag": "counting", "include": [place], "prompt": prompt}))
        (folder / "samples" / f"{n:04}.png").write_bytes(data)
        (folder / "grid.txt").write_text("no caption")
    return root


def parquet_of(column, value):
    def write(root):
        (root / "files").mkdir()
        for i, (_, _, data) in enumerate(rows()):
            (root / "files" / f"{i}.png").write_bytes(data)
        columns = {column: [value(i, data) for i, (_, _, data) in enumerate(rows())], "text": [r[0] for r in rows()]}
        pq.write_table(pa.table(columns), root / "part.parquet", row_group_size=2)
        return root / "part.parquet"

    return write


def saved(root):
    from datasets import Dataset, Image

    columns = {"picture": [{"bytes": data, "path": None} for _, _, data in rows()], "caption": [r[0] for r in rows()]}
    Dataset.from_dict(columns).cast_column("picture", Image()).save_to_disk(str(root / "saved"))
    return root / "saved"


def tar_of_folders(root):
    folders(root)
    with tarfile.open(root / "all.tar", "w") as file:
        for name in "10":
            file.add(root / name, name)
    return root / "all.tar"


LAYOUTS = {
    "folders": folders,
    "txt beside": beside("txt"),
    "json beside": beside("json"),
    "nested": nested,
    "parquet, bytes": parquet_of("jpg", lambda i, data: data),
    "parquet, paths": parquet_of("file", lambda i, data: f"files/{i}.png"),
    "saved dataset": saved,
    "jsonl": table("jsonl"),
    "csv": table("csv"),
    "parquet": parquet,
    "tar with json": tar("json"),
    "tar with txt": tar("txt"),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_gives_the_same_samples(layout, tmp_path):
    found, corrupt = load_prompts(find_images(layout(tmp_path)))
    assert not corrupt.images
    assert {samples.prompt: len(samples.images) for samples in found} == PROMPTS
    assert [samples.place for samples in found] == [0, 1]
    for samples in found:
        files = [data for prompt, _, data in rows() if prompt == samples.prompt]
        for image, data in zip(samples.images, files, strict=True):
            expected = torch.tensor(list(Image.open(io.BytesIO(data)).tobytes()), dtype=torch.uint8).view(16, 16, 3)
            assert torch.equal(image, expected.permute(2, 0, 1))
        assert samples.num_paths == len(samples.images)


def test_paraphrases_and_paths_are_read_from_columns(tmp_path):
    for n in range(4):
        (tmp_path / f"{n}.png").write_bytes(png(n))
    records = [{"file_name": f"{n}.png", "my prompt": "x", "paraphrase": n % 2, "path": 5} for n in range(4)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, records)))
    ((samples,), _) = load_prompts(find_images(tmp_path, "my prompt"))
    assert samples.paraphrase.tolist() == [0, 1, 0, 1]
    assert samples.path.tolist() == [5] * 4
    with pytest.raises(ValueError, match=r"file_name, my prompt.*prompt.*--column"):
        find_images(tmp_path)


def test_unreadable_images_are_listed_and_too_many_are_an_error(tmp_path):
    folders(tmp_path)
    (tmp_path / "0" / "1.png").write_bytes(b"no image")
    groups = find_images(tmp_path)
    found, corrupt = load_prompts(groups, max_corrupt=0.2)
    assert corrupt.images == [("0/1.png", "it is not an image of a known format")]
    assert [len(samples.images) for samples in found] == [2, 2]
    with pytest.raises(ValueError, match=r"1 of 5 images cannot be read.*1\.png \(it is not.*--max-corrupt"):
        load_prompts(groups)


def test_unreadable_images_of_a_prompt_without_others_are_listed(tmp_path):
    folders(tmp_path)
    for file in (tmp_path / "1").glob("*.png"):
        file.write_bytes(b"no image")
    with pytest.warns(match=r"1 prompts have no readable image and are skipped: 'the moon, at left'"):
        found, corrupt = load_prompts(find_images(tmp_path), max_corrupt=0.5)
    assert [samples.prompt for samples in found] == ["a red house"]
    assert corrupt.names == ["1/0.png", "1/1.png"]


def test_images_with_more_than_8_bits_are_rejected_not_clipped(tmp_path):
    folders(tmp_path)
    Image.fromarray(np.full((16, 16), 40000, dtype=np.uint16)).save(tmp_path / "0" / "1.png")
    _, corrupt = load_prompts(find_images(tmp_path), max_corrupt=0.5)
    assert corrupt.names == ["0/1.png"]
    assert "more than 8 bits" in corrupt.images[0].reason


def test_mixed_sizes_need_a_size(tmp_path):
    folders(tmp_path)
    (tmp_path / "0" / "1.png").write_bytes(png(0, (20, 12)))
    groups = find_images(tmp_path)
    with pytest.raises(ValueError, match=r"'a red house'.*--resize"):
        load_prompts(groups)
    assert [samples.images.shape[2:] for samples in load_prompts(groups, resize=8)[0]] == [(8, 8)] * 2


def test_unsupported_sources_are_rejected(tmp_path):
    with pytest.raises(ValueError, match="missing"):
        find_images(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no images.*nothing"):
        find_images(tmp_path)
    (tmp_path / "x.zip").touch()
    with pytest.raises(ValueError, match=r"neither a folder nor a \.parquet, \.tar, \.jsonl"):
        find_images(tmp_path / "x.zip")
    with pytest.raises(ValueError, match=r"1 \.zip"):
        find_images(tmp_path)
    pq.write_table(pa.table({"prompt": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"--image-column.*prompt"):
        find_images(tmp_path)
    pq.write_table(pa.table({"a": [b"1"], "b": [b"2"], "prompt": ["x"]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"2 .*a, b"):
        find_images(tmp_path)
    (item,) = find_images(tmp_path, image_column="b").groups["x"]
    assert item.read() == b"2"


def test_a_tar_of_folders_is_read_like_the_folders(tmp_path):
    found, _ = load_prompts(find_images(tar_of_folders(tmp_path)))
    assert {samples.prompt: len(samples.images) for samples in found} == PROMPTS


def test_images_of_one_prompt_may_be_in_one_folder_with_a_note(tmp_path):
    folder = tmp_path / "a blue star"
    folder.mkdir()
    for n in range(3):
        (folder / f"{n}.png").write_bytes(png(n))
    found = find_images(folder)
    assert {prompt: len(items) for prompt, items in found.groups.items()} == {"a blue star": 3}
    assert found.notes == ["all 3 images are samples of one prompt, 'a blue star'"]
    (folder / "prompt.txt").write_text("another")
    assert list(find_images(folder).groups) == ["another"]


def test_ignored_files_are_counted(tmp_path):
    folders(tmp_path)
    (tmp_path / "grid.png").write_bytes(png(0))
    (tmp_path / "0" / "x.heic").touch()
    (tmp_path / "0" / "._0.png").touch()
    assert find_images(tmp_path).notes == [
        "1 file was ignored, hidden: 1 ._0.png",
        "1 file was ignored, montages of samples: 1 grid.png",
        "1 file was ignored, not images: 1 .heic",
    ]


def test_an_image_without_a_text_where_others_have_one_is_an_error(tmp_path):
    beside("txt")(tmp_path)
    (tmp_path / "3.txt").unlink()
    with pytest.raises(ValueError, match=r"3\.png.*prompt"):
        find_images(tmp_path)
    (tmp_path / "3.txt").write_text(" ")
    with pytest.raises(ValueError, match=r"3\.png.*empty"):
        find_images(tmp_path)


def test_an_image_whose_text_cannot_be_read_counts_as_corrupt(tmp_path):
    beside("json")(tmp_path)
    (tmp_path / "3.json").write_text("{oops")
    found, corrupt = load_prompts(find_images(tmp_path), max_corrupt=0.2)
    assert [len(samples.images) for samples in found] == [3, 1]
    assert "3.json cannot be read" in corrupt.images[0].reason
    with pytest.raises(ValueError, match="1 of 5 images cannot be read"):
        load_prompts(find_images(tmp_path))
