"""The wheel and the sdist are complete, and the quick start runs in an empty directory with only the wheel."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from running import ROOT

from gendiv_lightning import __version__

BUILD = """
import sys
from setuptools import build_meta
print(getattr(build_meta, f"build_{sys.argv[1]}")(sys.argv[2]))
"""
NOTEBOOK = """
import gendiv_lightning as gd
generator = gd.load("toy/llamagen")
samples = generator.generate(["red sky", "black tree left"], num_samples=2, seed=0, probes=[gd.Temperature(1.1)])
print(gd.evaluate(samples, ["lpips[tiny]", "vendi[tiny]"]))
samples.grid().save("grid.png")
"""
# Folders of the checkout that the wheel contains, by their names in the wheel.
SHIPPED = {
    "gendiv_lightning": "gendiv_lightning",
    "callbacks": "gendiv_lightning/callbacks",
    "datamodules": "gendiv_lightning/datamodules",
    "configs": "gendiv_lightning/configs",
    "tests/golden/checks": "gendiv_lightning/golden",
}


def build(kind: str, source: Path, out: Path) -> Path:
    """Build a wheel or an sdist of the folder `source`, which the build writes to."""
    line = [sys.executable, "-c", BUILD, kind, str(out)]
    done = subprocess.run(line, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """All files of the checkout that git tracks."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split("\0") if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def sdist(tracked, tmp_path_factory) -> Path:
    """The sdist of a copy of the checkout."""
    folder = tmp_path_factory.mktemp("sdist")
    for name in tracked:
        target = folder / "copy" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
    return build("sdist", folder / "copy", folder)


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> Path:
    """The wheel, built from the sdist as an installer builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extraction_filter = lambda member, _: member  # our own archive, which is trusted
        archive.extractall(folder)
    (source,) = folder.iterdir()
    return build("wheel", source, folder)


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """The interpreter of a fresh environment with the wheel, which sees the dependencies but not the checkout."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    paths = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", vars=paths))
    shared = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "shared.pth").write_text("\n".join(shared))  # the .pth files in these folders stay unread
    python = Path(sysconfig.get_path("scripts", vars=paths)) / "python"
    install = ["pip", "--python", str(python), "install", "--no-deps", "--no-index", "--quiet", str(wheel)]
    subprocess.run([sys.executable, "-m", *install], check=True)
    return python


@pytest.fixture
def run_there(python, tmp_path):
    """Run a command of the fresh environment in an empty directory; returns what it prints, errors included."""

    def run_there(command: str, *words: str) -> str:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        line = [str(python.with_name(command)), *words]
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        done = subprocess.run(line, cwd=tmp_path, env=environment, timeout=300, check=False, **output)
        assert done.returncode == 0, done.stdout
        return done.stdout

    return run_there


def test_the_sdist_contains_every_file_of_the_checkout(sdist, tracked):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert not set(tracked) - names


def test_the_wheel_contains_the_packages_the_configs_and_the_toy_and_nothing_else(wheel, tracked):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {
        inside + name.removeprefix(folder)
        for folder, inside in SHIPPED.items()
        for name in tracked
        if name.startswith(f"{folder}/")
    }
    assert names == expected
    assert {"gendiv_lightning/py.typed", "gendiv_lightning/configs/tiny/llamagen.yaml"} <= names


def test_the_wheel_is_smaller_than_20_megabytes(wheel):
    """Nearly all of it is the weights of the four toy families."""
    assert wheel.stat().st_size < 20e6


def test_the_wheel_states_its_licence(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        assert "License-Expression: Apache-2.0" in archive.read(metadata).decode().splitlines()
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in archive.namelist())


def test_the_citation_states_this_version_and_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert citation["license"] == "Apache-2.0"


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md"])
def test_a_page_for_contributors_links_to_files_that_exist(page):
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text())
    missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert not missing


def test_the_installed_command_finds_the_shipped_configs(run_there, python):
    where = run_there("python", "-c", "import gendiv_lightning, sys; print(gendiv_lightning.__file__, *sys.path)")
    assert str(python.parents[1]) in where.split()[0]
    assert str(ROOT) not in where.replace(f"{ROOT}/.venv", "")
    assert "configs/tiny/llamagen.yaml" in run_there("gendiv", "configs", "list")


@pytest.mark.slow
def test_the_quick_start_runs_from_an_empty_directory(run_there, tmp_path):
    few = ["--data.limit", "2", "--data.num_samples", "2", "--wandb", "disabled"]
    shown = run_there("gendiv", "fit-free", "predict", "--config", "configs/tiny/llamagen.yaml", *few)
    assert "diversity/lpips[tiny]" in shown
    (run,) = (tmp_path / "runs").iterdir()
    assert (run / "grid.png").stat().st_size > 0


@pytest.mark.slow
def test_the_lines_of_a_notebook_run_from_an_empty_directory(run_there):
    (lines,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert "diversity/vendi[tiny]" in run_there("python", "-c", lines)


@pytest.mark.slow
def test_a_notebook_of_five_lines_runs_from_an_empty_directory(run_there, tmp_path):
    (tmp_path / "notebook.py").write_text(NOTEBOOK)
    assert "diversity/lpips[tiny]" in run_there("python", "notebook.py")
    assert (tmp_path / "grid.png").stat().st_size > 0


@pytest.mark.slow
def test_the_installed_doctor_checks_reference_values(run_there, tmp_path):
    shutil.copy(ROOT / "tests/golden/llamagen/text.json", tmp_path)
    assert "1 of 1 golden cases pass" in run_there("gendiv", "doctor", "--golden", ".")
