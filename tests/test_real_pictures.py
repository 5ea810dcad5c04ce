"""On photos and emoji, official weights give the numbers of the reference packages; legacy files of weights load.

`python tests/real_files.py FOLDER` makes all that these tests need.
"""

import json
import shutil

import pytest
import torch
import torch_fidelity
from real_parts import (
    emoji,
    mean_of_pairs,
    photos,
    read_rgb,
    reference_dists,
    reference_lpips,
    rows_of,
    weights_of,
)

from gendiv_lightning.cli.main import main
from gendiv_lightning.features.inception import InceptionFeatures
from gendiv_lightning.metrics import DISTS, LPIPS
from gendiv_lightning.records import PromptSamples

pytestmark = pytest.mark.real

SUBJECTS = ("animals/birds", "food/fruit", "plants/flowers", "town/houses", "food/vegetables", "animals/insects")
SAMPLES = 4  # photos of a subject


@pytest.mark.parametrize(("net", "network"), [("alex", "alexnet"), ("vgg", "vgg16")])
@pytest.mark.parametrize(
    ("read", "least"),
    [(lambda: photos("animals/mammals/cats", 4), 0.3), (lambda: emoji("waving hand sign")[:4], 0.01)],
    ids=["photos", "emoji"],
)
def test_lpips_of_real_pictures_equals_the_lpips_package(net, network, read, least):
    images = read()
    ours = LPIPS(net, str(weights_of(network))).measure(PromptSamples(images))[0]
    theirs = mean_of_pairs(reference_lpips(net), images)
    assert theirs > least
    assert ours == pytest.approx(theirs, abs=1e-5)


def test_dists_of_photos_equals_torchmetrics(monkeypatch):
    images = photos("animals/mammals/cats", 4)
    theirs, first, second = reference_dists(images, monkeypatch)
    ours = DISTS(str(weights_of("vgg16"))).matrix(PromptSamples(images))[first, second]
    assert theirs.min() > 0.1
    torch.testing.assert_close(ours.float(), theirs, rtol=0, atol=1e-5)


def test_gendiv_measure_on_a_folder_of_photos_gives_the_numbers_of_the_reference_packages(tmp_path):
    """From a table of photos to numbers: LPIPS to 1e-5, FID and KID to a relative 1e-3."""
    rows = {subject: [row for row in rows_of("photos") if row["subject"] == subject] for subject in SUBJECTS}
    for name, start in (("measured", 0), ("reference", SAMPLES)):
        (tmp_path / name).mkdir()
        chosen = [row for subject in SUBJECTS for row in rows[subject][start : start + SAMPLES]]
        for row in chosen:
            shutil.copy(row["path"], tmp_path / name)
        table = "".join(f"{row['file_name']},{row['subject']}\n" for row in chosen)
        (tmp_path / name / "metadata.csv").write_text(f"file_name,prompt\n{table}")
    alexnet, inception = weights_of("alexnet"), weights_of("inception")
    options = f"weights={inception},resize=torch-fidelity"
    reference = tmp_path / "reference.safetensors"
    gendiv(
        *("reference", tmp_path / "reference", "--backbone", f"inception,{options}"),
        *("--keep-features", "--out", reference),
    )
    names = f"lpips[weights={alexnet}],fid[{options}],kid[{options}]"
    gendiv("measure", tmp_path / "measured", "--metrics", names, "--reference", reference, "--out", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    numbers = {name.partition("[")[0]: number["value"] for name, number in found.items() if "/infinity" not in name}

    network = reference_lpips("alex")
    measured = [torch.stack([read_rgb(row["path"]) for row in rows[subject][:SAMPLES]]) for subject in SUBJECTS]
    expected = sum(mean_of_pairs(network, images) for images in measured) / len(SUBJECTS)
    assert expected > 0.3
    assert numbers["diversity/lpips"] == pytest.approx(expected, abs=1e-5)
    theirs = torch_fidelity.calculate_metrics(
        input1=str(tmp_path / "measured"),
        input2=str(tmp_path / "reference"),
        **{"fid": True, "kid": True, "kid_subsets": 1, "kid_subset_size": len(SUBJECTS) * SAMPLES},
        **{"feature_extractor": "inception-v3-compat", "feature_extractor_weights_path": str(inception)},
        **{"batch_size": 8, "cuda": False, "verbose": False, "cache": False, "save_cpu_ram": True},
    )
    frechet, kernel = ("fid", "kid") if "quality/fid" in numbers else ("fd", "kd")  # a copy with another hash
    assert numbers[f"quality/{frechet}"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)
    assert numbers[f"quality/{kernel}"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)


def legacy_copy(network, folder):
    """The weights of a network in the format that torch.save wrote before version 1.6, without zip."""
    path = folder / f"{network}-legacy.pth"
    torch.save(torch.load(weights_of(network), weights_only=True), path, _use_new_zipfile_serialization=False)
    assert path.read_bytes()[:2] != b"PK"
    return str(path)


def test_a_legacy_file_of_vgg16_gives_the_same_distances(tmp_path):
    images, legacy = PromptSamples(photos("animals/mammals/cats", 3)), legacy_copy("vgg16", tmp_path)
    assert torch.equal(LPIPS("vgg", legacy).matrix(images), LPIPS("vgg", str(weights_of("vgg16"))).matrix(images))
    assert torch.equal(DISTS(legacy).matrix(images), DISTS(str(weights_of("vgg16"))).matrix(images))


def test_a_legacy_file_of_inception_gives_the_same_features(tmp_path):
    images, legacy = photos("animals/mammals/cats", 2), legacy_copy("inception", tmp_path)
    assert torch.equal(InceptionFeatures(legacy)(images), InceptionFeatures(str(weights_of("inception")))(images))


def gendiv(*words):
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    assert stopped.value.code == 0
