"""`gendiv report`: the page from runs, the same bytes for the same runs, and each number the one that was measured."""

import base64
import csv
import hashlib
import io
import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image
from running import contents, metrics_of, predict

from gendiv_lightning.analysis import paper_claims as claims
from gendiv_lightning.analysis.effects import Interval, Knee, find_knee
from gendiv_lightning.analysis.paper_claims import RUNS, command_for, find_verdict
from gendiv_lightning.cli.main import main
from gendiv_lightning.functional.comparison import compare
from gendiv_lightning.report import summary
from gendiv_lightning.report.document import Answer, Number, Report, Samples, Section, Table
from gendiv_lightning.report.html import to_html
from gendiv_lightning.report.markdown import _wrapped, to_csv, to_latex, to_markdown
from gendiv_lightning.report.pictures import make_row
from gendiv_lightning.report.svg import Chart, linear
from gendiv_lightning.runs.description import describe
from gendiv_lightning.runs.folder import RunFolder
from gendiv_lightning.runs.labels import label_of
from gendiv_lightning.runs.load import Family, Run, Setting, families_of, find_runs, setting_of

ROOT = Path(__file__).parents[2]


def png(side):
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), "teal").save(buffer, "PNG")
    return buffer.getvalue()


def gendiv(*words):
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return stopped.value.code


@pytest.fixture(scope="module")
def report(study, tmp_path_factory):
    """The report of the study, in a folder."""
    folder = tmp_path_factory.mktemp("report")
    assert gendiv("report", study, "--out", folder) == 0
    return folder


