"""`gendiv reference`: statistics of real images, which FID and its kin compare with."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gendiv_lightning import plugins
from gendiv_lightning.cli.commands.measure import add_reading_arguments
from gendiv_lightning.console.text import printable, write
from gendiv_lightning.errors import ConfigValueError, OptionConflictError, OutputError

if TYPE_CHECKING:
    from torch import Tensor

    from gendiv_lightning.images.decode import CorruptImages

HELP = "make a reference file of real images, for fid, kid, fd"
DESCRIPTION = """
Streams images (MSCOCO 2014: val2014) through a network and writes the statistics of their features, with where they
come from, into one file. Each image is brought to the network's size by the network's own rule, that of clean-fid for
Inception (Pillow's bicubic, on the whole image). The same call gives the same file.

SOURCE is one of
  a folder of images, with all folders in it; of Parquet; of WebDataset tars; of datasets.save_to_disk; or such a file
  a dataset on the Hugging Face Hub, by name; it is streamed
  postcards: the toy dataset, or another registered name (gendiv list images)
  the parts of a reference (.safetensors), to be brought together

Transparent images stand over white; images of more than 8 bits a channel count as corrupt; corrupt ones are skipped,
named, and too many an error.

examples:
  gendiv reference data/coco/val2014 --backbone inception --device cuda --out coco2014val.safetensors
  gendiv reference postcards --backbone tiny-clip --num 8192 --out postcards_reference.safetensors
on several devices or machines, each image once:
  for n in 1 2 3 4; do gendiv reference data/coco/val2014 --part $n/4 --device cuda:$((n-1)) --out $n.safetensors & done
  wait; gendiv reference [1-4].safetensors --out coco2014val.safetensors
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gendiv reference`."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("source", nargs="+", metavar="SOURCE", help="images, see above")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the reference file, .safetensors")
    parser.add_argument(
        "--backbone",
        default="inception",
        help="inception, dinov2, tiny-clip, or a CLIP as MODEL/PRETRAINED; options behind it as in gendiv measure: "
        "inception,resize=torch-fidelity,weights=FILE (default: inception)",
    )
    parser.add_argument("--num", type=int, metavar="IMAGES", help="only so many, from the start (default: all)")
    parser.add_argument("--part", metavar="K/N", help="only the K-th of N parts of them, to be brought together later")
    parser.add_argument(
        "--keep-features",
        action="store_true",
        help="keep the features of each image too: kid, precision and recall need them",
    )
    parser.add_argument("--image-column", metavar="NAME", help="column of the images, where several could be it")
    parser.add_argument("--split", help="of a dataset (default: the only one; on the Hub train)")
    parser.add_argument("--config", help="configuration of a dataset on the Hub")
    parser.add_argument("--revision", help="commit, branch or tag of a dataset on the Hub (default: the newest)")
    add_reading_arguments(parser)
    parser.add_argument("--device", default="cpu", help="cpu, cuda (default: cpu)")


def run(arguments: argparse.Namespace) -> int:
    """Stream, write; or bring parts together."""
    from tqdm import tqdm

    from gendiv_lightning.features.base import check_device
    from gendiv_lightning.images.decode import CorruptImages, check_memory_limit
    from gendiv_lightning.metrics.reference import reference_statistics, write_reference
    from gendiv_lightning.metrics.registry import make_features

    if all(source.endswith(".safetensors") for source in arguments.source):
        return _merge(arguments)
    if arguments.out.is_dir():
        raise OutputError(f"--out {arguments.out} is a folder, and a file is needed: choose a name in it")
    if len(arguments.source) > 1:
        raise OptionConflictError(f"give one SOURCE, or the parts of a reference; got {', '.join(arguments.source)}")
    if arguments.num is not None and arguments.num < 2:
        raise ConfigValueError(f"--num must be at least 2 images, got {arguments.num}")
    check_device(arguments.device)
    check_memory_limit(arguments.memory_limit)
    corrupt = CorruptImages(arguments.max_corrupt)
    is_registered = arguments.source[0] in plugins.registered("images")
    dataset, num_batches, batches = _registered(arguments) if is_registered else _images(arguments, corrupt)
    features = make_features(arguments.backbone)
    features.load()
    features.to(arguments.device)
    bar = tqdm(batches, total=num_batches, desc=f"Features of {dataset}", delay=2)
    images = (batch.to(arguments.device) for batch in bar)
    reference = reference_statistics(images, features, dataset, keep_features=arguments.keep_features)
    told = {"part": arguments.part, "corrupt": corrupt.names}
    reference.provenance.update({name: value for name, value in told.items() if value})
    write_reference(arguments.out, reference)
    if corrupt.images:
        write(f"{printable(corrupt.in_words())}\n", sys.stderr)
    part = f", part {arguments.part}" if arguments.part else ""
    write(f"{arguments.out}: {reference.statistics.num_rows} images of {dataset}{part}, {arguments.backbone}\n")
    return 0


def _merge(arguments: argparse.Namespace) -> int:
    from gendiv_lightning.metrics.reference import merge_references, read_reference, write_reference

    merged = merge_references([read_reference(Path(part)) for part in arguments.source])
    write_reference(arguments.out, merged)
    write(f"{arguments.out}: {merged.statistics.num_rows} images of {merged.provenance['dataset']}\n")
    return 0


def _registered(arguments: argparse.Namespace) -> tuple[str, int, Iterator[Tensor]]:
    """Images of a data module that is registered by name, such as the toy's."""
    (name,) = arguments.source
    if arguments.part:
        raise OptionConflictError(f"--part is for images of files, not for {name}: leave it out")
    module = plugins.load("images", name)
    data = module(num_images=arguments.num) if arguments.num else module.all()
    loader = data.val_dataloader()
    return f"{data.num_images} {name}, seed {data.seed}", len(loader), (batch.images for batch in loader)


def _images(arguments: argparse.Namespace, corrupt: CorruptImages) -> tuple[str, int | None, Iterator[Tensor]]:
    from collections.abc import Sequence

    from gendiv_lightning.images.decode import read_images
    from gendiv_lightning.images.sources import open_images

    chosen = {
        name: getattr(arguments, name) for name in ("config", "split", "revision", "allow_outside", "memory_limit")
    }
    images = open_images(arguments.source[0], column=arguments.image_column, limit=arguments.num, **chosen)
    write("".join(f"{printable(note)}\n" for note in images.notes), sys.stderr)
    count = images.num_images
    items = images.items
    if arguments.part:
        if not isinstance(items, Sequence):
            raise OptionConflictError(
                f"{images.name} is streamed, --part is for images on this machine: download it first"
            )
        items = items[_part(arguments.part, len(items))]
        count = len(items)
    corrupt.num_images = count
    listed = "" if images.num_images is None else f"{images.num_images} files, "
    name = f"{images.name} ({listed}{images.version[:12]})"
    return name, count, (image[None] for image in read_images(items, corrupt, arguments.memory_limit))


def _part(part: str, num_images: int) -> slice:
    """Places of the images of a part, such as 2/4."""
    found = re.fullmatch(r"(\d+)/(\d+)", part)
    number, parts = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= parts:
        raise ConfigValueError(f"--part is K/N with K from 1 to N, such as 2/4; got {part}")
    return slice((number - 1) * num_images // parts, number * num_images // parts)
