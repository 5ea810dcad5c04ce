"""Words and values of every command: empty ones, options given twice, numbers and outputs that cannot be meant."""

from argparse import Namespace

import pytest

from gendiv_lightning.cli.main import main
from gendiv_lightning.cli.options import (
    Parser,
    check_numbers,
    check_once,
    check_output_file,
    check_output_folder,
    check_words,
)


@pytest.mark.parametrize(
    ("words", "name"), [(["a", "--only", ""], "--only"), (["--only="], "--only"), (["a", " "], "argument 2")]
)
def test_an_empty_word_is_an_error_that_names_its_option(words, name):
    with pytest.raises(ValueError, match=f"^{name} must not be empty"):
        check_words(words)


def test_a_key_of_a_config_is_set_once():
    check_once([])
    check_once(["--config", "a", "--config", "b", "--probes+=A", "--probes.x=1", "--probes+=B", "--probes.x=2"])
    with pytest.raises(ValueError, match=r"^--data\.seed must be given only once, got 1 and 2"):
        check_once(["--data.seed", "1", "--data.limit", "3", "--data.seed=2"])


def test_an_option_is_given_once_unless_it_collects(capsys):
    parser = Parser()
    parser.add_argument("--one")
    parser.add_argument("--many", action="append")
    nested = parser.add_subparsers().add_parser("sub")
    nested.add_argument("--two", type=int)
    assert parser.parse_args(["--many", "a", "--many", "b", "sub", "--two", "1"]).many == ["a", "b"]
    for words in (["--one", "a", "--one", "b"], ["sub", "--two", "1", "--two", "2"]):
        with pytest.raises(SystemExit):
            parser.parse_args(words)
        assert "must be given only once" in capsys.readouterr().err


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 2**63, -(2**63) - 1, [1.0, float("inf")]])
def test_numbers_are_finite_and_fit_64_bits(value):
    check_numbers(Namespace(seed=2**63 - 1, share=0.5, name="nan", none=None, many=[1.0]))
    with pytest.raises(ValueError, match=r"^--max-corrupt must be a"):
        check_numbers(Namespace(max_corrupt=value))


def test_outputs_are_checked_before_anything_is_computed(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "new" / "file.svg", tmp_path / "file"):
        check_output_file(path, "--out")
    check_output_folder(tmp_path / "new", "--out")
    with pytest.raises(ValueError, match=r"^--out must end in \.svg"):
        check_output_file(tmp_path / "a.png", "--out", ".svg")
    with pytest.raises(ValueError, match=r"^--out must be a file"):
        check_output_file(tmp_path, "--out")
    with pytest.raises(ValueError, match=r"^--out must be a folder"):
        check_output_folder(tmp_path / "file", "--out")
    for check in (check_output_file, check_output_folder):
        with pytest.raises(ValueError, match=r"^--out: .* lies below .*file, which is a file"):
            check(tmp_path / "file" / "a" / "b", "--out")


def test_the_command_checks_its_words_before_it_imports_anything_heavy():
    with pytest.raises(SystemExit) as stopped:
        main(["measure", "images", "--column", ""])
    assert "--column must not be empty" in str(stopped.value.code)
