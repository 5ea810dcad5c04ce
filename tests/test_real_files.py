"""The script that makes the files of the tests marked `real`: it runs no code of a package and explains failures."""

import http.server
import pickle
import warnings
import zipfile
from functools import partial
from io import BytesIO

import numpy as np
import pytest
import real_files
import torch
from local_server import running
from real_files import Archive, ArrayUnpickler, Downloads, Part, ScriptModule, ScriptUnpickler, build, main
from real_parts import part

CONTENT, DIGEST = b"content", "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index with one file."""
    folder = tmp_path / "index" / "simple" / "some-package"
    folder.mkdir(parents=True)
    (folder / "some_package-1.tar.gz").write_bytes(CONTENT)
    link = f'<a href="some_package-1.tar.gz#sha256={DIGEST}">some_package-1.tar.gz</a>'
    (folder / "index.html").write_text(f"<html><body>{link}</body></html>")
    handler = partial(Quiet, directory=tmp_path / "index")
    with running(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)) as server:
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
        yield


def test_an_archive_comes_from_the_index_of_pip_and_has_the_right_hash(index, tmp_path):
    downloads = Downloads(tmp_path, 60)
    assert downloads.of_python(Archive("some-package", "some_package-1.tar.gz", DIGEST)).read_bytes() == CONTENT
    with pytest.raises(ValueError, match=r"some_package-1.tar.gz has the SHA-256 ed7002b4\.\.\., not 00000000"):
        downloads.of_python(Archive("some-package", "some_package-1.tar.gz", 64 * "0"))
    with pytest.raises(ValueError, match=r"does not have some_package-2.tar.gz"):
        downloads.of_python(Archive("some-package", "some_package-2.tar.gz", DIGEST))


def test_nothing_runs_after_the_time_limit(tmp_path):
    with pytest.raises(TimeoutError, match="0 seconds"):
        Downloads(tmp_path, 0).output("echo", "late")
    with pytest.raises(TimeoutError, match="sleep"):
        Downloads(tmp_path, 0.2).output("sleep", "5")


def test_a_command_that_fails_is_an_error_with_its_last_line(tmp_path):
    with pytest.raises(ValueError, match="no such package"):
        Downloads(tmp_path, 60).output("sh", "-c", "echo searching >&2; echo no such package >&2; exit 100")


def test_pickled_arrays_are_read_and_other_classes_refused():
    numbers = np.arange(6.0).reshape(2, 3)
    content = pickle.dumps({"a": {"b": numbers}}, protocol=3).replace(b"numpy._core", b"numpy.core")
    assert (ArrayUnpickler(BytesIO(content)).load()["a"]["b"] == numbers).all()
    with pytest.raises(pickle.UnpicklingError, match=r"builtins\.print"):
        ArrayUnpickler(BytesIO(pickle.dumps(print))).load()


def test_tensors_of_torchscript_are_read_in_order_without_torch(tmp_path):
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Sequential(torch.nn.Linear(2, 5, bias=False)))
        torch.jit.save(torch.jit.script(network), tmp_path / "network.pt")
    with zipfile.ZipFile(tmp_path / "network.pt") as archive:
        script = ScriptUnpickler(archive).load()
    layers = [vars(module) for module in script.parts() if "weight" in vars(module)]
    assert [layer["weight"].tolist() for layer in layers] == [
        parameter.tolist() for name, parameter in network.named_parameters() if name.endswith("weight")
    ]
    assert layers[0]["bias"].tolist() == network[0].bias.tolist()
    assert isinstance(script, ScriptModule)


def test_other_classes_in_torchscript_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "network.pt", "w") as archive:
        archive.writestr("network/data.pkl", pickle.dumps(print))
    with (
        zipfile.ZipFile(tmp_path / "network.pt") as archive,
        pytest.raises(pickle.UnpicklingError, match=r"builtins\.print"),
    ):
        ScriptUnpickler(archive).load()


def test_a_part_that_fails_costs_a_line_and_leaves_only_the_reason(tmp_path, monkeypatch, capsys):
    def fail(downloads, out):
        (out / "half.pth").write_bytes(b"half")
        raise ValueError("the index is closed\nsecond line")

    def succeed(downloads, out):
        (out / "half.pth").write_bytes(b"whole")

    monkeypatch.setattr(real_files, "PARTS", {"lpips": Part(fail, ("half.pth",))})
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().out == f"lpips is missing from {tmp_path}: ValueError: the index is closed\n"
    assert [path.name for path in tmp_path.iterdir()] == ["lpips.missing.txt"]

    monkeypatch.setattr(real_files, "PARTS", {"lpips": Part(succeed, ("half.pth",))})
    assert main([str(tmp_path)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["half.pth"]

    monkeypatch.setattr(real_files, "PARTS", {"lpips": Part(fail, ("half.pth",))})
    assert build("lpips", tmp_path, 60) is None, "the part is made once"


def test_a_test_without_its_part_is_skipped_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("GENDIV_REAL_WEIGHTS", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match=r"photos.*real_files.py makes them"):
        part("photos")
    (tmp_path / "photos.missing.txt").write_text("ValueError: the index is closed\n")
    with pytest.raises(pytest.skip.Exception, match="the index is closed"):
        part("photos")
