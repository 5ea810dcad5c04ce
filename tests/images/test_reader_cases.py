"""Layouts that people use: each gives the same four samples of two prompts, or one error with the right reason."""

import base64
import csv
import gzip
import io
import json
import os
import socket
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from gendiv_lightning.images.by_prompt import find_images, load_prompts
from gendiv_lightning.images.decode import CorruptImages, ImageError, decode_image
from gendiv_lightning.images.sources import open_images

RED, BLUE = "a red ball", "a blue cube"
ROWS = [("1.png", RED), ("2.png", RED), ("3.png", BLUE), ("4.png", BLUE)]
RANDOM = np.random.default_rng(0)
PIXELS = {name: RANDOM.integers(0, 256, (12, 12, 3), dtype=np.uint8) for name, _ in ROWS}


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


DATA = {name: png(pixels) for name, pixels in PIXELS.items()}
MASK = png(np.zeros((12, 12, 3), dtype=np.uint8))


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def flat(folder):
    for name, data in DATA.items():
        write(folder / name, data)


def by_prompt(folder):
    for name, prompt in ROWS:
        write(folder / prompt / name, DATA[name])


def layout(make):
    """A function of a folder, or a mapping from file names to contents."""
    return make if callable(make) else lambda root: [write(root / name, content) for name, content in make.items()]


def with_images(**tables):
    """Images in one folder, and tables by their names with `__` for the dot."""
    return layout({**DATA, **{name.replace("__", "."): content for name, content in tables.items()}})


def table(delimiter=",", header=("file_name", "prompt"), rows=ROWS, end="\n"):
    return "".join(delimiter.join(row) + end for row in [header, *rows])


def jsonl(rows=ROWS, column="file_name", **others):
    return "".join(json.dumps({column: name, "prompt": prompt, **others}) + "\n" for name, prompt in rows)


def tar(members, name="00000.tar", link=None):
    def make(root):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(root / name, "w") as file:
            for member, content in members.items():
                info = tarfile.TarInfo(member)
                if isinstance(content, tuple):
                    info.type, info.linkname = content
                    file.addfile(info)
                    continue
                data = content.encode() if isinstance(content, str) else content
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))

    return make


def parquet(columns, name="data.parquet", **settings):
    def make(root):
        root.mkdir(exist_ok=True)
        pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), root / name, **settings)

    return make


def both(*makers):
    return lambda root: [layout(make)(root) for make in makers]


def linked(root):
    by_prompt(root.parent / "elsewhere")
    root.mkdir()
    (root / RED).symlink_to(root.parent / "elsewhere" / RED)
    (root / BLUE).mkdir()
    for name in ("3.png", "4.png"):
        (root / BLUE / name).symlink_to(root.parent / "elsewhere" / BLUE / name)


def circle(root):
    (root / "x").symlink_to("y")
    (root / "y").symlink_to("x")


def loop(root):
    by_prompt(root)
    (root / RED / "up").symlink_to(root)


PROMPTS, IMAGES = [prompt for _, prompt in ROWS], list(DATA.values())
KEYS = {f"{n}": (data, prompt) for n, ((_, prompt), data) in enumerate(zip(ROWS, IMAGES, strict=True))}
GENEVAL = {
    f"{n:05}/{name}": content
    for n, (prompt, names) in enumerate([(RED, ("1.png", "2.png")), (BLUE, ("3.png", "4.png"))])
    for name, content in {
        "metadata.jsonl": json.dumps({"tag": "x", "include": [{"class": "ball"}], "prompt": prompt}),
        **{f"samples/{n:05}.png": DATA[name] for n, name in enumerate(names)},
    }.items()
}
IMG2DATASET = {
    f"{n:09}.{suffix}": content
    for n, (data, prompt) in enumerate(KEYS.values())
    for suffix, content in {
        "jpg": data,
        "txt": prompt,
        "json": json.dumps({"caption": prompt, "url": "http://x/1.jpg"}),
    }.items()
}
URLS = parquet({"caption": PROMPTS, "url": ["http://x.invalid/1.jpg"] * 4, "width": [12] * 4}, "00000.parquet")
STATS = {"00000_stats.json": json.dumps({"count": 4})}
UTF8_BOM = b"\xef\xbb\xbf"

