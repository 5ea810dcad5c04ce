"""Values of a config: `~` is expanded, null is rejected if a value is required, functions are always rejected."""

import os
from collections.abc import Callable

import pytest
from jsonargparse import Namespace

from gendiv_lightning.cli.values import check_values, expand_home


class Base:
    def __init__(self, count: int, limit: int | None = None): ...


class Thing(Base):
    def __init__(
        self, name: str = "", hook: Callable[[int], int] | None = None, anything=None, label: str = "a", **more
    ): ...


def spec(**arguments):
    return Namespace(class_path=f"{__name__}.Thing", init_args=Namespace(arguments))


def test_home_is_expanded_in_every_string_that_is_a_path_below_it(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config = Namespace(
        run_dir="~/x", data=Namespace(init_args=Namespace(path="~/y/z.txt")), list=["~/a", 3, "~", "a~/b"]
    )
    expanded = expand_home(config)
    assert expanded.run_dir == "/home/me/x"
    assert expanded.data.init_args.path == "/home/me/y/z.txt"
    assert expanded.list == ["/home/me/a", 3, "~", "a~/b"]


@pytest.mark.parametrize(
    "arguments", [{"count": 1}, {"name": ""}, {"limit": None}, {"hook": None}, {"anything": None}, {"odd": None}]
)
def test_values_of_the_declared_types_are_allowed(arguments):
    check_values(Namespace(data=spec(**arguments)), {})


@pytest.mark.parametrize(("arguments", "key"), [({"name": None}, "data.name"), ({"count": None}, "data.count")])
def test_null_for_a_required_value_is_an_error_that_names_the_key(arguments, key):
    """Also for arguments that a class passes on to its base class."""
    with pytest.raises(ValueError, match=f"^{key} must not be null"):
        check_values(Namespace(data=spec(**arguments)), {})


def test_null_in_a_group_and_in_a_list_of_objects_is_found():
    with pytest.raises(ValueError, match=r"^run\.count must not be null\. Give a value \(int\)"):
        check_values(Namespace(run=Namespace(count=None)), {"run": Thing})
    with pytest.raises(ValueError, match=r"^probes\[1\]\.name must"):
        check_values(Namespace(probes=[spec(name="a"), spec(name=None)]), {})
    with pytest.raises(ValueError, match=r"^overwrite must not be null"):
        check_values(Namespace(overwrite=None), {}, {"overwrite": bool})


@pytest.mark.parametrize("function", [os.system, "os.system", {"class_path": "os.popen"}])
def test_a_function_is_rejected(function):
    with pytest.raises(ValueError, match=r"^callbacks\[0\]\.hook must not name a function"):
        check_values(Namespace(callbacks=[spec(hook=function)]), {})


def test_a_function_is_rejected_even_if_any_value_is_allowed():
    with pytest.raises(ValueError, match=r"^data\.anything must not name a function"):
        check_values(Namespace(data=spec(anything=os.system)), {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label": ""}, "data.label must not be empty"),
        ({"label": "  "}, "data.label must not be empty"),
        ({"count": float("nan")}, "data.count must be a finite number, got nan"),
        ({"odd": [1.0, float("inf")]}, r"data.odd\[1\] must be a finite number, got inf"),
        ({"count": 2**63}, "data.count must be a 64-bit integer"),
    ],
)
def test_values_that_cannot_be_meant_are_errors_that_name_the_key(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        check_values(Namespace(data=spec(**arguments)), {})
