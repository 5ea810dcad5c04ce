"""Prompts from every format equal those that were written."""

from __future__ import annotations

import io
import json
import tarfile

import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gendiv_lightning.prompts.files import read_prompts, scan_prompts
from gendiv_lightning.prompts.stream import stream_prompts
from gendiv_lightning.records import Paraphrase, prompt_id

TEXTS = ["a red house", 'a sign that says "STOP"', "sun, moon and hill", "ein Baum über dem Tal", " padded "]


def write_as(folder, suffix):
    path = folder / f"set{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table({"Caption": TEXTS, "score": [1.0] * len(TEXTS)}), path)
    elif suffix == ".txt":
        path.write_text("\n".join(TEXTS), encoding="utf-8")
    elif suffix == ".json":
        path.write_text(json.dumps(TEXTS[:2] + [{"prompt": text} for text in TEXTS[2:]]), encoding="utf-8")
    elif suffix == ".jsonl":
        path.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS), encoding="utf-8")
    else:
        delimiter = "," if suffix == ".csv" else "\t"
        cells = ['"' + text.replace('"', '""') + '"' for text in TEXTS]
        rows = [f"1{delimiter}{cell}" for cell in cells]
        path.write_text("\n".join([f"number{delimiter}Prompt", *rows]), encoding="utf-8")
    return path


def texts(path, **arguments):
    return [prompt.text for prompt in read_prompts(path, **arguments)]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt"])
def test_every_format_gives_the_texts_that_were_written(tmp_path, suffix):
    assert texts(write_as(tmp_path, suffix)) == TEXTS


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".txt"])
def test_a_byte_order_mark_is_not_part_of_a_prompt_or_column(tmp_path, suffix):
    path = write_as(tmp_path, suffix)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert texts(path) == TEXTS