SAME = {
    "folders": by_prompt,
    "linked folders and files": linked,
    "a link to a folder above": loop,
    "hidden folder of a prompt": both(by_prompt, {f"{RED}/.ipynb_checkpoints/1-checkpoint.png": MASK}),
    "hidden folder at the top": both(by_prompt, {".thumbnails/1.png": MASK, ".DS_Store": "x"}),
    "what macOS packs": both(by_prompt, {f"__MACOSX/{RED}/._1.png": MASK, f"{RED}/._1.png": MASK}),
    "montage in a folder of samples": both(by_prompt, {f"{RED}/grid.png": MASK, "grid-0001.png": MASK}),
    "images in folders that name no prompt": {f"{prompt}/samples/{name}": DATA[name] for name, prompt in ROWS},
    "geneval": both(GENEVAL, {"00000/grid.png": MASK, "00001/all.png": MASK}),
    "csv": with_images(metadata__csv=table()),
    "csv in capitals": with_images(METADATA__CSV=table()),
    "csv with a mark": with_images(metadata__csv=UTF8_BOM + table().encode()),
    "csv in UTF-16": with_images(metadata__csv=table("\t").encode("utf-16")),
    "csv with semicolons": with_images(metadata__csv=table(";")),
    "csv with tabs": with_images(metadata__csv=table("\t")),
    "csv with bars": with_images(metadata__csv=table("|")),
    "csv that declares its delimiter": with_images(metadata__csv="sep=;\r\n" + table(";", end="\r\n")),
    "csv of Windows": with_images(metadata__csv=table(end="\r\n")),
    "csv with spaces behind the delimiter": with_images(metadata__csv=table(", ")),
    "csv with quotes": with_images(metadata__csv='"file_name","prompt"\n' + "".join(f'"{n}","{p}"\n' for n, p in ROWS)),
    "csv with an index": with_images(
        metadata__csv=",file_name,prompt\n" + "".join(f"{i},{n},{p}\n" for i, (n, p) in enumerate(ROWS))
    ),
    "csv with blank lines": with_images(metadata__csv=table() + "\n\n"),
    "csv with backslashes": with_images(metadata__csv=table(rows=[(f".\\{n}", p) for n, p in ROWS])),
    "csv with ./": with_images(metadata__csv=table(rows=[(f"./{n}", p) for n, p in ROWS])),
    "csv with other spellings": with_images(
        metadata__csv=table(rows=[("1.png", RED), ("2.png", f" {RED} "), ("3.png", BLUE), ("4.png", "A  Blue cube")])
    ),
    "a table of another name": with_images(captions__csv=table(header=("Image", "Caption"))),
    "tsv": with_images(metadata__tsv=table("\t")),
    **{
        f"column {name}": with_images(metadata__csv=table(header=(name, "Prompt")))
        for name in ("filename", "File Name", "FILE", "image", "image_path", "img", "filepath", "path")
    },
    **{
        f"prompt in {name}": with_images(metadata__csv=table(header=("file_name", name)))
        for name in ("TEXT", "Caption", "short caption", "prompt ")
    },
    "jsonl": with_images(metadata__jsonl=jsonl()),
    "jsonl with a mark": with_images(metadata__jsonl=UTF8_BOM + jsonl().encode()),
    "jsonl with a column of paths": with_images(metadata__jsonl=jsonl(path="images/a.png", paraphrase="x")),
    "json list": with_images(metadata__json=json.dumps([{"file_name": n, "prompt": p} for n, p in ROWS])),
    "tables in folders": {f"train/{name}": content for name, content in {**DATA, "metadata.csv": table()}.items()},
    "metadata.parquet": both(flat, parquet({"file_name": list(DATA), "prompt": PROMPTS}, "metadata.parquet")),
    "texts": layout({**DATA, **{f"{name[0]}.txt": prompt for name, prompt in ROWS}}),
    "texts in capitals": layout(
        {name.upper(): data for name, data in DATA.items()} | {f"{name[0]}.TXT": prompt for name, prompt in ROWS}
    ),
    "texts with a mark": layout(
        {**DATA, **{f"{name[0]}.txt": UTF8_BOM + prompt.encode() + b"\r\n" for name, prompt in ROWS}}
    ),
    "json texts": layout({**DATA, **{f"{name[0]}.json": json.dumps({"Caption": prompt}) for name, prompt in ROWS}}),
    "tar": tar({f"{k}.{s}": c for k, (d, p) in KEYS.items() for s, c in (("png", d), ("txt", p))}),
    "tar in capitals": tar({f"{k}.{s}": c for k, (d, p) in KEYS.items() for s, c in (("PNG", d), ("TXT", p))}, "A.TAR"),
    "tar with ./": tar({f"./x/{k}.{s}": c for k, (d, p) in KEYS.items() for s, c in (("png", d), ("txt", p))}),
    "tar with hidden files": tar(
        {**{f"{k}.{s}": c for k, (d, p) in KEYS.items() for s, c in (("png", d), ("txt", p))}, "._0.png": MASK}
    ),
    "tar with masks": tar(
        {
            f"{k}.{s}": c
            for k, (d, p) in KEYS.items()
            for s, c in (("jpg", d), ("seg.png", MASK), ("depth.png", MASK), ("json", json.dumps({"caption": p})))
        }
    ),
    "tar with two images per key": tar(
        {
            "0.0.png": IMAGES[0],
            "0.1.png": IMAGES[1],
            "0.txt": RED,
            "2.a.png": IMAGES[2],
            "2.b.png": IMAGES[3],
            "2.txt": BLUE,
        }
    ),
    "tar with numbered images": tar(
        {
            "0.img0.png": IMAGES[0],
            "0.img1.png": IMAGES[1],
            "0.json": json.dumps({"text": RED}),
            "2.img0.png": IMAGES[2],
            "2.img1.png": IMAGES[3],
            "2.json": json.dumps({"text": BLUE}),
        }
    ),
    "tar with input and text": tar(
        {f"{k}.{s}": c for k, (d, p) in KEYS.items() for s, c in (("input.png", d), ("outputs.txt", p))}
    ),
    "tar with a second text": tar(
        {f"{k}.{s}": c for k, (d, p) in KEYS.items() for s, c in (("png", d), ("txt", p), ("style.txt", "x"))}
    ),
    "tar with links": tar(
        {
            **{f"{k}.{s}": c for k, (d, p) in list(KEYS.items())[:3] for s, c in (("png", d), ("txt", p))},
            "x.dat": IMAGES[3],
            "3.png": (tarfile.LNKTYPE, "x.dat"),
            "3.txt": BLUE,
        }
    ),
    "tar of folders": tar({f"{prompt}/{name}": DATA[name] for name, prompt in ROWS}),
    "img2dataset, tars": both(tar(IMG2DATASET), URLS, STATS),
    "img2dataset, files": both({f"00000/{name}": content for name, content in IMG2DATASET.items()}, URLS, STATS),
    "img2dataset, parquet": parquet(
        {"caption": PROMPTS, "url": ["http://x/1.jpg"] * 4, "jpg": IMAGES}, "00000.parquet"
    ),
    "parquet": parquet({"image": [{"bytes": d, "path": None} for d in IMAGES], "prompt": PROMPTS}),
    "parquet in capitals": parquet({"Image": IMAGES, "Prompt": PROMPTS}, "DATA.PARQUET"),
    "parquet, dictionary": parquet({"image": IMAGES, "prompt": pa.array(PROMPTS).dictionary_encode()}),
    "parquet, views": parquet(
        {"image": pa.array(IMAGES, pa.binary_view()), "prompt": pa.array(PROMPTS, pa.string_view())}
    ),
    "parquet, large": parquet(
        {"image": pa.array(IMAGES, pa.large_binary()), "prompt": pa.array(PROMPTS, pa.large_string())}
    ),
    "parquet, one caption in a list": parquet({"image": IMAGES, "caption": [[prompt] for prompt in PROMPTS]}),
    "parquet, floats of pandas": parquet({"image": IMAGES, "prompt": PROMPTS, "path": [0.0, None, 1.0, float("nan")]}),
    "parquet, row groups": parquet({"image": IMAGES, "prompt": PROMPTS}, row_group_size=1),
    "tar of each prompt in its folder": both(
        *(tar({n: DATA[n] for n, q in ROWS if q == p}, f"{p}/0.tar") for p in (RED, BLUE))
    ),
    "what file servers and Windows add": both(
        by_prompt,
        {f"{RED}/@eaDir/1.png/THUMB.jpg": MASK, "$RECYCLE.BIN/S-1/1.png": MASK, "Thumbs.db": "x", "lost+found/x": "y"},
    ),
    "links in a circle": both(by_prompt, circle),
    "montages of other names": both(
        by_prompt, {f"{RED}/grid (1).png": MASK, f"{RED}/00-grid.png": MASK, f"{BLUE}/samples_grid.jpg": MASK}
    ),
    "masks next to images": both(
        by_prompt, {f"{prompt}/{name[0]}{end}": MASK for name, prompt in ROWS for end in ("_mask.png", "-depth.jpg")}
    ),
    "jsonl put together from files with marks": with_images(
        metadata__jsonl="".join("\ufeff" + jsonl([row]) for row in ROWS)
    ),
    "a file that is another kind": {f"{prompt}/{name.replace('png', 'jpg')}": DATA[name] for name, prompt in ROWS},
}


