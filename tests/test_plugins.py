"""Plug-ins of other packages are found by their entry points, and cannot replace gendiv's own names."""

import sys

import pytest

from gendiv_lightning import plugins


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package with entry points, as far as importlib's metadata can tell."""

    def add(name, entry_points, code=""):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(entry_points)
        (tmp_path / f"{name}.py").write_text(code)

    monkeypatch.syspath_prepend(str(tmp_path))
    plugins.registered.cache_clear()
    yield add
    plugins.registered.cache_clear()
    for name in ("alien", "second"):
        sys.modules.pop(name, None)


def test_gendivs_own_generators_are_registered_like_any_other():
    own = plugins.registered("generators")
    assert {"llamagen", "amused", "vq_diffusion"} <= own.keys()
    assert own["llamagen"].distribution == "gendiv_lightning"
    assert plugins.load("generators", "llamagen").__name__ == "LlamaGen"


def test_a_plugin_of_another_package_is_found_and_loaded(install):
    install("alien", "[gendiv.generators]\nufo = alien:Ufo\n", "class Ufo: pass\n")
    assert plugins.find("generators", "ufo").distribution == "alien"
    assert plugins.load("generators", "ufo").__name__ == "Ufo"


def test_a_plugin_that_shadows_a_built_in_is_ignored_with_a_warning(install):
    install("alien", "[gendiv.generators]\nllamagen = alien:Ufo\n")
    with pytest.warns(UserWarning, match="'llamagen'.*alien.*ignored"):
        assert plugins.find("generators", "llamagen").distribution == "gendiv_lightning"


def test_if_two_packages_use_a_name_the_first_keeps_it(install):
    install("alien", "[gendiv.probes]\nbeam = alien:Beam\n")
    install("second", "[gendiv.probes]\nbeam = second:Beam\n")
    with pytest.warns(UserWarning, match="second"):
        assert plugins.find("probes", "beam").distribution == "alien"


def test_an_unknown_name_lists_similar_ones():
    with pytest.raises(ValueError, match=r"lamagen.*llamagen.*gendiv list generators"):
        plugins.find("generators", "lamagen")


def test_a_plugin_that_cannot_be_imported_names_its_package(install):
    install("alien", "[gendiv.metrics]\nbeam = alien:Missing\n")
    with pytest.raises(ValueError, match=r"beam.*alien"):
        plugins.load("metrics", "beam")
