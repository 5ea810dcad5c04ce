"""`gendiv reference`: compute statistics of real images, for FID and related metrics."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gendiv_lightning import plugins
from gendiv_lightning.cli.commands.measure import add_reading_arguments
from gendiv_lightning.cli.options import check_output_file, options_given
from gendiv_lightning.console.text import printable, write
from gendiv_lightning.errors import ConfigValueError, OptionConflictError

if TYPE_CHECKING:
    from torch import Tensor

    from gendiv_lightning.images.decode import CorruptImages

HELP = "compute a reference file of real images, for fid, kid, fd, kd and precision_recall"
DESCRIPTION = """
Streams images, for example val2014 of MSCOCO, through a feature network and writes the statistics of their features and
their provenance to one file. Each image is resized by the network's own rule; for Inception that is the rule of
clean-fid (Pillow's bicubic filter on the whole image). The same command writes the same file.

SOURCE is one of
  a folder of images, searched recursively; of Parquet files; of WebDataset tars; of datasets.save_to_disk; or one file
  a dataset on the Hugging Face Hub, by name; it is streamed, not downloaded
  postcards, the toy dataset, or another registered name (gendiv list images)
  the parts of a reference (.safetensors), to be merged

Transparency is composited over white. Images with more than 8 bits per channel count as unreadable. Unreadable images
are skipped and listed; more than --max-corrupt of them are an error.

examples:
  gendiv reference data/coco/val2014 --backbone inception --device cuda --out coco2014val.safetensors
  gendiv reference postcards --backbone tiny-clip --num 8192 --out postcards_reference.safetensors
on several devices or machines, each image on one of them:
  for n in 1 2 3 4; do gendiv reference data/coco/val2014 --part $n/4 --device cuda:$((n-1)) --out $n.safetensors & done
  wait; gendiv reference [1-4].safetensors --out coco2014val.safetensors
"""


OF_IMAGES = (  # options of images in files
    *("image_column", "split", "config", "revision"),
    *("max_corrupt", "memory_limit", "allow_outside"),
)
OF_FEATURES = ("backbone", "device", "num", "part", "keep_features")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gendiv reference`."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("source", nargs="+", metavar="SOURCE", help="images or parts of a reference, see above")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the reference file, .safetensors")
    parser.add_argument(
        "--backbone",
        default="inception",
        help="feature network: inception, dinov2, tiny-clip, or a CLIP as MODEL/PRETRAINED; options follow as in "
        "gendiv "
        "measure: inception,resize=torch-fidelity,weights=FILE (default: inception)",
    )
    parser.add_argument("--num", type=int, metavar="IMAGES", help="use only the first IMAGES images (default: all)")
    parser.add_argument(
        "--part", metavar="K/N", help="use only the K-th of N parts of the images; merge the parts afterwards"
    )
    parser.add_argument(
        "--keep-features",
        action="store_true",
        help="also store the features of each image, which kid, kd and precision_recall need",
    )
    parser.add_argument(
        "--image-column", metavar="NAME", help="column with the images, if several columns could contain them"
    )
    parser.add_argument("--split", help="split of a dataset (default: the only one, or train on the Hub)")
    parser.add_argument("--config", help="configuration of a dataset on the Hub")
    parser.add_argument("--revision", help="commit, branch or tag of a dataset on the Hub (default: the newest)")
    add_reading_arguments(parser)
    parser.add_argument("--device", default="cpu", help="device: cpu, cuda (default: cpu)")


def run(arguments: argparse.Namespace) -> int:
    """Compute a reference file, or merge the parts of one."""
    from tqdm import tqdm

    from gendiv_lightning.features.base import check_device
    from gendiv_lightning.images.decode import CorruptImages, check_memory_limit
    from gendiv_lightning.metrics.reference import reference_statistics, write_reference
    from gendiv_lightning.metrics.registry import make_features

    check_output_file(arguments.out, "--out")
    if all(source.endswith(".safetensors") for source in arguments.source):
        _leave_out(arguments, (*OF_FEATURES, *OF_IMAGES), "parts of a reference, which are merged")
        return _merge(arguments)
    if len(arguments.source) > 1:
        raise OptionConflictError(
            f"SOURCE must be one source, or the parts of a reference; got {', '.join(arguments.source)}. Give one of "
            "them"
        )
    if arguments.num is not None and arguments.num < 2:
        raise ConfigValueError(f"--num must be at least 2 images, got {arguments.num}. Give a larger number")
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
    more = {"part": arguments.part, "corrupt": corrupt.names}
    reference.provenance.update({name: value for name, value in more.items() if value})
    write_reference(arguments.out, reference)
    if corrupt.images:
        write(f"{printable(corrupt.in_words())}\n", sys.stderr)
    part = f", part {arguments.part}" if arguments.part else ""
    write(f"{arguments.out}: {reference.statistics.num_rows} images of {dataset}{part}, {arguments.backbone}\n")
    return 0


def _leave_out(arguments: argparse.Namespace, names: Sequence[str], source: str) -> None:
    """Raise an error for options that do not apply to a source."""
    if given := options_given(arguments, names):
        raise OptionConflictError(f"{', '.join(given)} does not apply to {source}. Remove it")


def _merge(arguments: argparse.Namespace) -> int:
    from gendiv_lightning.metrics.reference import merge_references, read_reference, write_reference

    merged = merge_references([read_reference(Path(part)) for part in arguments.source])
    write_reference(arguments.out, merged)
    write(f"{arguments.out}: {merged.statistics.num_rows} images of {merged.provenance['dataset']}\n")
    return 0


def _registered(arguments: argparse.Namespace) -> tuple[str, int, Iterator[Tensor]]:
    """Images of a data module that is registered by name, such as `postcards`."""
    (name,) = arguments.source
    _leave_out(arguments, OF_IMAGES, name)
    if arguments.part:
        raise OptionConflictError(f"--part applies to image files, not to {name}. Remove it")
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
                f"--part needs images on this machine, but {images.name} is streamed. Download it first"
            )
        items = items[_part(arguments.part, len(items))]
        count = len(items)
    corrupt.num_images = count
    listed = "" if images.num_images is None else f"{images.num_images} files, "
    name = f"{images.name} ({listed}{images.version[:12]})"
    return name, count, (image[None] for image in read_images(items, corrupt, arguments.memory_limit))


def _part(part: str, num_images: int) -> slice:
    """Indices of the images of a part, such as 2/4."""
    found = re.fullmatch(r"(\d+)/(\d+)", part)
    number, parts = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= parts:
        raise ConfigValueError(f"--part must be K/N with K from 1 to N, got {part}. Give for example 2/4")
    return slice((number - 1) * num_images // parts, number * num_images // parts)