def samples_of(source, **options):
    images = find_images(source, **options)
    corrupt = CorruptImages(0.01, images.num_images)
    corrupt.add(images.unreadable)
    return list(load_prompts(images, corrupt)), images.notes


@pytest.mark.parametrize("make", SAME.values(), ids=SAME)
def test_every_layout_is_the_same_samples(make, tmp_path):
    root = tmp_path / "images"
    layout(make)(root)
    found, _ = samples_of(root)
    read = {" ".join(samples.prompt.split()).lower(): samples.images for samples in found}
    assert read.keys() == {RED, BLUE}
    for prompt in (RED, BLUE):
        expected = torch.stack([torch.tensor(PIXELS[name]).permute(2, 0, 1) for name, p in ROWS if p == prompt])
        assert torch.equal(read[prompt], expected)


def fifo(root):
    by_prompt(root)
    os.mkfifo(root / RED / "5.png")


def socket_file(root):
    by_prompt(root)
    with socket.socket(socket.AF_UNIX) as opened:
        here = os.getcwd()
        os.chdir(root / RED)
        opened.bind("5.png")
        os.chdir(here)


def broken_link(root):
    by_prompt(root)
    (root / RED / "5.png").symlink_to("gone.png")


def device(root):
    write(root / "metadata.csv", table(rows=[("/dev/zero", RED)]))
    flat(root)


