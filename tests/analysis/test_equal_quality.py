"""Sweeps of a study, gains at equal quality, and runs with different numbers of samples."""

import json
import shutil

import pytest
import torch
from running import predict

from gendiv_lightning.analysis.equal_quality import area_between, gain_of, generator_sweeps, sweeps_of
from gendiv_lightning.analysis.rarefy import rarefy
from gendiv_lightning.cli.main import main
from gendiv_lightning.functional.bootstrap import bootstrap_mean
from gendiv_lightning.functional.frontier import gain_at_equal_quality
from gendiv_lightning.report.context import make_study
from gendiv_lightning.report.sections.frontier import section
from gendiv_lightning.runs.load import families_of, find_runs, read_run

LPIPS, QUALITY = "diversity/lpips[tiny]", "quality/clip_score[tiny-clip]"


def gendiv(*words):
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return stopped.value.code


@pytest.fixture(scope="module")
def family(study):
    (found,) = families_of(find_runs([study])[0])
    return found


def test_sweeps_are_found_by_their_probe_with_the_baseline_among_them(family):
    sweeps = sweeps_of(family)
    assert all(sweep.settings[0] is family.baseline for sweep in sweeps)
    assert [sweep.name for sweep in sweeps] == sorted(sweep.name for sweep in sweeps)
    assert "CodebookSubset most_frequent" in {sweep.name for sweep in sweeps}
    assert not {sweep.name for sweep in sweeps} & {"Argmax", "Paraphrase any"}
    assert sweeps[0].column(LPIPS).shape == (len(sweeps[0].settings), len(family.baseline.columns[LPIPS]))


def test_a_setting_has_no_clear_gain_over_its_own_sweep(family):
    sweep = sweeps_of(family)[0]
    for setting in sweep.settings:
        assert gain_of(setting, sweep, LPIPS, QUALITY).low <= 0
    assert area_between(sweep, sweep, LPIPS, QUALITY).value == pytest.approx(0)


def test_a_generators_own_number_makes_a_sweep(family):
    other = family._replace(
        name="other",
        identity={**family.identity, "guidance": 1.5},
    )
    (sweep,) = generator_sweeps([family, other])
    assert sweep.name == "guidance"
    assert len(sweep.settings) == 2
    assert generator_sweeps([family]) == []
    assert generator_sweeps([family, other._replace(identity={**other.identity, "dtype": "float16"})]) == []


def other(setting, prompts=None, identity=None):
    """A setting on another prompt set, or of another generator."""
    key, changes = ("generator", identity) if identity else ("data", {"prompts_sha256": prompts, "num_prompts": 2})
    runs = tuple(run._replace(protocol={**run.protocol, key: {**run.protocol[key], **changes}}) for run in setting.runs)
    columns = {name: column[:2] for name, column in setting.columns.items()} if prompts else setting.columns
    return setting._replace(runs=runs, columns=columns)


def test_settings_on_other_prompts_leave_the_sweep_and_are_named(family):
    sweep = sweeps_of(family)[0]
    there = other(sweep.settings[1], "other"), other(family.baseline, "other")
    mixed = family._replace(settings=(*family.settings, *there))
    assert [each.settings for each in sweeps_of(mixed)] == [each.settings for each in sweeps_of(family)]
    assert generator_sweeps([family, family._replace(settings=there[1:])]) == []
    shown, plain = (section(make_study([each])) for each in (mixed, family))
    (line,) = set(shown.paragraphs) - set(plain.paragraphs)
    assert f"because their prompts differ: {family.name}, {there[0].name}." in line


def test_sweeps_are_paired_within_one_generator_and_one_prompt_set(family):
    def varied(prompts=None, **values):
        identity = {**family.identity, **values}
        baseline = other(family.baseline, identity=identity)
        return family._replace(identity=identity, settings=(other(baseline, prompts) if prompts else baseline,))

    def paired(*second):
        found = section(make_study([varied(steps=1), varied(steps=1, guidance=1.5), *second]))
        rows = [row for block in found.blocks if hasattr(block, "rows") for row in block.rows]
        return [row[1:3] for row in rows], found.paragraphs

    own, theirs = ({"guidance": 9.0, **more} for more in ({}, {"weights": "others"}))
    assert paired(*(varied(steps=steps, **own) for steps in (2, 3)))[0] == [("guidance", "steps, mean")]
    assert paired(*(varied(steps=steps, **theirs) for steps in (2, 3)))[0] == []
    rows, paragraphs = paired(*(varied("others", steps=steps, **own) for steps in (2, 3)))
    assert rows == []
    assert "the sweeps of guidance and steps" in paragraphs[-1]


def test_gains_are_printed_by_command(study, capsys):
    sweep = [study / "baseline", *sorted(study.glob("top-*"))[:2]]
    side = ",".join(map(str, sweep))
    assert gendiv("compare", side, study / "random-0.5", "--at-equal", QUALITY) == 0
    printed = capsys.readouterr().out
    runs = [read_run(folder) for folder in (*sweep, study / "random-0.5")]
    columns = [torch.stack([run.columns[name] for run in runs]) for name in (QUALITY, LPIPS)]
    value, *_ = gain_at_equal_quality(columns[0][-1], columns[1][-1], columns[0][:-1], columns[1][:-1])
    assert (f"{value:+.4f}" if value == value else "no such quality") in printed
    assert f"gain in {LPIPS} at equal {QUALITY}" in printed
    assert "quality/no of each prompt" in gendiv("compare", side, study / "argmax", "--at-equal", "quality/no")
    cut = f"quality/clip_score_cut[{QUALITY.split('[')[1]}"  # lower is better, and no metric describes it
    message = gendiv("compare", side, study / "argmax", "--at-equal", cut)
    assert f"Choose a quality among {QUALITY}" in message
    assert "higher or lower is better is not known" in message


