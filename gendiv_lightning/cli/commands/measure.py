"""`gendiv measure`: compute the metrics on images of any generator, grouped by prompt."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gendiv_lightning.cli.options import check_results_folder, options_given
from gendiv_lightning.console.text import printable, write
from gendiv_lightning.errors import ConfigValueError, MetricInputError, OptionConflictError

if TYPE_CHECKING:
    from torch import Tensor

    from gendiv_lightning.console.pairs import Pairs
    from gendiv_lightning.images.decode import CorruptImages
    from gendiv_lightning.metrics.base import SampleMetric
    from gendiv_lightning.records import PromptSamples
    from gendiv_lightning.records.estimate import Estimate

SHOWN_PAIRS = 8  # prompts
HELP = "compute the metrics on images of any generator, grouped by prompt"
DESCRIPTION = """
Measures images of any generator and prints the same table as a run: value, interval, number of prompts and samples.

SOURCE is one of
  a folder with one sub-folder per prompt: the prompt is the folder's name, or the text of its prompt.txt
  a folder of images with a .txt or .json next to each (the caption of a.png is in a.txt)
  a folder of images of one prompt: the folder's name, or the text of its prompt.txt
  a folder with metadata.csv, .tsv, .jsonl or .parquet, or another table with the columns file_name and prompt, and
    optionally paraphrase and path; or such a table itself
  a Parquet file or a folder of them, with a column of images (bytes or file paths) and a column of prompts
  a WebDataset tar or a folder of them; a tar may have any of the layouts of a folder
  a folder written by datasets.save_to_disk
  a run folder of gendiv
Images are .jpg .png .webp .avif .bmp .gif .tif. EXIF orientation is applied and transparency composited over white.
Images with more than 8 bits per channel are rejected. Ignored files are counted with the reason: hidden files, masks
(a.mask.png next to a.png), montages (grid.png). Prompts that differ only in case or white space count as one.

METRICS are names, separated by commas:
  lpips  dists  pixel_cosine  ssim  cosine          mean distance of two images of a prompt; with known paraphrases or
  clip_cosine                                       paths also within and between them
  vendi  vendi_set                                  effective number of different images, per prompt and over all
  kernel_entropy  conditional_vendi                 kernel entropy of a prompt's images, with its parts; Vendi score
                                                    of all images, as a factor within prompts times one between
  attributes[SCORER,list=LIST]                      what prompts leave open: entropy and coverage of its values; what
                                                    they state: agreement. LIST: see gendiv attributes
  clip_score  clip_iqa                              agreement with the prompt, image quality
  vqa_score[SCORER]                                 probability that a model affirms that an image shows its prompt
  fid  kid  precision_recall  fd[...]  kd[...]      comparison with real images; needs --reference, see gendiv reference
  codebook[TOKENIZER]                               codebook usage and token entropies, by one tokenizer for all images
  codebook  token_entropy  sequence_entropy         run folders only: codebook usage, entropies of tokens
  postcard_truth                                    postcards only: stated factors correct, free factors diverse
Brackets contain the feature network, then options. Below the table, each number's method is printed.
  lpips[vgg]  lpips[squeeze,weights=FILE]           alex (default), vgg, squeeze, or tiny
  cosine[dinov2]  cosine[dinov2,model=FOLDER]       dinov2 (default), inception, tiny, or a CLIP
  clip_score[BACKBONE]  clip_score[long_captions=chunks]      a CLIP: OWNER/REPO or a folder of transformers,
                                                    MODEL/PRETRAINED of open_clip (ViT-B-32/openai), or tiny-clip
  vqa_score[endpoint,model=NAME]                    gendiv list scorers shows all
  clip_iqa[prompts=[happy,warm]]  clip_iqa[pairs={crisp: [Crisp photo., Soft photo.]}]
  vendi[inception,q=2]                              pixels (default), dinov2, inception, tiny, or a CLIP; order q
  kernel_entropy[dinov2,bandwidth=31.4]             Gaussian kernel; 0 is the identity; default: cosine of features
  codebook[llamagen-vq16]  codebook[amused]         gendiv list tokenizers shows all
  attributes[tiny-clip,list=postcards]              gendiv list scorers shows all; any CLIP is a scorer, too
  fid[weights=FILE,resize=torch-fidelity]           resize: clean (default, as clean-fid) or torch-fidelity
  fd[dinov2]  precision_recall[k=5]                 other networks than Inception, other settings
