"""The examples work as plugins of another package: found by entry points, imported by name."""

import shutil
import sys

import pytest
from running import ROOT

import gendiv_lightning as gd
from gendiv_lightning import plugins
from gendiv_lightning.cli import predict as command
from gendiv_lightning.cli.main import main
from gendiv_lightning.runs.folder import RunFolder

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EXAMPLES = ROOT / "examples"
MODULES = ("my_generator", "my_metric", "my_probe")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The examples as an installed distribution, outside the repository."""
    folder = tmp_path_factory.mktemp("site")
    for path in EXAMPLES.iterdir():
        if path.suffix in (".py", ".yaml", ".txt"):
            shutil.copy(path, folder)
    project = tomllib.loads((EXAMPLES / "pyproject.toml").read_text())["project"]
    info = folder / "gendiv_examples-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = project["entry-points"].items()
    lines = [line for group, names in groups for line in (f"[{group}]", *(f"{n} = {v}" for n, v in names.items()))]
    (info / "entry_points.txt").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        plugins.registered.cache_clear()
        yield folder
    plugins.registered.cache_clear()
    for module in MODULES:
        sys.modules.pop(module, None)


def test_the_examples_are_listed_with_their_package(installed, capsys):
    with pytest.raises(SystemExit):
        main(["list"])
    listed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["my_generator", "my_generator:MyGenerator", "gendiv_examples"] in listed
    assert ["Untruncated", "my_probe:Untruncated", "gendiv_examples"] in listed
    assert ["colour_spread", "my_metric:ColourSpread", "gendiv_examples"] in listed


def test_the_generator_fulfils_the_contract(installed, monkeypatch, capsys):
    monkeypatch.chdir(installed)
    with pytest.raises(SystemExit) as ended:
        main(["check-generator", "my_generator.yaml"])
    assert ended.value.code == 0, capsys.readouterr().out


def test_the_metric_measures_samples_of_the_generator_under_the_probe(installed):
    generator = gd.load("my_generator", batch_size=4)
    probe = plugins.load("probes", "Untruncated")()
    samples = generator.generate(["a red hill", "the moon"], num_samples=4, probes=[gd.TopP(0.9)])
    whole = generator.generate(["a red hill", "the moon"], num_samples=4, probes=[probe])
    assert (samples.tokens != whole.tokens).any()
    assert (generator.generate(["a red hill", "the moon"], num_samples=4).tokens == whole.tokens).all()
    result = gd.evaluate(samples, ["colour_spread"])["diversity/colour_spread"]
    assert 0 < result.value < 1
    assert result.num_samples == 8


def test_the_command_runs_all_three(installed, monkeypatch, tmp_path):
    monkeypatch.chdir(installed)
    run = tmp_path / "run"
    command.main(["predict", "--config", "my_run.yaml", "--run_dir", str(run), "--wandb", "disabled"])
    folder = RunFolder(run)
    assert 0 < folder.read_metrics()["diversity/colour_spread"].value < 1
    assert [probe["probe"] for probe in folder.read_protocol()["probes"]] == ["Untruncated"]


def test_the_generator_is_short():
    code = [line for line in (EXAMPLES / "my_generator.py").read_text().splitlines() if line.strip()]
    assert len(code) <= 100
