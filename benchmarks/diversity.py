"""Mean distance over all pairs of images: gendiv and reference implementations, in one run on the CPU.

    python benchmarks/diversity.py lpips          # compared with the lpips package and torchmetrics' class
    python benchmarks/diversity.py ssim           # compared with torchmetrics, pair by pair
    python benchmarks/diversity.py memory         # of gendiv's metrics, by prompts and by images per prompt

Backbones have their real architecture and random weights, so that nothing is downloaded. Ends with an error if two
values differ by more than 1e-5.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from unittest import mock

import lpips
import torch
from torch import Tensor, nn
from torchmetrics.functional.image import lpips as torchmetrics_lpips
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image import lpip
from tqdm import tqdm

from gendiv_lightning.metrics.diversity import LPIPS, SSIM, DiversityMetric, PixelCosine
from gendiv_lightning.records import PromptSamples

TOLERANCE = 1e-5
PAIRS_AT_ONCE = 32
MIB = 2**20


def random_networks(net: str) -> tuple[LPIPS, nn.Module, lpip.LearnedPerceptualImagePatchSimilarity]:
    """The metrics of gendiv, `lpips` and torchmetrics, with the same random backbone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
        with mock.patch.object(lpip, "_NoTrainLpips", _random_torchmetrics):
            torchmetrics = lpip.LearnedPerceptualImagePatchSimilarity(net_type=net)
    state = package.net.state_dict().values()  # the same order with other names
    torchmetrics.net.net.load_state_dict(dict(zip(torchmetrics.net.net.state_dict(), state, strict=True)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "backbone.pth"
        torch.save({f"features.{k.split('.', 1)[1]}": v for k, v in package.net.state_dict().items()}, path)
        ours = LPIPS(net, str(path))
        ours.load()
    return ours, package, torchmetrics


def _random_torchmetrics(net: str) -> nn.Module:
    return torchmetrics_lpips._NoTrainLpips(net=net, pnet_rand=True)


def gendiv_mean(metric: DiversityMetric, images: Tensor) -> float:
    """Mean over all pairs, as in a run."""
    return metric.measure(PromptSamples(images))[0]


@torch.no_grad()
def package_by_pairs(package: nn.Module, images: Tensor) -> float:
    """`lpips`, with one call per pair."""
    scaled = images.float() / 127.5 - 1
    distances = [package(a[None], b[None]).item() for a, b in combinations(scaled, 2)]
    return sum(distances) / len(distances)


@torch.no_grad()
def class_by_pairs(metric: lpip.LearnedPerceptualImagePatchSimilarity, images: Tensor, at_once: int = 1) -> float:
    """The class of torchmetrics, updated with `at_once` pairs at a time."""
    metric.reset()
    scaled = images.float() / 127.5 - 1
    for pairs in torch.combinations(torch.arange(len(images))).split(at_once):
        metric.update(scaled[pairs[:, 0]], scaled[pairs[:, 1]])
    return metric.compute().item()


def ssim_by_pairs(images: Tensor) -> float:
    """1 - SSIM of torchmetrics, with one call per pair."""
    scaled = images.float() / 255
    values = [structural_similarity_index_measure(a[None], b[None], data_range=1.0) for a, b in combinations(scaled, 2)]
    return 1 - sum(value.item() for value in values) / len(values)


def timed(function: Callable[..., float], *args: object) -> tuple[float, float]:
    """Value and seconds of processor time, which depends little on other programs."""
    start = time.process_time()
    return function(*args), time.process_time() - start


def compare(
    title: str, contestants: dict[str, Callable[[Tensor], float]], numbers: list[int], sizes: list[int]
) -> None:
    """Print one row per number of images: seconds of each implementation, and the ratio to the first."""
    others = list(contestants)[1:]
    print(f"{title}, processor time of one CPU thread, torch {torch.__version__}\n")
    print(f"| pixels | N | pairs | gendiv, s | {' | '.join(f'{name}, s | ratio' for name in others)} | difference |")
    print("|---" * (5 + 2 * len(others)) + "|")
    for size in sizes:
        for function in contestants.values():
            function(torch.zeros(2, 3, size, size, dtype=torch.uint8))  # the first call includes set-up
        for num in numbers:
            images = torch.randint(0, 256, (num, 3, size, size), dtype=torch.uint8)
            bar = tqdm(contestants.values(), desc=f"N = {num}, {size} pixels", delay=2, leave=False)
            (value, seconds), *references = (timed(function, images) for function in bar)
            difference = max(abs(value - reference) for reference, _ in references)
            cells = " | ".join(f"{s:.3f} | {s / seconds:.1f}" for _, s in references)
            print(
                f"| {size} | {num} | {num * (num - 1) // 2} | {seconds:.3f} | {cells} | {difference:.1e} |", flush=True
            )
            if difference > TOLERANCE:
                raise SystemExit(f"values differ by {difference:.1e}, more than {TOLERANCE}")


def peak(name: str, num_prompts: int, num: int, size: int) -> float:
    """Peak memory in MiB of a process that measures `num_prompts` prompts, above that of one prompt with two images."""
    torch.set_num_threads(1)
    metric: DiversityMetric = {"lpips": lambda: random_networks("alex")[0], "ssim": SSIM, "pixel_cosine": PixelCosine}[
        name
    ]()
    images = torch.randint(0, 256, (num, 3, size, size), dtype=torch.uint8)  # allocated before, so not counted
    metric.update(PromptSamples(images[:2]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for index in range(num_prompts):
        metric.update(PromptSamples(images, place=index))
    metric.compute()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / MIB


def memory(settings: list[tuple[int, int]], size: int) -> None:
    """Print one row per setting; each metric runs in its own process."""
    names = ("lpips", "ssim", "pixel_cosine")
    print(f"peak memory above that of two images, MiB, {size} x {size} pixels, images not counted\n")
    print(f"| prompts | N | {' | '.join(names)} |")
    print("|---" * (2 + len(names)) + "|")
    context = multiprocessing.get_context("spawn")
    for num_prompts, num in tqdm(settings, desc="settings", delay=2, leave=False):
        peaks = []
        for name in names:
            with context.Pool(1) as pool:
                peaks.append(pool.apply(peak, (name, num_prompts, num, size)))
        print(f"| {num_prompts} | {num} | {' | '.join(f'{value:.0f}' for value in peaks)} |", flush=True)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["lpips", "ssim", "memory"])
    parser.add_argument("--net", choices=["alex", "vgg", "squeeze"], default="alex")
    parser.add_argument("--size", type=int, nargs="+", default=[64], help="pixels per side")
    parser.add_argument("--num", type=int, nargs="+", default=[4, 8, 16, 32, 64], help="numbers of images")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if args.what == "memory":
        return memory([(4, 16), (16, 16), (64, 16), (4, 64), (4, 256)], args.size[0])
    if args.what == "ssim":
        metric = SSIM()
        contestants = {"gendiv": lambda x: gendiv_mean(metric, x), "torchmetrics, one pair per call": ssim_by_pairs}
        return compare("1 - SSIM, mean over pairs", contestants, args.num, args.size)
    lpips_metric, package, torchmetrics = random_networks(args.net)
    contestants = {
        "gendiv": lambda x: gendiv_mean(lpips_metric, x),
        "lpips, one pair per call": lambda x: package_by_pairs(package, x),
        "torchmetrics' class, one pair per call": lambda x: class_by_pairs(torchmetrics, x),
        f"torchmetrics' class, {PAIRS_AT_ONCE} pairs per call": lambda x: class_by_pairs(
            torchmetrics, x, PAIRS_AT_ONCE
        ),
    }
    return compare(f"LPIPS ({args.net}, random weights), mean over pairs", contestants, args.num, args.size)


if __name__ == "__main__":
    main()
