"""Which metric ranks samplers by their diversity? Samplers of known diversity, compared with the ground truth.

    python docs/studies/diversity.py        # some minutes on one core; writes diversity.md and .png beside it

Samplers, each with the same prompts (captions that leave something free) and the same number of samples per prompt:
- copies: true postcards of the caption, drawn uniformly; each sample is replaced by the same postcard with probability
  s. The entropy of this mixture is known exactly;
- temperature: the toy LlamaGen from argmax to temperature 1.5. Its diversity is read from the images: the entropy of
  the factors that the caption leaves free;
- broken: true postcards; each sample is replaced by the image of 36 random tokens with probability b. The diversity of
  the true postcards among them does not change, and no postcard is added.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor
from tqdm import tqdm

from gendiv_lightning.callbacks import Temperature
from gendiv_lightning.console.tables import format_table
from gendiv_lightning.functional.bootstrap import bootstrap_mean
from gendiv_lightning.generators.base import Generator
from gendiv_lightning.metrics.base import compute_metrics
from gendiv_lightning.metrics.reference import reference_statistics, write_reference
from gendiv_lightning.metrics.registry import make_features, make_metric
from gendiv_lightning.prompts.design import make_batch
from gendiv_lightning.prompts.files import read_prompts
from gendiv_lightning.records import Prompt, PromptSamples, SampleDesign, split_by_prompt
from gendiv_lightning.records.estimate import Estimate
from gendiv_lightning.toy import FILES, captions, postcards
from gendiv_lightning.toy.evaluate import FAMILIES

HERE = Path(__file__).parent
PROMPTS = FILES / "postcards.jsonl"
SHARES = tuple(n / 8 for n in range(9))
TEMPERATURES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
BROKEN = (0.0, 0.25, 0.5, 0.75, 1.0)
METRICS = {
    "lpips[tiny]": "diversity/lpips[tiny]",
    "pixel_cosine": "diversity/pixel_cosine",
    "ssim": "diversity/ssim",
    "clip_cosine[tiny-clip]": "diversity/clip_cosine[tiny-clip]",
    "vendi[pixels]": "diversity/vendi[pixels]",
    "vendi[tiny]": "diversity/vendi[tiny]",
    "vendi[tiny-clip]": "diversity/vendi[tiny-clip]",
}
OF_THE_SET = {
    "vendi_set[tiny]": "diversity/vendi_set[tiny]",
    "precision_recall[tiny-clip]": "quality/recall[tiny-clip]",
    "fd[tiny-clip]": "quality/fd[tiny-clip]",
    "clip_score[tiny-clip]": "quality/clip_score[tiny-clip]",
}
TRUTH, RECALL, COHERENCE = "postcards/free_entropy_bits", "postcards/free_entropy_share", "postcards/coherence"


class Measured:
    """The metrics of one sampler: estimates, columns (P,), and the true bits (P,) or those read from the images."""

    def __init__(self, samples: list[PromptSamples], bits: Tensor | None, reference: str) -> None:
        metrics = [make_metric(name, reference) for name in (*METRICS, *OF_THE_SET, "postcard_truth")]
        for prompt in samples:
            for metric in metrics:
                metric.update(prompt)
        self.estimates: dict[str, Estimate]
        self.estimates, self.columns = compute_metrics(metrics)
        self.bits = self.columns["postcards/free_entropy_bits"] if bits is None else bits


def write_real(path: Path, num_images: int = 2048) -> str:
    """Write a reference file of random postcards, with their features."""
    images = torch.randperm(postcards.NUM_IMAGES, generator=torch.Generator().manual_seed(0))[:num_images]
    batches = (postcards.render(some) for some in images.split(64))
    write_reference(path, reference_statistics(batches, make_features("tiny-clip"), f"{num_images} postcards"))
    return str(path)


def meaning_images(text: str) -> Tensor:
    """All postcards (M,) that a caption fits."""
    values = postcards.values_of(torch.arange(postcards.NUM_IMAGES))
    fits = torch.ones(postcards.NUM_IMAGES, dtype=torch.bool)
    for group, value in captions.parse(text).items():
        fits &= values[:, list(postcards.GROUPS).index(group)] == value
    return fits.nonzero()[:, 0]


def mixture_entropy(num_images: int, share: float) -> float:
    """Entropy in bits of a mixture: a fixed image with probability `share`, else one of M images uniformly."""
    probs = torch.full((num_images,), (1 - share) / num_images, dtype=torch.float64)
    probs[0] += share
    return torch.special.entr(probs).sum().item() / math.log(2)


def copies(prompts: list[Prompt], share: float, num: int, seed: int) -> tuple[list[PromptSamples], Tensor]:
    """Samples of which a share is duplicated, and the true entropy (P,)."""
    samples, bits = [], []
    for index, prompt in enumerate(prompts):
        # All levels share their random numbers, so that differences between them are paired.
        generator = torch.Generator().manual_seed(1000 * seed + index)
        fitting = meaning_images(prompt.text)
        drawn = fitting[torch.randint(len(fitting), (num,), generator=generator)]
        copied = fitting[torch.randint(len(fitting), (1,), generator=generator)]
        images = torch.where(torch.rand(num, generator=generator) < share, copied, drawn)
        samples.append(PromptSamples(postcards.render(images), prompt=prompt.text, place=index))
        bits.append(mixture_entropy(len(fitting), share))
    return samples, torch.tensor(bits, dtype=torch.float64)


def sampled(
    generator: Generator, prompts: list[Prompt], temperature: float, num: int, seed: int
) -> list[PromptSamples]:
    """Samples of the toy LlamaGen."""
    samples: list[PromptSamples] = []
    for start in range(0, len(prompts), 8):
        some = prompts[start : start + 8]
        batch = make_batch(seed, some, SampleDesign(num), range(start, start + len(some)))
        samples += split_by_prompt(generator.sample(batch, [Temperature(temperature)]))
    return samples


def broken(
    generator: Generator, prompts: list[Prompt], share: float, num: int, seed: int
) -> tuple[list[PromptSamples], Tensor]:
    """True postcards of which a share is broken, and their true entropy (P,)."""
    samples, bits = copies(prompts, 0.0, num, seed)
    mixed = []
    for index, prompt in enumerate(samples):
        noise = torch.Generator().manual_seed(1_000_000 + 1000 * seed + index)
        tokens = torch.randint(generator.codebook_size, (num, math.prod(generator.grid)), generator=noise)
        is_broken = torch.rand(num, generator=noise) < share
        with torch.inference_mode():
            images = torch.where(is_broken[:, None, None, None], generator.decode_tokens(tokens), prompt.images)
        mixed.append(prompt._replace(images=images))
    return mixed, bits


def ranks(values: Tensor) -> Tensor:
    """Ranks along the last axis; equal values have equal ranks."""
    above, equal = values[..., :, None] > values[..., None, :], values[..., :, None] == values[..., None, :]
    return above.double().sum(-1) + equal.double().sum(-1) / 2


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rho along the last axis; NaN if one side is constant."""
    x, y = (r - r.mean(-1, keepdim=True) for r in (ranks(a), ranks(b)))
    return (x * y).sum(-1) / (x.square().sum(-1) * y.square().sum(-1)).sqrt()


