"""Hashes of weight files and folders, also of files that change."""

import hashlib

import pytest

from gendiv_lightning.weights import hash as module
from gendiv_lightning.weights.hash import sha256


def test_a_file_is_hashed_by_its_bytes_and_a_folder_by_its_weights(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"weights")
    assert sha256(tmp_path / "a.safetensors") == hashlib.sha256(b"weights").hexdigest()
    hashes = []
    for name, content in (("one", b"1"), ("two", b"2"), ("same", b"1")):
        for file in ("model.safetensors", "config.json"):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / file).write_bytes(content)
        hashes.append(sha256(tmp_path / name))
    assert hashes[0] == hashes[2] != hashes[1]


def test_a_file_that_changes_is_hashed_again_in_the_same_process(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"one")
    before = sha256(path), sha256(tmp_path)
    path.write_bytes(b"two")  # as long as before
    assert sha256(path) == hashlib.sha256(b"two").hexdigest() != before[0]
    assert sha256(tmp_path) != before[1]


@pytest.fixture
def notes(tmp_path, monkeypatch):
    """The folder of notes, with the size limit lowered so that every file gets one."""
    monkeypatch.setattr(module, "_REMEMBERED_BYTES", 0)
    monkeypatch.setattr(module, "cache_folder", lambda: tmp_path / "cache")
    module._digest.cache_clear()
    return tmp_path / "cache" / "sha256"


def test_a_large_file_is_hashed_once_per_machine(notes, tmp_path, monkeypatch):
    (tmp_path / "large.pt").write_bytes(b"large")
    digest = sha256(tmp_path / "large.pt")
    module._digest.cache_clear()  # as in another process
    monkeypatch.setattr(module, "sha256_of", lambda path: pytest.fail("hashed again"))
    assert sha256(tmp_path / "large.pt") == digest


def test_a_damaged_note_is_ignored(notes, tmp_path):
    (tmp_path / "large.pt").write_bytes(b"large")
    digest = sha256(tmp_path / "large.pt")
    for note in notes.iterdir():
        note.write_text(digest[:10])
    module._digest.cache_clear()
    assert sha256(tmp_path / "large.pt") == digest