@pytest.fixture(scope="module")
def unequal(weights, tmp_path_factory):
    """Two runs of one setting with 4 and 8 samples per prompt."""
    folder = tmp_path_factory.mktemp("unequal")
    metrics = json.dumps(["pixel_cosine", "vendi", "vendi_set", "token_entropy"])
    few = ("--measure.metrics", metrics)
    predict(weights, folder / "four", *few)
    predict(weights, folder / "eight", *few, "--data.num_samples", "8")
    return folder


def test_unequal_numbers_of_samples_are_rarefied(unequal, capsys):
    assert gendiv("compare", unequal / "four", unequal / "eight") == 0
    printed = capsys.readouterr()
    assert "rarefied to 4 samples per prompt" in printed.err
    assert "diversity/vendi_set" in printed.err
    assert "diversity/vendi_set" not in printed.out
    runs = [read_run(unequal / name) for name in ("four", "eight")]
    (four, eight), dropped = rarefy(runs)
    assert four.columns["diversity/vendi[pixels]"].equal(runs[0].columns["diversity/vendi[pixels]"])
    before, after = (run.columns["diversity/vendi[pixels]"] for run in (runs[1], eight))
    assert (after < before).all()
    assert eight.estimates["codebook/coverage"].value < runs[1].estimates["codebook/coverage"].value
    assert (eight.columns["codebook/prompt_entries"] < runs[1].columns["codebook/prompt_entries"]).all()
    assert eight.columns["diversity/pixel_cosine"].equal(runs[1].columns["diversity/pixel_cosine"])
    assert {"h_total/token/plugin", "codebook/prompt_entropy_bits", "codebook/information_bits"} <= {*dropped}
    assert "codebook/entropy_bits" not in dropped
    assert "bias-corrected numbers are compared as they are" in printed.err
    name = "diversity/vendi[pixels]"
    vendi, own = eight.estimates[name], runs[1].estimates[name]
    assert vendi[:3] == bootstrap_mean(after)
    assert vendi.low < vendi.value < vendi.high
    sizes = own.num_prompts, own.num_samples // 2
    for rarefied in (vendi, eight.estimates["codebook/prompt_entries"], eight.estimates["codebook/coverage"]):
        assert rarefied[3:6] == (sizes[0], sizes[1], sizes[1])
    one = four._replace(protocol={**four.protocol, "data": {**four.protocol["data"], "num_samples": 1}})
    alone = rarefy([one, runs[1]])[0][1]
    assert alone.columns[name].isnan().all(), "one image has no Vendi score"
    assert alone.estimates["codebook/prompt_entries"].value < eight.estimates["codebook/prompt_entries"].value
    # The first four of the eight samples are the other run's: the expectation is near what they show.
    entries = [run.columns["codebook/prompt_entries"].mean().item() for run in (four, eight)]
    assert entries[1] == pytest.approx(entries[0], rel=0.1)


@pytest.mark.parametrize(
    ("design", "reason"),
    [
        ({"probe": "Decompose", "num_paths": 4, "num_paraphrases": 0, "length": "any"}, "share paths"),
        ({"probe": "Paraphrase", "num_paraphrases": 4, "length": "any"}, "every paraphrase of a prompt has the same"),
    ],
)
def test_a_balanced_design_is_refused_with_the_reason(unequal, tmp_path, design, reason):
    folder = tmp_path / "crossed"
    shutil.copytree(unequal / "eight", folder)
    (folder / "index.jsonl").unlink()
    file = folder / "fingerprint.json"
    there = json.loads(file.read_text())
    there["protocol"]["probes"] = [design]
    file.write_text(json.dumps(there))
    (folder / "description.json").unlink()
    message = gendiv("compare", unequal / "four", folder)
    assert "data.num_samples (4 and 8)" in message
    assert reason in message


def test_metrics_that_the_runs_did_not_measure_are_measured_on_their_images(study, capsys):
    sides = study / "baseline", study / "argmax"
    assert gendiv("compare", *sides, "--metrics", "vendi[tiny],pixel_cosine,codebook") == 0
    compared = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line}
    own = [read_run(side).estimates["codebook/entropy_bits"].value for side in sides]
    assert compared["codebook/entropy_bits"][1:3] == [f"{value:.4f}" for value in own]
    assert float(compared["diversity/vendi[tiny]"][1]) >= 1
    assert LPIPS not in compared
    for words, message in (
        (["--metrics", "nothing"], "metric 'nothing' is unknown"),
        (["--metrics", "fid"], "requires a reference of real images"),
        (["--metrics", "vendi", "--at-equal", QUALITY], "--metrics is for the comparison of two sides"),
    ):
        assert message in gendiv("compare", *sides, *words)
