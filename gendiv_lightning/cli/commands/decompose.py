"""`gendiv decompose`: the decomposition of a run by three lenses, its test, its factorial effects and a verdict."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gendiv_lightning.analysis.verdict import RULE

if TYPE_CHECKING:
    from torch import Tensor

    from gendiv_lightning.metrics.diversity import DiversityMetric
    from gendiv_lightning.records import PromptSamples
    from gendiv_lightning.runs.folder import RunFolder

HELP = "H_total = H_path + H_exec of a run, and what kind of model that makes"
DESCRIPTION = f"""
Prints, of a run with the Decompose probe, H_total = H_exec + H_path by each lens with intervals, H_total by every
estimator from counts, and whether samples of one path, or of one wording, are more alike than chance makes them
(PERMANOVA within prompts). With the same run under Argmax and under CodebookSubset beside it: the factorial effects
and a verdict. --plot draws the information bottleneck plane, on which a probe moves a model, beside the shares of
each lens. --truth, for runs of the embedded world: what is true beside what each lens says, and whose error the
difference is, the model's or the estimator's.

{RULE}

example:
  gendiv fit-free predict --config configs/tiny/amused_decompose.yaml --run_dir runs/plain
  gendiv fit-free predict --config configs/tiny/amused_decompose.yaml --run_dir runs/argmax \\
    --trainer.callbacks+=gendiv_lightning.callbacks.Argmax
  gendiv fit-free predict --config configs/tiny/amused_decompose.yaml --run_dir runs/subset \\
    --trainer.callbacks+=gendiv_lightning.callbacks.CodebookSubset --trainer.callbacks.ratio=0.25 \\
    --trainer.callbacks.usage=toy:amused_usage.safetensors
  gendiv decompose runs/plain --argmax runs/argmax --subset runs/subset --plot decomposition.svg
  gendiv decompose runs/plain --truth
"""
EFFECTS = {
    (0,): "path free, not frozen",
    (1,): "tokens drawn, not argmax",
    (2,): "wordings pooled, not one",
    (0, 1): "path x tokens",
    (0, 2): "path x wordings",
    (1, 2): "tokens x wordings",
    (0, 1, 2): "all three",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gendiv decompose`."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run with the Decompose probe")
    parser.add_argument("--argmax", type=Path, metavar="RUN", help="the same under Argmax")
    parser.add_argument("--subset", type=Path, metavar="RUN", help="the same under CodebookSubset")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the plane and the shares of the lenses")
    parser.add_argument("--truth", action="store_true", help="embedded world: what is true, beside what the lenses say")
    parser.add_argument(
        "--distance",
        default="lpips[tiny]",
        help="of PERMANOVA, effects and verdict, as in configs (default: lpips[tiny])",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print."""
    from gendiv_lightning.console.decomposition import format_decomposition
    from gendiv_lightning.metrics.diversity import DiversityMetric
    from gendiv_lightning.metrics.registry import make_metric
    from gendiv_lightning.records import split_by_prompt
    from gendiv_lightning.runs.folder import RunFolder

    folder = RunFolder(arguments.run)
    folder.read_per_prompt()
    estimates = folder.read_metrics()
    table = format_decomposition(estimates)
    if not table:
        raise ValueError(f"{arguments.run} tells no path from execution: it has no Decompose among its probes")
    metric = make_metric(arguments.distance)
    if not isinstance(metric, DiversityMetric):
        raise ValueError(f"--distance {arguments.distance} is no distance: lpips, pixel_cosine, ssim or clip_cosine")
    if arguments.plot and arguments.plot.suffix != ".svg":
        raise ValueError(f"--plot draws SVG, so the file must end in .svg, got {arguments.plot}")
    if arguments.truth and not folder.read_protocol()["generator"].get("embedded"):
        raise ValueError(f"--truth knows the embedded world alone, and {arguments.run} is of a real model")
    prompts = [samples for batch in folder.read_samples() for samples in split_by_prompt(batch)]
    sys.stdout.write(f"{table}\n\n{_estimators(prompts)}\n\n{_test(prompts, metric)}\n")
    if arguments.truth:
        sys.stdout.write(f"\n{_truth(folder, metric)}\n")
    if arguments.argmax:
        sys.stdout.write(f"\n{_effects(folder, RunFolder(arguments.argmax), metric.name)}\n")
    if arguments.argmax and arguments.subset:
        others = RunFolder(arguments.argmax), RunFolder(arguments.subset)
        sys.stdout.write(f"\n{_verdict(folder, *others, metric.name)}\n")
    if arguments.plot:
        _plot([path for path in (arguments.run, arguments.argmax, arguments.subset) if path], arguments.plot)
    return 0


def _plot(runs: list[Path], file: Path) -> None:
    """The plane, with a mark a run, and the shares of execution and path in each."""
    from gendiv_lightning.report.charts import decomposition_bars, ib_plane
    from gendiv_lightning.report.document import Figure
    from gendiv_lightning.report.html import to_svg
    from gendiv_lightning.runs.load import families_of, find_runs
    from gendiv_lightning.storage.atomic import write_atomically

    families = families_of(find_runs(runs)[0])
    bars = decomposition_bars([(family._replace(name=s.short), s) for family in families for s in family.settings])
    panels = (*ib_plane(families, lambda family: list(family.settings)), *bars)
    picture = to_svg(Figure(file.stem, panels, "", columns=2))
    write_atomically(file, lambda path: path.write_text(picture, encoding="utf-8"))
    sys.stdout.write(f"\n{file}\n")