def test_byte_order_marks_inside_a_file_are_removed_too(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\ufeffa tent\n\ufeffa prompt, a caption\n")
    assert texts(path) == ["a tent", "a prompt, a caption"]


def test_a_parquet_of_bytes_is_an_error_with_its_columns(tmp_path):
    pq.write_table(pa.table({"prompt": [b"a"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"no column of texts, but prompt \(binary\)"):
        texts(tmp_path / "a.parquet")


def test_a_csv_of_one_column_is_delimited_by_tabs_so_commas_stay_in_the_prompt(tmp_path):
    path = tmp_path / "coco_captions.csv"
    path.write_text("Prompt\nA man, a dog and a boat.\nA zebra")
    assert texts(path) == ["A man, a dog and a boat.", "A zebra"]


def test_a_prompt_that_begins_with_a_quote_is_read_as_pandas_reads_it(tmp_path):
    path = tmp_path / "parti.tsv"
    path.write_text('Prompt\tCategory\n"G I G G L E" painted on a wall\tArts\na 12" record\tArts\n')
    assert (
        texts(path)
        == pandas.read_csv(path, sep="\t")["Prompt"].tolist()
        == [
            "G I G G L E painted on a wall",
            'a 12" record',
        ]
    )


def test_an_unclosed_quote_is_an_error_and_hides_no_rows(tmp_path):
    path = tmp_path / "open.tsv"
    path.write_text('Prompt\n"an open quote\na house\na tree')
    with pytest.raises(ValueError, match=r"open\.tsv.*quote"):
        texts(path)


def test_a_row_with_more_cells_than_columns_is_an_error_that_names_the_row(tmp_path):
    path = tmp_path / "wide.csv"
    path.write_text("id,prompt\n1,a house\n2,a house, a tree\n")
    with pytest.raises(ValueError, match=r"wide\.csv, row 2.* 3 .* 2 "):
        texts(path)


def test_a_short_row_a_blank_line_and_a_null_are_empty_prompts(tmp_path):
    table, lines = tmp_path / "a.csv", tmp_path / "b.jsonl"
    table.write_text("id,prompt\n1,a house\n2\n\n")
    lines.write_text('{"prompt": "a house"}\n{"prompt": null}\n{"other": 1}\n')
    assert texts(table) == texts(lines) == ["a house", "", ""]


def test_prompt_comes_before_caption_and_caption_before_short_caption(tmp_path):
    path = tmp_path / "many.jsonl"
    record = {"short_caption": "d", "text": "c", "Caption": "b", "PROMPT": "a"}
    for column in ("PROMPT", "Caption", "text", "short_caption"):
        path.write_text(json.dumps(record))
        assert texts(path) == [record.pop(column)]


def test_a_named_column_wins_and_a_missing_one_is_an_error_that_lists_what_is_there(tmp_path):
    path = tmp_path / "named.jsonl"
    path.write_text('{"prompt": "short", "long_caption2": "long"}')
    assert texts(path, column="long_caption2") == ["long"]
    with pytest.raises(ValueError, match=r"prompt, long_caption2.*'title'|'title'.*prompt, long_caption2"):
        texts(path, column="title")
    path.write_text('{"title": "a", "url": "b"}')
    with pytest.raises(ValueError, match=r"title, url.*prompt, caption, text, short_caption"):
        texts(path)


def test_ids_and_sources_are_read_or_made_if_missing(tmp_path):
    path = tmp_path / "ids.jsonl"
    path.write_text(
        '{"id": 0, "prompt": "A", "source": "web"}\n{"prompt_id": "x1", "prompt": "B"}\n{"prompt": "A  b"}\n'
    )
    prompts = list(read_prompts(path))
    assert [prompt.id for prompt in prompts] == ["0", "x1", prompt_id("a b", "ids")]
    assert [prompt.source for prompt in prompts] == ["web", "ids.jsonl", "ids.jsonl"]


def test_paraphrases_keep_their_length_class_and_get_one_when_they_have_none(tmp_path):
    path = tmp_path / "paraphrases.jsonl"
    given = [{"text": "one", "length": "long", "model": "m", "seed": 1}, {"text": "w " * 13}, {"text": "w " * 41}]
    path.write_text(json.dumps({"prompt_id": "p", "prompt": "base", "paraphrases": given, "source": "s"}))
    (prompt,) = read_prompts(path)
    assert prompt.paraphrases == (
        Paraphrase("one", "long"),
        Paraphrase("w " * 13, "medium"),
        Paraphrase("w " * 41, "long"),
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xlsx", b"", "must end in one of"),
        ("a.jsonl", b'{"prompt": "a"}\n{oops\n', r"a\.jsonl, line 2 is not JSON"),
        ("a.jsonl", b"5\n", "line 1 must be an object or a text, got int"),
        ("a.json", b'{"prompt": "a"}', "must contain a list of records, got dict"),
        ("a.jsonl", b'{"prompt": {"a": "b"}}', "line 1: column 'prompt' must contain text, got dict"),
        ("a.jsonl", b'{"prompt": "a", "paraphrases": 5}', "line 1: paraphrases must be a list of objects.* got 5"),
        ("a.jsonl", b"{}\n", "has no columns, not any of prompt"),
        ("a.txt", b'{"prompt": "a"}\n', "not one prompt per line.*Rename it to .jsonl"),
        ("a.txt", b"id,prompt\n1,a\n", "not one prompt per line.*Rename it to .csv"),
        ("a.txt", "a\n".encode("utf-16-le"), "contains zero bytes, as UTF-16"),
        ("a.csv", b"\x1f\x8b\x08", "is compressed"),
        ("a.jsonl", b'{"prompt": ["a", 5]}', "line 1: column 'prompt' must contain text, got int"),
        (
            "a.json",
            b'{"images": [], "annotations": [{"image_id": 3, "caption": "a"}]}',
            "not a captions file of MSCOCO",
        ),
        ("a.tar", b"no tar at all", r"a\.tar is not a tar, or it is damaged, truncated or compressed"),
        ("a.txt", "Tür".encode("latin-1"), r"a\.txt, line 1, cannot be read as UTF-8"),
        ("a.parquet", b"no parquet at all", r"a\.parquet cannot be read"),
        (
            "a.jsonl",
            b'{"prompt": "a"}\n{"prompt": "a \\ud83d"}\n',
            "line 2: column 'prompt' contains half of",
        ),
        ("a.json", b'{"prompt": "a"}\n{"prompt": "b"}\n', r"a\.json is not JSON.*rename it to \.jsonl"),
        ("a.jsonl", b'{"prompt": "a", "id": [1]}', "line 1: 'id' must be a text or a number"),
        ("a.jsonl", b"[" * 100_000, "line 1 is not JSON"),
        ("a.jsonl", b'{"prompt": "a", "paraphrases": ["b"]}', "list of objects with a non-empty `text`"),
        ("a.jsonl", b'{"prompt": "a", "paraphrases": [{"text": "b", "length": "tiny"}]}', "short, medium, long"),
    ],
)
def test_an_unreadable_file_is_an_error_that_names_file_and_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        texts(tmp_path / name)


def test_prompts_of_any_letters_and_length_are_kept_as_they_are(tmp_path):
    given = [
        "a red ball\non grass\r\nby night",
        "شجرة",
        "😀 a family",
        "<b>bold</b> &amp; x",
        'say "hi"; ok\ttab',
        "a" * 10**6,
    ]
    (tmp_path / "hard.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in given))
    assert texts(tmp_path / "hard.jsonl") == given


def test_a_csv_may_be_delimited_by_semicolons_and_hold_commas(tmp_path):
    (tmp_path / "a.csv").write_text("prompt;id\na red ball;1\na blue, cold cube;2\n")
    assert texts(tmp_path / "a.csv") == ["a red ball", "a blue, cold cube"]


def test_a_local_dataset_streams_no_further_than_it_is_consumed(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"caption": "a house"}\n')
    (tmp_path / "b.jsonl").write_text("{oops\n")
    prompts = stream_prompts(str(tmp_path))
    assert next(prompts).text == "a house"
    with pytest.raises(ValueError, match="JSON"):
        next(prompts)


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_captions_inside_the_json_member_of_a_webdataset_are_found(tmp_path):
    write_tar(
        tmp_path / "data-000000.tar",
        {"000.json": {"short_caption": "a tent", "source": "DALL-E 3"}, "000.jpg": b"\xff\xd8"},
    )
    (prompt,) = stream_prompts(str(tmp_path))
    assert (prompt.text, prompt.source) == ("a tent", "DALL-E 3")


def test_a_column_that_is_null_or_missing_in_a_tar_is_an_empty_prompt(tmp_path):
    """Five records without it, as many as `datasets` looks at, come first."""
    absent = {f"{n}.json": {"short_caption": "a"} for n in range(5)}
    path = write_tar(
        tmp_path / "a.tar",
        {**absent, "6.json": {"short_caption2": None}, "7.json": {"short_caption2": "a tent"}, "8.png": bytes(20000)},
    )
    expected = ["", "", "", "", "", "", "a tent", ""]
    assert texts(path, column="short_caption2") == expected
    assert [prompt.text for prompt in stream_prompts(str(tmp_path), column="short_caption2")] == expected
    with pytest.raises(ValueError, match=r"short_caption2.*'title'|'title'.*short_caption2"):
        texts(path, column="title")


def test_a_text_member_is_a_prompt_also_next_to_json(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"0.json": {"source": "web"}, "0.txt": b" a tent\n", "1.txt": b"a hill"})
    assert [(prompt.text, prompt.source) for prompt in read_prompts(path)] == [("a tent", "web"), ("a hill", "a.tar")]


@pytest.mark.parametrize("broken", [b"{oops", b"\xff\xfe", b"5"])
def test_a_broken_member_of_a_tar_is_reported_and_the_others_are_read(tmp_path, broken):
    path = write_tar(tmp_path / "a.tar", {"0.json": broken, "0.jpg": b"x", "1.json": {"prompt": "a tent"}})
    unreadable, prompt = scan_prompts(path)
    assert "a.tar:0.json cannot be read" in unreadable.where
    assert prompt.text == "a tent"
    with pytest.raises(ValueError, match=r"a\.tar:0\.json"):
        texts(path)


@pytest.mark.parametrize("where", ["header", "text", "image", "end"])
def test_a_truncated_or_damaged_tar_is_an_error(tmp_path, where):
    path = write_tar(tmp_path / "a.tar", {"0.json": {"prompt": "a"}, "0.jpg": bytes(3000), "1.json": {"prompt": "b"}})
    data = path.read_bytes()  # blocks of 512: 0 header, 1 text, 2 header, 3 to 8 image, 9 header, 10 text, 11 zeros
    end = {"header": 9 * 512 + 100, "text": 10 * 512 + 3, "image": 5 * 512, "end": 11 * 512}[where]
    path.write_bytes(data[:end])
    with pytest.raises((ValueError, OSError), match="damaged"):
        texts(path)
    path.write_bytes(data[: 9 * 512] + b"?" * 512 + data[10 * 512 :])
    with pytest.raises((ValueError, OSError), match="damaged"):
        texts(path)


def test_images_in_parquet_are_not_read(tmp_path):
    images = pa.array([{"bytes": b"x", "path": "a.png"}] * 2)
    pq.write_table(pa.table({"image": images, "jpg": [b"y"] * 2, "caption": ["a", None]}), tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet") == [prompt.text for prompt in stream_prompts(str(tmp_path))] == ["a", ""]


def test_captions_of_coco_have_the_name_of_their_image_as_id(tmp_path):
    path = tmp_path / "captions_val2014.json"
    images = [{"id": n, "file_name": f"COCO_val2014_{n:012}.jpg"} for n in (9, 25)]
    annotations = [{"image_id": n, "id": 7, "caption": text} for n, text in ((25, "a"), (9, "b"), (25, "c"))]
    path.write_text(json.dumps({"info": {}, "images": images, "annotations": annotations}))
    found = [(prompt.id, prompt.text) for prompt in read_prompts(path)]
    assert found == [(f"COCO_val2014_{n:012}", text) for n, text in ((25, "a"), (9, "b"), (25, "c"))]


def test_texts_of_a_list_share_an_id_and_the_column_of_ids_can_be_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"caption": ["a", "b"], "cocoid": 9}\n{"caption": ["c"], "cocoid": 25}')
    assert [(p.id, p.text) for p in read_prompts(path, id_column="cocoid")] == [("9", "a"), ("9", "b"), ("25", "c")]
    assert [p.id for p in read_prompts(path)] == [prompt_id(text, "a") for text in ("a", "a", "c")]
    with pytest.raises(ValueError, match=r"line 1 has no id in 'image'\. Choose from the columns caption, cocoid"):
        list(read_prompts(path, id_column="image"))
