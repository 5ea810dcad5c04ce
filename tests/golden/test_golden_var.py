"""The golden cases of VAR pass, and a change of anything that they hold makes them fail."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gendiv_lightning.generators.var.transformer import Attention
from gendiv_lightning.golden import run_case

FOLDER = Path(__file__).parent / "var"
TENSORS = sorted(load_file(FOLDER / "var_io.safetensors"))


@pytest.mark.parametrize("name", ["var", "manifest"])
def test_this_package_gives_the_numbers_of_the_official_code(name):
    result = run_case(FOLDER / f"{name}.json")
    assert result.passed, result
    assert math.isfinite(result.error)


@pytest.mark.slow
@pytest.mark.parametrize("name", TENSORS)
def test_a_change_of_any_tensor_makes_the_case_fail(tmp_path, name):
    for path in FOLDER.glob("var*"):
        shutil.copyfile(path, tmp_path / path.name)
    tensors = load_file(tmp_path / "var_io.safetensors")
    tensor = tensors[name]
    if tensor.dtype == torch.bool:
        tensors[name] = ~tensor
    elif tensor.is_floating_point():
        tensors[name] = tensor.flip(-1) if name in ("filter_logits", "samples") else 1.1 * tensor + 0.01
    else:
        tensors[name] = tensor.flatten().roll(1).view_as(tensor)
    save_file({key: value.contiguous() for key, value in tensors.items()}, tmp_path / "var_io.safetensors")
    assert not run_case(tmp_path / "var.json").passed


def test_another_attention_makes_the_case_fail(monkeypatch):
    forward = Attention.forward
    monkeypatch.setattr(Attention, "forward", lambda self, x, *rest: forward(self, x, *rest) * 1.01)
    result = run_case(FOLDER / "var.json")
    assert not result.passed
    assert "logits_cfg1p5" in result.detail
