"""`gendiv paraphrase` from end to end: files, errors, a failing server, a killed process."""

import json
import os
import signal
import subprocess
import time

import pytest
from chat_server import FAULTS, reword, serving, status
from running import gendiv

from gendiv_lightning.cli import main as cli
from gendiv_lightning.datamodules import PromptData
from gendiv_lightning.prompts.design import choose_paraphrases
from gendiv_lightning.records import SampleDesign, length_class
from gendiv_lightning.storage.named_files import named_file

POSTCARDS = named_file("toy:postcards.jsonl")
KEY = "sk-f00dfacef00dfacef00dface"


@pytest.fixture
def connect(monkeypatch, tmp_path):
    """Let the command use a server, with its own cache."""

    def connect(server, cache="cache"):
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("GENDIV_CACHE", str(tmp_path / cache))

    return connect


def words(out, *more, limit=6):
    settings = ("--model", "tiny", "--similarity", "tiny-clip", "--limit", limit)
    return [str(word) for word in ("paraphrase", POSTCARDS, "--out", out, *settings, *more)]


def run(*line):
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(word) for word in line])
    return stopped.value.code


def files(out):
    return out.read_bytes(), out.with_suffix(".card.json").read_bytes()


def test_a_set_is_what_the_probe_reads_and_its_card_says_how_it_was_made(connect, tmp_path, capsys):
    out = tmp_path / "set.jsonl"
    with serving() as server:
        connect(server)
        assert run(*words(out, "--min-similarity", "0.8", "--license", "CC0")) == 0
    output = capsys.readouterr().out
    assert "48 paraphrases of 6 prompts by tiny" in output
    assert "tiny-clip" in output
    records = [json.loads(line) for line in out.read_text().splitlines()]
    base = PromptData(path=str(POSTCARDS), limit=6).prompt_set().prompts
    assert [(r["prompt_id"], r["prompt"], r["source"]) for r in records] == [(p.id, p.text, p.source) for p in base]
    for paraphrase in (p for record in records for p in record["paraphrases"]):
        assert paraphrase.keys() == {"text", "length", "model", "seed", "similarity"}
        assert paraphrase["length"] == length_class(paraphrase["text"])
        assert 0.8 <= paraphrase["similarity"] <= 1
    read = PromptData(path=str(out)).prompt_set().prompts
    assert [prompt.id for prompt in read] == [prompt.id for prompt in base]
    assert len(choose_paraphrases(read[0], SampleDesign(16, 8, "mixed"))) == 8
    card = json.loads(out.with_suffix(".card.json").read_text())
    assert card["counts"]["paraphrases"] == 48
    assert card["similarity"]["distribution"]["tiny-clip"]["short"]["paraphrases"] == 18
    assert (card["license"], card["model"], card["seed"]) == ("CC0", {"model": "tiny"}, 0)
    assert run("paraphrase", out, "--check", "--similarity", "tiny-clip", "--min-similarity", "0.8") == 0
    assert run("paraphrase", out, "--check", "--similarity", "tiny-clip", "--min-similarity", "0.9999") == 1


def test_a_failing_server_gives_the_same_files_and_a_second_run_requests_nothing(connect, tmp_path):
    with serving() as server:
        connect(server, "one")
        assert run(*words(tmp_path / "smooth.jsonl", limit=4)) == 0
        straight = files(tmp_path / "smooth.jsonl")
    faults = [status(429, Retry_After="0"), *(FAULTS[name] for name in ("500", "hang up", "broken json", "truncated"))]
    with serving(faults=faults, seconds=0.05) as server:
        connect(server, "two")
        (tmp_path / "rough").mkdir()
        out = tmp_path / "rough" / "smooth.jsonl"
        assert run(*words(out, "--concurrency", "3", limit=4)) == 0
        assert files(out) == straight
        assert 1 < server.most_at_once <= 3
        assert set(server.answered.values()) == {1}
        assert run(*words(out, limit=4)) == 0
        assert files(out) == straight
        assert set(server.answered.values()) == {1}


def test_the_key_is_written_nowhere(connect, tmp_path, capsys):
    with serving() as server:
        connect(server)
        assert run(*words(tmp_path / "set.jsonl", limit=1)) == 0
        output = capsys.readouterr()
        assert KEY not in output.out + output.err
        server.faults = [lambda h: h.reply(json.dumps({"error": {"message": f"bad key {KEY}"}}), 401)]
        message = run(*words(tmp_path / "set.jsonl", "--seed", "1", limit=1))
    assert message.startswith("gendiv: error GD203: the endpoint rejected the request")
    assert KEY not in message
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 3
    assert not [path for path in written if KEY.encode() in path.read_bytes()]


