"""`gendiv new`: write the template of a plug-in."""

from __future__ import annotations

import argparse
import keyword
import re
import sys
from pathlib import Path

from gendiv_lightning.cli.options import check_output_folder
from gendiv_lightning.console.text import write
from gendiv_lightning.errors import ConfigValueError, OutputError

HELP = "write a package with the template of a generator and its test"
DESCRIPTION = """
Writes a package with one generator, which already runs. Replace its marked parts by your model, one at a time, and run
gendiv check-generator after each.

  NAME.py            the generator
  NAME.yaml          a config for gendiv predict and gendiv check-generator
  test_NAME.py       the contract tests
  pyproject.toml     registers the generator as NAME once the package is installed

examples:
  gendiv new generator my_model
  cd my_model && gendiv check-generator my_model.yaml
  pip install -e my_model && gendiv list generators
"""

CONFIG = """\
# {title}. Check it with: gendiv check-generator {name}.yaml
class_path: {name}.{title}
init_args:
  dtype: float32
  batch_size: 16
"""
PYPROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "{name}"
version = "0.1.0"
dependencies = ["gendiv_lightning"]

[project.entry-points."gendiv.generators"]
{name} = "{name}:{title}"

[tool.setuptools]
py-modules = ["{name}"]
"""
TEST = '''\
"""The contract tests of the generator; run them with pytest."""

import pytest
from {name} import {title}

from gendiv_lightning.testing.generator_checks import CHECKS, Subject, run_check


@pytest.fixture(scope="module")
def subject():
    generator = {title}()
    generator.locate()
    generator.load()
    return Subject(generator.eval(), make={title})


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_generator_fulfils_the_contract(subject, check):
    outcome = run_check(check, subject)
    assert outcome.status != "fail", outcome.detail
'''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gendiv new`."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("kind", choices=("generator",), help="kind of plug-in")
    parser.add_argument("name", metavar="NAME", help="name of the module in lower case, such as my_model")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="folder for the package (default: NAME)")


def run(arguments: argparse.Namespace) -> int:
    """Write the files."""
    folder = arguments.to or Path(arguments.name)
    check_output_folder(folder, "--to")
    for path in write_generator(arguments.name, folder):
        write(f"{path}\n")
    write(f"\nNext: cd {folder} && gendiv check-generator {arguments.name}.yaml\n")
    return 0


def write_generator(name: str, folder: Path) -> list[Path]:
    """Write the template of a generator.

    Returns:
        The files.

    Raises:
        ConfigValueError: the name is not a valid name of a module.
        OutputError: one of the files exists.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ConfigValueError(
            f"NAME must consist of lower-case letters, digits and underscores, and not be a keyword of Python, got "
            f"{name!r}. Try my_model"
        )
    if name in sys.stdlib_module_names:
        raise ConfigValueError(f"NAME must not be that of a module of Python, got {name!r}. Try {name}_model")
    title = "".join(part.capitalize() for part in name.split("_"))
    template = Path(__file__).parents[2] / "testing" / "template_generator.py"
    code = template.read_text(encoding="utf-8").replace("TemplateModel", title).replace('"template"', f'"{name}"')
    words = {"name": name, "title": title}
    contents = {
        folder / f"{name}.py": code,
        folder / f"{name}.yaml": CONFIG.format(**words),
        folder / f"test_{name}.py": TEST.format(**words),
        folder / "pyproject.toml": PYPROJECT.format(**words),
    }
    existing = [str(path) for path in contents if path.exists()]
    if existing:
        raise OutputError(f"{', '.join(existing)} already exists. Choose another --to FOLDER, or delete it first")
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in contents.items():
        path.write_text(content, encoding="utf-8")
    return list(contents)