tiny and tiny-clip are toy networks trained on postcards; they are not meaningful for other images.

examples:
  gendiv measure images/ --metrics lpips,pixel_cosine,ssim,vendi
  gendiv measure midjourney.parquet --metrics 'lpips[vgg],vendi[dinov2,q=2],clip_score' --resize 256 --out measured
  gendiv measure images/ --metrics lpips --pairs --out measured       distances of all pairs, and a picture
  gendiv measure photos/ --metrics 'codebook[llamagen-vq16]'
  gendiv measure runs/tiny-llamagen-1a2b3c4d --metrics 'ssim,vendi[tiny],codebook'
"""


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the commands that read images."""
    parser.add_argument(
        "--max-corrupt",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="share of unreadable images to tolerate (default: 0.01)",
    )
    parser.add_argument(
        "--memory-limit",
        type=float,
        default=1.0,
        metavar="GIB",
        help="memory that one image, or one Parquet row group, may take (default: 1, enough for 67 million pixels)",
    )
    parser.add_argument(
        "--allow-outside", action="store_true", help="also read files outside the data folder, if a table names them"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gendiv measure`."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("source", type=Path, metavar="SOURCE", help="images grouped by prompt, see above")
    parser.add_argument(
        "--metrics",
        default="lpips,pixel_cosine,ssim",
        help="metric names, separated by commas, see above (default: %(default)s)",
    )
    parser.add_argument(
        "--reference", metavar="FILE", help="reference file for fid, kid and others, made by gendiv reference"
    )
    parser.add_argument("--column", help="column with the prompts (default: prompt, caption, text or short_caption)")
    parser.add_argument(
        "--image-column", metavar="NAME", help="column with the images, if several columns could contain them"
    )
    parser.add_argument("--split", help="split to read, if a saved dataset has several")
    parser.add_argument(
        "--first-caption", action="store_true", help="use the first caption if an image has a list of captions"
    )
    add_reading_arguments(parser)
    parser.add_argument(
        "--resize", type=int, metavar="PIXELS", help="resize all images to squares with this side (bicubic)"
    )
    parser.add_argument("--device", default="cpu", help="device for the feature networks: cpu, cuda (default: cpu)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder for metrics.json and per_prompt.parquet")
    parser.add_argument(
        "--pairs",
        action="store_true",
        help="also write the distances of all pairs of images of a prompt (pairs.parquet), and show the nearest and "
        "the "
        "farthest pair",
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure the images, print the table, write the results."""
    from tqdm import tqdm

    from gendiv_lightning.console.pairs import Pairs, measure_pairs
    from gendiv_lightning.console.tables import format_estimates, format_methods
    from gendiv_lightning.images.decode import CorruptImages
    from gendiv_lightning.metrics.base import compute_metrics
    from gendiv_lightning.metrics.diversity import DiversityMetric

    metrics = _metrics(arguments)
    distances = [metric for metric in metrics if isinstance(metric, DiversityMetric)] if arguments.pairs else []
    corrupt = CorruptImages(arguments.max_corrupt)
    prompt_texts, prompts = _prompts(arguments, corrupt)
    for metric in metrics:
        metric.load()
        metric.check_prompts(prompt_texts)
        metric.to(arguments.device)
    texts = dict[int, str]()  # columns are ordered by the index of the prompt, not by reading order
    pairs = list[Pairs]()
    num_single = 0
    for samples in tqdm(prompts, total=len(prompt_texts), desc="Measuring", unit="prompt", delay=2):
        texts[samples.place] = samples.prompt
        num_single += len(samples.images) == 1
        for metric in metrics:
            metric.update(samples)
        if len(samples.images) > 1:
            pairs += [
                measure_pairs(one, samples, keeps_images=len(pairs) < SHOWN_PAIRS * len(distances)) for one in distances
            ]
    estimates, columns = compute_metrics(metrics)
    if not any(estimate.num_prompts for estimate in estimates.values()):
        raise MetricInputError(
            "none of these metrics is defined: a distance needs at least two images per prompt. Add images, or choose "
            "clip_score, clip_iqa or vendi_set"
        )
    if corrupt.images:
        write(f"{printable(corrupt.in_words())}\n", sys.stderr)
    if num_single and any(isinstance(metric, DiversityMetric) for metric in metrics):
        write(f"{num_single} prompts have a single image, and enter no distance\n", sys.stderr)
    undefined = [metric.names[0] for metric in metrics if not _is_defined(metric, estimates)]
    if undefined:
        write(f"Not defined for these samples, and left out: {', '.join(undefined)}\n", sys.stderr)
    write(f"{format_estimates(estimates)}\n\n{format_methods(estimates)}\n")
    if arguments.out is not None:
        _write(arguments.out, metrics, estimates, texts, columns)
        _write_pairs(arguments.out, pairs)
        write(f"\nResults: {arguments.out}\n")
    return 0


def _is_defined(metric: SampleMetric, estimates: dict[str, Estimate]) -> bool:
    """Whether any number of a metric was measured on any prompt."""
    return any(name in estimates and estimates[name].num_prompts for name in metric.names)


def _metrics(arguments: argparse.Namespace) -> list[SampleMetric]:
    """Check all arguments and return the metrics."""
    from gendiv_lightning.features.base import check_device
    from gendiv_lightning.images.decode import check_memory_limit
    from gendiv_lightning.metrics.diversity import DiversityMetric
    from gendiv_lightning.metrics.registry import make_metrics, split_names
    from gendiv_lightning.runs.folder import RunFolder
    from gendiv_lightning.storage.codebook_counts import read_usage

    if arguments.resize is not None and arguments.resize < 1:
        raise ConfigValueError(f"--resize must be at least 1 pixel, got {arguments.resize}. Give the side in pixels")
    if not 0 <= arguments.max_corrupt <= 1:
        raise ConfigValueError(
            f"--max-corrupt must be a share in [0, 1], got {arguments.max_corrupt}. Give 0.01 for 1 %"
        )
    check_memory_limit(arguments.memory_limit)
    check_device(arguments.device)
    if arguments.out is not None:
        check_results_folder(arguments.out, "--out")
    usage = arguments.source / "usage.safetensors"  # in a finished run
    codebook_size = len(read_usage(usage)[0]) if usage.is_file() else None
    names = split_names(arguments.metrics)
    metrics = make_metrics(names, arguments.reference, codebook_size)
    if not RunFolder(arguments.source).shards():
        for name, metric in zip(names, metrics, strict=True):
            if "tokens" in metric.needs:
                raise MetricInputError(
                    f"metric {name!r} needs tokens, but {arguments.source} contains only images. Give a run folder"
                )
    if arguments.pairs and arguments.out is None:
        raise OptionConflictError("--pairs writes files and needs a folder. Add --out FOLDER")
    if arguments.pairs and not any(isinstance(metric, DiversityMetric) for metric in metrics):
        raise OptionConflictError(
            "--pairs needs a distance between two images. Add lpips, pixel_cosine, ssim or cosine to --metrics"
        )
    return metrics


def _write(
    path: Path,
    metrics: list[SampleMetric],
    estimates: dict[str, Estimate],
    texts: dict[int, str],
    columns: dict[str, Tensor],
) -> None:
    """Write the files of `--out`.

    `rank_frequency.csv` is for a log-log plot of codebook usage, `attributes.parquet` counts the values of attributes.
    """
    import pyarrow as pa
    from pyarrow import csv

    from gendiv_lightning.functional.entropy import zipf
    from gendiv_lightning.metrics.attributes import Attributes
    from gendiv_lightning.metrics.codebook import CodebookUsage
    from gendiv_lightning.runs.folder import RunFolder
    from gendiv_lightning.storage.atomic import write_atomically
    from gendiv_lightning.storage.parquet import write_parquet

    folder = RunFolder(path)
    folder.path.mkdir(parents=True, exist_ok=True)
    usage = next((metric for metric in metrics if isinstance(metric, CodebookUsage)), None)
    if usage is not None:
        ranks = pa.table(dict(zip(("rank", "frequency"), (x.cpu().numpy() for x in zipf(usage.counts)), strict=True)))
        text = io.BytesIO()
        csv.write_csv(ranks, text)
        write_atomically(path / "rank_frequency.csv", lambda p: p.write_bytes(text.getvalue()))
    answers = [row for metric in metrics if isinstance(metric, Attributes) for row in metric.answers(texts)]
    if answers:
        table = pa.Table.from_pylist(answers)
        write_atomically(path / "attributes.parquet", lambda p: write_parquet(table, p))
    prompts = [texts[place] for place in sorted(texts)]
    folder.write_per_prompt(pa.table({"prompt": prompts, **{name: c.numpy() for name, c in columns.items()}}))
    folder.write_metrics(estimates)


def _write_pairs(path: Path, pairs: list[Pairs]) -> None:
    """Write `pairs.parquet` with all pairs, and show the first prompts by the first distance (`pairs.png`, a table)."""
    from gendiv_lightning.console.pairs import draw_pairs, format_pairs, to_table
    from gendiv_lightning.storage.atomic import write_atomically
    from gendiv_lightning.storage.parquet import write_parquet

    if not pairs:
        return
    table = to_table(pairs)
    write_atomically(path / "pairs.parquet", lambda p: write_parquet(table, p))
    shown = [some for some in pairs if some.metric == pairs[0].metric and some.images is not None]
    picture = draw_pairs(shown)
    write_atomically(path / "pairs.png", lambda p: picture.save(p, "PNG"))
    write(f"\n{pairs[0].metric}: nearest and farthest pair of each prompt\n{format_pairs(shown)}\n")


def _prompts(arguments: argparse.Namespace, corrupt: CorruptImages) -> tuple[list[str], Iterator[PromptSamples]]:
    """The text of each prompt, and the samples of each; unreadable images are added to `corrupt`."""
    from gendiv_lightning.images.by_prompt import find_images, load_prompts
    from gendiv_lightning.records import split_by_prompt
    from gendiv_lightning.runs.folder import RunFolder

    folder = RunFolder(arguments.source)
    if folder.shards():
        _check_options_of_run(arguments)
        batches = folder.read_samples()
        return folder.prompt_texts(), (samples for batch in batches for samples in split_by_prompt(batch))
    images = find_images(
        arguments.source,
        arguments.column,
        arguments.image_column,
        arguments.split,
        first_caption=arguments.first_caption,
        allow_outside=arguments.allow_outside,
        memory_limit=arguments.memory_limit,
    )
    write("".join(f"{printable(note)}\n" for note in images.notes), sys.stderr)
    corrupt.num_images = images.num_images
    corrupt.add(images.unreadable)
    return list(images.groups), load_prompts(images, corrupt, arguments.resize, arguments.memory_limit)


def _check_options_of_run(arguments: argparse.Namespace) -> None:
    """Raise ValueError for options that do not apply to the images of a run."""
    given = options_given(
        arguments,
        ("resize", "column", "image_column", "split", "first_caption", "allow_outside", "max_corrupt", "memory_limit"),
    )
    if given:
        raise OptionConflictError(
            f"{', '.join(given)} does not apply to a run, whose images are measured unchanged. Remove the option"
        )