def over_levels(levels: list[Measured], name: str) -> tuple[float, float, float]:
    """Rank correlation over the samplers of a series within one prompt, mean over prompts."""
    truth, metric = (torch.stack(rows, 1) for rows in zip(*((m.bits, m.columns[name]) for m in levels), strict=True))
    rho = rank_correlation(truth, metric)
    return bootstrap_mean(rho[~rho.isnan()])


def over_prompts(level: Measured, name: str, num_resamples: int = 1000) -> tuple[float, float, float]:
    """Rank correlation over the prompts of one sampler; percentile bootstrap over prompts."""
    metric, generator = level.columns[name], torch.Generator().manual_seed(0)
    draws = torch.randint(len(metric), (num_resamples, len(metric)), generator=generator)
    rhos = rank_correlation(level.bits[draws], metric[draws])
    low, high = rhos.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return rank_correlation(level.bits, metric).item(), low, high


def relative(levels: list[Measured], name: str, perfect: Measured) -> list[float]:
    """A metric as a share of its value for perfect samples; a Vendi score is counted from 1."""
    least = 1.0 if "vendi" in name else 0.0
    return [(m.estimates[name].value - least) / (perfect.estimates[name].value - least) for m in levels]


def interval(numbers: tuple[float, float, float]) -> str:
    """Format a value with its interval."""
    return "{:.2f} [{:.2f}, {:.2f}]".format(*numbers)


