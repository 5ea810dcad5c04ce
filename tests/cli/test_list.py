"""`gendiv list` shows everything that is registered with its package, and imports nothing."""

import subprocess
import sys

import pytest

from gendiv_lightning import plugins
from gendiv_lightning.cli.main import main


def listed(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main(["list", *words])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_everything_that_is_registered_is_listed_with_its_package(capsys):
    lines = listed(capsys).splitlines()
    for group in plugins.GROUPS:
        for plugin in plugins.registered(group).values():
            assert any(line.split() == [plugin.name, plugin.target, plugin.distribution] for line in lines)
    assert "configs/tiny/llamagen.yaml" in lines


def test_one_kind_can_be_listed(capsys):
    assert listed(capsys, "probes").split()[:3] == ["probes", "object", "package"]
    assert "toy/llamagen" not in listed(capsys, "probes")


def test_titles_are_printed_on_request(capsys):
    (line,) = [line for line in listed(capsys, "generators", "--long").splitlines() if line.startswith("llamagen ")]
    assert line.endswith("LlamaGen")
    assert "LlamaGen at toy size" in listed(capsys, "generators", "--long")


def test_listing_imports_no_heavy_library():
    code = "import sys\nfrom gendiv_lightning.cli.main import main\ntry:\n    main(['list'])\n"
    code += "except SystemExit:\n    sys.stderr.write(' '.join(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(result.stderr.split())
    assert "gendiv_lightning.cli.commands.list" in loaded
    assert not {"torch", "lightning", "torchmetrics", "transformers", "diffusers", "numpy"} & loaded


def test_errors_are_explained_without_the_documentation(capsys):
    text = listed(capsys, "errors")
    assert "GD101  ConfigValueError" in text
    assert "What to do:" in text
    assert "GD101" not in listed(capsys)
