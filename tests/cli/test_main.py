"""The command: it starts at once, its help teaches, and a user error is one line."""

import subprocess
import sys
import time
from argparse import ArgumentError
from types import SimpleNamespace

import pytest
from running import gendiv, run, without_link

from gendiv_lightning.cli import main as cli
from gendiv_lightning.cli import predict as fit_free
from gendiv_lightning.cli.predict import explain


def test_help_answers_in_under_a_second():
    """The fastest of three runs, since the machine may be busy."""
    times = []
    for _ in range(3):
        started = time.monotonic()
        shown = run(gendiv("--help"))
        times.append(time.monotonic() - started)
        assert shown.returncode == 0
    assert "configs/tiny/llamagen.yaml" in shown.stdout
    assert min(times) < 1


def test_the_parser_imports_nothing_heavy():
    heavy = "torch lightning transformers datasets pyarrow wandb numpy"
    code = (
        "import sys; from gendiv_lightning.cli.main import build_parser; build_parser(); "
        f"print(sorted(set('{heavy}'.split()) & sys.modules.keys()))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"


def test_an_interrupt_is_one_line(monkeypatch, capsys):
    def interrupted(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupted)
    with pytest.raises(SystemExit) as stopped:
        cli.main([])
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "gendiv: interrupted\n"


@pytest.mark.parametrize("words", [["predict", "--help"], ["validate", "--help"], ["--help"]])
def test_the_help_of_predict_and_validate_shows_examples_and_options(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        fit_free.main(words)
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: gendiv {'fit-free' if words == ['--help'] else words[0]}")
    assert "\nexamples:\n" in shown
    if words != ["--help"]:
        assert "--run_dir" in shown
        assert "--data" in shown


@pytest.mark.parametrize("words", [["doctor", "--help"], ["toy", "--help"], ["toy", "train", "--help"]])
def test_every_command_has_help(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith("usage: gendiv")


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        ([], "predict,validate"),
        (["predikt"], "predikt"),
        (["predict"], "data"),
        (["predict", "--config", "no/such.yaml"], "no/such.yaml"),
    ],
)
def test_a_wrong_call_is_one_line(words, fragment):
    with pytest.raises(SystemExit) as stopped:
        fit_free.main(words)
    message = without_link(stopped.value.code)
    assert fragment in message
    assert "\n" not in message


def test_a_config_with_a_wrong_key_or_broken_yaml_is_an_error(tmp_path):
    for text, fragment in (("modle: 3\n", "modle"), ("model: [", "is not valid YAML")):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(SystemExit) as stopped:
            fit_free.main(["predict", "--config", str(tmp_path / "config.yaml")])
        assert fragment in stopped.value.code


def wrapped(message, inner):
    try:
        raise ArgumentError(None, message) from inner
    except ArgumentError as error:
        return error


def test_an_error_is_explained_by_its_keys_and_its_cause():
    cause = ValueError("top_k must be at least 1, got 0")
    inner = wrapped("Problem with given class_path 'gendiv_lightning.callbacks.TopK':\n  ...", cause)
    union = wrapped("Does not validate against any of the Union subtypes\nSubtypes: ...", inner)
    assert explain(wrapped('Parser key "trainer.callbacks":\n ...', union)) == (
        "trainer.callbacks (TopK): top_k must be at least 1, got 0"
    )


def test_our_own_errors_are_shown_unchanged():
    error = ValueError("the file is missing")
    error.__cause__ = OSError("no such file")
    assert explain(error) == "the file is missing"


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["fit-free", "predict", "--config", "a.yaml"], ["predict", "--config", "a.yaml"]),
        (["predict", "--config", "a.yaml"], ["predict", "--config", "a.yaml"]),
        (["validate", "--config", "a.yaml"], ["validate", "--config", "a.yaml"]),
    ],
)
def test_predict_and_validate_need_no_fit_free(words, left, monkeypatch):
    """From the words that a test gives, and from the command line that other ranks are started with."""
    received = []
    monkeypatch.setattr(fit_free, "predict", lambda config: None)
    monkeypatch.setattr(fit_free, "validate", lambda config: None)
    monkeypatch.setattr(fit_free, "Config", lambda args: received.append(args) or SimpleNamespace(subcommand=left[0]))
    cli.main(words)
    assert received == [left]
    monkeypatch.setattr(sys, "argv", ["gendiv", *words])
    assert fit_free.command_words() == left


def test_slow_loading_is_reported_once_and_only_on_rank_zero(capsys, monkeypatch):
    with cli.say_if_slow("loading ...", seconds=0.01):
        time.sleep(0.2)
    assert capsys.readouterr().err == "gendiv: loading ...\n"
    with cli.say_if_slow("loading ...", seconds=10):
        pass
    monkeypatch.setenv("LOCAL_RANK", "1")
    with cli.say_if_slow("loading ...", seconds=0.01):
        time.sleep(0.1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("word", "expanded"),
    [
        ("~/x", "/home/me/x"),
        ("--out=~/x", "/home/me/x"),
        ("--out", "--out"),
        ("a~/b", "a~/b"),
        ("--seed=0", "--seed=0"),
    ],
)
def test_home_is_expanded_in_every_word(word, expanded, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert cli.expand_home(word).removeprefix("--out=") == expanded