def rows_of(report, table):
    with (report / "tables" / f"{table}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_same_runs_give_the_same_bytes_wherever_they_lie_and_in_any_order(study, report, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(study, moved)
    folders = sorted((path.parent for path in moved.glob("*/metrics.json")), reverse=True)
    assert gendiv("report", *folders, folders[0], "--out", tmp_path / "again") == 0
    assert contents(tmp_path / "again") == contents(report)


def test_the_page_stands_alone(report):
    page = (report / "index.html").read_text()
    assert not re.findall(r"""(?:src|href)="(?!#|data:)[^"]*|url\(|@import""", page)
    assert set(re.findall(r"https?://[^\"' <]*", page)) == {"http://www.w3.org/2000/svg"}


def test_the_policy_allows_the_one_script_and_the_styles_of_the_page_by_their_hashes(report):
    page = (report / "index.html").read_text()
    (policy,) = re.findall(r'"Content-Security-Policy" content="([^"]*)"', page)
    for kind in ("style", "script"):
        (content,) = re.findall(f"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    names = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: names.extend(name for name, _ in attributes)
    parser.feed(page)
    assert not [name for name in names if name == "style" or name.startswith("on")]


def test_a_hostile_prompt_is_only_text(report, hostile):
    page = (report / "index.html").read_text()
    assert page.count("<script") == 1, "the page's own"
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &quot;a &amp; b&#x27; onload=x" in page
    assert hostile not in page


def test_no_picture_holds_what_is_not_a_number(report):
    drawings = [path.read_text() for path in (report / "figures").iterdir()]
    assert len(drawings) >= 4
    for drawing in drawings:
        assert not re.search(r"\b(nan|inf|None)\b", re.sub(r"<(text|title)[^>]*>.*?</\1>", "", drawing))


def test_every_caption_says_prompts_samples_runs_and_that_it_is_a_toy(report):
    captions = re.findall(r"<figcaption>(?!<b>)(.*?)</figcaption>", (report / "index.html").read_text())
    assert len(captions) >= 5
    for caption in captions:
        assert re.search(r"4 prompts, \d+ samples", caption)
        assert re.search(r"Runs [0-9a-f]{8}", caption)
        assert "Toy" in caption
        assert re.search(r"CLIP score|quality", caption) or "Entropy" in caption


def family(generator, embedded):
    """A family with a baseline alone, as version 0.1 wrote it."""
    data = {"seed": 0, "num_prompts": 1, "num_samples": 1, "prompt_set": "p"}
    protocol = {"generator": {"generator": generator, "embedded": embedded}, "probes": [], "data": data}
    run = Run(RunFolder("run"), label_of(protocol), protocol, describe(protocol), {}, {}, ())
    return Family(run.label.generator, protocol["generator"], (setting_of([run]),))


def test_what_is_missing_is_said_with_the_command_that_makes_it(report):
    page = (report / "index.html").read_text()
    for run in ("decompose", "paraphrases", "the enhancement"):
        command = command_for(family("llamagen", True), run)
        assert f"<code>{command.strip('`')}</code>" in page


@pytest.mark.parametrize("embedded", [True, False])
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("generator", ["llamagen", "amused", "vqdiffusion"])
def test_a_command_to_make_a_run_names_a_config_that_is_there(generator, run, embedded):
    command = command_for(family(generator, embedded), run)
    (config,) = re.findall(r"--config (\S+?)(?:`| )", command)
    assert (ROOT / config).exists()
    assert ("configs/tiny/" in config) == embedded


def test_the_profile_has_the_numbers_of_the_runs_and_their_paired_differences(study, report):
    rows = {row["setting"]: row for row in rows_of(report, "profile-1")}
    baseline, random = RunFolder(study / "baseline"), RunFolder(study / "random-0.5")
    value = metrics_of(random)["diversity/lpips[tiny]"]["value"]
    row = rows["random 50 %"]
    assert float(row["LPIPS[tiny]"]) == pytest.approx(value, rel=1e-5)
    columns = [torch.tensor(f.read_per_prompt()["diversity/lpips[tiny]"].to_pylist()) for f in (baseline, random)]
    expected = compare(*columns)
    assert float(row["LPIPS[tiny] difference"]) == pytest.approx(expected.difference, rel=1e-5)
    assert float(row["LPIPS[tiny] difference low"]) == pytest.approx(expected.low, rel=1e-4)
    quality = metrics_of(random)["quality/clip_score[tiny-clip]"]["value"]
    assert float(row["CLIP score [tiny-clip] ↑"]) == pytest.approx(quality, rel=1e-5)


def test_seeds_of_a_setting_are_one_row_with_their_mean(study, report):
    rows = {row["setting"]: row for row in rows_of(report, "profile-1")}
    values = [metrics_of(RunFolder(study / n))["diversity/lpips[tiny]"]["value"] for n in ("baseline", "baseline-1")]
    assert float(rows["baseline"]["LPIPS[tiny]"]) == pytest.approx(sum(values) / 2, rel=1e-5)
    assert rows["baseline"]["run"].count(",") == 1
    assert float(rows["argmax"]["LPIPS[tiny]"]) == 0
    assert len(rows_of(report, "runs")) == 6


def test_a_setting_with_fewer_seeds_is_compared_with_the_baseline_of_its_seeds(study):
    (found,) = families_of(find_runs([study])[0])
    (random, *_) = found.find("CodebookSubset")
    baseline = found.baseline_of(random)
    assert [run.label.seed for run in random.runs] == [0] == [run.label.seed for run in baseline.runs]
    assert [run.label.seed for run in found.baseline.runs] == [0, 1]


def test_runs_over_other_prompts_are_not_compared(study, decomposed):
    (found,) = families_of(find_runs([study, decomposed])[0])
    (plain,) = found.find("Decompose")
    (argmax,) = found.find("Argmax", "Decompose")
    assert found.baseline_of(argmax) is plain
    assert found.baseline_of(plain) is None
    assert found.baseline_of(found.baseline) is None


def test_three_runs_of_a_design_give_a_verdict_and_the_answer(decomposed, tmp_path, capsys):
    assert gendiv("report", decomposed, "--out", tmp_path) == 0
    assert "In LlamaGen from the token draws." in capsys.readouterr().out
    (row,) = rows_of(tmp_path, "verdicts")
    (llamagen,) = families_of(find_runs([decomposed])[0])
    assert row["verdict"] == find_verdict(llamagen, "diversity/lpips[tiny]").kind
    assert float(row["left under argmax"]) == 0
    page = (tmp_path / "index.html").read_text()
    assert "LlamaGen: path is nothing, by construction; execution is which token each position gets" in page
    lenses = {row["lens"] for row in rows_of(tmp_path, "decomposition")}
    assert {"A tokens", "B sequences", "C lpips[tiny]"} <= lenses
    outcomes = {row["as a number"]: row["outcome"] for row in rows_of(tmp_path, "claims")}
    assert outcomes["sampler path, share of the diversity of one paraphrase: below 10 %"] == "agrees"
    assert outcomes["left under both: above 100 %"] == "not measured"


def test_an_unfinished_run_is_left_out_and_named(study, tmp_path, capsys):
    folder = tmp_path / "runs"
    shutil.copytree(study, folder)
    (folder / "argmax-1" / "metrics.json").unlink()
    assert gendiv("report", folder, "--out", tmp_path / "out") == 0
    assert "argmax-1 is not finished" in capsys.readouterr().err
    assert len(rows_of(tmp_path / "out", "runs")) == 5


def test_what_a_former_report_left_goes_and_other_files_stay(study, decomposed, tmp_path):
    assert gendiv("report", study, decomposed, "--out", tmp_path) == 0
    for name in ("tables/decomposition.csv", "tables/mine.csv", "figures/decomposition.svg"):
        (tmp_path / name).touch()
    assert gendiv("report", study, "--out", tmp_path) == 0
    there = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    assert not {name for name in there if "decomposition" in name}
    assert {"tables/mine.csv", "tables/profile-1.csv", "figures/ib-plane.svg"} <= there


def test_one_prompt_with_one_sample_makes_a_page_that_says_what_is_not_known(weights, tmp_path, capsys):
    predict(weights, tmp_path / "run", "--data.num_samples", "1", limit=1)
    assert gendiv("report", tmp_path / "run", "--out", tmp_path / "out") == 0
    assert "In LlamaGen it is not measured yet." in capsys.readouterr().out
    page = (tmp_path / "out" / "index.html").read_text()
    assert "n/a" in page
    assert ' d="M"' not in page


def test_toys_and_real_models_do_not_share_a_report(study, tmp_path):
    folder = tmp_path / "runs"
    shutil.copytree(study / "baseline", folder / "toy")
    shutil.copytree(study / "baseline", folder / "real")
    (folder / "real" / "index.jsonl").unlink()  # of the checksums
    file = folder / "real" / "fingerprint.json"
    there = json.loads(file.read_text())
    there["protocol"]["generator"]["embedded"] = False
    file.write_text(json.dumps(there))
    assert "a separate report of each" in gendiv("report", folder, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_report_is_never_written_into_a_run(study):
    run = next(path.parent for path in study.glob("*/fingerprint.json"))
    before = sorted(path.name for path in run.iterdir())
    assert "is a run folder" in gendiv("report", run, "--out", run)
    assert sorted(path.name for path in run.iterdir()) == before


def test_a_folder_without_runs_is_told(tmp_path):
    assert "no finished run" in gendiv("report", tmp_path, "--out", tmp_path / "out")


def test_measured_images_are_not_taken_for_a_run(tmp_path):
    (tmp_path / "metrics.json").write_text("{}")
    assert "the numbers of `gendiv measure`" in gendiv("report", tmp_path, "--out", tmp_path / "out")


# --- rules with known answers ---


def curve(*means, noise=0.0):
    generator = torch.Generator().manual_seed(0)
    ratios = [2.0 ** (place - len(means) + 1) for place in range(len(means))]
    columns = [{"d": mean + noise * torch.randn(50, generator=generator).double()} for mean in means]
    return [(ratio, Setting((), {}, column)) for ratio, column in zip(ratios, columns, strict=True)]


@pytest.mark.parametrize(
    ("means", "ratio"),
    [
        ((0.2, 0.5, 0.95, 1.0), 0.5),
        ((1.6, 1.3, 1.2, 1.0), 1.0),
        ((0.95, 1.02, 1.05, 1.0), 0.125),
        ((1.0, 0.5, 1.0, 1.0), 0.5),
    ],
)
def test_the_knee_is_where_the_diversity_begins_to_stay(means, ratio):
    assert find_knee(curve(*means), "d") == Knee(ratio, 1.0)


def test_a_knee_on_the_edge_is_not_sure():
    knee = find_knee(curve(0.5, 0.9, 1.0, noise=0.1), "d")
    assert 0.3 < knee.certainty < 0.8
    assert find_knee(curve(0.5, 1.0), "d") is None


@pytest.mark.parametrize(
    ("number", "outcome"),
    [
        (Interval(0.05, 0.02, 0.08), "agrees"),
        (Interval(0.09, 0.05, 0.2), "undecided"),
        (Interval(0.4, 0.3, 0.5), "contradicted"),
        (Interval(0.05), "undecided"),
        (Interval(math.nan), "not measured"),
        (None, "not measured"),
    ],
)
def test_a_claim_is_decided_by_where_the_interval_lies(number, outcome):
    assert claims.outcome_of(claims.CLAIMS[0], number) == outcome


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (Interval(0.2, 0.1, 0.3), "comes from the token draws"),
        (Interval(0.5, 0.4, 0.6), "undecided: an interval includes one half"),
        (Interval(0.2), "undecided: there are too few prompts for an interval"),
        (Interval(math.nan), "not measured yet"),
    ],
)
def test_an_answer_tells_an_unknown_interval_from_one_that_includes_one_half(study, path, words):
    (family,) = families_of(find_runs([study])[0])
    _, sentence = summary._source(summary._Case(family, Interval(0.9, 0.8, 1.0), path, None))
    assert words in sentence


def test_numbers_are_written_with_a_real_minus_and_percent_once():
    assert str(Number(-0.25, -0.5, 0.0, 2)) == "−0.25 [−0.50, 0.00]"
    assert str(Number(0.5, 0.25, 0.75, 0, percent=True)) == "50\u202f% [25, 75\u202f%]"
    assert Number(0.5, is_change=True).text == "+0.500"
    assert Number(-0.0001, digits=3).text == "0.000"
    assert Number(math.nan).text == "n/a"


def test_a_table_is_safe_in_every_language(hostile):
    table = Table("t", "50 % of x_1", ("name", "value", "difference"), ((hostile, Number(1.5, 1, 2), ""),), "a & b")
    ((name, value, low, high, difference),) = list(csv.reader(to_csv(table).splitlines()[1:]))
    assert (name, value, low, high, difference) == (hostile, "1.5", "1", "2", "")
    assert to_csv(table).startswith("name,value,value low,value high,value difference\n")
    latex = to_latex(table)
    assert r"\{red\} \$x\$ \# \%" in latex
    assert r"50 \% of x\_1" in latex


@pytest.mark.parametrize(("num_rows", "is_folded"), [(30, False), (31, True)])
def test_a_long_table_is_folded(num_rows, is_folded):
    table = Table("t", "Runs", ("name",), (("a",),) * num_rows)
    page = to_html(Report("", "", (), table, "", "", ()))
    assert ("<summary>Runs, 31 rows</summary>" in page) == is_folded


@pytest.mark.parametrize("words", ["=HYPERLINK('x')", "+1", "-1", "@SUM(A1)"])
def test_no_text_of_a_csv_table_is_a_formula(words):
    table = Table("t", "", (words, "value"), ((words, Number(-1.5, -2, -1)), (Number(2.0), "")))
    rows = list(csv.reader(to_csv(table).splitlines()))
    assert rows[0][0] == f"'{words}"
    assert rows[1] == [f"'{words}", "", "", "-1.5", "-2", "-1"]


def test_names_of_others_are_no_markup_and_no_control_characters():
    name = "# *A* [b](c) `d\n\x1b[2J<script>"
    chart = Chart(name, linear("x", [0, 1]), linear("y", [0, 1]), width=200, height=200)
    chart.mark(0.5, 0.5, "circle", "", name)
    table = Table("t", name, (name, name), ((name, Number(1.0)),), name)
    rows = (make_row(name, [png(8), png(8)], name),)
    samples = (Samples("s", ((name, rows),), name), Samples("b", ((name, rows),), name, name))
    section = Section("a", name, (name.replace("\n", ""),), (*samples, table), (name,))
    report = Report(name, f"In {name} it is so.", (Answer(name, name),), table, name, name, (section,))
    for page in (to_markdown(report), to_html(report), chart.svg()):
        assert "\x1b" not in page
        assert not re.search(r"(?<!\\)<script(?!>\n*\"use strict\")", page)
    ElementTree.fromstring(chart.svg())
    assert r"**In # \*A\* \[b\]".replace("# ", r"\# ") in to_markdown(report)
    assert "\n- Missing: \\# \\*A\\*" in to_markdown(report)


def test_markdown_is_wrapped_where_no_block_begins():
    prose = "> " + "word " * 30 + "- 1. " * 30 + "end"
    table, code = f"| {'cell ' * 40} |", f"```\n{'code ' * 40}\n```"
    wrapped = _wrapped("\n".join([prose, "", table, code]))
    quoted = wrapped.split("\n\n")[0].split("\n")
    assert " ".join(line.removeprefix("> ") for line in quoted).split() == prose.removeprefix("> ").split()
    assert all(line.startswith("> ") and not line.startswith(("> -", "> 1.")) for line in quoted)
    assert len(quoted[0]) <= 100
    assert wrapped.endswith(f"{table}\n{code}")
