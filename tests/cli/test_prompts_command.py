"""`gendiv prompts`: prompt sets from tars in the DALL-E 3 schema, Parquet and MSCOCO, with the same bytes each time."""

from __future__ import annotations

import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dalle_files import caption, records, write_tars

from gendiv_lightning.cli.main import main
from gendiv_lightning.datamodules import PromptData
from gendiv_lightning.prompts.prompt_set import read_manifest
from gendiv_lightning.storage import atomic as disk


def gendiv(*words):
    with pytest.raises(SystemExit) as stopped:
        main(["prompts", *map(str, words)])
    return stopped.value.code


@pytest.fixture
def dalle(tmp_path):
    return write_tars(tmp_path / "dalle" / "data", list(records(200))).parent


CALL = ("--column", "short_caption2", "--source", "dall", "--english", "--max-words", 18, "--num", 20, "--seed", 3)


def test_a_set_is_drawn_from_tars_of_the_dalle_schema_with_its_card(dalle, tmp_path, capsys):
    (dalle / "README.md").write_text("---\nlicense: mit\n---\nCaptions.")
    out = tmp_path / "sets" / "d3.jsonl"
    assert gendiv(dalle, *CALL, "--out", out) == 0
    rows = [row for row in records(200) if row["source"] == "DALL-E 3" and row.get("short_caption2")]
    passing = {row["short_caption2"] for row in rows if len(row["short_caption2"].split()) <= 18}
    prompts = read_manifest(out)
    assert len(prompts) == len({p.text for p in prompts}) == 20
    assert {p.text for p in prompts} <= passing
    card = json.loads((out.parent / "d3.card.json").read_text())
    assert card["counts"]["read"] == 200
    assert card["counts"]["empty"] == 40
    assert sum(card["counts"].values()) == 2 * 200
    assert card["source"]["license"] == "mit"
    assert card["sources"] == {"DALL-E 3": 20}
    assert card["filters"]["sources"] == ["dall"]
    assert card["prompts_sha256"] == PromptData(str(out)).prompt_set().sha256
    assert "20 prompts of dalle\n200 read, 40 empty" in capsys.readouterr().out


def test_the_same_call_gives_the_same_bytes_for_any_shards_and_order(dalle, tmp_path):
    for name in ("one", "two"):
        assert gendiv(dalle, *CALL, "--out", tmp_path / name / "set.jsonl") == 0
    rows = list(records(200))
    random.Random(1).shuffle(rows)
    other = write_tars(tmp_path / "other" / "dalle", rows, num_shards=7)
    assert gendiv(other, *CALL, "--out", tmp_path / "three" / "set.jsonl") == 0
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two", "three")]
    assert files[0].keys() == {"set.jsonl", "set.card.json"}
    assert files[0] == files[1]
    assert files[0]["set.jsonl"] == files[2]["set.jsonl"]


def test_an_interrupted_call_ends_with_the_same_files(dalle, tmp_path, monkeypatch):
    assert gendiv(dalle, *CALL, "--out", tmp_path / "whole" / "set.jsonl") == 0
    replace = disk.Path.replace
    for survives in (0, 1):  # killed before the set is renamed, and before its metadata is
        left = [survives]

        def stop(path, target, left=left):
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            return replace(path, target)

        folder = tmp_path / f"killed{survives}"
        monkeypatch.setattr(disk.Path, "replace", stop)
        with pytest.raises(SystemExit, match="130"):
            main(["prompts", str(dalle), *map(str, CALL), "--out", str(folder / "set.jsonl")])
        monkeypatch.undo()
        assert len([path for path in folder.iterdir() if not path.name.startswith(".")]) == survives
        assert gendiv(dalle, *CALL, "--out", folder / "set.jsonl") == 0
        for name in ("set.jsonl", "set.card.json"):
            assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_table_of_the_same_captions_gives_the_same_prompts(dalle, tmp_path):
    rows = [row | {"short_caption2": row.get("short_caption2")} for row in records(200)]
    (tmp_path / "table" / "dalle").mkdir(parents=True)
    images = pa.array([{"bytes": b"x", "path": None}] * len(rows))
    pq.write_table(
        pa.Table.from_pylist(rows).append_column("image", images), tmp_path / "table" / "dalle" / "a.parquet"
    )
    for place, source in enumerate([dalle, tmp_path / "table" / "dalle"]):
        assert gendiv(source, *CALL, "--out", tmp_path / str(place) / "set.jsonl") == 0
    assert (tmp_path / "0" / "set.jsonl").read_bytes() == (tmp_path / "1" / "set.jsonl").read_bytes()


