"""Semantic drift of made-up answers: fidelity, drift, drift beyond noise, bleeding, flows, and the file of a drift."""

import json
import math

import pytest
import torch

from gendiv_lightning.analysis.drift import Answers, measure_drift, stated_values
from gendiv_lightning.analysis.drift_file import DriftFile, find_drifts, read_drift, write_drift
from gendiv_lightning.console import drift as console
from gendiv_lightning.records.questions import Attribute, Question

COLOUR = Question("colour", ("red", "green", "blue"))
SIZE = Question("size", ("small", "large"))
PROMPTS = [
    (Attribute(COLOUR, "red"), Attribute(SIZE, "small")),
    (Attribute(COLOUR, "red"), Attribute(SIZE, None)),
    (Attribute(COLOUR, "blue"), Attribute(SIZE, "small")),
    (Attribute(COLOUR, "blue"),),
    (Attribute(SIZE, "large"), Attribute(Question("mood", ("calm", "wild")), "wild")),
]
ATTRIBUTES = stated_values(PROMPTS)


def rows(*values, num=3):
    """(P, V) probabilities; None for a prompt that states nothing."""
    return torch.tensor([[math.nan] * num if row is None else row for row in values], dtype=torch.float64)


def answers(colour, size, entropy=None):
    column = None if entropy is None else torch.full((len(PROMPTS),), entropy, dtype=torch.float64)
    return Answers((rows(*colour, None), rows(*size, num=2)), column)


BASELINE = answers([[1, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0.5, 0.5]], [[1, 0], None, [1, 0], None, [0, 1]], 2.0)
PROBE = answers([[0.4, 0.6, 0], [0.2, 0.8, 0], [0, 0, 1], [0, 0.5, 0.5]], [[1, 0], None, [1, 0], None, [1, 0]], 3.0)
CONTROL = answers([[0.9, 0.1, 0], [1, 0, 0], [0.2, 0, 0.8], [0, 0.5, 0.5]], [[1, 0], None, [1, 0], None, [0, 1]], 3.1)
FOUND = measure_drift(ATTRIBUTES, {"baseline": BASELINE, "probe": PROBE, "control": CONTROL})


def test_attributes_that_one_prompt_states_are_left_out():
    assert [each.question.name for each in ATTRIBUTES] == ["colour", "size"]
    assert ATTRIBUTES[0].stated.tolist() == [0, 0, 2, 2, -1]
    assert ATTRIBUTES[1].stated.tolist() == [0, -1, 0, -1, 1]


def test_a_stated_value_must_be_one_of_the_values():
    with pytest.raises(ValueError, match="states 'pink', which is not one of its values red, green, blue"):
        stated_values([(Attribute(COLOUR, "pink"),)])


def test_attributes_with_one_name_and_other_values_are_named_by_their_values():
    other = Question("colour", ("black", "white"))
    both = stated_values([(Attribute(COLOUR, "red"), Attribute(other, "black"))] * 2)
    seen = (rows([1, 0, 0], [1, 0, 0]), rows([1, 0], [0, 1], num=2))
    found = measure_drift(both, {name: Answers(seen, None) for name in ("baseline", "probe")})
    assert [each.name for each in found.attributes] == ["colour (red, green, blue)", "colour (black, white)"]


def test_drift_is_the_loss_of_the_diagonal_by_hand():
    colour, size = FOUND.attributes
    assert colour.fidelity["baseline"].value == pytest.approx((1 + 1 + 1 + 0.5) / 4)
    assert colour.fidelity["probe"].value == pytest.approx((0.4 + 0.2 + 1 + 0.5) / 4)
    assert colour.drift.value == pytest.approx((0.6 + 0.8) / 4)
    assert colour.beyond.value == pytest.approx((0.5 + 0.8 - 0.2 + 0) / 4)
    assert (size.drift.value, size.num_prompts) == (pytest.approx(1 / 3), 3)
    assert size.matrices["probe"].tolist() == [[1, 0], [1, 0]]
    # of each prompt the mean over what it states: (.6 + 0) / 2, .8, 0, 0, 1
    assert FOUND.overall.drift.value == pytest.approx((0.3 + 0.8 + 0 + 0 + 1) / 5)


