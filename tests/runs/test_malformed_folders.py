"""Untrusted run folders: every problem in a file is one line that names the file, in every command."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from running import without_link

from gendiv_lightning.cli.main import main

FINGERPRINT, METRICS, PER_PROMPT = "fingerprint.json", "metrics.json", "per_prompt.parquet"


def text(content):
    """Replace a file by these bytes."""

    def change(file):
        file.write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def edited(edit):
    """Change the content of a JSON file."""

    def change(file):
        value = json.loads(file.read_text())
        edit(value)
        file.write_text(json.dumps(value))

    return change


def protocol(edit):
    """Change the protocol of a run."""
    return edited(lambda there: edit(there["protocol"]))


def estimate(**values):
    """Change a number of `metrics.json`."""
    return edited(lambda there: there["diversity/ssim"].update(values))


def table(edit):
    """Change a Parquet table."""

    def change(file):
        pq.write_table(edit(pq.ParquetFile(file).read()), file)

    return change


def missing(file):
    """Remove a file."""
    file.unlink()


def folder(file):
    """Replace a file by a folder."""
    file.unlink()
    file.mkdir()


def without(name):
    """A table without a column."""
    return table(lambda there: there.drop_columns([name]))


def retyped(name, kind):
    """A table with another type of a column."""
    return table(lambda there: there.set_column(there.column_names.index(name), name, there[name].cast(kind)))


def first_shard(file):
    """The first shard of a run, instead of its folder."""
    return sorted(file.glob("*.parquet"))[0]


def shard(change):
    """Change the first shard."""
    return lambda file: change(first_shard(file))


CASES = {
    "fingerprint, empty": (FINGERPRINT, text("")),
    "fingerprint, cut off": (FINGERPRINT, text('{"protocol": {"generator"')),
    "fingerprint, a list": (FINGERPRINT, text("[]")),
    "fingerprint, null": (FINGERPRINT, text("null")),
    "fingerprint, bytes": (FINGERPRINT, text(b"\xff\xfe\x00")),
    "fingerprint, deep": (FINGERPRINT, text("[" * 100_000)),
    "fingerprint, a folder": (FINGERPRINT, folder),
    "no protocol": (FINGERPRINT, text("{}")),
    "protocol, a text": (FINGERPRINT, text('{"protocol": "x"}')),
    "generator, a text": (FINGERPRINT, protocol(lambda p: p.update(generator="llamagen"))),
    "generator without a name": (FINGERPRINT, protocol(lambda p: p["generator"].pop("generator"))),
    "probes, an object": (FINGERPRINT, protocol(lambda p: p.update(probes={}))),
    "a probe, a number": (FINGERPRINT, protocol(lambda p: p.update(probes=[1]))),
    "a probe without a name": (FINGERPRINT, protocol(lambda p: p.update(probes=[{}]))),
    "a subset of nothing": (
        FINGERPRINT,
        protocol(lambda p: p["probes"].append({"probe": "X", "select": "list", "size": 0, "codebook_size": 0})),
    ),
    "no data": (FINGERPRINT, protocol(lambda p: p.pop("data"))),
    "seed, a text": (FINGERPRINT, protocol(lambda p: p["data"].update(seed="0"))),
    "prompts, null": (FINGERPRINT, protocol(lambda p: p["data"].update(num_prompts=None))),
    "metrics, an object": (FINGERPRINT, protocol(lambda p: p.update(metrics={}))),
    "a metric without names": (FINGERPRINT, protocol(lambda p: p["metrics"][0].update(names=[]))),
    "metrics.json, empty": (METRICS, text("")),
    "metrics.json, a list": (METRICS, text("[1]")),
    "an estimate, a number": (METRICS, edited(lambda m: m.update({"diversity/ssim": 0.5}))),
    "a value, a text": (METRICS, estimate(value="0.5")),
    "a count, null": (METRICS, estimate(num_prompts=None)),
    "a count below 0": (METRICS, estimate(num_samples=-1)),
    "a number too many": (METRICS, estimate(p=0.5)),
    "table, empty": (PER_PROMPT, text("")),
    "table, not Parquet": (PER_PROMPT, text("PAR1 and so on")),
    "table, missing": (PER_PROMPT, missing),
    "table without ids": (PER_PROMPT, without("prompt_id")),
    "table with a row too few": (PER_PROMPT, table(lambda t: t.slice(1))),
    "table with a prompt twice": (PER_PROMPT, table(lambda t: pa.concat_tables([t.slice(0, 2), t.slice(0, 1)]))),
    "numbers that are texts": (PER_PROMPT, retyped("diversity/ssim", pa.string())),
    "description, not JSON": ("description.json", text("{")),
    "description of other probes": (
        "description.json",
        text('{"generator": {"family": "a", "title": "A"}, "probes": [{"probe": "B", "label": "b", "short": "b"}]}'),
    ),
    "environment, empty": ("environment.json", text("")),
    "environment, a number": ("environment.json", text('{"devices": 1}')),
    "prompt card, a list": ("prompts.card.json", text("[]")),
    "prompt card without limit": ("prompts.card.json", text('{"text_encoder": {"prompts": {"texts": 1, "cut": 0}}}')),
    "counts, not safetensors": ("usage.safetensors", text("x" * 100)),
    "shard, empty": ("samples", shard(text(""))),
    "shard without tokens of a row": ("samples", shard(table(lambda t: t.slice(0, 0)))),
    "shard without images": ("samples", shard(without("image"))),
    "shard, text for numbers": ("samples", shard(retyped("sample", pa.string()))),
    "shard, a picture cut off": (
        "samples",
        shard(table(lambda t: t.set_column(0, "image", pa.array([{"bytes": b"\x89PNG\r\n", "path": ""}] * len(t))))),
    ),
}
COMMANDS = {
    "show": ["show", "{run}"],
    "compare": ["compare", "{good}", "{run}"],
    "decompose": ["decompose", "{run}", "--argmax", "{good}"],
    "report": ["report", "{run}", "--out", "{out}"],
    "measure": ["measure", "{run}", "--metrics", "pixel_cosine"],
    "power": ["power", "--pilot", "{run}", "--metric", "pixel_cosine", "--width", "0.1"],
    "verify": ["verify", "{run}", "--num", "100"],
}


@pytest.fixture(scope="module")
def ends(decomposed, tmp_path_factory):
    """How a command ends on a case: its status or message, run once for each pair; a traceback is raised."""
    here = tmp_path_factory.mktemp("malformed")

    def ends(command, case):
        run = here / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(decomposed / "plain", run)
        (run / "index.jsonl").unlink(missing_ok=True)  # without checksums, since the folder was written like this
        name, change = CASES[case]
        change(run / name)
        words = [word.format(run=run, good=decomposed / "argmax", out=here / "report") for word in COMMANDS[command]]
        with pytest.raises(SystemExit) as stopped:
            main(words)
        return stopped.value.code

    return ends


# The files that a command reads; it must not fail because of other files.
READS = {
    "show": {FINGERPRINT, METRICS, PER_PROMPT, "description.json", "environment.json", "prompts.card.json"},
    "compare": {FINGERPRINT, METRICS, PER_PROMPT, "description.json"},
    "decompose": {FINGERPRINT, METRICS, PER_PROMPT, "description.json", "samples"},
    "report": {FINGERPRINT, METRICS, PER_PROMPT, "description.json"},
    "measure": {"usage.safetensors", "samples"},
    "power": {FINGERPRINT, "samples"},
    "verify": {FINGERPRINT, "samples"},
}


# The last two sample or measure again, which takes long: only what they read is tried.
PAIRS = [
    (command, case)
    for command in COMMANDS
    for case, (name, _) in CASES.items()
    if name in READS[command] or command not in ("power", "verify")
]


@pytest.mark.parametrize(("command", "case"), PAIRS)
def test_a_malformed_file_is_one_line_with_its_name(command, case, ends):
    name, _ = CASES[case]
    ended = ends(command, case)
    if name in READS[command]:
        assert isinstance(ended, str), "a malformed file was accepted"
        assert name in ended
        assert "\n" not in without_link(ended)
        assert len(ended) < 600
    else:
        assert ended == 0 or (isinstance(ended, str) and "\n" not in without_link(ended))
