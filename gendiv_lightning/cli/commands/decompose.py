"""`gendiv decompose`: path and execution by several decompositions, with a test, effects and a verdict."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gendiv_lightning.analysis.verdict import RULE
from gendiv_lightning.cli.options import check_output_file
from gendiv_lightning.errors import MetricInputError, OptionConflictError, OutputError, UnknownNameError, listed

if TYPE_CHECKING:
    from gendiv_lightning.metrics.kernel_entropy import KernelEntropy
    from gendiv_lightning.runs.load import Run, Setting

HELP = "split the diversity of a run into H_path + H_exec, and classify the model"
DESCRIPTION = f"""
For a run with the Decompose design, prints H_total = H_path + H_exec with intervals by each decomposition (marginals of
the tokens, whole sequences, perceptual distances), and H_total by every count estimator. With the same run under Argmax
and under CodebookSubset, it also prints the factorial effects and a verdict.

  --test    measures the stored images again: are samples that share a path, or a paraphrase, more alike than expected
            by chance (PERMANOVA within prompts)?
  --plot    draws the information bottleneck plane, with one mark per probe, and the shares of each decomposition
  --truth   for prompts with a known ground truth, as in the toy dataset: prints it next to each measurement, and
            whether a difference is due to the model or to the estimator
  --kernel  measures the stored images again with a kernel on the features of a network: order-2 Renyi entropy and its
            parts, in bits. The default bandwidth is the median distance of two samples of a prompt on different paths;
            use the bandwidth of the baseline for all runs that you compare

{RULE}

