"""Every error that a user can cause has a kind with a code, which the command line prints with a link to its page."""

import ast
import importlib.util
import inspect
import re
from pathlib import Path

import pytest

from gendiv_lightning import errors
from gendiv_lightning.cli import main as cli
from gendiv_lightning.errors import (
    ConfigValueError,
    GendivError,
    MissingFileError,
    MissingWeightsError,
    NetworkError,
    command_line_text,
    kinds,
    restated,
)

ROOT = Path(__file__).parents[1]
FOLDERS = [ROOT / name for name in ("gendiv_lightning", "callbacks", "datamodules")]
MODULES = [path for folder in FOLDERS for path in sorted(folder.rglob("*.py")) if path.name != "errors.py"]


def calls(path):
    """The calls of a module, by the name of what they call."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id, node


def pattern(node):
    """A regular expression for the texts that an expression can give; `.*` if it is not a literal."""
    if isinstance(node, ast.Constant):
        return re.escape(str(node.value))
    if isinstance(node, ast.JoinedStr):
        return "".join(".*" if isinstance(part, ast.FormattedValue) else pattern(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return pattern(node.left) + pattern(node.right)
    return ".*"


def raised():
    """Patterns of the messages of every kind, by its name."""
    found = {kind.__name__: [] for kind in kinds()}
    for path in MODULES:
        for name, call in calls(path):
            if name in found:
                found[name].append(pattern(call.args[0]))
    return found


RAISED = raised()


def example_of(kind):
    return " ".join(inspect.cleandoc(kind.__doc__).split("\n\n")[-1].removeprefix("Example: ").split())


def test_every_kind_has_its_own_code():
    codes = [kind.code for kind in kinds()]
    assert len(set(codes)) == len(codes) > 20
    assert all(re.fullmatch(r"GD[1-7]\d\d", code) for code in codes), codes
    named = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, GendivError)]
    assert set(named) - {GendivError} == set(kinds())


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.code)
def test_every_kind_is_raised_with_a_message_like_its_example(kind):
    messages = RAISED[kind.__name__]
    assert messages, f"nothing raises {kind.__name__}: remove it"
    example = example_of(kind)
    assert any(message != ".*" and re.fullmatch(message, example) for message in messages), (
        f"no message of {kind.__name__} looks like its example: {example}"
    )


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.code)
def test_every_kind_is_a_value_error_that_can_be_raised_with_a_message(kind):
    with pytest.raises(ValueError, match="what is wrong"):
        raise kind("what is wrong")


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [(MissingFileError, FileNotFoundError), (MissingWeightsError, FileNotFoundError), (NetworkError, ConnectionError)],
)
def test_kinds_that_python_has_a_class_for_can_be_caught_by_it(kind, builtin):
    assert issubclass(kind, builtin)


def test_the_page_of_errors_is_current():
    spec = importlib.util.spec_from_file_location("errors_page", ROOT / "docs/errors.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.page()
    stored = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    assert stored == page, "run: python docs/errors.py > docs/errors.md"
    assert all(page.count(f'<a id="{kind.code.lower()}"></a>') == 1 for kind in kinds())


# Tensors of a wrong shape or type are errors of the program, not of the user.
PROGRAMMING_ERRORS = {
    "features/clip.py",
    "features/images.py",
    "sampling/latents.py",
    "storage/feature_cache.py",
    "testing/template_generator.py",
    "toy/postcards.py",
}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_errors_of_the_user_have_a_kind(path):
    name = str(path.relative_to(ROOT)).removeprefix("gendiv_lightning/")
    if name.startswith("functional/") or name in PROGRAMMING_ERRORS:
        return
    bare = [call.lineno for called, call in calls(path) if called == "ValueError"]
    assert not bare, f"lines {bare}: raise a class of gendiv_lightning.errors"


def test_the_command_line_shows_code_and_link_once(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["configs", "copy", "no/such.yaml"])
    message, link = str(stopped.value.code).split("\n")
    assert message.startswith("gendiv: error GD104: ")
    assert link.startswith("More: ")
    assert link.endswith("#gd104")


def test_an_error_without_a_kind_has_neither_code_nor_link():
    assert command_line_text(OSError("the disk is full"), "the disk is full") == "gendiv: error: the disk is full"


def test_a_wrapped_error_keeps_its_kind():
    error = ValueError("wrapped by a library")
    error.__cause__ = NetworkError("no network")
    assert type(restated(error, "cell a: no network")) is NetworkError
    assert command_line_text(error, "no network").startswith("gendiv: error GD203: no network\n")
    assert type(restated(ValueError("of a library"), "cell a")) is ConfigValueError


def test_the_link_leads_to_the_site_once_the_package_names_one(monkeypatch):
    urls = ["Paper, https://example.org/paper", "Documentation, https://example.org/gendiv/"]
    monkeypatch.setattr(errors.metadata, "metadata", lambda name: type("Fields", (), {"get_all": lambda *_: urls})())
    assert ConfigValueError.link() == "https://example.org/gendiv/errors.html#gd101"
    urls.pop()
    assert ConfigValueError.link() == "docs/errors.md#gd101"
