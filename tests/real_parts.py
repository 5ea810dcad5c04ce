"""The files of the folder `GENDIV_REAL_WEIGHTS`, for the tests marked `real`; see real_files.py."""

import csv
import os
import warnings
from itertools import combinations
from pathlib import Path

import lpips
import pytest
import torch
from PIL import Image
from real_files import PARTS, reason_file
from torchmetrics.functional.image import dists
from torchvision.models import vgg16
from torchvision.transforms.functional import pil_to_tensor


def real_folder():
    return Path(os.environ["GENDIV_REAL_WEIGHTS"])


def part(name):
    """The folder, if it has a part; otherwise the test is skipped with the reason."""
    folder, reason = real_folder(), reason_file(real_folder(), name)
    if not all((folder / file).exists() for file in PARTS[name].files):
        why = reason.read_text().strip() if reason.exists() else "tests/real_files.py makes them"
        pytest.skip(f"GENDIV_REAL_WEIGHTS does not contain {', '.join(PARTS[name].files)}: {why}")
    return folder


def weights_of(network):
    """The file of a network; there must be exactly one, unless real_files.py left the reason why it is missing."""
    files = [path for path in real_folder().glob("*.pth") if network in path.name]
    name = "inception" if network == "inception" else "lpips"
    if not files and reason_file(real_folder(), name).exists():
        part(name)
    assert len(files) == 1, f"GENDIV_REAL_WEIGHTS must contain one file *{network}*.pth, got {files}"
    return files[0]


def rows_of(name):
    """Rows of the table of pictures `photos` or `emoji`, with the path of the picture."""
    folder = part(name) / name
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as file:
        return [{**row, "path": folder / row["file_name"]} for row in csv.DictReader(file)]


def read_rgb(path):
    """A picture (3, H, W) uint8, over white."""
    image = Image.open(path).convert("RGBA")
    return pil_to_tensor(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"))


def photos(subject, number):
    """The first photos of a subject (number, 3, 256, 256)."""
    return torch.stack([read_rgb(row["path"]) for row in rows_of("photos") if row["subject"] == subject][:number])


def emoji(prompt):
    """All emoji of a prompt (N, 3, 256, 256), which differ in the tone of the skin."""
    return torch.stack([read_rgb(row["path"]) for row in rows_of("emoji") if row["prompt"] == prompt])


def reference_lpips(net):
    """The network of the `lpips` package, with the official backbone."""
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        network = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    backbone = torch.load(weights_of({"alex": "alexnet", "vgg": "vgg16"}[net]), weights_only=True)
    state = [value for name, value in backbone.items() if name.startswith("features.")]
    network.net.load_state_dict(dict(zip(network.net.state_dict(), state, strict=True)))  # in the same order
    return network


def mean_of_pairs(network, images):
    """Mean distance of all pairs of images (N, 3, H, W) uint8, one pair at a time."""
    scaled = images.float() / 127.5 - 1
    pairs = combinations(range(len(scaled)), 2)
    with torch.no_grad():
        return torch.stack([network(scaled[i : i + 1], scaled[j : j + 1]) for i, j in pairs]).mean().item()


def reference_dists(images, monkeypatch):
    """DISTS of all pairs by torchmetrics, with the official VGG16, and the two numbers of each pair."""
    with torch.device("meta"):
        layers = vgg16(init_weights=False).features
    state = torch.load(weights_of("vgg16"), weights_only=True)
    convolutions = {name.removeprefix("features."): value for name, value in state.items() if "features." in name}
    layers.load_state_dict(convolutions, assign=True)
    monkeypatch.setattr(dists, "vgg16", lambda weights: torch.nn.ModuleDict({"features": layers}))
    first, second = map(list, zip(*combinations(range(len(images)), 2), strict=True))
    distances = dists.deep_image_structure_and_texture_similarity(images[first] / 255, images[second] / 255)
    return distances.detach(), first, second
