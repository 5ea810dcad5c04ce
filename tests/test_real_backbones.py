"""LPIPS, DISTS, FID and KID with the official weights give the numbers of the reference packages.

The folder `GENDIV_REAL_WEIGHTS` contains the files that docs/how-to/real-backbones.md lists, and may contain the three
example pictures of the LPIPS repository. All other pictures are postcards.
"""

import json

import pytest
import torch
import torch_fidelity
from PIL import Image
from real_parts import mean_of_pairs, real_folder, reference_dists, reference_lpips, weights_of
from torchvision.transforms.functional import pil_to_tensor

from gendiv_lightning.cli.main import main
from gendiv_lightning.metrics import DISTS, LPIPS
from gendiv_lightning.records import PromptSamples
from gendiv_lightning.toy import postcards

pytestmark = pytest.mark.real

PROMPTS, SAMPLES = 6, 4


def pictures(seed, number):
    """Postcards (number, 3, 96, 96), enlarged without smoothing."""
    generator = torch.Generator().manual_seed(seed)
    rendered = postcards.render(torch.randint(0, 4000, (number,), generator=generator))
    return rendered.repeat_interleave(2, -1).repeat_interleave(2, -2)


def test_lpips_gives_the_known_distances_of_the_published_example():
    folder = real_folder()
    files = [folder / f"ex_{name}.png" for name in ("ref", "p0", "p1")]
    if missing := [path.name for path in files if not path.is_file()]:
        pytest.skip(f"GENDIV_REAL_WEIGHTS does not contain {', '.join(missing)}")
    images = torch.stack([pil_to_tensor(Image.open(path).convert("RGB")) for path in files])
    distances = LPIPS("alex", str(weights_of("alexnet"))).matrix(PromptSamples(images))
    assert distances[0, 1:].tolist() == pytest.approx([0.722, 0.138], abs=1e-3)


@pytest.mark.parametrize(("net", "network"), [("alex", "alexnet"), ("vgg", "vgg16")])
def test_lpips_with_official_weights_equals_the_lpips_package(net, network):
    images = pictures(0, 4)
    ours = LPIPS(net, str(weights_of(network))).measure(PromptSamples(images))[0]
    theirs = mean_of_pairs(reference_lpips(net), images)
    assert theirs > 0.05
    assert ours == pytest.approx(theirs, abs=1e-5)


def test_dists_with_official_weights_equals_torchmetrics(monkeypatch):
    images = pictures(0, 4)
    theirs, first, second = reference_dists(images, monkeypatch)
    ours = DISTS(str(weights_of("vgg16"))).matrix(PromptSamples(images))[first, second]
    assert theirs.min() > 0.05
    torch.testing.assert_close(ours.float(), theirs, rtol=0, atol=1e-5)


def test_gendiv_measure_gives_the_numbers_of_the_reference_packages(tmp_path):
    """From image files to numbers: LPIPS to 1e-5, FID and KID to a relative 1e-3."""
    sampled, real = pictures(1, PROMPTS * SAMPLES), pictures(2, PROMPTS * SAMPLES)
    for name, images in (("sampled", sampled), ("real", real)):
        for number, image in enumerate(images):
            path = tmp_path / name / f"prompt {number // SAMPLES}" / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    alexnet, inception = weights_of("alexnet"), weights_of("inception")
    options = f"weights={inception},resize=torch-fidelity"
    reference = tmp_path / "real.safetensors"
    gendiv("reference", tmp_path / "real", "--backbone", f"inception,{options}", "--keep-features", "--out", reference)
    names = f"lpips[weights={alexnet}],fid[{options}],kid[{options}]"
    gendiv("measure", tmp_path / "sampled", "--metrics", names, "--reference", reference, "--out", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    numbers = {name.partition("[")[0]: number["value"] for name, number in found.items() if "/infinity" not in name}
    network = reference_lpips("alex")
    expected = sum(mean_of_pairs(network, images) for images in sampled.split(SAMPLES)) / PROMPTS
    assert numbers["diversity/lpips"] == pytest.approx(expected, abs=1e-5)
    theirs = torch_fidelity.calculate_metrics(
        input1=str(tmp_path / "sampled"),
        input2=str(tmp_path / "real"),
        **{"fid": True, "kid": True, "kid_subsets": 1, "kid_subset_size": len(sampled), "samples_find_deep": True},
        **{"feature_extractor": "inception-v3-compat", "feature_extractor_weights_path": str(inception)},
        **{"batch_size": 8, "cuda": False, "verbose": False, "cache": False, "save_cpu_ram": True},
    )
    frechet, kernel = ("fid", "kid") if "quality/fid" in numbers else ("fd", "kd")  # a copy with another hash
    assert numbers[f"quality/{frechet}"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)
    assert numbers[f"quality/{kernel}"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)


def gendiv(*words):
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    assert stopped.value.code == 0
