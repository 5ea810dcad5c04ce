"""Does the decomposition find what is there? A calibration on generators with exactly known entropies.

    python docs/studies/decomposition.py                      # writes decomposition.md and .png beside it
    python docs/studies/decomposition.py --only "mixture"     # some families; the others are read from --work

Families and their exact values are in `gendiv_lightning/toy/analytic.py`. Each repetition draws new prompts, samples
them with gendiv's samplers and recorder, measures them with its metrics and computes their intervals. Results are
stored in --work, 20 repetitions at a time, so that an interrupted study resumes.
"""

from __future__ import annotations

import argparse
import math
import platform
import time
from collections.abc import Iterable
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from gendiv_lightning.callbacks import Decompose
from gendiv_lightning.console.tables import format_table
from gendiv_lightning.functional import entropy as estimators
from gendiv_lightning.functional.bootstrap import bootstrap_mean
from gendiv_lightning.storage.atomic import write_atomically
from gendiv_lightning.toy.analytic import FAMILIES, AnalyticGenerator
from gendiv_lightning.toy.calibration import measure, sample_crossed

HERE = Path(__file__).parent
SIZES = (8, 64, 512, 4096)
CHUNK = 20
PARTS = ("found", "truth", "ends")  # keys of the stored files
PARAPHRASES = 4
BIAS_BAR, COVERAGE_BAR, MISSED = 1.0, (0.93, 0.97), " *"
EXACT = 1e-4  # bits; estimates without noise differ from the exact values by rounding only, and have no interval
TOKEN = {"H_total": "h_total/token", "H_exec": "h_exec/token", "H_path": "h_path/token"}
TOKEN |= {"sampler path": "h_sampler_path/token", "prompt path": "h_prompt_path/token"}
SEQUENCE = {"H_total": "h_total/sequence", "H_exec": "h_exec/sequence", "prompt path": "h_prompt_path/sequence"}
COUNTED = ("plugin", "miller_madow", "grassberger", "chao_shen", "chao_wang_jost")
CURVES = {"distributions, plug-in": "h_total/token/plugin", "distributions, jackknife": "h_total/token"}


def one_run(family: str, size: int, seed: int, num_prompts: int, num_paths: int) -> tuple[Tensor, Tensor, Tensor]:
    """One repetition: estimates and true values (names, P) of new prompts, and intervals (names, 2)."""
    generator = AnalyticGenerator(FAMILIES[family], size, num_prompts, PARAPHRASES, seed)
    estimates = measure(sample_crossed(generator, Decompose(num_paths, PARAPHRASES), seed))
    exact = generator.ground_truth()
    known = {name: not values.isnan().any() for name, values in exact.items()}
    ends = [bootstrap_mean(estimates[name])[1:] if known[name] else (math.nan, math.nan) for name in exact]
    return torch.stack([estimates[name] for name in exact]), torch.stack(list(exact.values())), torch.tensor(ends)


def repeat(family: str, size: int, arguments: argparse.Namespace) -> dict[str, Tensor]:
    """All repetitions of a family and codebook size: the results of `one_run` by `PARTS`, and "seconds" (1,)."""
    path = arguments.work / f"{family.replace(' ', '_')}-{size}-{arguments.prompts}-{arguments.paths}.safetensors"
    stored = load_file(path) if path.exists() else {}
    done = len(stored.get("found", ()))
    first_seed = 10_000 * list(FAMILIES).index(family) + 100_000 * size  # no two rows share seeds
    if done < arguments.repetitions and not arguments.draw:
        for first in tqdm(range(done, arguments.repetitions, CHUNK), desc=f"{family}, K = {size}", delay=2):
            start = time.process_time()
            seeds = (first_seed + number for number in range(first, min(first + CHUNK, arguments.repetitions)))
            runs = [one_run(family, size, seed, arguments.prompts, arguments.paths) for seed in seeds]
            new = dict(zip(PARTS, map(torch.stack, zip(*runs, strict=True)), strict=True))
            seconds = stored.get("seconds", torch.zeros(1)) + time.process_time() - start
            stored = {name: torch.cat([stored[name], part]) if stored else part for name, part in new.items()}
            stored["seconds"] = seconds
            write_atomically(path, lambda temporary: save_file(stored, temporary))  # noqa: B023 (called at once)
    return {name: part[: arguments.repetitions] for name, part in stored.items()}


def judge(estimates: Tensor, exact: Tensor, ends: Tensor, scale: float) -> tuple[str, str]:
    """Bias in % of `scale`, and how many of 100 intervals (repetitions, 2) cover the true value of the family."""
    true, error = exact.mean().item(), estimates - exact
    if math.isnan(true):
        return "", ""
    if error.abs().max() < EXACT:
        return "exact", "-"
    # Estimates are paired with the true values of their prompts, so the difference is the error of the estimator.
    bias, deviation = 100 * error.mean().item() / scale, 100 * error.std().item() / scale / math.sqrt(error.numel())
    covered = ((ends[:, 0] <= true) & (true <= ends[:, 1])).double().mean().item()
    marks = MISSED * (abs(bias) >= BIAS_BAR), MISSED * (not COVERAGE_BAR[0] <= covered <= COVERAGE_BAR[1])
    return f"{bias:+.2f} ({deviation:.2f}){marks[0]}", f"{100 * covered:.1f}{marks[1]}"


