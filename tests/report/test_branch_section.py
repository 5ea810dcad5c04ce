"""When is the picture decided? The section of a report, and its panel on W&B, from runs with the Branch probe."""

import csv
import json

import pytest
from running import metrics_of, predict

from gendiv_lightning.cli.main import main
from gendiv_lightning.report.context import make_study
from gendiv_lightning.report.sections import branch
from gendiv_lightning.report.summary import write_report
from gendiv_lightning.runs.folder import RunFolder
from gendiv_lightning.runs.load import families_of, find_runs
from gendiv_lightning.tracking.wandb import describe
from gendiv_lightning.tracking.wandb_report import build_report

STEPS = (0, 4)


@pytest.fixture(scope="module")
def branches(weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("branches")
    for step in STEPS:
        predict(weights, folder / str(step), "--probes+=Branch", f"--probes.step={step}")
    return folder


def test_the_report_has_the_curve_of_the_runs(branches, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(branches), "--out", str(tmp_path)])
    assert stopped.value.code == 0
    page = (tmp_path / "index.html").read_text()
    assert "When is the picture decided?" in page
    with (tmp_path / "tables" / "branch.csv").open(newline="") as file:
        rows = {int(row["step"]): row for row in csv.DictReader(file)}
    (name,) = (key for key in rows[0] if key not in ("step",) and not key.endswith((" low", " high")))
    whole, left = (metrics_of(RunFolder(branches / str(s)))["diversity/lpips[tiny]"]["value"] for s in STEPS)
    assert float(rows[0][name]) == 0
    assert float(rows[4][name]) == pytest.approx(1 - left / whole, rel=1e-4)
    assert (tmp_path / "figures" / "branch.svg").read_text().count('class="mark g0"') == len(STEPS)


def test_generators_without_branches_are_listed_with_the_command(branches):
    (family,) = families_of(find_runs([branches])[0])
    other = family._replace(name="other", settings=family.settings[:1])
    section = branch.section(make_study([family, other]))
    assert section.missing == ("other: `gendiv branch configs/tiny/llamagen.yaml --steps 0,4`",)


def test_a_wandb_report_plots_the_diversity_by_the_step_of_each_run(branches):
    protocol = RunFolder(branches / "4").read_protocol()
    assert describe(protocol)["config"]["branch_step"] == 4
    study = make_study(families_of(find_runs([branches])[0]))
    built = build_report(write_report(study), study, "team", "gendiv")
    spec = json.dumps(built._to_model().spec.model_dump(by_alias=True, exclude_none=True))
    assert "config:branch_step" in spec or "config.branch_step" in spec