def twice(root):
    with tarfile.open(root / "00000.tar", "a") as file:
        info = tarfile.TarInfo(f"{RED}/1.png")
        info.size = len(MASK)
        file.addfile(info, io.BytesIO(MASK))


ONE = {"1.png": DATA["1.png"]}
ERRORS = {
    "MODEL/PROMPT/IMAGE": (
        {f"sd15/{prompt}/{name}": DATA[name] for name, prompt in ROWS},
        r"several folders deep.*'sd15' and 'a blue cube'.*prompt\.txt",
    ),
    "a tar of MODEL/PROMPT/IMAGE": (
        tar({f"sd15/{prompt}/{name}": DATA[name] for name, prompt in ROWS}),
        "folders deep",
    ),
    "unknown columns": (
        with_images(metadata__csv=table(header=("datei", "prompt"))),
        r"columns datei, prompt.*--image-column",
    ),
    "no column of prompts": (
        with_images(metadata__csv=table(header=("file_name", "label"))),
        r"columns file_name, label, not any of prompt.*--column",
    ),
    "no header": (with_images(metadata__csv=table(header=ROWS[0], rows=ROWS[1:])), r"columns 1\.png, a red ball"),
    "a column twice": (with_images(metadata__csv="file_name,prompt,prompt\n1.png,a,b\n"), "several columns 'prompt'"),
    "a comma without quotes": (
        with_images(metadata__csv=table(rows=[("1.png", "a ball, red"), *ROWS[1:]])),
        r"metadata\.csv, row 1 has 3 cells under 2 columns",
    ),
    "a quote that stays open": (
        with_images(metadata__csv=table(rows=[("1.png", '"a ball'), *ROWS[1:]])),
        "never closed",
    ),
    "Latin-1": (
        with_images(metadata__csv=table(rows=[*ROWS, ("4.png", "grün")]).encode("latin-1")),
        r"metadata\.csv, line 6, cannot be read as UTF-8",
    ),
    "no JSON": (
        with_images(metadata__jsonl=jsonl() + "{'file_name': '4.png'}\n"),
        r"metadata\.jsonl, line 5 is not JSON",
    ),
    "a null for a file": (
        with_images(metadata__jsonl=jsonl([*ROWS, (None, RED)])),
        r"metadata\.jsonl, line 5 must have the name",
    ),
    "half a character": (with_images(metadata__jsonl=jsonl([("1.png", "a cat \ud83d")])), "half of a surrogate pair"),
    "a number for a prompt": (with_images(metadata__jsonl=jsonl([("1.png", 5)])), "must contain text, got int"),
    "a table that names no image": (
        with_images(captions__csv=table(header=("datei", "prompt"))),
        r"prompts are unclear: captions\.csv",
    ),
    "a text of another name": (with_images(captions__txt=RED), r"prompts are unclear: captions\.txt"),
    "an image twice in a table": (
        with_images(metadata__csv=table(rows=[*ROWS, ("./1.png", RED)])),
        "1.png is listed twice for the prompt 'a red ball'",
    ),
    "an image in two tables": (with_images(metadata__csv=table(), metadata__jsonl=jsonl()), "is listed twice"),
    "a member twice in a tar": (
        both(tar({f"{RED}/1.png": MASK, f"{RED}/x.png": (tarfile.LNKTYPE, f"{RED}/1.png")}), twice),
        "is listed twice",
    ),
    "UTF-16 without a mark": (with_images(metadata__csv=table().encode("utf-16-le")), "contains zero bytes, as UTF-16"),
    "a compressed table": (with_images(metadata__csv=gzip.compress(table().encode())), "is compressed"),
    "names of images as keys": (
        with_images(metadata__json=json.dumps(dict(ROWS))),
        "metadata.json has the names of images as keys. Write a list",
    ),
    "a folder without prompt.txt next to one with it": (
        both(by_prompt, {f"{RED}/prompt.txt": "red"}),
        "a blue cube/3.png has no prompt: there is a red ball/prompt.txt",
    ),
    "numbers of folders, and prompts in a file": (
        {
            **{f"{n // 2:05}/{name}": data for n, (name, data) in enumerate(DATA.items())},
            "prompts.txt": f"{RED}\n{BLUE}",
        },
        "the prompts are unclear: prompts.txt",
    ),
    "texts of another kind in a tar": (
        tar({f"{k}.{s}": c for k, (d, p) in KEYS.items() for s, c in (("png", d), ("caption", p))}),
        r"have no prompts: next to them are only files that end in \.caption",
    ),
    "two formats per key": (
        tar({f"{k}.{s}": c for k, (d, p) in KEYS.items() for s, c in (("jpg", MASK), ("png", d), ("txt", p))}),
        r"several kinds, \.jpg, \.png.*--image-column png",
    ),
    "PostScript": (
        {f"{RED}/1.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"},
        "not an image of a known format",
    ),
    "two tables": (with_images(a__csv=table(), b__csv=table()), r"several tables of its images, a\.csv, b\.csv"),
    "a missing file": (
        with_images(metadata__csv=table(rows=[*ROWS, ("gone.png", RED)])),
        r"gone\.png \(there is no file",
    ),
    "a broken link": (broken_link, r"5\.png \(.*is a link to gone\.png, which is missing"),
    "a FIFO": (fifo, r"5\.png \(.*is a FIFO"),
    "a socket": (socket_file, r"5\.png \(.*is a socket"),
    "a device": (device, r"/dev/zero is outside"),
    "a file outside": (
        with_images(metadata__csv=table(rows=[("../secret.png", RED)])),
        r"metadata\.csv, row 1: \.\./secret\.png is outside .*--allow-outside",
    ),
    "a folder for an image": (
        with_images(**{"metadata__csv": table(rows=[("x.png", RED)]), "x.png/y": ""}),
        "is a folder",
    ),
    "a name with a NUL": (with_images(metadata__jsonl=jsonl([("1\0.png", RED)])), "there is no file"),
    "an empty text": (layout({**ONE, "1.txt": " "}), "empty prompt"),
    "two texts of a sample": (
        tar({"0.input.png": MASK, "0.a.txt": RED, "0.b.txt": BLUE}),
        "several texts for one sample",
    ),
    "two kinds of images": (
        tar({"0.input.png": MASK, "0.edited.png": MASK, "0.txt": RED}),
        r"several kinds, \.input\.png, \.edited\.png.*--image-column edited\.png",
    ),
    "a link out of a tar": (tar({"0.png": (tarfile.SYMTYPE, "/etc/passwd"), "0.txt": RED}), "link to etc/passwd"),
    "captions in a list": (
        parquet({"image": IMAGES, "caption": [[p, p] for p in PROMPTS]}),
        r"column 'caption' contains a list of 2 captions.*--first-caption",
    ),
    "a list of images": (
        parquet({"image": [[d] for d in IMAGES], "prompt": PROMPTS}),
        r"'image' contains list<.*one image per row",
    ),
    "pixels": (parquet({"image": [[[1, 2]]] * 4, "prompt": PROMPTS}), r"'image' contains list<.*one image per row"),
    "base64": (
        parquet({"image": [base64.b64encode(d).decode() for d in IMAGES], "prompt": PROMPTS}),
        "contains base64 text",
    ),
    "a data address": (
        parquet(
            {"image": [f"data:image/png;base64,{base64.b64encode(d).decode()}" for d in IMAGES], "prompt": PROMPTS}
        ),
        "contains base64 text",
    ),
    "addresses": (parquet({"image": ["https://x.invalid/1.png"] * 4, "prompt": PROMPTS}), "contains addresses"),
    "a null for an image": (
        parquet({"picture": [None, *IMAGES[1:]], "prompt": PROMPTS}),
        r"data\.parquet:0 \(there is no image",
    ),
    "no bytes at all": ({"data.parquet": b""}, r"data\.parquet cannot be read as Parquet"),
    "no Parquet": ({"data.parquet": b"PAR1" + bytes(100)}, r"data\.parquet cannot be read as Parquet"),
    "16 bits": ({f"{RED}/1.png": png(np.full((9, 9), 40000, np.uint16))}, "more than 8 bits per channel"),
    "an empty image": ({f"{RED}/1.png": b"", f"{RED}/2.png": DATA["1.png"]}, r"1\.png \(it is empty"),
    "no image": ({f"{RED}/1.png": b"<html>"}, "not an image of a known format"),
    "deep JSON": (with_images(metadata__jsonl="[" * 100_000), "line 1 is not JSON"),
    "a number of many digits": (with_images(metadata__jsonl="1" * 5000), "line 1 is not JSON"),
}


