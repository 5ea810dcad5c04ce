"""Prompts from folders: links are followed, hidden files are not read, and ignored files are reported."""

import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gendiv_lightning.prompts.stream import find_prompt_files, stream_prompts

TEXTS = ["a red ball", "a blue cube"]


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def line(text):
    return json.dumps({"prompt": text}) + "\n"


def texts(folder, **options):
    return [prompt.text for prompt in stream_prompts(str(folder), **options)]


def tar_of(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content.encode()))
    return buffer.getvalue()


def parquet_of(columns):
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


FOLDERS = {
    "tables in folders": {"a/x.jsonl": line(TEXTS[0]), "b/y.JSONL": line(TEXTS[1]), "README.md": "x"},
    "csv": {"x.csv": f"prompt;id\n{TEXTS[0]};1\n{TEXTS[1]};2\n"},
    "imagefolder": {
        "metadata.csv": f"file_name,prompt\n1.png,{TEXTS[0]}\n2.png,{TEXTS[1]}\n",
        "1.png": b"",
        "2.png": b"",
    },
    "texts beside images": {"1.PNG": b"", "1.TXT": TEXTS[0], "2.png": b"", "2.json": line(TEXTS[1])},
    "geneval": {f"{n:05}/metadata.jsonl": line(text) for n, text in enumerate(TEXTS)} | {"00000/grid.png": b""},
    "img2dataset, tars": {
        "00000.tar": tar_of({"0.jpg": "", "0.txt": TEXTS[0], "1.jpg": "", "1.txt": TEXTS[1]}),
        "00000.parquet": parquet_of({"caption": TEXTS}),
        "00000_stats.json": "{}",
    },
    "img2dataset, files": {
        "00000/0.jpg": b"",
        "00000/0.txt": TEXTS[0],
        "00000/1.jpg": b"",
        "00000/1.txt": TEXTS[1],
        "00000.parquet": parquet_of({"caption": TEXTS}),
        "00000_stats.json": "{}",
    },
    "a tar with keys": {"0.tar": tar_of({"0.input.png": "", "0.output.txt": TEXTS[0], "1.x.json": line(TEXTS[1])})},
    "hidden files": {"x.jsonl": line(TEXTS[0]) + line(TEXTS[1]), ".x/y.jsonl": line("hidden"), "._x.jsonl": "?"},
    "one split of several": {"train-0.jsonl": line(TEXTS[0]) + line(TEXTS[1]), "test.jsonl": line("another")},
}


@pytest.mark.parametrize("files", FOLDERS.values(), ids=FOLDERS)
def test_every_layout_gives_the_same_prompts(files, tmp_path):
    assert texts(write(tmp_path, files)) == TEXTS


def test_linked_folders_are_followed_and_loops_are_not(tmp_path):
    write(tmp_path / "elsewhere", {"y.jsonl": line(TEXTS[1])})
    folder = write(tmp_path / "set", {"x.jsonl": line(TEXTS[0])})
    (folder / "y").symlink_to(tmp_path / "elsewhere")
    (folder / "z").symlink_to(folder)
    assert texts(folder) == TEXTS
    assert find_prompt_files(folder).notes == ["z links to a folder above itself and was not followed"]


def test_a_split_can_be_chosen_and_a_wrong_one_is_an_error(tmp_path):
    folder = write(tmp_path, FOLDERS["one split of several"])
    assert texts(folder, split="test") == ["another"]
    assert find_prompt_files(folder).notes == ["1 files of other splits were ignored, such as test.jsonl"]
    with pytest.raises(ValueError, match=r"has the splits test, train, not validation\. Choose one with --split"):
        texts(folder, split="validation")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.jsonl": line("a"), "b.csv": "prompt\na\n"}, r"several kinds, 1 \.jsonl and 1 \.csv"),
        ({"README.md": "x", "a.png": b""}, "contains no captions"),
        ({".hidden/a.jsonl": line("a")}, "contains no captions"),
    ],
)
def test_an_ambiguous_layout_is_an_error(files, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        texts(write(tmp_path, files))


def test_a_saved_dataset_is_read(tmp_path):
    from datasets import Dataset, DatasetDict

    Dataset.from_dict({"prompt": TEXTS}).save_to_disk(str(tmp_path / "one"))
    assert texts(tmp_path / "one") == TEXTS
    DatasetDict({"val": Dataset.from_dict({"prompt": TEXTS})}).save_to_disk(str(tmp_path / "several"))
    assert texts(tmp_path / "several") == texts(tmp_path / "several", split="val") == TEXTS
    with pytest.raises(ValueError, match="has the splits val, not test"):
        texts(tmp_path / "several", split="test")