examples:
  gendiv fit-free predict --config configs/tiny/amused_decompose.yaml --run_dir runs/plain
  gendiv fit-free predict --config configs/tiny/amused_decompose.yaml --run_dir runs/argmax \\
    --probes+=Argmax
  gendiv fit-free predict --config configs/tiny/amused_decompose.yaml --run_dir runs/subset \\
    --probes+=CodebookSubset --probes.ratio=0.25 \\
    --probes.usage=toy:amused_usage.safetensors
  gendiv decompose runs/plain --argmax runs/argmax --subset runs/subset --plot decomposition.svg
  gendiv decompose runs/plain --test --truth
  gendiv decompose runs/plain --kernel tiny
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gendiv decompose`."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run with the Decompose design")
    parser.add_argument("--argmax", type=Path, metavar="RUN", help="the same run under Argmax")
    parser.add_argument("--subset", type=Path, metavar="RUN", help="the same run under CodebookSubset")
    parser.add_argument("--test", action="store_true", help="test whether groups of samples differ in their images")
    parser.add_argument(
        "--kernel", metavar="FEATURES", help="also measure the kernel decomposition: dinov2, clip, 'tiny,bandwidth=0.5'"
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.svg", help="draw the plane and the shares of each decomposition"
    )
    parser.add_argument("--truth", action="store_true", help="compare with the ground truth of the prompts")
    parser.add_argument(
        "--distance",
        metavar="NAME",
        help="distance for test, effects and verdict, named as in configs (default: the first of lpips, lpips[tiny], "
        "pixel_cosine and ssim that the run contains)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Read the runs, compute, print the tables."""
    from tqdm import tqdm

    from gendiv_lightning.analysis.decompose import (
        compare_groups,
        count_entropies,
        distance_metric,
        find_distance,
        find_effects,
        measure_stored,
        read_prompts,
    )
    from gendiv_lightning.analysis.verdict import judge_runs
    from gendiv_lightning.console import decomposition as tables
    from gendiv_lightning.console.text import write
    from gendiv_lightning.runs.load import read_run, setting_of

    if arguments.plot and arguments.plot.suffix != ".svg":
        raise OutputError(f"--plot must end in .svg, got {arguments.plot}. Rename the file")
    if arguments.plot:
        check_output_file(arguments.plot, "--plot")
    if arguments.subset and not arguments.argmax:
        raise OptionConflictError("--subset needs --argmax: the verdict uses both. Add --argmax or remove --subset")
    plain, argmax, subset = (path and read_run(path) for path in (arguments.run, arguments.argmax, arguments.subset))
    kernel = _kernel(arguments.kernel) if arguments.kernel else None
    if not tables.format_decomposition(plain.estimates):
        raise MetricInputError(
            f"{arguments.run} does not separate path from execution. Make a run with `--probes+=Decompose`"
        )
    _check_probe("--argmax", argmax, "Argmax")
    _check_probe("--subset", subset, "CodebookSubset")
    distance = find_distance(plain, arguments.distance)
    truth = _truth(plain) if arguments.truth else None
    metric = distance_metric(distance) if arguments.test or truth else None
    estimates = dict(plain.estimates)
    if kernel:
        kernel = _set_bandwidth(kernel, plain)
        estimates |= measure_stored(read_prompts(plain.folder, "Kernels"), kernel)
    parts = [
        tables.format_decomposition(estimates),
        tables.format_count_entropies(count_entropies(read_prompts(plain.folder, "Counting tokens"))),
    ]
    if arguments.test and metric:
        tests = compare_groups(read_prompts(plain.folder, "Distances of all pairs"), metric)
        parts.append(tables.format_group_tests(tests, distance))
    if truth and metric:
        shards = tqdm(plain.folder.shards(), desc="Ground truth", unit="shard", delay=2)
        parts.append(truth(plain.folder.read_samples(shards), plain.columns, metric))
    settings = [setting_of([run]) for run in (plain, argmax, subset) if run]
    if argmax:
        parts.append(tables.format_effects(find_effects(settings[0], settings[1], distance), distance))
    if argmax and subset:
        verdict = judge_runs(settings[0], settings[1], settings[2], distance)
        parts.append(f"{tables.format_verdict(verdict, distance)}\n{RULE}")
    chance = plain.description.generator.chance
    if chance and not chance.get("execution"):
        parts.insert(1, "This sampler leaves nothing to execution: H_exec is 0 by construction.")
    if kernel:
        parts.insert(1, _about_bandwidth(kernel, arguments.kernel))
    write("\n\n".join(part for part in parts if part) + "\n")
    if arguments.plot:
        _plot(settings, arguments.plot)
        write(f"\n{arguments.plot}\n")
    return 0


def _check_probe(option: str, run: Run | None, probe: str) -> None:
    """Raise an error for a run that is not under the probe of its option."""
    probes = [each["probe"] for each in run.protocol["probes"]] if run else [probe]
    if probe not in probes:
        found = listed(probes) if probes else "no probe"
        raise OptionConflictError(f"{option} must be a run under {probe}, got one under {found}. Give another run")


def _kernel(name: str) -> KernelEntropy:
    """The kernel decomposition on these features, with its network loaded."""
    from gendiv_lightning.metrics.kernel_entropy import KernelEntropy
    from gendiv_lightning.metrics.registry import make_metric

    metric = make_metric(f"kernel_entropy[{name}]")
    assert isinstance(metric, KernelEntropy), "the name is registered"
    metric.load()
    return metric


def _set_bandwidth(metric: KernelEntropy, run: Run) -> KernelEntropy:
    """The metric, with the median distance of the run as bandwidth if none was given."""
    from gendiv_lightning.analysis.decompose import find_bandwidth, read_prompts
    from gendiv_lightning.metrics.kernel_entropy import KernelEntropy

    if metric.bandwidth is not None:
        return metric
    prompts = read_prompts(run.folder, "Distances of all pairs")
    return KernelEntropy(metric.features, find_bandwidth(prompts, metric.features))


def _about_bandwidth(metric: KernelEntropy, given: str) -> str:
    """Describe the kernel, and how to use it for other runs."""
    name = given.partition(",bandwidth")[0]
    return (
        f"K: order-2 Renyi entropy by a Gaussian kernel of bandwidth {metric.bandwidth:g} on {metric.features.tag}; "
        "order 1 is the von Neumann entropy.\n"
        f"For other runs, pass --kernel '{name},bandwidth={metric.bandwidth:g}', or add the metric "
        f"kernel_entropy[{name},bandwidth={metric.bandwidth:g}]"
    )


def _truth(run: Run) -> Callable[..., str]:
    """The plug-in with the ground truth of the run's prompts."""
    from gendiv_lightning import plugins

    prompts, known = run.protocol["data"]["prompt_set"], plugins.registered("ground_truths")
    if prompts not in known:
        raise UnknownNameError(
            f"--truth: there is no ground truth for the prompts {prompts!r}. It is known for: "
            f"{', '.join(known) or 'none'}"
        )
    return known[prompts].load()


def _plot(settings: list[Setting], file: Path) -> None:
    """Draw the plane with one mark per run, and the shares of execution and path in each run."""
    from gendiv_lightning.report.charts import decomposition_bars, ib_plane
    from gendiv_lightning.report.document import Figure
    from gendiv_lightning.report.html import to_svg
    from gendiv_lightning.runs.load import families_of
    from gendiv_lightning.storage.atomic import write_atomically

    families = families_of([run for setting in settings for run in setting.runs])
    bars = decomposition_bars([(family._replace(name=s.short), s) for family in families for s in family.settings])
    drawing = [family for family in families if all("codebook/entropy_bits" in s.estimates for s in family.settings)]
    panels = (*(ib_plane(drawing, lambda family: list(family.settings)) if drawing else ()), *bars)
    picture = to_svg(Figure(file.stem, panels, "", columns=2))
    write_atomically(file, lambda path: path.write_text(picture, encoding="utf-8"))
