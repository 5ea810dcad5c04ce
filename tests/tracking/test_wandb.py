"""Weights & Biases: names of runs, what is sent, and that a failing service stops nothing."""

import json
import os
import shutil
import signal

import pytest
import wandb
from running import predict
from wandb_server import KEY, Service, closed_port

from gendiv_lightning.cli.main import main
from gendiv_lightning.report.context import make_study
from gendiv_lightning.report.summary import write_report
from gendiv_lightning.runs.folder import RunFolder
from gendiv_lightning.runs.load import families_of, find_runs
from gendiv_lightning.tracking.wandb import close_run, describe, open_run, send_results, unsent
from gendiv_lightning.tracking.wandb_report import build_report


@pytest.fixture
def connect(monkeypatch):
    """Point W&B's client to an address, with short timeouts; by default to a working service."""
    services = []

    def connect(url=None):
        service = None if url else Service()
        services.append(service)
        monkeypatch.setenv("WANDB_BASE_URL", url or service.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_INIT_TIMEOUT", "2")
        monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "4")
        wandb.teardown()
        return service

    yield connect
    wandb.teardown()
    for service in filter(None, services):
        service.close()


@pytest.fixture
def made(study, tmp_path) -> RunFolder:
    """A separate finished run."""
    shutil.copytree(study / "top-0.25", tmp_path / "run")
    return RunFolder(tmp_path / "run")


def opened(folder, mode="online", run_id="b" * 16):
    protocol = folder.read_protocol()
    return open_run(folder.path, protocol, {"model": {"x": 1}}, run_id=run_id, project="gendiv", mode=mode)


def log(run, folder):
    send_results(
        run, folder.read_metrics(), folder.read_per_prompt(), list(folder.read_samples()), folder.path / "grid.png"
    )


def log_and_close(run, folder):
    log(run, folder)
    close_run(run, folder.path, exit_code=0)


def gendiv(*words):
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return stopped.value.code


# --- what is sent ---


def test_a_run_is_named_grouped_and_tagged_by_its_settings(study):
    described = describe(RunFolder(study / "top-0.25").read_protocol())
    assert described["name"] == described["group"] == "LlamaGen (toy), most frequent 25 %"
    assert described["tags"] == ["LlamaGen", "CodebookSubset", "toy"]
    config = described["config"]
    assert [config[key] for key in ("generator", "probe", "ratio", "paraphrase_length", "seed")] == [
        *("LlamaGen", "CodebookSubset", 0.25, None, 0)
    ]
    assert [config["num_prompts"], config["num_samples"], len(config["fingerprint"])] == [4, 4, 8]
    first, second = (describe(RunFolder(study / name).read_protocol()) for name in ("argmax", "argmax-1"))
    assert first["group"] == second["group"] == first["name"]
    assert second["name"] == "LlamaGen (toy), argmax, seed 1"


def test_numbers_with_intervals_tables_and_the_grid_reach_the_service(made, connect):
    service = connect()
    run = opened(made)
    log_and_close(run, made)
    sent = {key: value for changed in service.runs for key, value in changed.items() if value}
    assert [sent["groupName"], sent["displayName"], sent["jobType"]] == [
        *2 * ["LlamaGen (toy), most frequent 25 %"],
        "predict",
    ]
    assert {"CodebookSubset", "LlamaGen", "toy"} <= set(sent["tags"])
    config = json.loads(sent["config"])
    assert [config["ratio"]["value"], config["model"]["value"]] == [0.25, {"x": 1}]
    names = ("diversity/lpips[tiny]", "diversity/lpips[tiny]/low", "diversity/lpips[tiny]/high", "codebook/coverage")
    assert all(json.dumps(name)[1:-1] in service.streamed for name in names)
    assert all(
        any(f"/{kind}" in file for file in service.files) for kind in ("grid", "samples", "per_prompt", "estimates")
    )
    assert unsent([made.path]) == []
    assert KEY not in service.streamed


# --- a service that fails ---