@pytest.mark.parametrize(("make", "message"), ERRORS.values(), ids=ERRORS)
def test_ambiguous_or_broken_input_is_one_error_with_its_reason(make, message, tmp_path):
    root = tmp_path / "images"
    layout(make)(root)
    write(tmp_path / "secret.png", MASK)
    with pytest.raises((ValueError, OSError), match=f"(?s){message}"):
        samples_of(root)


NOTES = {
    "hidden folder of a prompt": "1 file was ignored, hidden: 1 .ipynb_checkpoints",
    "a link to a folder above": f"{RED}/up links to a folder above itself and was not followed",
    "montage in a folder of samples": "2 files were ignored, montages of samples: 1 grid-0001.png, 1 grid.png",
    "geneval": "2 files were ignored, montages of samples: 1 all.png, 1 grid.png",
    "masks next to images": "8 files were ignored, masks and the like: 4 _depth.jpg, 4 _mask.png",
    "tar with masks": "8 files were ignored, masks and the like: 4 .depth.png, 4 .seg.png",
    "img2dataset, tars": "2 files were ignored, not images: 1 .json, 1 .parquet",
    "csv with other spellings": "2 prompts with different case or white space were merged",
    "jsonl with a column of paths": "the column 'path' was ignored, because it contains 'images/a.png'",
}


