"""`gendiv measure`: the metrics on anyone's images, grouped by prompt."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gendiv_lightning.batch import PromptSamples

HELP = "measure images of any generator, grouped by prompt"
DESCRIPTION = """
Measures images of any generator and prints the table that a run prints: value, interval, prompts, samples.

SOURCE is one of
  a folder with one sub-folder of images a prompt; its name is the prompt, or the text of prompt.txt in it
  a folder of images with .txt or .json beside each (caption of a.png: a.txt), or of one prompt, its name or prompt.txt
  a folder with metadata.jsonl or metadata.csv: file_name, prompt, and if you like paraphrase and path; or such a table
  a Parquet file or a folder of them, with a column of images (bytes, or paths of files) and one of prompts
  a WebDataset tar or a folder of them; what is in a tar may be laid out like a folder
  a folder of datasets.save_to_disk
  a run folder of gendiv
Images: .jpg .png .webp .bmp .gif .tif; what is transparent stands over white, more than 8 bits a channel are refused.

METRICS are names, with a backbone in brackets
  lpips[alex|vgg|squeeze|tiny]  pixel_cosine  ssim       distance of two images of a prompt
  clip_cosine  vendi[inception]  vendi_set               the same by CLIP; number of different images, a prompt, all
  clip_score  clip_iqa                                   fit to the prompt, quality
  fid  kid  precision_recall  fd[tiny-clip]              beside real images: --reference, see gendiv reference
  token_entropy  sequence_entropy                        of runs: entropies of tokens
  postcard_truth                                         of postcards: what is stated, what is left free
A backbone is a CLIP of open_clip, MODEL/PRETRAINED or a folder; inception; pixels; tiny-clip and tiny are embedded.

examples:
  gendiv measure images/ --metrics lpips,pixel_cosine,ssim,vendi
  gendiv measure midjourney.parquet --metrics lpips[vgg],clip_score --resize 256 --out measured
  gendiv measure runs/tiny-llamagen-1a2b3c4d --metrics ssim,vendi[tiny]
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gendiv measure`."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("source", type=Path, metavar="SOURCE", help="images by prompt, see above")
    parser.add_argument(
        "--metrics", default="lpips,pixel_cosine,ssim", help="names, separated by commas (default: %(default)s)"
    )
    parser.add_argument("--reference", help="reference file for fid, kid, ...: see gendiv reference")
    parser.add_argument("--column", help="column of the prompt (default: prompt, caption, text or short_caption)")
    parser.add_argument("--image-column", metavar="NAME", help="column of the images, where several could be it")
    parser.add_argument("--split", help="of a saved dataset that has several")
    parser.add_argument("--resize", type=int, metavar="PIXELS", help="bring all images to this side (bicubic)")
    parser.add_argument(
        "--max-corrupt", type=float, default=0.01, metavar="SHARE", help="of images that cannot be read (default: 0.01)"
    )
    parser.add_argument("--device", default="cpu", help="where backbones run: cpu, cuda (default: cpu)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write metrics.json and per_prompt.parquet there")


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, write."""
    from tqdm import tqdm

    from gendiv_lightning.features.base import check_device
    from gendiv_lightning.metrics.base import compute_metrics
    from gendiv_lightning.metrics.names import make_metric
    from gendiv_lightning.report.tables import format_estimates

    if arguments.resize is not None and arguments.resize < 1:
        raise ValueError(f"--resize must be at least 1 pixel, got {arguments.resize}")
    if not 0 <= arguments.max_corrupt <= 1:
        raise ValueError(f"--max-corrupt is a share in [0, 1], got {arguments.max_corrupt}")
    check_device(arguments.device)
    metrics = [make_metric(name, arguments.reference) for name in arguments.metrics.split(",")]
    num_prompts, prompts = _prompts(arguments)
    for metric in metrics:
        metric.load()
        metric.to(arguments.device)
    texts, corrupt = dict[int, str](), list[str]()  # columns are ordered by the prompts' places, not as they are read
    for samples, broken in tqdm(prompts, total=num_prompts, desc="Measuring", unit="prompt", delay=2):
        texts[samples.place] = samples.prompt
        corrupt += broken
        for metric in metrics:
            metric.update(samples)
    estimates, columns = compute_metrics(metrics)
    if not any(estimate.num_prompts for estimate in estimates.values()):
        raise ValueError(
            "no prompt defines any of these metrics: a distance needs two images of a prompt; quality (clip_score, "
            "clip_iqa) and all samples together (vendi_set) can be measured"
        )
    if corrupt:
        sys.stderr.write(f"{len(corrupt)} corrupt images were skipped: {', '.join(corrupt)}\n")
    sys.stdout.write(f"{format_estimates(estimates)}\n")
    if arguments.out is not None:
        import pyarrow as pa

        from gendiv_lightning.run_folder import RunFolder

        folder = RunFolder(arguments.out)
        folder.path.mkdir(parents=True, exist_ok=True)
        prompt = [texts[place] for place in sorted(texts)]
        folder.write_per_prompt(pa.table({"prompt": prompt, **{name: c.numpy() for name, c in columns.items()}}))
        folder.write_metrics(estimates)
        sys.stdout.write(f"\nResults: {arguments.out}\n")
    return 0


def _prompts(arguments: argparse.Namespace) -> tuple[int, Iterator[tuple[PromptSamples, list[str]]]]:
    """How many prompts there are, and their samples with the names of corrupt images."""
    from gendiv_lightning.batch import split_by_prompt
    from gendiv_lightning.datamodules.image_groups import find_images, load_prompts
    from gendiv_lightning.datamodules.image_sources import ignored_in_words
    from gendiv_lightning.run_folder import RunFolder

    folder = RunFolder(arguments.source)
    if folder.shards():
        if arguments.resize:
            raise ValueError("--resize is for other images: those of a run are measured as they are")
        batches = folder.read_samples()
        return len(folder.finished_prompts()), ((s, []) for batch in batches for s in split_by_prompt(batch))
    images = find_images(arguments.source, arguments.column, arguments.image_column, arguments.split)
    for note in (*images.notes, ignored_in_words(images.ignored)):
        sys.stderr.write(f"{note}\n" if note else "")
    return len(images.groups), load_prompts(images, arguments.resize, arguments.max_corrupt)
