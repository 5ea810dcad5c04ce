"""The catalogue of metrics has an entry for every registered metric, with all its numbers and facts."""

import re

import pytest
from running import ROOT

from gendiv_lightning import plugins
from gendiv_lightning.metrics.registry import make_metric

TEXT = (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", TEXT, flags=re.MULTILINE | re.DOTALL))
OWN = [name for name, plugin in plugins.registered("metrics").items() if plugin.distribution == plugins.OWN]
FACTS = ["Numbers", "Range", "Unit", "Direction", "Needs", "Grows with N", "Breaks", "Source"]
NAMED = {  # these need a network or a scorer in brackets
    "attributes": "attributes[tiny-clip,list=postcards]",
    "fd": "fd[tiny]",
    "kd": "kd[tiny]",
    "vqa_score": "vqa_score[postcards]",
}
PARTS_OF_DISTANCES = TEXT[TEXT.index("## Diversity") : TEXT.index("### lpips")]


def test_every_registered_metric_has_an_entry_and_every_entry_a_metric():
    assert sorted(SECTIONS) == sorted(OWN)


@pytest.mark.parametrize("name", OWN)
def test_an_entry_has_all_facts(name):
    assert re.findall(r"^- \*\*([\w ]+)\*\*: \S", SECTIONS[name], flags=re.MULTILINE) == FACTS


@pytest.mark.parametrize("name", OWN)
def test_an_entry_names_every_number(name):
    metric = make_metric(NAMED.get(name, name), reference="needed-later.safetensors", codebook_size=16)
    text = SECTIONS[name] + (PARTS_OF_DISTANCES if "six parts" in SECTIONS[name] else "")
    for number in metric.names:
        plain = re.sub(r"\[.*?\]", "", number)
        shown = plain, f".../{plain.rpartition('/')[2]}", re.sub(r"/[^/]+$", "/<factor>", plain)
        variant = re.fullmatch(r"(h_\w+/(?:token|kernel))/(plugin|counts|order1)", plain)
        if variant:
            assert f"`{variant[1]}`" in text
            assert f"`/{variant[2]}`" in text
        else:
            assert any(f"`{form}" in text for form in shown), f"{number} is missing in the entry of {name}"


@pytest.mark.parametrize("name", OWN)
def test_an_entry_says_what_the_class_says_about_direction(name):
    metric = make_metric(NAMED.get(name, name), reference="needed-later.safetensors", codebook_size=16)
    words = {True: "higher is better", False: "lower is better", None: "neither"}[metric.higher_is_better]
    assert f"**Direction**: {words}" in SECTIONS[name]
