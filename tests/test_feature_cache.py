"""Cached features are computed once; a damaged entry is recomputed with a warning."""

import random

import pytest
import torch

from gendiv_lightning.storage.feature_cache import FeatureCache


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_features_are_computed_once(dtype):
    cache, calls = FeatureCache("test", f"once {dtype}"), []

    def compute():
        calls.append(1)
        return torch.arange(6).view(2, 3).to(dtype)

    first, again = cache.get("a", compute), cache.get("a", compute)
    assert len(calls) == 1
    assert again.dtype == dtype
    assert torch.equal(first, again)
    assert not torch.equal(cache.get("b", lambda: torch.zeros(2, 3, dtype=dtype)), first)


@pytest.mark.filterwarnings("ignore:.*damaged and is recomputed")
def test_no_flipped_bit_changes_a_feature():
    cache, features = FeatureCache("test", "flips"), torch.rand(3, 5)
    cache.get("a", lambda: features)
    (path,) = cache.folder.rglob("*.safetensors")
    whole, draw = path.read_bytes(), random.Random(0)
    for _ in range(60):
        content = bytearray(whole)
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(bytes(content))
        assert torch.equal(cache.get("a", lambda: features), features)
        path.write_bytes(whole)


def test_a_damaged_entry_gives_a_warning():
    cache = FeatureCache("test", "noted")
    cache.get("a", lambda: torch.ones(2))
    (path,) = cache.folder.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.warns(UserWarning, match="damaged and is recomputed"):
        cache.get("a", lambda: torch.ones(2))
