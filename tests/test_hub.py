"""Datasets on the Hub by name, streamed from a server with its API, in separate processes."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from dalle_files import records, write_tars
from hub_server import SHA, serving
from PIL import Image
from running import gendiv, run, without_link

from gendiv_lightning.cli.main import main
from gendiv_lightning.datamodules import ImageData, PromptData
from gendiv_lightning.metrics.reference import read_provenance
from gendiv_lightning.prompts.prompt_set import read_manifest
from gendiv_lightning.toy.postcards import render


def test_prompts_of_a_hub_dataset_equal_those_of_its_files(tmp_path):
    folder = write_tars(tmp_path / "dalle" / "data", list(records(60)))
    call = ["--column", "short_caption2", "--num", "5", "--out"]
    with serving("owner/dalle", folder.parent) as hub:
        ended = run(
            gendiv("prompts", "owner/dalle", *call, str(tmp_path / "hub.jsonl")),
            timeout=1200,
            environment=hub.environment,
        )
        missing = run(
            gendiv("prompts", "owner/dale", *call, str(tmp_path / "x.jsonl")), timeout=1200, environment=hub.environment
        )
    assert ended.returncode == 0, ended.stderr
    card = json.loads((tmp_path / "hub.card.json").read_text())
    assert (card["source"]["name"], card["source"]["version"], card["source"]["license"]) == ("owner/dalle", SHA, "mit")
    with pytest.raises(SystemExit):
        main(["prompts", str(folder.parent), *call, str(tmp_path / "local.jsonl")])
    hub, local = (read_manifest(tmp_path / f"{name}.jsonl") for name in ("hub", "local"))
    assert {prompt.text for prompt in hub} <= {row.get("short_caption2") for row in records(60)}
    assert len(hub) == len(local) == 5
    assert missing.returncode == 1
    message = without_link(missing.stderr.rstrip())
    assert "\n" not in message
    assert "owner/dale is not a file or folder in" in message


def test_a_reference_is_computed_from_a_hub_dataset(tmp_path):

    (tmp_path / "coco" / "data").mkdir(parents=True)
    places = range(0, 6000, 1000)
    files = [io.BytesIO() for _ in places]
    for file, image in zip(files, render(torch.tensor(places)), strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "PNG")
    for shard in range(2):
        images = [{"bytes": file.getvalue(), "path": "x.png"} for file in files[3 * shard : 3 * shard + 3]]
        table = pa.table({"image": images, "caption": ["a"] * 3})
        pq.write_table(table, tmp_path / "coco" / "data" / f"train-{shard:05}-of-00002.parquet")
    call = ["--backbone", "tiny-clip", "--out", str(tmp_path / "reference.safetensors")]
    with serving("owner/coco", tmp_path / "coco") as hub:
        ended = run(gendiv("reference", "owner/coco", *call), timeout=1200, environment=hub.environment)
    assert ended.returncode == 0, ended.stderr
    provenance = read_provenance(tmp_path / "reference.safetensors")
    assert provenance["num_images"] == 6
    assert provenance["dataset"] == f"owner/coco ({SHA[:12]})"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nobody/nothing", "nobody/nothing is not a file or folder in "),
        ("capitons.jsonl", "could not be loaded as a dataset from the Hugging Face Hub (OfflineModeIsEnabled"),
        ("data/coco/nothing", "data/coco/nothing is missing. Correct the path, which is relative to"),
        ("../nothing.tar", "../nothing.tar is missing"),
    ],
)
def test_a_missing_source_is_one_line(source, message, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main(["prompts", source, "--num", "1", "--out", str(tmp_path / "x.jsonl")])
    shown = without_link(stopped.value.code)
    assert message in shown
    assert "\n" not in shown
    with pytest.raises(ValueError, match=r"missing|could not be loaded"):
        PromptData(dataset=source, cache_dir=str(tmp_path)).prompt_set()
    with pytest.raises(ValueError, match=r"missing|could not be loaded"):
        ImageData(source).images()