@pytest.mark.parametrize(("case", "line"), NOTES.items())
def test_ignored_and_merged_files_are_reported(case, line, tmp_path):
    layout(SAME[case])(tmp_path / "images")
    assert any(note.startswith(line) for note in samples_of(tmp_path / "images")[1])


def test_images_that_a_table_does_not_name_are_counted(tmp_path):
    with_images(metadata__csv=table(rows=ROWS[:2]))(tmp_path)
    assert "2 files were ignored, images that no table names: 2 .png" in samples_of(tmp_path)[1]


def test_a_folder_that_is_reached_twice_is_reported(tmp_path):
    by_prompt(tmp_path)
    (tmp_path / "latest").symlink_to(tmp_path / RED)
    assert "latest and a red ball are the same folder; its files count twice" in samples_of(tmp_path)[1]


def test_a_reference_skips_the_same_files(tmp_path):
    layout(SAME["geneval"])(tmp_path / "images")
    layout(SAME["tar with masks"])(tmp_path / "tars")
    for folder in ("images", "tars"):
        found = open_images(str(tmp_path / folder))
        assert len(found.items) == 4
        assert found.notes


def test_the_kind_of_image_in_a_tar_can_be_named(tmp_path):
    tar({"0.input.png": MASK, "0.edited.png": IMAGES[0], "0.txt": RED})(tmp_path)
    (samples,), notes = samples_of(tmp_path, image_column="edited.png")
    assert torch.equal(samples.images[0], torch.tensor(PIXELS["1.png"]).permute(2, 0, 1))
    assert notes == ["1 file was ignored, not .edited.png: 1 .input.png"]
    with pytest.raises(ValueError, match=r"no image ends in \.x\. Choose one of \.edited\.png, \.input\.png"):
        samples_of(tmp_path, image_column="x")