def test_p_values_are_corrected_over_the_attributes():
    assert FOUND.attributes[1].p_value == 1  # one difference of three: all sign flips are as large
    assert FOUND.attributes[0].p_value == pytest.approx(1)  # 0.5, doubled for two attributes
    assert FOUND.overall.p_value == pytest.approx(0.25)  # 2 of 8 flips of its three differences


def test_flows_show_where_the_mass_goes():
    flow = FOUND.attributes[0].flows[0]
    assert (flow.stated, flow.seen, flow.num_prompts) == ("red", "green", 2)
    assert flow.gain.value == pytest.approx(0.7)
    assert flow.control == pytest.approx(0.05)
    (name, largest), *_ = console.largest_flows(FOUND, 3)
    assert (name, largest) == ("colour", flow)


def test_bleeding_is_known_only_where_the_drift_is():
    assert FOUND.attributes[0].drift.low == 0
    assert math.isnan(FOUND.attributes[0].bleeding.value)
    before = torch.eye(3, dtype=torch.float64)[torch.zeros(8, dtype=torch.int64)]
    after = torch.tensor([[0.2 + n / 20, 0.7 - n / 20, 0.1] for n in range(8)], dtype=torch.float64)
    stated = stated_values([(Attribute(COLOUR, "red"),)] * 8)
    (found,) = measure_drift(
        stated, {"baseline": Answers((before,), None), "probe": Answers((after,), None)}
    ).attributes
    lost = 1 - after[:, 0]
    assert found.bleeding.value == pytest.approx((after[:, 1].mean() / lost.mean()).item())
    assert found.bleeding.low <= found.bleeding.value <= found.bleeding.high
    assert math.isnan(found.beyond.value)


def test_entropies_that_differ_too_much_are_noticed():
    assert FOUND.entropies.mismatch.value == pytest.approx(0.1)
    assert FOUND.entropies.is_matched
    unmatched = CONTROL._replace(entropy=CONTROL.entropy + 0.2)
    found = measure_drift(ATTRIBUTES, {"baseline": BASELINE, "probe": PROBE, "control": unmatched})
    assert not found.entropies.is_matched


def test_attributes_that_the_scorer_cannot_read_are_named():
    blind = answers([[0.3, 0.4, 0.3]] * 4, [[1, 0], None, [1, 0], None, [0, 1]])
    found = measure_drift(ATTRIBUTES, {"baseline": blind, "probe": blind})
    line = console.format_unseen(found)
    assert "not above chance for colour (30.0 %, chance 33.3 %): the scorer" in line
    assert "size" not in line
    assert console.format_unseen(FOUND) == ""


def test_without_tokens_there_are_no_entropies():
    found = measure_drift(ATTRIBUTES, {"baseline": BASELINE, "probe": PROBE._replace(entropy=None)})
    assert found.entropies is None
    assert "not all of these runs draw tokens" in console.format_entropies(found.entropies)


@pytest.fixture
def file(tmp_path):
    runs = {"baseline": "a", "probe": "b", "control": "c"}
    write_drift(tmp_path / "drift.json", DriftFile("judge", {"scorer": "judge"}, "list", {}, runs, FOUND))
    return tmp_path / "drift.json"


def test_a_file_gives_back_what_was_written(file):
    found = read_drift(file)
    assert (found.scorer, found.runs["probe"]) == ("judge", "b")
    for table in (console.format_drift, lambda drift: console.format_flows(console.largest_flows(drift, 9))):
        assert table(found.drift) == table(FOUND)
    for one, other in zip(found.drift.attributes, FOUND.attributes, strict=True):
        assert console.format_matrices(one) == console.format_matrices(other)
    assert found.drift.entropies == FOUND.entropies
    assert "NaN" not in file.read_text()


def test_a_report_takes_files_about_its_runs_only(file):
    assert len(find_drifts([file.parent, file.parent], ["a", "b", "c", "d"])) == 1
    assert find_drifts([file.parent], ["a", "b"]) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scorer", 1),
        ("runs", {"baseline": "a"}),
        ("overall", []),
        ("by_attribute", [{}]),
        ("token_entropy", {"by_run": {}}),
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(file, key, value):
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(ValueError, match=r"drift\.json is damaged"):
        read_drift(file)


def test_a_matrix_must_fit_its_values(file):
    plain = json.loads(file.read_text())
    plain["by_attribute"][0]["matrices"]["probe"].pop()
    file.write_text(json.dumps(plain))
    with pytest.raises(ValueError, match="a row and a column for each value"):
        read_drift(file)
