"""Links of the documentation have targets, and the site builds."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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