def test_a_killed_run_resumes_repeats_no_request_and_writes_the_same_files(connect, tmp_path):
    with serving() as server:
        connect(server, "straight")
        assert run(*words(tmp_path / "set.jsonl", limit=12)) == 0
        straight = files(tmp_path / "set.jsonl")
    with serving(seconds=0.1) as server:
        connect(server, "killed")
        out = tmp_path / "killed" / "set.jsonl"
        line = gendiv(*words(out, "--concurrency", "2", limit=12))
        with subprocess.Popen(line, env=dict(os.environ), stderr=subprocess.DEVNULL) as process:
            for _ in range(2400):
                if sum(server.answered.values()) >= 8:
                    break
                assert process.poll() is None, "the command ended before it was killed"
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
        assert not out.exists()
        before = sum(server.asked.values())
        assert before < 36
        (tmp_path / "killed" / "paraphrases" / "00").mkdir(exist_ok=True)
        (tmp_path / "killed" / "paraphrases" / "00" / ".half.json.4711").write_text('{"answer": "and then the po')
        server.seconds = 0
        assert run(*words(out, limit=12)) == 0
        assert files(out) == straight
        assert len(server.asked) == 36
        assert sum(server.asked.values()) <= 36 + 2  # requests in flight


def test_a_model_with_one_answer_ends_with_status_1_and_names_the_prompt(connect, tmp_path, capsys):
    out = tmp_path / "set.jsonl"
    with serving(content=lambda body: '["red sky", "red sky", "RED sky"]') as server:
        connect(server)
        assert run(*words(out, "--length", "short", "--per-prompt", "2", limit=2)) == 1
    assert "2 prompts got fewer than 2 paraphrases, the first 969ece4e79b74067" in capsys.readouterr().err
    assert [len(json.loads(line)["paraphrases"]) for line in out.read_text().splitlines()] == [1, 1]
    card = json.loads(out.with_suffix(".card.json").read_text())
    assert card["counts"]["missing"] == 2
    assert card["counts"]["dropped"] == {"duplicate": 34}


def test_a_custom_instruction_is_sent_to_the_model(connect, tmp_path):
    (tmp_path / "mine.txt").write_text("Say it like a sailor.")
    with serving(content=reword) as server:
        connect(server)
        assert run(*words(tmp_path / "set.jsonl", "--instruction", tmp_path / "mine.txt", limit=1)) == 0
    assert {body["messages"][0]["content"] for body in server.bodies} == {"Say it like a sailor."}
    assert json.loads((tmp_path / "set.card.json").read_text())["instruction"] == "Say it like a sailor."


@pytest.mark.parametrize(("card", "message"), [("{", "is not a JSON object"), ('{"source": "me"}', "source must be")])
def test_a_malformed_card_of_the_prompts_is_an_error_before_any_request(card, message, connect, tmp_path):
    prompts, out = tmp_path / "mine.jsonl", tmp_path / "set.jsonl"
    prompts.write_text('{"prompt": "red sky"}\n')
    prompts.with_suffix(".card.json").write_text(card)
    with serving() as server:
        connect(server)
        assert message in run("paraphrase", prompts, *words(out)[2:])
    assert not server.bodies
    assert not out.exists()


def test_the_grammar_needs_neither_server_nor_key(tmp_path, monkeypatch):
    monkeypatch.setenv("GENDIV_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    call = ("paraphrase", POSTCARDS, "--model", "postcards", "--limit", "4", "--per-prompt", "3", "--out")
    assert run(*call, tmp_path / "set.jsonl") == 0
    first = files(tmp_path / "set.jsonl")
    monkeypatch.setenv("GENDIV_CACHE", str(tmp_path / "other"))
    assert run(*call, tmp_path / "set.jsonl") == 0
    assert files(tmp_path / "set.jsonl") == first


@pytest.mark.parametrize(
    ("more", "fragment"),
    [
        ([], "--out or --model is missing"),
        (["--out", "set.jsonl"], "--out or --model is missing"),
        (["--out", "set.csv", "--model", "m"], "must end in .jsonl"),
        (["--out", str(POSTCARDS), "--model", "m"], "would overwrite PROMPTS"),
        (["--out", "set.jsonl", "--model", "m"], "Set OPENAI_BASE_URL"),
        (["--out", "set.jsonl", "--model", "m", "--per-prompt", "0"], "--per-prompt must be above 0"),
        (["--out", "set.jsonl", "--model", "m", "--concurrency", "-1"], "--concurrency must be above 0"),
        (
            ["--out", "set.jsonl", "--model", "local:no/such", "--similarity", "tiny-clip"],
            "no/such' could not be loaded",
        ),
        (["--check", "--model", "m"], "Remove --out and --model"),
        (["--out", "set.jsonl", "--model", "postcards", "--similarity", "ViT"], "backbone must be"),
    ],
)
def test_impossible_arguments_are_one_line(more, fragment, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    message = run("paraphrase", POSTCARDS, *more)
    assert message.startswith("gendiv: error GD")
    assert fragment in message
    assert not list(tmp_path.iterdir())


def test_missing_prompts_or_paraphrases_are_errors(tmp_path):
    assert "is missing" in run("paraphrase", tmp_path / "no.txt", "--check")
    (tmp_path / "plain.txt").write_text("red sky\n")
    call = ("paraphrase", tmp_path / "plain.txt", "--check", "--similarity", "tiny-clip")
    assert "plain has no paraphrases to check" in run(*call)