def draw(series: dict[str, tuple[tuple[float, ...], list[Measured]]], perfect: Measured, path: Path) -> None:
    """Draw one panel per series: metrics relative to perfect samples, ground truth in black, coherence in grey."""
    shown = ("lpips[tiny]", "pixel_cosine", "ssim", "clip_cosine[tiny-clip]", "vendi[tiny]")
    colours = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00")  # Okabe and Ito's: colour-blind safe
    labels = ("duplicated share of perfect samples", "temperature of the toy LlamaGen", "broken share")
    figure, axes = plt.subplots(1, 3, figsize=(12.5, 4.0), sharey=True)
    for axis, (xs, levels), label in zip(axes, series.values(), labels, strict=True):
        for name, colour, mark in zip(shown, colours, "os^Dv", strict=True):
            axis.plot(xs, relative(levels, METRICS[name], perfect), mark + "-", color=colour, label=name, markersize=4)
        if levels[0].bits is levels[0].columns[TRUTH]:  # not known exactly, but read from the images
            truth = relative(levels, RECALL, perfect)
        else:
            truth = [(m.bits.mean() / perfect.bits.mean()).item() for m in levels]
        axis.plot(xs, truth, "k-", linewidth=2.5, label="ground truth: entropy", zorder=3)
        coherence = [m.estimates[COHERENCE].value for m in levels]
        axis.plot(xs, coherence, color="0.55", linestyle="--", linewidth=2, label="coherence")
        axis.axhline(1, color="0.85", zorder=0)
        axis.set_xlabel(label)
    axes[0].set_ylabel("share of the value for perfect samples")
    axes[1].legend(fontsize=7.5, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def value_table(series: dict[str, tuple[tuple[float, ...], list[Measured]]], names: dict[str, str]) -> str:
    """One row per sampler: its ground truth and all metrics."""
    rows = [("sampler", "true bits", *names)]
    for kind, (xs, levels) in series.items():
        for x, m in zip(xs, levels, strict=True):
            estimates = [m.estimates[name].value for name in names.values()]
            bits = "?" if kind == "temperature" else f"{m.bits.mean():.2f}"
            rows.append((f"{kind} {x:g}", bits, *(f"{value:.3f}" for value in estimates)))
    return format_table(rows)


def rank_table(series: dict[str, tuple[tuple[float, ...], list[Measured]]], perfect: Measured) -> str:
    """One row per metric: rank correlation with the ground truth over each series."""
    (_, mixtures), (_, temperatures), _ = series.values()
    coherent = temperatures[: TEMPERATURES.index(1.0) + 1]
    rows = [("metric", "copies", "prompts", "temperature 0-1", "temperature 0-1.5")]
    for label, name in {**METRICS, "ground truth": TRUTH}.items():
        numbers = [over_levels(mixtures, name), over_prompts(perfect, name)]
        if name != TRUTH:
            numbers += [over_levels(coherent, name), over_levels(temperatures, name)]
        rows.append((label, *map(interval, numbers), *["(ground truth)"] * (4 - len(numbers))))
    return format_table(rows)


def broken_table(series: dict[str, tuple[tuple[float, ...], list[Measured]]], perfect: Measured) -> str:
    """One row per metric: its value for broken samples, relative to that for perfect ones."""
    _, (_, temperatures), (_, levels) = series.values()
    rows = [("metric", "temperature 1.5 / 1", "half broken", "all broken")]
    for label, name in {**METRICS, "ground-truth recall": RECALL, "coherence": COHERENCE}.items():
        one = temperatures[TEMPERATURES.index(1.0)]
        shares = [relative(temperatures[-1:], name, one)[0]]
        shares += [relative(levels, name, perfect)[BROKEN.index(b)] for b in (0.5, 1.0)]
        rows.append((label, *(f"{share:.2f}" for share in shares)))
    return format_table(rows)


def main() -> None:
    """Sample, measure, and write the tables and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=64, help="number of prompts of the toy prompt set")
    parser.add_argument("--samples", type=int, default=16, help="samples per prompt")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    num, seed, start = arguments.samples, arguments.seed, time.perf_counter()
    torch.set_num_threads(1)
    everything = list(read_prompts(PROMPTS))[: arguments.prompts]
    prompts = [prompt for prompt in everything if len(meaning_images(prompt.text)) > 1]
    generator = FAMILIES["llamagen"].load()
    makers: dict[str, tuple[tuple[float, ...], Callable]] = {
        "copies": (SHARES, lambda share: copies(prompts, share, num, seed)),
        "temperature": (TEMPERATURES, lambda t: (sampled(generator, prompts, t, num, seed), None)),
        "broken": (BROKEN, lambda share: broken(generator, prompts, share, num, seed)),
    }
    with tempfile.TemporaryDirectory() as folder:
        reference = write_real(Path(folder) / "real.safetensors")
        series = {
            kind: (xs, [Measured(*make(x), reference) for x in tqdm(xs, desc=kind, unit="sampler", delay=2)])
            for kind, (xs, make) in makers.items()
        }
    perfect = series["copies"][1][0]
    draw(series, perfect, HERE / "diversity.png")
    text = (HERE / "diversity.md").read_text(encoding="utf-8")
    first, last = "<!-- measured -->", "<!-- end -->"
    before, after = text.split(first)[0], text.split(last)[1]
    setting = (
        f"{len(prompts)} prompts x {num} samples per sampler, seed {seed}, {time.perf_counter() - start:.0f} seconds "
        f"on one CPU core, torch {torch.__version__.split('+')[0]}"
    )
    other_columns = {"recall": RECALL, "coherence": COHERENCE, **OF_THE_SET}
    tables = [rank_table(series, perfect), broken_table(series, perfect)]
    tables += [value_table(series, METRICS), value_table(series, other_columns)]
    measured = "\n\n".join([f"{setting}:", *(f"```\n{table}\n```" for table in tables)])
    (HERE / "diversity.md").write_text(f"{before}{first}\n{measured}\n{last}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
