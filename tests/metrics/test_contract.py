"""Requirements on every metric: independence of ranks and chunks, and errors for invalid images."""

import json
import math
import os

import pytest
import torch
from random_dinov2 import write_dinov2

from gendiv_lightning import plugins
from gendiv_lightning.features.base import _LoadedNetworks
from gendiv_lightning.metrics.base import compute_metrics
from gendiv_lightning.metrics.reference import reference_statistics, write_reference
from gendiv_lightning.metrics.registry import make_metric
from gendiv_lightning.recorders import ParaphraseLikelihood, TokenMarginals
from gendiv_lightning.records import PromptSamples
from gendiv_lightning.toy import postcards
from gendiv_lightning.toy.features import TinyClip

DISTANCES = (
    *("lpips[tiny]", "pixel_cosine", "ssim", "cosine[tiny]", "cosine[dinov2,model=TOY]"),
    "clip_cosine[tiny-clip]",
)
# For metrics whose default backbone would be downloaded, or with settings that need separate tests.
SETTINGS = {
    "attributes": ["attributes[tiny-clip,list=postcards]"],
    "lpips": ["lpips[tiny]"],
    "dists": [],  # tests/features/test_dists.py, with a random VGG16
    "cosine": ["cosine[tiny]", "cosine[dinov2,model=TOY]"],
    "clip_cosine": ["clip_cosine[tiny-clip]"],
    "vendi": ["vendi", "vendi[tiny,q=2]"],
    "vendi_set": ["vendi_set", "vendi_set[tiny]"],
    "kernel_entropy": ["kernel_entropy[tiny]", "kernel_entropy[tiny,bandwidth=0.5]"],
    "codebook": ["codebook", "codebook[tiny]"],
    "clip_score": ["clip_score[tiny-clip]"],
    "vqa_score": ["vqa_score[postcards]"],
    "clip_iqa": ["clip_iqa[tiny-clip,prompts=[],pairs={sunset: [orange sky, blue sky]}]"],
    "fid": [],  # fd by Inception
    "kid": [],  # kd by Inception
    "fd": ["fd[tiny-clip]"],
    "kd": ["kd[tiny-clip]"],
    "precision_recall": ["precision_recall[tiny-clip,k=1,k_density=1]"],
}
NAMES = [name for metric in plugins.registered("metrics") for name in SETTINGS.get(metric, [metric])]
OF_IMAGES = [name for name in NAMES if "images" in plugins.load("metrics", name.partition("[")[0]).needs]
K = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("contract")
    write_dinov2(folder / "toy")
    reference = reference_statistics([postcards.render(torch.arange(0, 4000, 150))], TinyClip(), "postcards")
    write_reference(folder / "reference.safetensors", reference)
    return folder


def make(name, folder):
    return make_metric(name.replace("TOY", str(folder / "toy")), str(folder / "reference.safetensors"), K)


def prompt(index, num=6):
    generator = torch.Generator().manual_seed(index)
    images = postcards.render(torch.randint(postcards.NUM_IMAGES, (num,), generator=generator))
    tokens = torch.randint(K, (num, 36), generator=generator)
    recorded = torch.rand(6, generator=generator, dtype=torch.float64) if num > 1 else torch.full((6,), math.nan)
    return PromptSamples(
        images,
        tokens,
        "the sun at the left",
        index,
        paraphrase=torch.arange(num) % 2,
        entropy=torch.rand(num, 36, generator=generator),
        per_prompt={TokenMarginals.name: recorded},
        per_sample={ParaphraseLikelihood.name: -200 * torch.rand(num, 2, generator=generator)},
    )


def measured(folder, positions, names=NAMES):
    metrics = [make(name, folder) for name in names]
    for metric in metrics:
        metric.load()
        for index in positions:
            metric.update(prompt(index))
    return metrics