def test_a_run_whose_service_cannot_be_reached_ends_as_an_offline_run_that_can_be_sent(
    weights, tmp_path, connect, capfd
):
    connect(closed_port())
    with pytest.warns(UserWarning, match=r"cannot be reached.*gendiv report .*run --sync"):
        folder = predict(weights, tmp_path / "run", "--wandb", "online", limit=1)
    assert folder.is_finished
    (kept,) = unsent([tmp_path])
    assert kept.parent.name.startswith("offline-run-")

    assert "nothing was sent to Weights & Biases" in gendiv("report", tmp_path, "--sync")
    assert unsent([tmp_path]) == [kept]
    service = connect()
    assert gendiv("report", tmp_path, "--sync", "--out", tmp_path / "report") == 0
    assert unsent([tmp_path]) == []
    assert any("per_prompt" in file for file in service.files)
    assert (tmp_path / "report" / "index.html").exists()
    output = capfd.readouterr()
    assert "1 offline W&B runs were sent" in output.out
    assert KEY not in output.out + output.err


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["hangs", "fails"])
def test_a_service_that_fails_during_the_run_loses_nothing(fault, made, connect):
    service = connect()
    service.fails_after, service.then = "UpsertBucket", fault
    run = opened(made)
    with pytest.warns(UserWarning, match="Weights & Biases failed|did not accept all"):
        log_and_close(run, made)
    (kept,) = unsent([made.path])
    assert all(name in kept.read_bytes() for name in (b"diversity/lpips[tiny]/low", b"grid"))


def test_a_client_that_hangs_is_killed(made, connect, monkeypatch):
    connect()
    monkeypatch.setattr("gendiv_lightning.tracking.wandb.GRACE_SECONDS", -3)
    run = opened(made)
    os.kill(wandb.setup().ensure_service()._proc._process.pid, signal.SIGSTOP)
    with pytest.warns(UserWarning, match="did not accept all"):
        close_run(run, made.path, exit_code=0)
    (kept,) = unsent([made.path])
    assert kept.parent.name.startswith("offline-run-")


def test_sending_requires_a_login(made, connect, monkeypatch):
    service = connect()
    monkeypatch.delenv("WANDB_API_KEY")
    run = opened(made, mode="offline")
    close_run(run, made.path, exit_code=0)
    message = gendiv("report", made.path, "--sync")
    assert "nothing was sent" in message
    assert "wandb login" in message
    assert service.runs == []


# --- the W&B Report ---


def test_the_wandb_report_has_the_text_the_tables_and_panels_of_these_runs(study, decomposed):
    runs, _ = find_runs([study, decomposed])
    found = make_study(families_of(runs))
    report = write_report(found)
    spec = build_report(report, found, "team", "gendiv")._to_model().spec.model_dump(by_alias=True, exclude_none=True)
    text = json.dumps(spec)
    assert report.answer in text
    headings = [block["children"][0]["text"] for block in spec["blocks"] if block["type"] == "heading"]
    assert headings == [section.title for section in report.sections]
    grids = [block["metadata"] for block in spec["blocks"] if block["type"] == "panel-grid"]
    panels = [panel for grid in grids for panel in grid["panelBankSectionConfig"]["panels"]]
    assert {panel["viewType"] for panel in panels} >= {"Bar Chart", "Scatter Plot", "Media Browser", "Run Comparer"}
    assert all(axis in text for axis in ("summary:codebook/entropy_bits", "summary_metrics.h_exec/token"))
    for grid in grids:
        (filters,) = grid["runSets"][0]["filters"]["filters"]
        assert filters["key"] == {"section": "config", "name": "fingerprint"}
        assert sorted(filters["value"]) == sorted(run.label.fingerprint for run in runs)
    assert "figures/" not in text


def test_a_wandb_report_is_saved_and_its_address_printed(study, tmp_path, connect, monkeypatch, capsys):
    service = connect()
    monkeypatch.chdir(tmp_path)
    assert gendiv("report", study, "--wandb", "team/gendiv") == 0
    (spec,) = service.reports
    assert f"{service.url}/team/gendiv/reports/" in capsys.readouterr().out
    assert not (tmp_path / "report").exists()
    text = spec if isinstance(spec, str) else json.dumps(spec)
    for words in ("Diversity gained at equal", "compared with the sweep", "At equal quality: the settings of a sweep"):
        assert words in text, "the frontier is on W&B as a table, with its explanation"
    for axis in ("summary:quality/clip_score[tiny-clip]", "summary:diversity/lpips[tiny]"):
        assert axis in text, "and as a panel over the runs"


def test_a_wandb_report_without_a_service_is_one_line(study, connect):
    connect(closed_port())
    message = gendiv("report", study, "--wandb", "team/gendiv")
    assert message.startswith("gendiv: error GD203: nothing was sent to Weights & Biases: ")
    assert KEY not in message


@pytest.mark.parametrize("words", ["gendiv", "team/", "a/b/c"])
def test_where_a_wandb_report_goes_is_entity_and_project(words, study):
    assert f"--wandb must be ENTITY/PROJECT, got '{words}'" in gendiv("report", study, "--wandb", words)