def _truth(folder: RunFolder, metric: DiversityMetric) -> str:
    from tqdm import tqdm

    from gendiv_lightning.runs.load import find_runs
    from gendiv_lightning.toy.ground_truth import compare_with_truth, format_truth

    ((run,), _) = find_runs([folder.path])
    shards = tqdm(folder.shards(), desc="The perfect generator", unit="shard", delay=2)
    return format_truth(compare_with_truth(folder.read_samples(shards), run.columns, metric))


def _estimators(prompts: list[PromptSamples]) -> str:
    """H_total a token from counts alone, by every estimator: where they differ, samples are few."""
    import torch

    from gendiv_lightning.console.tables import format_table
    from gendiv_lightning.functional import entropy
    from gendiv_lightning.functional.bootstrap import bootstrap_mean

    rows = [("H_total from counts, by", "bits/token", "95 % interval")]
    for name in ("plugin", "miller_madow", "grassberger", "chao_shen", "chao_wang_jost"):
        estimator = getattr(entropy, f"{name}_entropy")
        found = []
        for samples in prompts:
            assert samples.tokens is not None, "a run has tokens"
            _, entries = samples.tokens.unique(return_inverse=True)
            found.append(estimator(torch.nn.functional.one_hot(entries).sum(0)).mean())
        value, low, high = bootstrap_mean(torch.stack(found))
        rows.append((name.replace("_", "-"), f"{value:.3f}", f"[{low:.3f}, {high:.3f}]"))
    return format_table(rows)


def _test(prompts: list[PromptSamples], metric: DiversityMetric) -> str:
    from tqdm import tqdm

    from gendiv_lightning.console.tables import format_table
    from gendiv_lightning.functional.permanova import permanova

    metric.load()
    bar = tqdm(prompts, desc="Distances of all pairs", unit="prompt", delay=2)
    matrices = [metric.matrix(samples).cpu() for samples in bar]

    def paths() -> Iterator[tuple[Tensor, Tensor]]:
        for samples, matrix in zip(prompts, matrices, strict=True):
            for wording in samples.groups[:, 0].unique():
                mine = samples.groups[:, 0] == wording
                yield matrix[mine][:, mine], samples.groups[mine, 1]

    def wordings() -> Iterator[tuple[Tensor, Tensor]]:
        yield from ((matrix, samples.groups[:, 0]) for samples, matrix in zip(prompts, matrices, strict=True))

    rows = [(f"groups, by {metric.name}", "pseudo-F", "R^2", "p")]
    for name, groups in (("sampler paths of a wording", paths()), ("wordings of a prompt", wordings())):
        try:
            found = permanova(groups)
        except ValueError:
            rows.append((name, "-", "-", "-"))
            continue
        rows.append((name, f"{found.pseudo_f:.3f}", f"{found.share:.3f}", f"{found.p_value:.3f}"))
    return format_table(rows)


def _column(folder: RunFolder, name: str) -> Tensor:
    import torch

    table = folder.read_per_prompt()
    if name not in table.column_names:
        raise ValueError(
            f"{folder.path} has no {name}: put it among the metrics of the run, or choose another --distance"
        )
    return torch.tensor(table[name].to_pylist(), dtype=torch.float64)


def _effects(plain: RunFolder, argmax: RunFolder, name: str) -> str:
    """2 x 2 x 2: the distance of two draws with the path free or frozen, tokens drawn or not, wordings pooled or one.

    A frozen path is each wording's own, as under `FreezePath`: it matters to the pairs of one wording, 1 / Q of all.
    """
    import torch

    from gendiv_lightning.console.tables import format_table
    from gendiv_lightning.functional.bootstrap import bootstrap_mean
    from gendiv_lightning.functional.comparison import factorial_effects, holm, sign_flip_test

    def cells(folder: RunFolder) -> Tensor:
        """(2, 2, P): path frozen, free; one wording, all."""
        total, within, sampler_path = (_column(folder, f"{name}{part}") for part in ("", "/within", "/sampler_path"))
        return torch.stack(
            [torch.stack([within - sampler_path, total - sampler_path / num_wordings]), torch.stack([within, total])]
        )

    (design,) = (p for p in plain.read_protocol()["probes"] if p["probe"] == "Decompose")
    num_wordings = max(1, design["num_paraphrases"])
    both = torch.stack([cells(argmax), cells(plain)], 1)
    effects = factorial_effects(both)
    corrected = holm(torch.tensor([sign_flip_test(values) for values in effects.values()])).tolist()
    rows = [(f"effect on {name}", "mean", "95 % interval", "p (Holm)")]
    for (switches, values), p in zip(effects.items(), corrected, strict=True):
        mean, low, high = bootstrap_mean(values)
        rows.append((EFFECTS[switches], f"{mean:+.4f}", f"[{low:+.4f}, {high:+.4f}]", f"{p:.4f}"))
    return format_table(rows)


def _verdict(plain: RunFolder, argmax: RunFolder, subset: RunFolder, name: str) -> str:
    from gendiv_lightning.analysis.verdict import judge
    from gendiv_lightning.storage.codebook_counts import read_usage

    counts, _ = read_usage(plain.path / "usage.safetensors")
    perplexity = plain.read_metrics()["codebook/perplexity"].value / len(counts)
    columns = [_column(folder, f"{name}/within") for folder in (plain, argmax, subset)]
    verdict = judge(columns[0], _column(plain, f"{name}/exec"), columns[1], columns[2], perplexity)
    survives, kept, path, used = verdict.shares
    certainty = f"the same answer in {100 * verdict.certainty:.0f} % of the resamples"
    return (
        f"Verdict by {name} in a wording: {verdict.kind} ({certainty})\n"
        f"  {100 * survives:.1f} % survives Argmax, {100 * kept:.1f} % the subset, paths are {100 * path:.1f} %, "
        f"perplexity {100 * used:.1f} % of the codebook\n{RULE}"
    )
