import json
import shutil

import pytest
import torch
from random_clips import pictures
from random_dinov2 import write_dinov2
from torch.nn import functional as F

from gendiv_lightning.features.dinov2 import DINOv2Features
from gendiv_lightning.metrics import FeatureCosine
from gendiv_lightning.records import PromptSamples


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_dinov2(tmp_path_factory.mktemp("dinov2") / "toy")


@pytest.fixture(scope="module")
def features(folder):
    return DINOv2Features(folder)


def by_transformers(folder, images):
    from transformers import AutoImageProcessor, Dinov2Model

    pixels = AutoImageProcessor.from_pretrained(folder)(images=list(images), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        return Dinov2Model.from_pretrained(folder).eval()(pixels).pooler_output


@pytest.mark.parametrize("size", [(32, 32), (48, 40)])
def test_features_agree_with_transformers(folder, features, size):
    images = pictures(4, *size)
    theirs = by_transformers(folder, images)
    assert (theirs[0] - theirs[1]).abs().max() > 0.05
    # Resizing may round a pixel differently; at 32 pixels nothing is resized.
    torch.testing.assert_close(features(images), theirs, rtol=0, atol=1e-5 if size == (32, 32) else 2e-2)


def test_the_distance_is_the_mean_cosine_distance_over_pairs(folder, features):
    images = pictures(5, 32, 32)
    units = F.normalize(by_transformers(folder, images).double(), dim=1)
    expected = 1 - (units @ units.T)[tuple(torch.triu_indices(5, 5, 1))].mean().item()
    metric = FeatureCosine(features)
    assert metric.names[0] == "diversity/cosine[toy]"
    assert metric.measure(PromptSamples(images))[0] == pytest.approx(expected, abs=1e-5)
    assert expected > 1e-3


def test_features_do_not_depend_on_their_batch(features):
    images = pictures(5, 40, 40)
    alone = torch.cat([features(image[None]) for image in images])
    torch.testing.assert_close(features(images), alone, rtol=0, atol=1e-5)


def test_names_and_identities_distinguish_models(folder):
    assert DINOv2Features().tag == "dinov2"
    assert DINOv2Features("facebook/dinov2-large").tag == "dinov2-large"
    identity = DINOv2Features(folder).identity()
    assert identity["network"] == "toy"
    assert len(identity["weights"]) == 64
    assert DINOv2Features().identity() == {"network": "facebook/dinov2-base", "weights": None}


def test_the_error_for_an_unavailable_model_says_what_to_do():
    with pytest.raises(FileNotFoundError, match=r"'facebook/dinov2-base'.*cosine\[dinov2,model=FOLDER\]"):
        DINOv2Features().load()


def test_a_model_other_than_dinov2_is_an_error(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "deep")
    config = json.loads((tmp_path / "deep" / "config.json").read_text())
    (tmp_path / "deep" / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(ValueError, match=r"deep'.*Dinov2Model.*missing"):
        DINOv2Features(str(tmp_path / "deep")).load()
