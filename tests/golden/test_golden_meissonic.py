"""The golden cases of Meissonic pass, and a network that is not quite the official one makes them fail."""

import math
from pathlib import Path

import pytest

from gendiv_lightning.generators.meissonic import transformer
from gendiv_lightning.golden import run_case

FOLDER = Path(__file__).parent / "meissonic"


@pytest.mark.parametrize("name", ["meissonic", "meissonic_plain"])
def test_this_package_gives_the_numbers_of_the_official_code(name):
    result = run_case(FOLDER / f"{name}.json")
    assert result.passed, result
    assert math.isfinite(result.error)


def wrong_table(side, num_captions, axes):
    cos, sin = right_table(side, num_captions, axes)
    return cos.roll(1, 0), sin.roll(1, 0)


right_table = transformer.rotary_table
WRONG = {
    "rotary_table": wrong_table,
    "rotate": lambda x, _: x,
    "sinusoids": lambda x, right=transformer.sinusoids: right(x).roll(128, -1),
    "_modulate": lambda x, scale, shift, right=transformer._modulate: right(x, shift, scale),
}


@pytest.mark.parametrize("part", WRONG)
def test_another_network_makes_the_case_fail(monkeypatch, part):
    monkeypatch.setattr(transformer, part, WRONG[part])
    result = run_case(FOLDER / "meissonic.json")
    assert not result.passed
    assert "logits" in result.detail
