"""`gendiv new generator` writes a package that passes `check-generator` unchanged."""

import pytest
import yaml

from gendiv_lightning.cli.main import main


def command(*words):
    """Exit status, or the message."""
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return ended.value.code


@pytest.fixture
def template(tmp_path, monkeypatch):
    folder = tmp_path / "somewhere"
    assert command("new", "generator", "nebula_model", "--to", str(folder)) == 0
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_the_unchanged_template_passes(template, capsys):
    assert command("check-generator", "nebula_model.yaml") == 0
    shown = capsys.readouterr().out
    assert "NebulaModel" in shown
    assert " 0 failed" in shown
    assert "not applicable" in shown


def test_its_files_name_it(template):
    files = {path.name: path.read_text() for path in template.iterdir() if path.is_file()}
    assert files.keys() == {"nebula_model.py", "nebula_model.yaml", "test_nebula_model.py", "pyproject.toml"}
    assert not any("template" in text.lower() for text in files.values())
    assert 'nebula_model = "nebula_model:NebulaModel"' in files["pyproject.toml"]
    assert yaml.safe_load(files["nebula_model.yaml"])["class_path"] == "nebula_model.NebulaModel"
    compile(files["test_nebula_model.py"], "test_nebula_model.py", "exec")


def test_a_generator_that_fails_gives_the_exit_status_one(template, capsys):
    code = (template / "nebula_model.py").read_text()
    broken = code.replace("conditional = logits", "conditional = torch.rand_like(logits) + logits")
    (template / "broken_model.py").write_text(broken)
    assert broken != code
    assert command("check-generator", "broken_model.NebulaModel") == 1
    shown = capsys.readouterr().out
    assert "use the sampler's noise only" in shown
    assert " 0 failed" not in shown


def test_files_are_not_overwritten(template):
    assert "nebula_model.py" in command("new", "generator", "nebula_model", "--to", str(template))


@pytest.mark.parametrize("name", ["Nebula", "my-model", "1st", "../x", "os"])
def test_a_name_that_is_not_a_module_name_is_rejected(name, tmp_path):
    assert repr(name) in command("new", "generator", name, "--to", str(tmp_path))


def test_prompts_that_a_generator_does_not_accept_are_rejected_before_loading(tmp_path):
    (tmp_path / "prompts.txt").write_text("a moose\na rose\na goose\n")
    message = command("check-generator", "toy/perfect", "--prompts", str(tmp_path / "prompts.txt"))
    assert "a moose" in message
    assert "--prompts FILE" in message


def test_too_few_prompts_are_an_error(tmp_path):
    (tmp_path / "prompts.txt").write_text("the pink sky\nThe  pink sky\n")
    message = command("check-generator", "toy/perfect", "--prompts", str(tmp_path / "prompts.txt"))
    assert "3 different prompts, got 1" in message
