"""Mean pairwise LPIPS in closed form against the `lpips` package called pair by pair, in one run on the CPU.

    python benchmarks/pairwise_lpips.py

Values and times are those of the network's architecture with random weights, so that nothing is downloaded. From N = 32 on
only 200 random pairs are timed and the time is scaled to all pairs; the values are then compared on these pairs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from itertools import combinations
from pathlib import Path

import lpips
import torch
from torch import Tensor, nn

from gendiv_lightning.features.lpips import PerceptualFeatures
from gendiv_lightning.features.pixels import split_images
from gendiv_lightning.functional.pairwise import PairDistances, split

MAX_PAIRS = 200
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
def pair_by_pair(theirs: nn.Module, images: Tensor, pairs: list[tuple[int, int]]) -> Tensor:
    """Distance of each pair, one call a pair."""
    scaled = images.float() / 127.5 - 1
    return torch.stack([theirs(scaled[i : i + 1], scaled[j : j + 1]).squeeze() for i, j in pairs]).double()


def main() -> None:
    """Print a line for each N."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=["alex", "vgg", "squeeze"], default="alex")
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--num", type=int, nargs="+", default=[4, 8, 16, 32, 64], help="images")
    args = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    theirs, ours = random_network(args.net)
    print(f"lpips[{args.net}], random weights, {args.size} x {args.size} pixels, one CPU thread, torch {torch.__version__}")
    print(f"{'N':>4} {'pairs':>6} {'timed':>6} {'closed form':>12} {'pair by pair':>12} {'difference':>10} {'ratio':>7}")
    for num in args.num:
        report(theirs, ours, torch.randint(0, 256, (num, 3, args.size, args.size), generator=generator).byte())
