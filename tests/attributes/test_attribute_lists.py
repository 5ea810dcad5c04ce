"""Attribute lists: our format, the published ones, registered functions, and what is wrong with a file."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gendiv_lightning.attributes.lists import read_attributes
from gendiv_lightning.errors import MissingFileError, PromptError
from gendiv_lightning.records.questions import Attribute, Question
from gendiv_lightning.toy.scorer import postcard_attributes

COLOUR = {"name": "colour of the car", "values": ["red", "blue"], "stated": "red"}
MOOD = {
    "name": "mood",
    "values": ["calm", "wild"],
    "question": "What is the mood?",
    "captions": ["a calm sea", ["a wild sea", "a stormy sea"]],
}
PROMPTS = {"A red car": [COLOUR], "The sea": [MOOD], "Nothing": []}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def our_format(path):
    return write(path, [{"prompt": prompt, "attributes": items, "id": 3} for prompt, items in PROMPTS.items()])


def test_a_list_has_the_attributes_of_each_prompt(tmp_path):
    attributes = read_attributes(our_format(tmp_path / "list.jsonl"))
    assert attributes.name == "list"
    assert attributes.of("a  RED car") == (Attribute(Question("colour of the car", ("red", "blue")), "red"),)
    captions = (("a calm sea",), ("a wild sea", "a stormy sea"))
    assert attributes.of("The sea") == (Attribute(Question("mood", ("calm", "wild"), "What is the mood?", captions)),)
    assert attributes.of("Nothing") == ()
    with pytest.raises(PromptError, match="does not have the prompt 'A blue car'"):
        attributes.check(["The sea", "A blue car"])


def test_one_content_has_one_hash_in_any_format(tmp_path):
    lines = read_attributes(our_format(tmp_path / "list.jsonl"))
    rows = [{"caption": prompt, "attributes": items} for prompt, items in reversed(PROMPTS.items())]
    (tmp_path / "other.json").write_text(json.dumps(rows, indent=1))
    plain = [{**row, "attributes": [{**item, "captions": None} for item in row["attributes"]]} for row in rows]
    pq.write_table(pa.Table.from_pylist(plain), tmp_path / "list.parquet")
    assert read_attributes(tmp_path / "other.json").identity == lines.identity
    in_parquet = read_attributes(tmp_path / "list.parquet")
    assert in_parquet.of("A red car") == lines.of("A red car")
    assert in_parquet.identity != lines.identity  # it has no captions


def test_a_registered_name_is_a_function_of_the_prompt():
    attributes = read_attributes("postcards")
    assert attributes.of("blue sky") == postcard_attributes("blue sky")
    assert attributes.identity == {"list": "postcards", "package": "gendiv_lightning"}
    with pytest.raises(PromptError, match="grammar"):
        attributes.check(["blue sky", "a photo of a dog"])


def test_a_table_with_one_row_per_attribute_is_read_as_grade_writes_it(tmp_path):
    (tmp_path / "grade.csv").write_text(
        "concept_id,concept,prompt_id,prompt,attribute_id,attribute,attribute_values\n"
        "1,a table,0,a table in a bar.,0,What shape is the table?,\"{'round', 'oval', 'square', 'oval'}\"\n"
        "1,a table,1,a table on a boat.,0,What shape is the table?,\"['round', 'square']\"\n"
        "1,a table,0,a table in a bar.,1,Is it wooden?,\"{'Yes', 'No'}\"\n"
    )
    shape, wooden = read_attributes(tmp_path / "grade.csv").of("a table in a bar.")
    text = "What shape is the table?"
    assert shape == Attribute(Question(text, ("round", "oval", "square"), text))  # a set has oval once
    assert wooden.question.values == ("Yes", "No")


def test_a_table_may_state_values(tmp_path):
    rows = [{"prompt": "a red car", "name": "colour", "values": ["red", "blue"], "stated": "red"}]
    assert read_attributes(write(tmp_path / "table.jsonl", rows)).of("a red car") == (
        Attribute(Question("colour", ("red", "blue")), "red"),
    )


BUS = {
    "concept": "bus",
    "coarse_dense_prompts": [
        {
            "coco_seed_caption": "A bus.",
            "coarse_prompt": "A bus in town",
            "dense_prompts": [
                {"attribute_type": "color", "attribute": "red", "dense_prompt": "A red bus in town"},
                {"attribute_type": "color", "attribute": "blue", "dense_prompt": "A blue bus in town"},
                {"attribute_type": "age", "attribute": "old", "dense_prompt": "An old bus in town"},
            ],
        },
        {
            "coarse_prompt": "A bus",
            "dense_prompts": [{"attribute_type": "age", "attribute": "new", "dense_prompt": "A new bus"}],
        },
    ],
}


def test_dense_prompts_of_dim_cim_state_their_attribute_and_coarse_ones_none(tmp_path):
    folder = tmp_path / "dense_prompts"
    folder.mkdir()
    (folder / "bus_dense_prompts.json").write_text(json.dumps(BUS))
    colour, age = Question("color of the bus", ("red", "blue")), Question("age of the bus", ("old", "new"))
    for source in (folder, folder / "bus_dense_prompts.json"):
        attributes = read_attributes(source)
        assert attributes.of("A bus") == (Attribute(colour), Attribute(age))
        assert attributes.of("A blue bus in town") == (Attribute(colour, "blue"), Attribute(age))


WRONG = {
    "few values": ([{**COLOUR, "values": ["red"]}], "line 1, attribute 'colour of the car' must have at least two"),
    "repeated value": ([{**COLOUR, "values": ["red", "blue", "Red"]}], "the value 'Red' twice"),
    "other stated": ([{**COLOUR, "stated": "green"}], "must be one of red, blue, got 'green'"),
    "same name": ([COLOUR, {**COLOUR, "stated": None}], "the attribute 'colour of the car' twice"),
    "no name": ([{"values": ["a", "b"]}], "the name of an attribute must be a text"),
    "numbers": ([{**COLOUR, "values": [1, 2]}], "values must be a text"),
    "no list": ([{**COLOUR, "values": "red"}], "must be a list of texts"),
    "other key": ([{**COLOUR, "state": "red"}], "no key 'state'"),
    "no object": (["colour"], "must be an object"),
    "few captions": ([{**COLOUR, "captions": ["a red car"]}], r"one item per value \(2\), got 1"),
    "no captions": ([{**COLOUR, "captions": ["a red car", []]}], "at least one caption"),
    "text": ("colour", "must contain a list of objects"),
}


@pytest.mark.parametrize(("items", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_attribute_is_an_error_with_file_and_line(tmp_path, items, message):
    path = write(tmp_path / "list.jsonl", [{"prompt": "A red car", "attributes": items}])
    with pytest.raises(PromptError, match=message) as error:
        read_attributes(path)
    assert "list.jsonl, line 1" in str(error.value)


def test_a_prompt_must_occur_once(tmp_path):
    rows = [{"prompt": "The sea", "attributes": [MOOD]}, {"prompt": "the Sea", "attributes": []}]
    with pytest.raises(PromptError, match=r"line 2: the attributes of the prompt 'the Sea' are also in .*line 1"):
        read_attributes(write(tmp_path / "list.jsonl", rows))


def test_other_files_are_refused(tmp_path):
    with pytest.raises(MissingFileError, match=r"neither a file nor a registered name.*postcards"):
        read_attributes(tmp_path / "none.jsonl")
    with pytest.raises(PromptError, match="no prompts"):
        read_attributes(write(tmp_path / "empty.jsonl", []))
    with pytest.raises(PromptError, match=r"no \.json files"):
        read_attributes(tmp_path)
    (tmp_path / "list.txt").write_text("a line")
    with pytest.raises(PromptError, match="must end in one of"):
        read_attributes(tmp_path / "list.txt")
    with pytest.raises(PromptError, match="a prompt is missing"):
        read_attributes(write(tmp_path / "list.jsonl", [{"attributes": [MOOD]}]))
    with pytest.raises(PromptError, match="got None"):
        read_attributes(write(tmp_path / "list.jsonl", [{"prompt": "The sea"}]))


def test_damaged_published_lists_are_refused(tmp_path):
    (tmp_path / "grade.csv").write_text('prompt,attribute,attribute_values\na,b,"{f(), 2}"\n')
    with pytest.raises(PromptError, match=r"row 1, column 'attribute_values': expected a list of texts"):
        read_attributes(tmp_path / "grade.csv")
    (tmp_path / "grade.csv").write_text("prompt,attribute,attribute_values\na,,\"['x', 'y']\"\n")
    with pytest.raises(PromptError, match="must have prompt, attribute"):
        read_attributes(tmp_path / "grade.csv")
    (tmp_path / "bus.json").write_text(json.dumps({**BUS, "coarse_dense_prompts": [{"coarse_prompt": "A bus"}]}))
    with pytest.raises(PromptError, match="'dense_prompts' is missing or malformed"):
        read_attributes(tmp_path / "bus.json")
    one = {**BUS, "coarse_dense_prompts": BUS["coarse_dense_prompts"][1:]}
    (tmp_path / "bus.json").write_text(json.dumps(one))
    with pytest.raises(PromptError, match="'age of the bus' must have at least two values, got new"):
        read_attributes(tmp_path / "bus.json")
