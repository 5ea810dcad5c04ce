import math
from itertools import combinations

import pytest
import torch
from torchmetrics.functional.image import dists
from torchvision.models import vgg16

from gendiv_lightning.features import dists as ours
from gendiv_lightning.features.dists import DISTSFeatures
from gendiv_lightning.metrics import DISTS
from gendiv_lightning.records import PromptSamples


def images(num=4, size=45):
    """Images that share a ground; their side is odd, so that pooling rounds up."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randint(0, 200, (3, size, size - 4), generator=generator)
    return (shared + torch.randint(0, 56, (num, 3, size, size - 4), generator=generator)).to(torch.uint8)


@pytest.fixture(scope="module")
def backbone():
    """The convolutions of a random VGG16 that keep activations of order 1."""
    with torch.device("meta"):
        layers = vgg16(init_weights=False).features
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(tensor.shape, generator=generator) * (2 / tensor[0].numel()) ** 0.5
        if tensor.ndim > 1
        else 0.1 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in layers.state_dict().items()
    }
    layers.load_state_dict(state, assign=True)
    return layers


@pytest.fixture(scope="module")
def weights(backbone, tmp_path_factory):
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save({f"features.{name}": value for name, value in backbone.state_dict().items()}, path)
    return str(path)


def reference_network(layers):
    """The network of torchmetrics, with these convolutions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dists, "vgg16", lambda weights: torch.nn.ModuleDict({"features": layers}))
        return dists.DISTSNetwork()


def test_the_metric_is_the_mean_of_what_torchmetrics_gives_for_every_pair(backbone, weights):
    pictures = images()
    metric = DISTS(weights)
    matrix = metric.matrix(PromptSamples(pictures))
    first, second = map(list, zip(*combinations(range(len(pictures)), 2), strict=True))
    theirs = reference_network(backbone)(pictures[first] / 255, pictures[second] / 255).detach()
    assert theirs.min() > 5e-3
    assert theirs.std() > 1e-4
    torch.testing.assert_close(matrix[first, second].float(), theirs, rtol=1e-3, atol=1e-6)
    assert metric.measure(PromptSamples(pictures))[0] == pytest.approx(theirs.mean().item(), rel=1e-3)


def test_blocks_do_not_change_the_distances(weights, monkeypatch):
    pictures, features = images(5), DISTSFeatures(weights)
    whole = features.distances(pictures)
    monkeypatch.setattr(ours, "_BLOCK_IMAGES", 2)
    assert torch.equal(whole, whole.T)
    torch.testing.assert_close(features.distances(pictures), whole, rtol=0, atol=1e-6)


def test_equal_images_have_no_distance_and_one_image_no_diversity(weights):
    metric = DISTS(weights)
    picture = images(1)
    for constant in (picture, torch.zeros_like(picture)):
        equal = metric.matrix(PromptSamples(constant.expand(3, -1, -1, -1)))
        torch.testing.assert_close(equal, torch.zeros(3, 3, dtype=torch.float64), rtol=0, atol=1e-6)
    assert math.isnan(metric.measure(PromptSamples(picture))[0])


def test_the_shipped_weights_of_channels_are_positive_and_sum_to_one(weights):
    network = DISTSFeatures(weights).load().network
    assert min(network.alpha.min(), network.beta.min()) >= 0
    assert (network.alpha.sum() + network.beta.sum()).item() == pytest.approx(1, abs=1e-5)


def test_weights_are_part_of_the_method_and_the_identity(weights):
    assert DISTS().names[0] == "diversity/dists"
    assert DISTS().identity()["features"]["weights"] is None
    digest = DISTS(weights).identity()["features"]["weights"]
    assert f"(VGG16, weights {digest[:8]})" in DISTS(weights).method


def test_invalid_weights_are_an_error_with_their_name(tmp_path):
    with pytest.raises(ValueError, match=r"weights must be a file, got 'nowhere\.pth'"):
        DISTS("nowhere.pth")
    torch.save({"features.0.weight": torch.zeros(64, 3, 11, 11)}, tmp_path / "alexnet.pth")
    with pytest.raises(ValueError, match=r"alexnet\.pth .*missing.*0\.weight \(64, 3, 11, 11\)"):
        DISTSFeatures(str(tmp_path / "alexnet.pth")).load()


def test_the_error_for_an_unavailable_backbone_names_the_option(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(FileNotFoundError, match=r"vgg16-397923af\.pth.*no network.*dists\[weights=FILE\]"):
        DISTSFeatures().load()
