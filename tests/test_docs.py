"""The documentation: links have targets, code and commands are those of the package, and the site builds."""

import base64
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import gendiv_lightning as gd
from gendiv_lightning.cli.main import build_parser
from gendiv_lightning.sampling import TokenSampler

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for path in ROOT.rglob("*.md") if not {".venv", "build", "tests"} & set(path.parts))
MADE_AT_BUILD_TIME = re.compile(r"docs/(reference/(cli|config-keys)\.md|reference/api/\w+\.md|tutorials/[\w-]+\.md)")


def links(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [target for target in re.findall(r"\]\(([^()\s]+)\)", text) if not re.match(r"[a-z]+:|#", target)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_to_files(page):
    for link in links(page):
        target = os.path.normpath(page.parent / link.partition("#")[0])
        name = os.path.relpath(target, ROOT)
        assert os.path.exists(target) or MADE_AT_BUILD_TIME.fullmatch(name), f"{link} leads nowhere"


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "reference" / "cli.html").is_file()


PAGES_WITH_PYTHON = [f"docs/how-to/{name}.md" for name in ("measure-images", "extend", "scorers")]


@pytest.mark.parametrize("page", PAGES_WITH_PYTHON)
def test_the_python_of_a_guide_runs_as_it_is(page):
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    assert blocks
    names = {"__name__": "guide"}
    for block in blocks:
        exec(compile(block, page, "exec"), names)
    if "ColourSpread" in names:
        images = {"a hill": torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)}
        assert gd.evaluate(images, [names["ColourSpread"]()])["diversity/colour_spread"].value > 0
        sampler = TokenSampler(path=None, exec=None, codebook_size=16, top_k=3, top_p=0.5)
        changed = names["Untruncated"]().apply(sampler)
        assert (changed.top_k, changed.top_p) == (None, 1.0)


def commands(text):
    """The `gendiv` commands in the blocks of a page, with continued lines joined."""
    for block in re.findall(r"^```bash\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        yield from re.findall(r"^\s*(?:srun )?gendiv (.*)", block.replace("\\\n", " "), flags=re.MULTILINE)


COMMANDS = sorted({line for page in PAGES for line in commands(page.read_text(encoding="utf-8"))})


@pytest.mark.parametrize("line", [line for line in COMMANDS if not re.match("(fit-free )?(predict|validate)", line)])
def test_a_command_of_a_page_has_arguments_that_exist(line):
    words = shlex.split(line.split(" &")[0], comments=True)
    words = [word.replace("$n/4", "1/4") for word in words if word != "..."]
    if "--version" not in words:
        build_parser().parse_args(words)


@pytest.mark.parametrize("line", [line for line in COMMANDS if re.match("(fit-free )?(predict|validate)", line)])
def test_a_config_of_a_page_exists(line):
    words = shlex.split(line, comments=True)
    config = words[words.index("--config") + 1]
    assert (ROOT / config).is_file() or re.match(r"my_|configs/FAMILY", config), f"{config} does not exist"


def nav_pages(items):
    for item in items:
        value = next(iter(item.values())) if isinstance(item, dict) else item
        yield from nav_pages(value) if isinstance(value, list) else [value]


def test_every_page_below_docs_is_in_the_navigation():
    listed = set(nav_pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    notebooks = {path.with_suffix(".md") for path in (ROOT / "docs").rglob("*.ipynb")}
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in {*(ROOT / "docs").rglob("*.md"), *notebooks}}
    assert pages - listed == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_of_prose_are_short(page):
    if "embedded_study" in page.parts:
        return  # written by `gendiv report`
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    prose = [line for line in text.splitlines() if not re.match(r"\||    |.*\]\(http", line)]
    assert [line for line in prose if len(line) > 110] == []


@pytest.fixture(scope="module")
def hooks():
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_config_key_has_a_meaning(hooks):
    pytest.importorskip("griffe")
    rows = [line.split(" | ") for line in hooks.config_page().splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert [row[0] for row in rows if len(row) != 4 or row[3].strip(" |") == ""] == []


def test_a_notebook_becomes_a_page_with_its_outputs(hooks, tmp_path):
    picture = base64.b64encode(b"png").decode()
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": ["one\n", "two\n"]},
        {"output_type": "stream", "name": "stderr", "text": ["a progress bar"]},
        {"output_type": "display_data", "data": {"image/png": picture, "text/plain": ["<Image>"]}},
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# Title"]},
        {"cell_type": "code", "source": ["print(1)\n", "image"], "outputs": outputs},
    ]
    (tmp_path / "lesson.ipynb").write_text(json.dumps({"cells": cells}))
    pages = dict(hooks.notebook_pages(tmp_path / "lesson.ipynb"))
    page = pages.pop("lesson.md")
    ((name, content),) = pages.items()
    assert content == b"png"
    assert f"]({name})" in page
    assert page.startswith("# Title\n\n```python\nprint(1)\nimage\n```\n\n```text\none\ntwo\n```")
    assert "progress bar" not in page
