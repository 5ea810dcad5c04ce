"""Bad input ends in one clear message before anything expensive: no case is accepted, crashes or hangs."""

import os
from collections import Counter

import pytest
from bad_inputs import CASES, attempt, make_places
from running import predict

FAST = CASES[::40]


@pytest.fixture(scope="module")
def places(decomposed, weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    flat = predict(weights, folder / "flat", "--data.num_samples", "2")
    return {**make_places(folder / "places", decomposed), "flat": str(flat.path)}


@pytest.fixture
def _in_folder(tmp_path, monkeypatch):
    """Home and working directory are empty folders: nothing of the user's is read or written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.usefixtures("_in_folder")
@pytest.mark.parametrize("case", FAST, ids=lambda case: case.name)
def test_a_bad_input_is_one_clear_message(case, places, tmp_path):
    outcome = attempt(case, places, tmp_path / "out")
    assert outcome.kind == "clear", f"{case.words}: {outcome}"


@pytest.mark.slow
@pytest.mark.usefixtures("_in_folder")
def test_all_bad_inputs_are_clear_messages(places, tmp_path):
    """Every option of every command, every key of a config, every kind of damaged file; the counts are printed."""
    outcomes = {case: attempt(case, places, tmp_path / str(number)) for number, case in enumerate(CASES)}
    counts = Counter(outcome.kind for outcome in outcomes.values())
    print(f"{len(CASES)} bad inputs: {dict(counts)}")  # noqa: T201  for docs/reliability.md
    wrong = [
        f"{outcome.kind}: {case.name}: {outcome.message}"
        for case, outcome in outcomes.items()
        if outcome.kind != "clear"
    ]
    assert not wrong, os.linesep.join(wrong)


def test_there_are_as_many_cases_as_the_documentation_states():
    assert len(CASES) >= 1400
    assert max(Counter(CASES).values()) == 1
