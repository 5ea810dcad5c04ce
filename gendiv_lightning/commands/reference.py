"""`gendiv reference`: statistics of real images, which FID and its kin compare with."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

HELP = "make a reference file of real images, for fid, kid, fd"
DESCRIPTION = """
Streams a folder of images (MSCOCO 2014: val2014) through a network and writes the statistics of their features, with
where they come from, into one file. Each image is brought to the network's size by the network's own rule, that of
clean-fid for Inception (Pillow's bicubic, on the whole image). The same call gives the same file.

examples:
  gendiv reference data/coco/val2014 --backbone inception --device cuda --out coco2014val.safetensors
  gendiv reference postcards --backbone tiny-clip --num 8192 --out postcards_reference.safetensors
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gendiv reference`."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("source", metavar="SOURCE", help="folder of images, or postcards: the embedded world")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the reference file, .safetensors")
    parser.add_argument(
        "--backbone",
        default="inception",
        help="inception, tiny-clip, or a CLIP as MODEL/PRETRAINED (default: inception)",
    )
    parser.add_argument("--num", type=int, metavar="IMAGES", help="only so many, from the start (default: all)")
    parser.add_argument(
        "--keep-features",
        action="store_true",
        help="keep the features of each image too: kid, precision and recall need them",
    )
    parser.add_argument("--max-corrupt", type=float, default=0.01, metavar="SHARE", help="of images (default: 0.01)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda (default: cpu)")


def run(arguments: argparse.Namespace) -> int:
    """Stream, write."""
    from tqdm import tqdm

    from gendiv_lightning.features.base import check_device
    from gendiv_lightning.metrics.names import make_features
    from gendiv_lightning.metrics.reference import reference_statistics, write_reference

    if arguments.num is not None and arguments.num < 2:
        raise ValueError(f"--num must be at least 2 images, got {arguments.num}")
    check_device(arguments.device)
    dataset, num_batches, batches = _postcards(arguments) if arguments.source == "postcards" else _folder(arguments)
    features = make_features(arguments.backbone)
    features.load()
    features.to(arguments.device)
    bar = tqdm(batches, total=num_batches, desc=f"Features of {arguments.source}", delay=2)
    images = (batch.to(arguments.device) for batch in bar)
    reference = reference_statistics(images, features, dataset, keep_features=arguments.keep_features)
    write_reference(arguments.out, reference)
    sys.stdout.write(f"{arguments.out}: {reference.statistics.num_rows} images of {dataset}, {arguments.backbone}\n")
    return 0


def _postcards(arguments: argparse.Namespace) -> tuple[str, int, Iterator[Tensor]]:
    from gendiv_lightning.datamodules import PostcardImages
    from gendiv_lightning.zoo.world import NUM_IMAGES

    data = PostcardImages(num_images=arguments.num or NUM_IMAGES)
    loader = data.val_dataloader()
    return f"{data.num_images} postcards, seed {data.seed}", len(loader), (batch.images for batch in loader)


def _folder(arguments: argparse.Namespace) -> tuple[str, int, Iterator[Tensor]]:
    from gendiv_lightning.datamodules.image_groups import read_images
    from gendiv_lightning.datamodules.images import ImageFolderData

    folder = ImageFolderData(arguments.source, limit=arguments.num)
    identity = folder.identity()["images_sha256"][:12]
    name = f"{Path(arguments.source).name} ({len(folder.files())} files, {identity})"
    return name, len(folder.files()), (image[None] for image in read_images(folder.files(), arguments.max_corrupt))
