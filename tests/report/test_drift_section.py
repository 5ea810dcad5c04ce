"""What do the pictures show? The section of a report, from files of `gendiv drift`."""

import csv
import xml.etree.ElementTree as ET

import pytest

from gendiv_lightning.analysis.drift_file import read_drift
from gendiv_lightning.cli.main import main
from gendiv_lightning.report.charts import confusion_maps
from gendiv_lightning.report.context import make_study
from gendiv_lightning.report.sections import drift
from gendiv_lightning.runs.load import families_of, find_runs
from gendiv_lightning.tracking.wandb_report import build_report


def gendiv(*words):
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return stopped.value.code


@pytest.fixture(scope="module")
def runs(drifting, tmp_path_factory):
    """Baseline, a subset and a control, and their drift by two scorers; another file is about other runs."""
    folder = tmp_path_factory.mktemp("runs")
    for run in drifting.iterdir():
        (folder / run.name).symlink_to(run)
    words = ("drift", folder / "plain", folder / "subset")
    assert gendiv(*words, "--control", folder / "warm", "--json", folder / "drift.json") == 0
    assert gendiv(*words, "--scorer", "tiny-clip", "--list", "postcards", "--json", folder / "drift-clip.json") == 0
    text = (folder / "drift.json").read_text()
    probe = read_drift(folder / "drift.json").runs["probe"]
    (folder / "drift-other.json").write_text(text.replace(probe, "00000000"))
    return folder


def test_the_report_has_the_numbers_and_the_matrices_of_the_files(runs, tmp_path):
    assert gendiv("report", runs, "--out", tmp_path) == 0
    page = (tmp_path / "index.html").read_text()
    assert "What do the pictures show?" in page
    with (tmp_path / "tables" / "drift.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["scorer"] for row in rows] == ["postcards", "tiny-clip"]
    found = read_drift(runs / "drift.json").drift
    assert float(rows[0]["drift"]) == pytest.approx(found.overall.drift.value, rel=1e-4)
    assert float(rows[0]["beyond noise low"]) == pytest.approx(found.overall.beyond.low, rel=1e-4)
    assert rows[1]["beyond noise"] == ""  # this file has no control
    assert float(rows[0]["bits per token, control"]) == pytest.approx(found.entropies.by_run["control"].value, rel=1e-4)
    assert (tmp_path / "figures" / "drift-1.svg").exists()
    assert "## What do the pictures show?" in (tmp_path / "report.md").read_text()


def test_reports_without_files_have_no_such_section(runs):
    study = make_study(families_of(find_runs([runs])[0]))
    assert drift.section(study).blocks == ()


def test_a_damaged_file_is_an_error(runs, tmp_path):
    (tmp_path / "drift.json").write_text("{}")
    assert "drift.json is damaged" in gendiv("report", runs, tmp_path, "--out", tmp_path / "report")


def test_a_wandb_report_has_the_section(runs):
    from gendiv_lightning.analysis.drift_file import find_drifts
    from gendiv_lightning.report.summary import write_report

    found, _ = find_runs([runs])
    drifts = find_drifts([runs], [run.label.fingerprint for run in found])
    assert len(drifts) == 2
    study = make_study(families_of(found), 0, drifts)
    built = build_report(write_report(study), study, "team", "gendiv")
    assert "What do the pictures show?" in str(built._to_model().spec.model_dump())


def test_a_heat_map_is_readable_as_text(runs):
    sky = next(each for each in read_drift(runs / "drift.json").drift.attributes if each.name == "sky")
    *panels, change = confusion_maps(sky.values, sky.matrices)
    assert len(panels) == 3
    for panel in (*panels, change):
        words = [element.text for element in ET.fromstring(panel).iter() if element.tag.endswith("}text")]
        assert set(sky.values) <= set(words)
    tips = [element.text for element in ET.fromstring(panels[1]).iter() if element.tag.endswith("}title")]
    row, column = next((r, c) for r in range(6) for c in range(6) if not sky.matrices["probe"][r, c].isnan())
    share = round(100 * sky.matrices["probe"][row, column].item())
    assert f"stated {sky.values[row]}, seen {sky.values[column]}: {share} %" in tips