def test_unreadable_records_are_listed_and_too_many_are_an_error(tmp_path, capsys):
    rows = list(records(198))
    source = write_tars(tmp_path / "dalle", [*rows[:50], b"{oops", *rows[50:], b"\xff"])
    call = (source, "--num", 5, "--out", tmp_path / "set.jsonl")
    assert gendiv(*call) == 0
    assert "2 records cannot be read" in capsys.readouterr().err
    unreadable = json.loads((tmp_path / "set.card.json").read_text())["unreadable"]
    assert all("json cannot be read" in where for where in unreadable)
    assert str(tmp_path) not in (tmp_path / "set.card.json").read_text()
    assert len(unreadable) == 2
    assert "2 records of" in gendiv(*call, "--max-corrupt", 0.005)


def coco(root, splits=("val2014",)):
    rng = random.Random(0)
    (root / "annotations").mkdir(parents=True)
    for split in splits:
        images = [{"id": n, "file_name": f"COCO_{split}_{n:012}.jpg"} for n in range(40)]
        notes = [{"image_id": n % 40, "id": n, "caption": caption(rng)} for n in range(200)]
        (root / "annotations" / f"captions_{split}.json").write_text(
            json.dumps({"images": images, "annotations": notes})
        )
    return root


def test_one_caption_per_coco_image_is_drawn_by_seed(tmp_path):
    source = coco(tmp_path / "coco")
    for seed in (0, 1):
        call = (source, "--num", 40, "--seed", seed, "--license", "CC-BY-4.0")
        assert gendiv(*call, "--out", tmp_path / f"{seed}.jsonl") == 0
    drawn = [{p.id: p.text for p in read_manifest(tmp_path / f"{seed}.jsonl")} for seed in (0, 1)]
    assert drawn[0].keys() == drawn[1].keys() == {f"COCO_val2014_{n:012}" for n in range(40)}
    assert sum(drawn[0][id] == drawn[1][id] for id in drawn[0]) < 20  # a fifth of 40 by chance
    assert json.loads((tmp_path / "0.card.json").read_text())["source"]["license"] == "CC-BY-4.0"


def test_several_coco_files_are_an_error(tmp_path):
    source = coco(tmp_path / "coco", ("train2014", "val2014"))
    out = ("--num", 3, "--out", tmp_path / "set.jsonl")
    assert "several captions files" in gendiv(source, *out)
    assert gendiv(source / "annotations" / "captions_val2014.json", *out) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num", "0"], "--num must be at least 1"),
        (["--num", "5", "--min-words", "9", "--max-words", "3"], "--min-words 9 is above --max-words 3"),
        (["--num", "5", "--max-corrupt", "2"], "--max-corrupt must be a share"),
        (["--num", "5", "--near-duplicates", "0"], "must be in [0.1, 1]"),
        (["--num", "5", "--split", "train"], "is a file. Remove them"),
        (["--num", "5", "--column", "title"], "not 'title'"),
        (["--num", "5"], "too few prompts pass the filters to draw 5: 1 (1 read, 1 drawn)"),
        (["--num", "1", "--out", "set.json"], "--out must end in .jsonl"),
        (["--num", "1", "--out", "a.jsonl"], "must not be inside SOURCE"),
    ],
)
def test_impossible_arguments_are_one_line(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"prompt": "a tent"}')
    assert message in gendiv("a.jsonl", *(() if "--out" in words else ("--out", "set.jsonl")), *words)
    assert not (tmp_path / "set.jsonl").exists()
