"""Path and execution of the toy latent diffusion model, and the step at which four families decide an image.

    python docs/studies/continuous.py [FOLDER]

Runs `configs/tiny/study_eta.yaml` and `gendiv branch` on four toy models, prints three tables, and writes
`continuous.svg` beside this file. Finished runs in FOLDER (default: runs) are not repeated.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from gendiv_lightning.analysis.branch import Decided
from gendiv_lightning.analysis.decompose import find_bandwidth, measure_stored, read_prompts
from gendiv_lightning.cli.main import main as gendiv
from gendiv_lightning.console.tables import format_table
from gendiv_lightning.functional.bootstrap import bootstrap_mean, bootstrap_ratio
from gendiv_lightning.metrics.kernel_entropy import KernelEntropy
from gendiv_lightning.metrics.registry import make_metric
from gendiv_lightning.recorders.marginals import count_entropies
from gendiv_lightning.records import split_by_prompt
from gendiv_lightning.report.charts import branch_curves
from gendiv_lightning.report.document import Figure
from gendiv_lightning.report.html import to_svg
from gendiv_lightning.runs.folder import RunFolder
from gendiv_lightning.runs.load import Run, read_run
from gendiv_lightning.toy import postcards

HERE = Path(__file__).parent
DISTANCE = "diversity/lpips[tiny]"
SETTINGS = {
    "eta000": "DDIM, eta 0",
    "eta025": "DDIM, eta 0.25",
    "eta050": "DDIM, eta 0.5",
    "eta100": "DDIM, eta 1",
    "euler": "Euler",
    "ancestral": "ancestral Euler",
}
TRUTH = "ground truth"  # postcards drawn uniformly from those that the caption allows
TRUTH_CONFIG = """
model: {class_path: gendiv_lightning.toy.perfect.PerfectPostcards}
data:
  class_path: gendiv_lightning.datamodules.PromptData
  init_args: {path: "toy:postcards.jsonl", limit: 12, num_samples: 8, prompts_per_batch: 8}
measure: {metrics: ["lpips[tiny]", postcard_truth]}
probes: [{class_path: Decompose, init_args: {num_paths: 4}}]
trainer: {accelerator: cpu}
wandb: disabled
"""
# Steps differ between families: 36 tokens, 18 and 36 steps of the loop, the initial noise and 20 scheduler steps.
BRANCHES = {
    "tokens": (("llamagen", "amused", "vq_diffusion"), "0,2,5,9,14,20,28,36"),
    "continuous": (("latent_diffusion",), "0,1,2,5,9,14,21"),
}


def factor_entropies(folder: Path) -> tuple[Tensor, Tensor]:
    """H_total and H_exec (P,) in bits per factor, of the ground-truth factors read from the images."""
    totals, executions = [], []
    for batch in RunFolder(folder).read_samples():
        for samples in split_by_prompt(batch):
            factors = torch.stack(list(postcards.factors_of(postcards.read(samples.images)[0]).values()), 1)
            execution, _, total = count_entropies(factors, *samples.groups.T).tolist()[:3]
            totals.append(total)
            executions.append(execution)
    return torch.tensor(totals), torch.tensor(executions)


def number(values: tuple[float, float, float], scale: float = 1.0, digits: int = 3) -> str:
    """Format a value with its interval."""
    value, low, high = (scale * x for x in values)
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def distances(runs: dict[str, Run]) -> str:
    """Table of diversity and the share of execution by the distance, with the quality of the samples."""
    rows: list[tuple[str, ...]] = [
        ("sampler", "D_total (LPIPS)", "execution, % of D", "stated right, %", "coherent, %")
    ]
    for words, run in runs.items():
        total, execution = run.columns[DISTANCE], run.columns[f"{DISTANCE}/exec"]
        rows.append(
            (
                words,
                number(bootstrap_mean(total)),
                number(bootstrap_ratio(execution, total), 100, 1),
                number(bootstrap_mean(run.columns["postcards/stated_right"]), 100, 1),
                number(bootstrap_mean(run.columns["postcards/coherence"]), 100, 1),
            )
        )
    return format_table(rows)


def entropies(runs: dict[str, Run]) -> str:
    """Table of entropies and their execution parts, of the ground-truth factors and by a kernel on features."""
    features = make_metric("kernel_entropy[tiny]").features
    features.load()
    bandwidth = find_bandwidth(read_prompts(runs[SETTINGS["eta100"]].folder, "Distances"), features)
    rows: list[tuple[str, ...]] = [
        ("sampler", "H, bits/factor", "execution, % of H", "kernel H2, bits/image", "H2_exec, bits/image")
    ]
    for words, run in runs.items():
        h_total, h_exec = factor_entropies(run.folder.path)
        metric = KernelEntropy(features, bandwidth)
        kernel = measure_stored(read_prompts(run.folder, "Kernels"), metric)
        rows.append(
            (
                words,
                number(bootstrap_mean(h_total)),
                number(bootstrap_ratio(h_exec, h_total), 100, 1),
                number(kernel[metric.names[0]][:3]),
                number(kernel[metric.names[1]][:3]),
            )
        )
    return f"{format_table(rows)}\n\nKernel: Gaussian, bandwidth {bandwidth:g}"


def read_curves(folder: Path) -> dict[str, list[Decided]]:
    """The curves of `gendiv branch`, by family."""
    stored = json.loads((folder / "branch.json").read_text())["curves"]
    return {family: [Decided(**point) for point in points] for family, points in stored.items()}


def as_table(curves: dict[str, list[Decided]]) -> str:
    """Table with one row per family: the share of the diversity decided by each step."""
    rows: list[tuple[str, ...]] = [("family", "decided by step, %")]
    for family, points in curves.items():
        rows.append((family, ", ".join(f"{point.step}: {100 * point.share:.0f}" for point in points)))
    return format_table(rows)


def run(*words: str) -> None:
    """Run a command of gendiv."""
    try:
        gendiv(list(words))
    except SystemExit as ended:
        if ended.code:
            raise


def main() -> None:
    """Run everything that is not finished, print the tables, and draw the curves."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs")
    run("study", "--config", "configs/tiny/study_eta.yaml", "--out", str(folder / "study_eta"))
    curves: dict[str, list[Decided]] = {}
    for name, (families, steps) in BRANCHES.items():
        configs = [f"configs/tiny/{family}.yaml" for family in families]
        out = folder / f"branch-{name}"
        run("branch", *configs, "--steps", steps, "--out", str(out), "--prompts", "12", "--samples", "6")
        curves |= read_curves(out)
    truth = folder / "truth"
    truth.with_suffix(".yaml").write_text(TRUTH_CONFIG)
    run("predict", "--config", str(truth.with_suffix(".yaml")), "--run_dir", str(truth))
    runs = {
        words: read_run(folder / "study_eta" / f"latent_diffusion-{name}-seed0") for name, words in SETTINGS.items()
    }
    runs[TRUTH] = read_run(truth)
    sys.stdout.write("\n\n".join((distances(runs), entropies(runs), as_table(curves))) + "\n")
    (HERE / "continuous.svg").write_text(to_svg(Figure("branch", (branch_curves(curves),), "")))


if __name__ == "__main__":
    main()
