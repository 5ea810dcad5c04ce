"""`gendiv attributes` from end to end, and what it wrote as the list of a metric."""

import json

import pyarrow.parquet as pq
import pytest
import torch
from chat_server import serving, status
from PIL import Image

from gendiv_lightning.attributes.lists import read_attributes
from gendiv_lightning.cli import main as cli
from gendiv_lightning.datamodules import PromptData
from gendiv_lightning.storage.named_files import named_file
from gendiv_lightning.toy import postcards
from gendiv_lightning.toy.scorer import postcard_attributes

POSTCARDS = named_file("toy:postcards.jsonl")


def run(*line):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["attributes", *(str(word) for word in line)])
    return stopped.value.code


def answer(body):
    caption = json.loads(body["messages"][-1]["content"])["caption"]
    values = [{"value": value, "caption": f"{value} sky"} for value in ("blue", "orange", "pink")]
    stated = next((pair["value"] for pair in values if f"{pair['value']} sky" in caption), None)
    attribute = {"name": "sky", "question": "What colour is the sky?", "values": values, "stated": stated}
    return json.dumps({"attributes": [attribute]})


def test_the_toy_grammar_lists_the_nine_factors_without_a_server(tmp_path, capsys):
    out = tmp_path / "list.jsonl"
    assert run(POSTCARDS, "--model", "postcards", "--limit", 4, "--out", out, "--license", "CC0") == 0
    attributes, data = read_attributes(out), PromptData(path=str(out)).prompt_set()
    base = PromptData(path=str(POSTCARDS), limit=4).prompt_set()
    assert data.sha256 == base.sha256  # ids, texts and paraphrases are those of the prompts
    expected = [postcard_attributes(prompt.text) for prompt in base.prompts]
    assert [attributes.of(prompt.text) for prompt in base.prompts] == expected
    num_stated = sum(attribute.stated is not None for of_prompt in expected for attribute in of_prompt)
    words = f"{36 - num_stated} open and {num_stated} stated attributes of 4 prompts by postcards"
    assert words in capsys.readouterr().out
    card = json.loads(out.with_suffix(".card.json").read_text())
    assert (card["model"], card["license"], card["prompts"]["num"]) == ({"model": "postcards"}, "CC0", 4)


def test_a_server_is_asked_once_about_each_prompt(tmp_path, monkeypatch, capsys):
    out = tmp_path / "list.jsonl"
    line = (POSTCARDS, "--model", "tiny", "--limit", 5, "--concurrency", 2, "--out", out)
    monkeypatch.setenv("GENDIV_CACHE", str(tmp_path / "cache"))
    with serving(content=answer, faults=[status(429, Retry_After="0")]) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "key")
        assert run(*line) == 0
        written = out.read_bytes(), out.with_suffix(".card.json").read_bytes()
        assert run(*line) == 0
    assert (out.read_bytes(), out.with_suffix(".card.json").read_bytes()) == written
    assert len(server.answered) == 5
    assert server.most_at_once <= 2
    assert server.bodies[0]["response_format"]["json_schema"]["schema"]["required"] == ["attributes"]
    assert "attributes of 5 prompts by tiny" in capsys.readouterr().out
    card = json.loads(written[1])
    assert (card["model"], card["seed"], card["invalid_answers"]) == ({"model": "tiny"}, 0, 0)


def test_a_list_in_another_format_is_rewritten(tmp_path, capsys):
    (tmp_path / "grade.csv").write_text(
        "prompt,attribute,attribute_values\na table.,What shape is it?,\"{'round', 'oval'}\"\n"
    )
    out = tmp_path / "list.jsonl"
    assert run(tmp_path / "grade.csv", "--out", out) == 0
    assert "1 open and 0 stated attributes of 1 prompts" in capsys.readouterr().out
    assert read_attributes(out).of("a table.") == read_attributes(tmp_path / "grade.csv").of("a table.")
    assert [prompt.text for prompt in PromptData(path=str(out)).prompt_set().prompts] == ["a table."]


def test_nothing_is_written_if_no_answer_is_valid(tmp_path, monkeypatch):
    monkeypatch.setenv("GENDIV_CACHE", str(tmp_path / "cache"))
    with serving(content=lambda body: "nonsense") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        code = run(POSTCARDS, "--model", "tiny", "--limit", 2, "--out", tmp_path / "list.jsonl")
    assert "gave no valid attributes for 2 of 2 prompts" in code
    assert not (tmp_path / "list.jsonl").exists()


def test_measure_writes_how_many_images_show_each_value(tmp_path, capsys):
    folder = tmp_path / "images" / "blue sky"
    folder.mkdir(parents=True)
    for number, image in enumerate(postcards.render(torch.tensor([0, 17, 30_000]))):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    line = ["measure", str(tmp_path / "images"), "--metrics", "attributes[postcards,list=postcards]"]
    with pytest.raises(SystemExit) as stopped:
        cli.main([*line, "--out", str(tmp_path / "out")])
    assert stopped.value.code == 0
    assert "attributes/agreement[postcards]" in capsys.readouterr().out
    rows = pq.read_table(tmp_path / "out" / "attributes.parquet").to_pylist()
    sky = {row["value"]: row["images"] for row in rows if row["attribute"] == "sky"}
    assert (sky["blue"], sum(sky.values())) == (2, 3)
    assert {row["stated"] for row in rows if row["attribute"] == "sky"} == {"blue"}
