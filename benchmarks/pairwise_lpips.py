"""Mean pairwise LPIPS in closed form against the `lpips` package called pair by pair, in one run on the CPU.

    python benchmarks/pairwise_lpips.py

The backbone has its true architecture and random weights, so that nothing is downloaded. Ends with an error where the
two values differ by more than 1e-5.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import lpips
import torch
from torch import Tensor, nn

from gendiv_lightning.features.lpips import PerceptualFeatures
from gendiv_lightning.features.pixels import split_images
from gendiv_lightning.functional.pairwise import PairDistances, split

TOLERANCE = 1e-5


def random_network(net: str) -> tuple[nn.Module, PerceptualFeatures]:
    """Theirs and ours with the same random backbone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "backbone.pth"
        torch.save({f"features.{k.split('.', 1)[1]}": v for k, v in theirs.net.state_dict().items()}, path)
        return theirs, PerceptualFeatures(net, str(path)).load()


def closed_form(ours: PerceptualFeatures, images: Tensor) -> float:
    """Mean over all pairs, a few images at a time."""
    pairs = PairDistances()
    for part in split_images(images):
        pairs.update(ours(part))
    return split(pairs.matrix()).total


@torch.no_grad()
def pair_by_pair(theirs: nn.Module, images: Tensor) -> float:
    """Mean over all pairs, one call a pair."""
    scaled = images.float() / 127.5 - 1
    distances = [theirs(a[None], b[None]).item() for a, b in combinations(scaled, 2)]
    return sum(distances) / len(distances)


def timed(function: Callable[..., float], *args: object) -> tuple[float, float]:
    """Value and seconds."""
    start = time.perf_counter()
    return function(*args), time.perf_counter() - start


def main() -> None:
    """Print a line for each N."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=["alex", "vgg", "squeeze"], default="alex")
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--num", type=int, nargs="+", default=[4, 8, 16, 32, 64], help="numbers of images")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    theirs, ours = random_network(args.net)
    print(f"lpips[{args.net}], random weights, {args.size} x {args.size}, one CPU thread, torch {torch.__version__}")
    print("   N  pairs  closed form  pair by pair  difference  seconds  seconds  ratio")
    closed_form(ours, torch.zeros(2, 3, args.size, args.size, dtype=torch.uint8))  # the first call pays for set-up
    for num in args.num:
        images = torch.randint(0, 256, (num, 3, args.size, args.size), dtype=torch.uint8)
        value, seconds = timed(closed_form, ours, images)
        reference, their_seconds = timed(pair_by_pair, theirs, images)
        difference = abs(value - reference)
        print(
            f"{num:4} {num * (num - 1) // 2:6} {value:12.7f} {reference:13.7f} {difference:11.1e}"
            f" {seconds:8.3f} {their_seconds:8.3f} {their_seconds / seconds:6.1f}"
        )
        if difference > TOLERANCE:
            raise SystemExit(f"the two values differ by {difference:.1e}, more than {TOLERANCE}")


if __name__ == "__main__":
    main()