def numbers(metrics):
    """Values and interval ends by name, and the columns of the prompts."""
    estimates, columns = compute_metrics(metrics)
    return {
        **{name: [estimate.value, estimate.low, estimate.high, *estimate[3:6]] for name, estimate in estimates.items()},
        **{f"{name} by prompt": column.tolist() for name, column in columns.items()},
    }


def work(rank, folder, port):
    """One of two ranks, which measures every other of seven prompts."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    result = numbers(measured(folder, range(rank, 7, 2)))
    (folder / f"{rank}.json").write_text(json.dumps(result))
    torch.distributed.destroy_process_group()


@pytest.mark.run
def test_two_ranks_give_the_numbers_of_one(folder):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(work, (folder, port), nprocs=2)
    one = numbers(measured(folder, range(7)))
    for rank in (0, 1):
        two = json.loads((folder / f"{rank}.json").read_text())
        assert two.keys() == one.keys()
        for name, expected in one.items():
            assert two[name] == pytest.approx(expected, rel=1e-6, abs=1e-6, nan_ok=True), name


@pytest.mark.parametrize("name", OF_IMAGES)
def test_any_parts_of_a_prompts_images_give_the_same(name, folder, monkeypatch):
    positions = range(3)
    whole = numbers(measured(folder, positions, [name]))
    monkeypatch.setattr("gendiv_lightning.features.images._CHUNK_IMAGES", 1)
    monkeypatch.setattr("gendiv_lightning.functional.ssim._BLOCK", 2)
    monkeypatch.setattr(
        "gendiv_lightning.features.base._LOADED", _LoadedNetworks()
    )  # no features of the same images are cached
    parts = numbers(measured(folder, positions, [name]))
    for key, expected in whole.items():
        assert parts[key] == pytest.approx(expected, rel=1e-5, abs=1e-6, nan_ok=True), key


@pytest.mark.parametrize("name", NAMES)
def test_a_single_sample_is_measured_or_excluded(name, folder):
    metric = make(name, folder)
    metric.update(prompt(0, num=1))
    estimate = next(iter(metric.compute().values()))
    undefined = (*DISTANCES, "vendi", "vendi[tiny,q=2]", "conditional_vendi", "token_entropy")
    if name in undefined or name.startswith(("kernel_entropy", "attributes")):
        assert math.isnan(estimate.value)
        assert estimate.num_prompts == 0
    elif name.startswith(("fd", "kd", "precision")):
        assert math.isnan(estimate.value)
        assert "needs 2 samples, there are 1" in estimate.method
    else:
        assert math.isfinite(estimate.value)


@pytest.mark.parametrize("level", [0, 128, 255, None])
@pytest.mark.parametrize("name", NAMES)
def test_identical_and_constant_images_are_measured(name, level, folder):
    metric = make(name, folder)
    for index in range(2):
        samples = prompt(index)
        images = samples.images[:1].expand(6, -1, -1, -1) if level is None else torch.full_like(samples.images, level)
        metric.update(samples._replace(images=images.contiguous()))
    estimate = next(iter(metric.compute().values()))
    assert math.isfinite(estimate.value)
    if name in DISTANCES:
        assert estimate.value == pytest.approx(0, abs=1e-9)
    elif name.startswith("vendi[") or name == "vendi":
        assert estimate.value == pytest.approx(1, abs=1e-6)


WRONG = {
    "float in [0, 1]": (lambda images: images.float() / 255, "uint8"),
    "NaN": (lambda images: torch.full_like(images.float(), math.nan), "uint8"),
    "out of range": (lambda images: images.short() + 300, "uint8"),
    "mixed sizes": (lambda images: [images[0], images[1][:, 1:]], "mixed sizes"),
    "grey": (lambda images: images[:, :1], "RGB"),
    "none": (lambda images: images[:0], "N >= 1"),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", OF_IMAGES)
def test_invalid_images_are_an_error(name, wrong, folder):
    spoil, message = WRONG[wrong]
    samples = prompt(0)
    with pytest.raises(ValueError, match=message):
        make(name, folder).update(samples._replace(images=spoil(samples.images)))