def test_the_first_of_several_captions_can_be_taken(tmp_path):
    parquet({"image": IMAGES, "caption": [[prompt, "x"] for prompt in PROMPTS]})(tmp_path)
    assert [samples.prompt for samples in samples_of(tmp_path, first_caption=True)[0]] == [RED, BLUE]


def test_files_outside_the_folder_can_be_allowed(tmp_path):
    write(tmp_path / "elsewhere.png", IMAGES[0])
    with_images(metadata__csv=table(rows=[("../elsewhere.png", RED)]))(tmp_path / "images")
    assert len(samples_of(tmp_path / "images", allow_outside=True)[0]) == 1
    parquet({"file": ["../elsewhere.png"], "prompt": [RED]})(tmp_path / "table")
    with pytest.raises(ValueError, match=r"is outside"):
        samples_of(tmp_path / "table")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_column": "x"}, "--image-column .*Remove it"),
        ({"split": "train"}, "--split .*Remove it"),
        ({"column": "title"}, "not 'title'"),
    ],
)
def test_options_that_do_not_apply_are_errors(options, message, tmp_path):
    by_prompt(tmp_path)
    with pytest.raises(ValueError, match=message):
        find_images(tmp_path, **options)


def test_prompts_without_a_letter_are_reported(tmp_path):
    layout({f"{n // 2:05}/{name}": data for n, (name, data) in enumerate(DATA.items())})(tmp_path)
    assert samples_of(tmp_path)[1][0].startswith("no prompt contains a letter, such as '00000'")


