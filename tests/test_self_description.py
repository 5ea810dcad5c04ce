"""Families, probes and metrics describe themselves: code that reads runs has no list of their names."""

import ast
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from gendiv_lightning import callbacks
from gendiv_lightning.sampling import Probe

ROOT = Path(__file__).parents[1] / "gendiv_lightning"
FOLDERS = ("analysis", "console", "report", "runs", "study", "tracking")
NAMED = {  # and why
    "analysis/paper_claims.py": "the paper's claims are about its probes and families",
    "runs/legacy.py": "runs of version 0.1 do not describe themselves",
    "runs/former.py": "configs of version 0.1 have other names",
}
FILES = [
    path
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.py"))
    if str(path.relative_to(ROOT)) not in NAMED
]


def names():
    """Classes of probes and designs, families, and metrics of plug-ins."""
    probes = {name for name in callbacks.__all__ if hasattr(getattr(callbacks, name), "isolates")}
    families = {entry.name.rpartition("/")[2] for entry in entry_points(group="gendiv.generators")}
    return probes | families | {"vqdiffusion", "postcards"}


def texts(path):
    """All texts in the code of a file except docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_probe_or_family_is_named(path):
    assert not names() & set(texts(path))


def test_a_violation_would_be_found():
    assert {"Argmax", "CodebookSubset", "Paraphrase", "llamagen", "vq_diffusion"} <= names()
    assert "Argmax" in set(texts(ROOT / "analysis" / "paper_claims.py"))
    assert issubclass(callbacks.Argmax, Probe)
