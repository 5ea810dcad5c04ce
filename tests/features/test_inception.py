import hashlib
import math
from pathlib import Path

import pytest
import torch
import torch_fidelity
from PIL import Image
from safetensors.torch import save_file
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchvision.models import Inception3

from gendiv_lightning.features import inception
from gendiv_lightning.features.inception import InceptionFeatures
from gendiv_lightning.metrics import FrechetDistance, KernelDistance, PrecisionRecall
from gendiv_lightning.metrics.reference import reference_statistics, write_reference
from gendiv_lightning.records import PromptSamples


def random_state(seed=0):
    """Random weights and batch norm statistics that keep activations of order 1."""
    with torch.device("meta"):
        empty = Inception3(num_classes=1008, aux_logits=False, init_weights=False).state_dict()
    generator = torch.Generator().manual_seed(seed)

    def draw(name, tensor):
        if tensor.ndim == 0:
            return torch.zeros((), dtype=torch.int64)
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim > 1:
            return noise * (2 / noise[0].numel()) ** 0.5
        return 1 + 0.2 * noise.abs() if name.endswith(("bn.weight", "running_var")) else 0.2 * noise

    return {name: draw(name, tensor) for name, tensor in empty.items()}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(random_state(), path)
    return str(path)


@pytest.fixture(scope="module")
def ours(weights):
    return InceptionFeatures(weights, resize="torch-fidelity")


@pytest.fixture(scope="module")
def features(ours):
    return ours(images())


def images():
    return torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_features_agree_with_torch_fidelity(features, weights):
    with torch.no_grad():
        (expected,) = FeatureExtractorInceptionV3("fid", ["2048"], feature_extractor_weights_path=weights)(images())
    assert features.shape == (2, 2048)
    assert features.dtype == torch.float32
    assert expected.std() > 0.1
    assert (expected[0] - expected[1]).abs().max() > 0.01
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_distances_between_folders_agree_with_torch_fidelity(ours, weights, tmp_path):
    """Compares FID to a relative 1e-3, KID over all pairs, precision and recall, starting from image files."""
    generator = torch.Generator().manual_seed(0)
    sets = {}
    for name, spread in (("real", 120), ("sampled", 160)):
        grounds = torch.randint(0, 256 - spread, (8, 3, 1, 1), generator=generator)
        noise = torch.randint(0, spread, (8, 3, 64, 64), generator=generator)
        sets[name] = (grounds + noise).to(torch.uint8)
        (tmp_path / name).mkdir()
        for number, image in enumerate(sets[name]):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / name / f"{number:02}.png")
    write_reference(tmp_path / "real.safetensors", reference_statistics(sets["real"].split(8), ours, "noise"))
    theirs = torch_fidelity.calculate_metrics(
        input1=str(tmp_path / "sampled"),
        input2=str(tmp_path / "real"),
        **{name: True for name in ("fid", "kid", "prc")},
        **{"kid_subsets": 1, "kid_subset_size": 8, "batch_size": 8, "feature_extractor": "inception-v3-compat"},
        **{
            "feature_extractor_weights_path": weights,
            "cuda": False,
            "verbose": False,
            "cache": False,
            "save_cpu_ram": True,
        },
    )
    numbers = {}
    for make in (FrechetDistance, KernelDistance, PrecisionRecall):
        metric = make(str(tmp_path / "real.safetensors"), ours)
        for index, part in enumerate(sets["sampled"].split(2)):
            metric.update(PromptSamples(part, place=index))
        result = {name: estimate.value for name, estimate in metric.compute().items()}
        numbers |= {name.partition("[")[0]: value for name, value in result.items() if not name.endswith("/infinity")}
    assert numbers["quality/fd"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)
    assert numbers["quality/kd"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)
    assert numbers["quality/precision"] == pytest.approx(theirs["precision"], abs=1e-6)
    assert numbers["quality/recall"] == pytest.approx(theirs["recall"], abs=1e-6)


def test_the_resize_rule_changes_features_and_identity(ours, features, weights):
    clean = InceptionFeatures(weights)
    clean.network = ours.network
    assert (clean(images()[:1]) - features[:1]).abs().max() > 1e-3
    assert clean.identity() == {**ours.identity(), "resize": "clean"}


def test_features_do_not_depend_on_their_batch_or_on_autocast(ours, features):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(ours(images()[1:]), features[1:], rtol=1e-5, atol=1e-5)


def test_only_the_2015_weights_have_the_plain_name(weights):
    digest = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    assert InceptionFeatures(weights).tag == f"inception-{digest[:8]}"
    assert InceptionFeatures().tag == "inception"
    assert InceptionFeatures().identity() == {
        "network": "Inception v3 for FID",
        "weights": "6726825d",
        "resize": "clean",
    }


def test_weights_may_only_lack_the_batch_norm_counters(weights, tmp_path):
    state = torch.load(weights)
    counts = {name for name in state if "num_batches" in name}
    assert counts
    save_file({name: tensor for name, tensor in state.items() if name not in counts}, tmp_path / "few.safetensors")
    features = InceptionFeatures(str(tmp_path / "few.safetensors"))
    assert not list(features.parameters())  # weights are read at first use
    features.load()
    assert not any(parameter.requires_grad for parameter in features.parameters())
    torch.save({"fc.bias": state["fc.bias"]}, tmp_path / "broken.pth")
    with pytest.raises(ValueError, match=r"broken\.pth .*missing.*Conv2d_1a_3x3\.bn\.bias"):
        InceptionFeatures(str(tmp_path / "broken.pth")).load()


def test_the_error_for_unavailable_weights_says_what_to_do(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(FileNotFoundError, match=r"6726825d\.pth.*no network.*`weights`"):
        InceptionFeatures().load()


def test_the_file_in_the_hub_cache_is_used_if_its_hash_matches(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / inception.URL.rsplit("/", 1)[1]).symlink_to(weights)
    with pytest.raises(ValueError, match="6726825d"):
        InceptionFeatures().load()
    monkeypatch.setattr(inception, "_HASH", InceptionFeatures(weights).identity()["weights"])
    features = InceptionFeatures()
    features.load()
    assert features.tag == "inception"
    assert math.isfinite(features.network.Mixed_7c.branch1x1.conv.weight.sum())


def test_invalid_arguments_are_errors_before_anything_loads():
    with pytest.raises(ValueError, match=r"clean, torch-fidelity.*'bicubic'"):
        InceptionFeatures(resize="bicubic")
    with pytest.raises(ValueError, match=r"weights .* 'nowhere\.pth'"):
        InceptionFeatures("nowhere.pth")
    with pytest.raises(ValueError, match="uint8"):
        InceptionFeatures()(images().float())