def tables(arguments: argparse.Namespace) -> tuple[str, float, float]:
    """Both tables, the largest residual of H_path + H_exec = H_total, and CPU seconds."""

    def header(*first: str, parts: Iterable[str]) -> list[tuple[str, ...]]:
        return [("family", "K", *first, *(cell for part in parts for cell in (f"{part}, %", "covers")))]

    token = header("runs", "H_total", "H_path", parts=TOKEN)
    sequence = header("H_exec", "prompt path", parts=SEQUENCE)
    residual = seconds = 0.0
    for family in FAMILIES:
        names = list(AnalyticGenerator(FAMILIES[family], 8, 1).ground_truth())
        for size in SIZES:
            stored = repeat(family, size, arguments)
            if not stored:
                continue
            estimates, exact, ends = (dict(zip(names, stored[part].unbind(1), strict=True)) for part in PARTS)
            total, execution, path = (estimates[TOKEN[part]] for part in ("H_total", "H_exec", "H_path"))
            residual = max(residual, (path + execution - total).abs().max().item())
            seconds += stored["seconds"].item()
            for rows, parts, scale_name in ((token, TOKEN, "H_total"), (sequence, SEQUENCE, "H_exec")):
                scale = exact[parts[scale_name]].mean().item()
                judged = [judge(estimates[name], exact[name], ends[name], scale) for name in parts.values()]
                cells = [cell for pair in judged for cell in pair]
                other = exact[parts["prompt path" if rows is sequence else "H_path"]].mean().item()
                shown = f"{scale:.2f}", "" if math.isnan(other) else f"{abs(other):.2f}"
                runs = (str(len(stored["found"])),) if rows is token else ()
                rows.append((family, str(size), *runs, *shown, *cells))
    return f"{format_table(token)}\n```\n\n```\n{format_table(sequence)}", residual, seconds


def bias_by_samples(size: int, num_prompts: int) -> dict[str, list[float]]:
    """Relative bias of H_total per token by number of samples of one paraphrase, for each estimator."""
    curves: dict[str, list[float]] = {}
    for num_paths in (2, 4, 6, 8, 12, 16):
        generator = AnalyticGenerator(FAMILIES["autoregressive"], size, num_prompts, 1, seed=1)
        exact = generator.ground_truth()["h_total/token"].sum().item()
        prompts = sample_crossed(generator, Decompose(num_paths), seed=1)
        values = measure(prompts)
        sums = {name: values[number].sum().item() for name, number in CURVES.items()}
        for samples in prompts:
            assert samples.tokens is not None
            counts = torch.zeros(samples.tokens.shape[1], generator.codebook_size, dtype=torch.int64)
            counts.scatter_add_(1, samples.tokens.T, torch.ones_like(samples.tokens.T))
            for name in COUNTED:
                value = getattr(estimators, f"{name}_entropy")(counts).mean().item()
                sums[f"counts, {name}"] = sums.get(f"counts, {name}", 0.0) + value
        for name, total in sums.items():
            curves.setdefault(name.replace("_", "-"), []).append(total / exact - 1)
    return curves


def draw(curves: dict[int, dict[str, list[float]]], path: Path) -> None:
    """Draw the bias against the number of samples, with one panel per codebook size."""
    figure, axes = plt.subplots(1, len(curves), figsize=(4.2 * len(curves), 3.6), sharey=True)
    styles = ["o-", "s-", "o--", "s--", "^--", "v--", "D--"]
    for axis, (size, estimators_of_size) in zip(axes, curves.items(), strict=True):
        for (name, values), style in zip(estimators_of_size.items(), styles, strict=True):
            axis.plot([n * n for n in (2, 4, 6, 8, 12, 16)], [100 * v for v in values], style, label=name, markersize=4)
        axis.axhspan(-1, 1, color="0.9", zorder=0)
        axis.set(title=f"K = {size}", xscale="log", xlabel="samples per prompt")
    axes[0].set_ylabel("bias of H_total per token, %")
    axes[-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run all families, and write the tables and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=500, help="number of runs whose intervals are counted")
    parser.add_argument("--prompts", type=int, default=16, help="prompts per run")
    parser.add_argument("--paths", type=int, default=4, help="paths per paraphrase, and executions per path")
    parser.add_argument("--only", default="", help="measure only families whose name contains this")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="measure only these codebook sizes")
    parser.add_argument("--draw", action="store_true", help="only write tables and figure of the stored results")
    parser.add_argument("--work", type=Path, default=Path("runs/decomposition_study"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.draw:
        for size in arguments.sizes:
            for family in FAMILIES:
                if arguments.only in family:
                    repeat(family, size, arguments)
        if arguments.only:
            return
    arguments.draw = True
    start = time.process_time()
    draw({size: bias_by_samples(size, 100) for size in (8, 64, 4096)}, HERE / "decomposition.png")
    text, residual, seconds = tables(arguments)
    minutes = (seconds + time.process_time() - start) / 60
    setting = (
        f"{arguments.repetitions} runs per row (or the number in the column) of {arguments.prompts} prompts x "
        f"{PARAPHRASES} paraphrases x {arguments.paths} paths x {arguments.paths} executions, with separate seeds\n"
        f"for each row; {minutes:.0f} minutes of processor time on one core ({platform.machine()}), torch "
        f"{torch.__version__.partition('+')[0]}. Largest |H_path + H_exec - H_total| of a\nprompt: {residual:.0e} bits"
    )
    page = HERE / "decomposition.md"
    before, rest = page.read_text(encoding="utf-8").split("<!-- measured -->")
    after = rest.split("<!-- end -->")[1]
    page.write_text(f"{before}<!-- measured -->\n{setting}:\n\n```\n{text}\n```\n<!-- end -->{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
