import json
import math

import pytest
import torch
from safetensors.torch import save_file

from gendiv_lightning.features.base import ImageFeatures
from gendiv_lightning.features.inception import InceptionFeatures
from gendiv_lightning.functional.frechet import frechet_distance, statistics
from gendiv_lightning.metrics.reference import (
    check_provenance,
    read_provenance,
    read_reference,
    reference_statistics,
    write_reference,
)
from gendiv_lightning.toy.features import TinyFeatures


def images(num=30, size=16):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num, 3, size, size), dtype=torch.uint8, generator=generator)


class Broken(ImageFeatures):
    tag = "broken"

    def identity(self):
        return {"network": "broken"}

    def embed(self, images):
        return torch.full((len(images), 4), math.nan)


@pytest.mark.parametrize("size", [1, 7, 30])
def test_statistics_do_not_depend_on_the_batch_size(size):
    reference = reference_statistics(images().split(size), TinyFeatures(), "noise")
    expected = statistics(TinyFeatures()(images()))
    assert reference.statistics.num_rows == 30
    torch.testing.assert_close(reference.statistics.mean, expected.mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(reference.statistics.scatter, expected.scatter, rtol=0, atol=1e-5)  # of 30 rows
    assert frechet_distance(reference.statistics, expected) < 1e-6
    torch.testing.assert_close(reference.features, TinyFeatures()(images()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("keeps", [True, False])
def test_a_reference_file_round_trips(keeps, tmp_path):
    reference = reference_statistics([images()], TinyFeatures(), "noise, 16 pixels", keep_features=keeps)
    write_reference(tmp_path / "reference.safetensors", reference)
    again = read_reference(tmp_path / "reference.safetensors")
    assert again.provenance == reference.provenance
    assert again.statistics.num_rows == 30
    assert torch.equal(again.statistics.mean, reference.statistics.mean)
    assert torch.equal(again.statistics.scatter, reference.statistics.scatter)
    assert again.statistics.scatter.dtype == torch.float64
    assert (again.features is not None) == keeps
    assert not keeps or torch.equal(again.features, reference.features)
    provenance = read_provenance(tmp_path / "reference.safetensors")
    assert provenance["dataset"] == "noise, 16 pixels"
    assert provenance["num_images"] == 30
    assert provenance["features"] == TinyFeatures().identity()


def test_the_error_for_a_reference_of_another_network_lists_the_differences(tmp_path):
    path = tmp_path / "reference.safetensors"
    write_reference(path, reference_statistics([images()], TinyFeatures(), "noise", keep_features=False))
    check_provenance(path, TinyFeatures(), needs_features=False)
    with pytest.raises(ValueError, match=r"network.*'tiny .*resize.*None.*'clean'.*gendiv reference"):
        check_provenance(path, InceptionFeatures(), needs_features=False)
    with pytest.raises(ValueError, match="--keep-features"):
        check_provenance(path, TinyFeatures(), needs_features=True)
    with pytest.raises(ValueError, match=r"30 .*31"):
        check_provenance(path, TinyFeatures(), needs_features=False, fewest=31)


def test_a_file_that_is_not_a_reference_is_an_error(tmp_path):
    (tmp_path / "text").write_text("no tensors")
    save_file({"counts": torch.zeros(3)}, tmp_path / "counts")
    for name in ("text", "counts", "missing"):
        with pytest.raises(ValueError, match=name):
            read_provenance(tmp_path / name)


GOOD = {"num_rows": torch.tensor(3), "mean": torch.zeros(2), "scatter": torch.eye(2), "features": torch.zeros(3, 2)}
PROVENANCE = {"dataset": "noise", "num_images": 3, "features": {"network": "none"}}


def test_a_file_of_this_layout_is_read(tmp_path):
    save_file(GOOD, tmp_path / "file", metadata={"provenance": json.dumps(PROVENANCE)})
    assert read_reference(tmp_path / "file").provenance == PROVENANCE


@pytest.mark.parametrize(
    "provenance", ["{", "null", "[]", "{}", json.dumps({**PROVENANCE, "num_images": "3"}), json.dumps({"dataset": "x"})]
)
def test_a_malformed_provenance_is_an_error(provenance, tmp_path):
    save_file(GOOD, tmp_path / "file", metadata={"provenance": provenance})
    with pytest.raises(ValueError, match="file is not a reference file"):
        read_reference(tmp_path / "file")


@pytest.mark.parametrize(
    "change",
    [
        {"num_rows": torch.tensor(1), "features": torch.zeros(1, 2)},
        {"num_rows": torch.tensor([3, 3])},
        {"mean": torch.zeros(3)},
        {"scatter": torch.zeros(2)},
        {"scatter": torch.full((2, 2), math.inf)},
        {"features": torch.zeros(4, 2)},
        {"features": torch.zeros(3, 2, 1)},
    ],
)
def test_inconsistent_tensors_are_an_error(change, tmp_path):
    save_file({**GOOD, **change}, tmp_path / "file", metadata={"provenance": json.dumps(PROVENANCE)})
    with pytest.raises(ValueError, match="file is damaged"):
        read_reference(tmp_path / "file")


def test_non_finite_features_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="finite"):
        reference_statistics([images()], Broken(), "noise")
    reference = reference_statistics([images()], TinyFeatures(), "noise")
    reference.features[3, 4] = math.nan
    write_reference(tmp_path / "damaged", reference)
    with pytest.raises(ValueError, match="damaged"):
        read_reference(tmp_path / "damaged")


def test_a_reference_of_one_image_is_an_error():
    for num in (0, 1):
        with pytest.raises(ValueError, match=f"'noise'.*{num}"):
            reference_statistics(images(num).split(1) if num else [], TinyFeatures(), "noise")
