"""The record of the code that made a run."""

import subprocess

import pytest

from gendiv_lightning import __version__
from gendiv_lightning.runs.environment import describe_source, environment


def git(folder, *words):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path):
    git(tmp_path, "init")
    (tmp_path / "code.py").write_text("x = 1\n")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-m", "first")
    return tmp_path


def test_a_checkout_has_a_commit_and_is_dirty_once_a_tracked_file_changed(checkout):
    (checkout / "notes.txt").write_text("not tracked")
    clean = describe_source(checkout)
    assert len(clean["commit"]) == 40
    assert not clean["is_dirty"]
    (checkout / "code.py").write_text("x = 2\n")
    assert describe_source(checkout) == {"commit": clean["commit"], "is_dirty": True}


def test_an_installed_package_has_no_commit(tmp_path):
    assert describe_source(tmp_path) == {}


def test_the_environment_names_the_version_of_gendiv():
    assert environment()["versions"]["gendiv_lightning"] == __version__
