import warnings
from itertools import combinations
from pathlib import Path

import lpips
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from torchmetrics.functional.image import lpips as torchmetrics_lpips
from torchmetrics.image import lpip

from gendiv_lightning.features.images import split_images
from gendiv_lightning.features.lpips import LPIPSFeatures, alex
from gendiv_lightning.metrics import LPIPS
from gendiv_lightning.records import PromptSamples
from gendiv_lightning.toy.features import TinyPerceptual, TinyPerceptualNet


def images(num=4, size=40):
    generator = torch.Generator().manual_seed(0)
    shared = torch.randint(0, 200, (3, size, size), generator=generator)
    return (shared + torch.randint(0, 56, (num, 3, size, size), generator=generator)).to(torch.uint8)


def random_network(net):
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        return lpips.LPIPS(net=net, pnet_rand=True, verbose=False)


def as_torchvision(network):
    """Rename the backbone of an `lpips` network to the names of torchvision."""
    return {f"features.{name.split('.', 1)[1]}": value for name, value in network.net.state_dict().items()}


@pytest.fixture(scope="module")
def tiny_weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "perceptual.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file({name: value.half() for name, value in TinyPerceptualNet().state_dict().items()}, path)
    return str(path)


@pytest.mark.parametrize("net", ["alex", "squeeze", pytest.param("vgg", marks=pytest.mark.slow)])
def test_squared_feature_distances_are_the_lpips_of_every_pair(net, tmp_path):
    network = random_network(net)
    torch.save(as_torchvision(network), tmp_path / "backbone.pth")
    pictures = images()
    features = LPIPSFeatures(net, str(tmp_path / "backbone.pth"))(pictures)
    assert features.dtype == torch.float32
    scaled = pictures.float() / 127.5 - 1
    for i, j in combinations(range(len(pictures)), 2):
        theirs = network(scaled[i : i + 1], scaled[j : j + 1]).item()
        ours = (features[i].double() - features[j].double()).square().sum().item()
        assert theirs > 1e-4
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
        assert ours == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize("net", ["alex", "squeeze", pytest.param("vgg", marks=pytest.mark.slow)])
def test_the_metric_agrees_with_the_lpips_package_and_torchmetrics(net, tmp_path):
    network = random_network(net)
    torch.save(as_torchvision(network), tmp_path / "backbone.pth")
    pictures = images()
    ours = LPIPS(net, str(tmp_path / "backbone.pth")).measure(PromptSamples(pictures))[0]
    scaled = pictures.float() / 127.5 - 1
    first, second = torch.triu_indices(len(pictures), len(pictures), 1)
    with torch.no_grad():
        package = network(scaled[first], scaled[second]).mean().item()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lpip, "_NoTrainLpips", lambda net: torchmetrics_lpips._NoTrainLpips(net=net, pnet_rand=True))
        theirs = lpip.LearnedPerceptualImagePatchSimilarity(net_type=net)
    state = network.net.state_dict().values()  # under other names, in the same order
    theirs.net.net.load_state_dict(dict(zip(theirs.net.net.state_dict(), state, strict=True)))
    theirs.update(scaled[first], scaled[second])
    assert ours == pytest.approx(package, abs=1e-5)
    assert ours == pytest.approx(theirs.compute().item(), abs=1e-5)
    assert ours > 1e-3