def test_a_path_beyond_64_bits_is_reported(tmp_path):
    with_images(metadata__jsonl=jsonl(path=10**30))(tmp_path)
    assert samples_of(tmp_path)[1][0].startswith("the column 'path' was ignored, because it contains '1000")


def test_names_that_are_not_utf8_are_read_and_stay_valid_text(tmp_path):
    folder = tmp_path / os.fsdecode(b"gr\xfcn")
    write(folder / "1.png", IMAGES[0])
    ((samples,), _) = samples_of(tmp_path)
    assert samples.prompt == "gr\\xfcn"
    assert samples.names == ("gr\\xfcn/1.png",)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation, tmp_path):
    from PIL import ImageOps

    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS["1.png"][:6]).save(buffer, "PNG", exif=exif)
    with Image.open(io.BytesIO(buffer.getvalue())) as file:
        assert (np.array(decode_image(buffer.getvalue())) == np.array(ImageOps.exif_transpose(file))).all()


def test_an_image_that_takes_too_much_memory_is_rejected_before_decoding():
    bomb, strip = io.BytesIO(), io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    Image.new("L", (60_000, 1)).save(strip, "PNG")
    with pytest.raises(ImageError, match=r"more pixels than the memory limit of 1 GiB|more than the memory limit"):
        decode_image(bomb.getvalue())
    with pytest.raises(ImageError, match="60000 x 1 pixels take more"):
        decode_image(strip.getvalue())
    assert decode_image(strip.getvalue(), memory_limit=300).size == (60_000, 1)
    with pytest.raises(ImageError, match="memory limit of 1e-06 GiB"):
        decode_image(IMAGES[0], memory_limit=1e-6)


def test_a_parquet_file_that_expands_too_much_is_rejected(tmp_path):
    value = pa.DictionaryArray.from_arrays(pa.array([0] * 3000, pa.int32()), pa.array([bytes(2**20)]))
    path = tmp_path / "bomb.parquet"
    pq.write_table(pa.table({"image": value, "prompt": ["a"] * 3000}), path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 20_000
    items = find_images(path).groups["a"]
    with pytest.raises(ValueError, match=r"more than the memory limit of 0\.1 GiB"):
        find_images(path, memory_limit=0.1).groups["a"][0].read()
    assert len(items) == 3000
    pq.write_table(pa.table({"image": ["1.png"] * 10**6, "prompt": ["a"] * 10**6}), path)
    with pytest.raises(ValueError, match=r"lists 1,000,000 rows in .* MiB, more than the memory limit of 0.1 GiB"):
        find_images(path, memory_limit=0.1)


def test_a_long_caption_of_a_table_is_read(tmp_path):
    with_images(metadata__csv=table(rows=[(name, f"{prompt} {'word ' * 200_000}") for name, prompt in ROWS]))(tmp_path)
    assert [len(samples.prompt) > 10**6 for samples in samples_of(tmp_path)[0]] == [True, True]


def test_csv_writers_and_the_reader_agree(tmp_path):
    prompts = ['a "quoted" ball', "two\nlines", "semi;colon, comma\tand tab"]
    flat(tmp_path)
    with (tmp_path / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("file_name", "prompt"), *zip(DATA, prompts, strict=False)])
    assert [samples.prompt for samples in samples_of(tmp_path)[0]] == prompts
