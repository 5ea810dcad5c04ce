"""A generator is found by its name, class, class path, or a config of a generator or a run."""

import pytest
import yaml

from gendiv_lightning.generators import LlamaGen
from gendiv_lightning.generators.registry import make_generator
from gendiv_lightning.storage.config_files import config_folder
from gendiv_lightning.testing.template_generator import TemplateModel

TEMPLATE = "gendiv_lightning.testing.template_generator.TemplateModel"


@pytest.mark.parametrize("name", ["llamagen", "amused", "vq_diffusion"])
def test_a_preset_has_the_settings_of_its_config_and_nothing_else(name):
    config = yaml.safe_load((config_folder() / f"models/tiny_{name}.yaml").read_text())
    generator = make_generator(f"toy/{name}")
    assert f"gendiv_lightning.generators.{type(generator).__name__}" == config["class_path"]
    for key in ("guidance_scale", "batch_size", "temperature"):
        if key in config["init_args"]:
            assert getattr(generator, key) == config["init_args"][key]
    assert make_generator(f"toy/{name}", batch_size=3, guidance_scale=9.0).guidance_scale == 9.0


def test_the_generator_is_found_from_the_config_of_a_run():
    made = make_generator("configs/tiny/llamagen_argmax.yaml", temperature=0.5)
    assert isinstance(made, LlamaGen)
    assert made.temperature == 0.5
    assert made.guidance_scale == make_generator("toy/llamagen").guidance_scale


@pytest.mark.parametrize("source", [TemplateModel, TEMPLATE])
def test_a_class_and_its_path_need_no_registration(source):
    assert make_generator(source, top_k=3).top_k == 3


def test_a_config_may_define_its_generator_inline(tmp_path):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"model": {"class_path": TEMPLATE, "init_args": {"top_k": 4}}}))
    assert make_generator(tmp_path / "run.yaml").top_k == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"class_path": TEMPLATE, "init_args": {"top_k": "many"}}, "top_k"),
        ({"class_path": TEMPLATE, "init_args": {"colours": 3}}, "colours"),
        ({"class_path": TEMPLATE, "init_args": {"temperature": -1.0}}, "temperature.*-1"),
        ({"class_path": "pathlib.Path"}, "pathlib.Path"),
        ({"data": {}}, "class_path"),
        (["a"], "class_path"),
    ],
)
def test_the_error_for_a_config_without_a_generator_names_file_and_key(tmp_path, content, message):
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=message) as error:
        make_generator(tmp_path / "bad.yaml")
    assert "bad.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        ("lamagen", {}, "lamagen.*llamagen"),
        ("no_such.module.Model", {}, "no_such"),
        ("missing.yaml", {}, r"missing\.yaml"),
        ("pathlib.Path", {}, "Path.*Generator"),
        (TEMPLATE, {"colours": 3}, "TemplateModel.*colours"),
        (TEMPLATE, {"batch_size": 0}, "batch_size"),
    ],
)
def test_an_object_that_is_not_a_generator_is_an_error(source, settings, message):
    with pytest.raises(ValueError, match=message):
        make_generator(source, **settings)