@pytest.mark.parametrize("net", ["alex", "vgg", "squeeze"])
def test_the_shipped_linear_weights_are_not_negative(net):
    state = torch.load(Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth", map_location="cpu")
    assert all((weight >= 0).all() for weight in state.values())


def test_the_tiny_distance_is_the_mean_over_stages_of_unit_activations(tiny_weights):
    features = TinyPerceptual(tiny_weights)
    pictures = images(2, 48)
    ours = features(pictures)
    activations = features.network(pictures.float() / 127.5 - 1)
    units = [F.normalize(stage.double(), dim=1) for stage in activations]
    expected = sum((unit[0] - unit[1]).square().sum(0).mean() for unit in units) / 4
    assert [tuple(stage.shape[1:]) for stage in activations] == [(16, 48, 48), (32, 24, 24), (64, 12, 12), (64, 6, 6)]
    assert (ours[0] - ours[1]).square().sum().item() == pytest.approx(expected.item(), rel=1e-5)


def test_features_do_not_depend_on_their_batch(tiny_weights):
    features = TinyPerceptual(tiny_weights)
    pictures = images(70, 16)
    assert len(split_images(pictures)) == 3
    alone = torch.cat([features(picture[None]) for picture in pictures])
    torch.testing.assert_close(features(pictures), alone, rtol=0, atol=1e-6)


def test_autocast_does_not_affect_the_features(tiny_weights):
    features = TinyPerceptual(tiny_weights)
    plain = features(images(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(features(images(2)), plain)


def test_weights_load_at_first_use_without_touching_the_global_generator(tmp_path):
    torch.save(as_torchvision(random_network("alex")), tmp_path / "backbone.pth")
    features = LPIPSFeatures("alex", str(tmp_path / "backbone.pth"))
    assert not list(features.parameters())
    state = torch.random.get_rng_state()
    features.load()
    assert torch.equal(state, torch.random.get_rng_state())
    assert not any(parameter.requires_grad for parameter in features.parameters())


def test_a_checkpoint_in_the_hub_cache_is_used(tmp_path, monkeypatch):
    network = random_network("squeeze")
    (tmp_path / "checkpoints").mkdir()
    torch.save(as_torchvision(network), tmp_path / "checkpoints" / "squeezenet1_1-b8a52dc0.pth")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    weights = LPIPSFeatures("squeeze").load().network.net.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in network.net.state_dict().items())


def test_the_error_for_an_unavailable_backbone_says_what_to_do(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(FileNotFoundError, match=r"alexnet-owt-7be5be79\.pth.*no network.*`weights`"):
        LPIPSFeatures("alex").load()


def test_an_invalid_net_or_file_is_an_error_before_anything_loads():
    with pytest.raises(ValueError, match=r"alex, vgg, squeeze.*'resnet'"):
        LPIPSFeatures("resnet")
    with pytest.raises(ValueError, match=r"net .*tiny.*'resnet'"):
        LPIPS("resnet")
    with pytest.raises(ValueError, match=r"weights .* 'nowhere\.pth'"):
        LPIPSFeatures("alex", "nowhere.pth")


@pytest.mark.parametrize(
    ("net", "smallest"), [("alex", 31), ("squeeze", 17), pytest.param("vgg", 16, marks=pytest.mark.slow)]
)
def test_too_small_images_are_an_error(net, smallest, tmp_path):
    torch.save(as_torchvision(random_network(net)), tmp_path / "backbone.pth")
    features = LPIPSFeatures(net, str(tmp_path / "backbone.pth"))
    assert len(features(images(1, smallest))) == 1
    with pytest.raises(ValueError, match=str(smallest)):
        features(images(1, smallest - 1))


@pytest.mark.parametrize("make", [alex, TinyPerceptual])
def test_a_file_that_is_not_a_backbone_is_named_in_the_error(make, tmp_path):
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pt")
    (tmp_path / "broken.pt").write_text("not a checkpoint")
    for name in ("other.pt", "broken.pt"):
        with pytest.raises(ValueError, match=name):
            make(str(tmp_path / name)).load()


def test_legacy_checkpoints_of_torchvision_are_read(tmp_path):
    network = random_network("squeeze")
    path = tmp_path / "legacy.pth"
    torch.save(as_torchvision(network), path, _use_new_zipfile_serialization=False)
    weights = LPIPSFeatures("squeeze", str(path)).load().network.net.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in network.net.state_dict().items())


def test_a_registered_network_works_with_the_metric(tiny_weights):
    metric = LPIPS("tiny", tiny_weights)
    assert isinstance(metric.features, TinyPerceptual)
    assert metric.identity()["weights"] == metric.features.weights_sha256 != LPIPS("tiny").identity()["weights"]
