"""Shipped configs are found from any directory, and copied together with what they include."""

from pathlib import Path

import pytest
import yaml
from running import ROOT

from gendiv_lightning.cli import main as cli
from gendiv_lightning.storage.config_files import config_folder, config_names, find_config, find_configs, fragments_of
from gendiv_lightning.study.matrix import read_study

LLAMAGEN = "configs/tiny/llamagen.yaml"


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def configs(*words):
    """The exit status of `gendiv configs`, or its message."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(["configs", *words])
    return stopped.value.code


def test_a_checkout_uses_its_own_configs():
    assert config_folder() == ROOT / "configs"
    assert LLAMAGEN in config_names()


def test_a_config_in_the_working_directory_comes_before_the_shipped_one():
    assert find_config(LLAMAGEN) == config_folder() / "tiny/llamagen.yaml"
    Path("configs/tiny").mkdir(parents=True)
    Path(LLAMAGEN).touch()
    assert find_config(LLAMAGEN) == Path(LLAMAGEN)


@pytest.mark.parametrize("name", ["configs/no_such.yaml", "llamagen.yaml", "tiny/llamagen.yaml", "/configs/tiny.yaml"])
def test_other_names_are_unchanged(name):
    assert find_config(name) == Path(name)
    assert find_configs([f"--config={name}", name]) == [f"--config={name}", name]


def test_any_option_of_a_command_line_may_name_a_shipped_config():
    found = find_configs(["predict", "--config", LLAMAGEN, f"--model={LLAMAGEN}", "--data.limit", "2"])
    shipped = str(config_folder() / "tiny/llamagen.yaml")
    assert found == ["predict", "--config", shipped, f"--model={shipped}", "--data.limit", "2"]


def test_a_shipped_study_is_read_from_any_directory():
    cells = read_study(find_config("configs/tiny/study.yaml"))
    assert {"llamagen", "amused", "vq_diffusion"} <= {cell.generator for cell in cells}


def test_the_list_has_a_line_for_every_config(capsys):
    assert configs("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == config_names()
    assert all(len(line.split()) > 1 for line in lines), "every config says what it is in its first comment"


def test_a_config_is_copied_with_its_fragments():
    assert configs("copy", LLAMAGEN) == 0
    copied = {path for path in Path("configs").rglob("*") if path.is_file()}
    assert Path(LLAMAGEN) in copied
    assert len(copied) == 1 + len(fragments_of(config_folder() / "tiny/llamagen.yaml")) > 2
    for path in copied:
        assert path.read_bytes() == (config_folder().parent / path).read_bytes()


def test_all_configs_are_copied_to_another_folder_and_a_second_time_nothing_changes(capsys):
    for _ in range(2):
        assert configs("copy", "--to", "mine") == 0
    assert {path.relative_to("mine").as_posix() for path in Path("mine").rglob("*.yaml")} == set(config_names())
    assert f"0 configs written to mine/configs, {len(config_names())} already there" in capsys.readouterr().out


def test_an_edited_copy_is_not_overwritten():
    assert configs("copy", LLAMAGEN) == 0
    edited = {**yaml.safe_load(Path(LLAMAGEN).read_text()), "run_dir": "mine"}
    Path(LLAMAGEN).write_text(yaml.safe_dump(edited))
    assert LLAMAGEN in configs("copy", "all")
    assert yaml.safe_load(Path(LLAMAGEN).read_text()) == edited
    assert not Path("configs/tiny/amused.yaml").exists()


def test_an_unknown_name_is_an_error():
    assert "'configs/lamagen.yaml'" in configs("copy", "configs/lamagen.yaml")
