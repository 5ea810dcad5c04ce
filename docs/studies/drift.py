"""Do disabled codebook entries cause semantic drift? Subsets against temperature controls of equal token entropy.

    python docs/studies/drift.py        # about 25 minutes on one core; resumes if it was interrupted

Runs `drift.yaml` with `gendiv study`. A pilot with one sample per prompt gives the token entropy by temperature, and so
the temperature at which the plain model has the token entropy of a subset. Up to three control runs are made, each
corrected by the one before. Then it runs `gendiv drift` on baseline, subset and closest control, with the ground truth
and with a small CLIP as scorers. Writes drift.md (between its markers), drift.svg and drift_sky.svg beside it.
"""

from __future__ import annotations

import argparse
import io
import json
import math
from collections.abc import Sequence
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path

import torch
import yaml
from tqdm import tqdm

from gendiv_lightning import load
from gendiv_lightning.analysis.drift_file import DriftFile, read_drift
from gendiv_lightning.analysis.effects import Interval
from gendiv_lightning.callbacks import Temperature
from gendiv_lightning.cli.main import main as gendiv
from gendiv_lightning.console.tables import format_table
from gendiv_lightning.prompts.files import read_prompts
from gendiv_lightning.records import split_by_prompt
from gendiv_lightning.report.charts import confusion_maps
from gendiv_lightning.report.document import Figure
from gendiv_lightning.report.html import to_svg
from gendiv_lightning.report.svg import Chart, key, linear, logarithmic
from gendiv_lightning.runs.load import read_run
from gendiv_lightning.storage.atomic import write_atomically
from gendiv_lightning.toy import FILES

HERE = Path(__file__).parent
NAMES = {"llamagen": "LlamaGen", "amused": "aMUSEd", "vq_diffusion": "VQ-Diffusion"}
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
SCORERS = ("postcards", "tiny-clip")
PILOT = (1.0, 1.1, 1.2, 1.35, 1.5, 1.7, 2.0, 2.4, 3.0)  # temperatures
CLOSE = 0.02  # relative difference of the entropies at which the search ends
SHOWN = 0.05  # share left out whose attributes and matrices are shown
LINES = (("probe", "subset", "g0", "circle"), ("control", "control of equal token entropy", "g1", "square"))


def printed(*words: str | Path) -> str:
    """The output of a command."""
    out = io.StringIO()
    try:
        with redirect_stdout(out):
            gendiv([str(word) for word in words])
    except SystemExit as stopped:
        if stopped.code:
            raise
    return out.getvalue().strip()


def entropy_of(run: Path) -> float:
    """Token entropy of a run, bits per token."""
    batches = read_run(run).folder.read_samples()
    prompts = [samples for batch in batches for samples in split_by_prompt(batch)]
    return torch.stack([samples.entropy.double().mean() for samples in prompts]).mean().item()


def pilot(family: str, folder: Path) -> dict[float, float]:
    """Token entropy of one sample per prompt, by temperature; computed once."""
    file = folder / f"pilot-{family}.json"
    if not file.exists():
        generator = load(HERE / f"../../configs/tiny/{family}.yaml")
        prompts = list(read_prompts(FILES / "postcards.jsonl"))
        entropies = {}
        for temperature in tqdm(PILOT, desc=f"Pilot of {family}", unit="temperature"):
            samples = generator.generate(prompts, 1, probes=[Temperature(temperature)])
            entropies[temperature] = torch.stack([each.entropy.double().mean() for each in samples]).mean().item()
        text = json.dumps(entropies, indent=2)
        write_atomically(file, lambda path: path.write_text(text))
    return {float(temperature): entropy for temperature, entropy in json.loads(file.read_text()).items()}


def interpolated(at: float, points: Sequence[tuple[float, float]]) -> float:
    """Log-log interpolation between points, extrapolated by the first and the last segment."""
    for (x1, y1), (x2, y2) in pairwise(points):
        if at <= x2 or (x2, y2) == points[-1]:
            return y1 * (y2 / y1) ** (math.log(at / x1) / math.log(x2 / x1))
    raise AssertionError("a curve has two points or more")


def next_temperature(target: float, curve: dict[float, float], before: tuple[float, float] | None) -> float:
    """The temperature of a target entropy, to four digits.

    Args:
        target: bits per token.
        curve: entropy by temperature, of the pilot.
        before: temperature and entropy of an earlier control, by which the curve is corrected; None for the first.
    """
    points = sorted(curve.items())
    if before is not None:
        target *= interpolated(before[0], points) / before[1]
    return float(f"{interpolated(target, [(entropy, temperature) for temperature, entropy in points]):.4g}")


def run_controls(temperatures: dict[str, list[float]], folder: Path, number: int) -> None:
    """Run controls as a study: drift.yaml with temperatures instead of the subsets."""
    study = yaml.safe_load((HERE / "drift.yaml").read_text(encoding="utf-8"))
    study["generators"] = {name: entry for name, entry in study["generators"].items() if temperatures.get(name)}
    study["probes"] = {}
    for family, entry in study["generators"].items():
        entry["config"] = str((HERE / entry["config"]).resolve())
        entry["probes"] = [f"{family}_at"]
        study["probes"][f"{family}_at"] = {"Temperature": {"temperature": sorted(set(temperatures[family]))}}
    path = folder / f"controls-{number}.yaml"
    text = yaml.safe_dump(study, sort_keys=False)
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))
    printed("study", "--config", path, "--out", folder / f"controls-{number}")


def find_controls(folder: Path) -> dict[tuple[str, float], Path]:
    """A control run for each family and share: the closest of up to three, each corrected by the one before."""
    targets = {
        (family, share): entropy_of(folder / "runs" / f"{family}-drop-{share:g}-seed0")
        for family in NAMES
        for share in SHARES
    }
    tried: dict[tuple[str, float], list[tuple[float, float, Path]]] = {case: [] for case in targets}
    for number in (1, 2, 3):
        wanted: dict[str, dict[float, float]] = {}
        for (family, share), target in targets.items():
            before = tried[family, share][-1][:2] if tried[family, share] else None
            if before is None or abs(before[1] / target - 1) > CLOSE:
                temperature = next_temperature(target, pilot(family, folder), before)
                wanted.setdefault(family, {})[share] = temperature
        if not wanted:
            break
        run_controls({family: list(found.values()) for family, found in wanted.items()}, folder, number)
        for family, found in wanted.items():
            for share, temperature in found.items():
                run = folder / f"controls-{number}" / f"{family}-{family}_at-{temperature:g}-seed0"
                tried[family, share].append((temperature, entropy_of(run), run))
    return {case: min(runs, key=lambda run: abs(run[1] - targets[case]))[2] for case, runs in tried.items()}


def drift_of(family: str, share: float, control: Path, scorer: str, folder: Path) -> DriftFile:
    """The numbers of `gendiv drift`; computed once."""
    file = folder / f"drift-{family}-{share:g}-{scorer}.json"
    if not file.exists():
        runs = [folder / "runs" / f"{family}-{name}-seed0" for name in ("baseline", f"drop-{share:g}")]
        printed("drift", *runs, "--control", control, "--scorer", scorer, "--list", "postcards", "--json", file)
    return read_drift(file)


def percent(interval: Interval, sign: str = "") -> str:
    """A share with its interval, in percent."""
    value, low, high = (100 * end for end in interval)
    return f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def share_table(found: dict[float, DriftFile], subsets: dict[float, Path], controls: dict[float, Path]) -> str:
    """One row per share left out: fidelities, drift and drift beyond noise over all attributes; subset / control."""
    rows = [("left out", "baseline", "subset", "control", "drift", "beyond noise", "bits", "T", "coherent")]
    for share, file in found.items():
        overall, entropies = file.drift.overall, file.drift.entropies
        assert entropies is not None, "the models draw tokens"
        control, subset = read_run(controls[share]), read_run(subsets[share])
        coherent = (100 * run.estimates["postcards/coherence"].value for run in (subset, control))
        rows.append(
            (
                f"{100 * share:g} %",
                *(f"{100 * overall.fidelity[run].value:.1f}" for run in ("baseline", "probe", "control")),
                percent(overall.drift, "+"),
                percent(overall.beyond, "+"),
                f"{entropies.by_run['probe'].value:.2f} / {entropies.by_run['control'].value:.2f}",
                f"{control.protocol['probes'][0]['temperature']:.3g}",
                " / ".join(f"{share_coherent:.0f}" for share_coherent in coherent),
            )
        )
    return format_table(rows)


def attribute_table(file: DriftFile) -> str:
    """One row per attribute, with what bleeds into what."""
    rows = [("attribute", "drift", "beyond noise", "bleeding", "largest flow", "gain, subset / control")]
    for each in sorted(file.drift.attributes, key=lambda each: -each.drift.value):
        flow = each.flows[0]
        bleeding = percent(each.bleeding) if each.bleeding.value == each.bleeding.value else "n/a"
        gains = f"{100 * flow.gain.value:+.0f} / {100 * flow.control:+.0f}"
        moved = f"{flow.stated} -> {flow.seen} ({flow.num_prompts} prompts)"
        rows.append((each.name, percent(each.drift, "+"), percent(each.beyond, "+"), bleeding, moved, gains))
    return format_table(rows)


def agreement_table(found: dict[str, dict[str, dict[float, DriftFile]]]) -> str:
    """Drift and drift beyond noise by both scorers."""
    rows = [("model", "left out", *(f"{what}, {scorer}" for what in ("drift", "beyond noise") for scorer in SCORERS))]
    for family, by_scorer in found.items():
        for share in SHARES:
            wholes = [by_scorer[scorer][share].drift.overall for scorer in SCORERS]
            cells = [percent(w.drift, "+") for w in wholes] + [percent(w.beyond, "+") for w in wholes]
            rows.append((NAMES[family], f"{100 * share:g} %", *cells))
    return format_table(rows)


def reading_table(truth: DriftFile, clip: DriftFile) -> str:
    """One row per attribute: what CLIP sees without the subset, chance, and the drift by both scorers."""
    rows = [("attribute", "fidelity by CLIP, baseline", "chance", *(f"drift, {scorer}" for scorer in SCORERS))]
    for known, seen in zip(truth.drift.attributes, clip.drift.attributes, strict=True):
        chance = f"{100 / len(known.values):.0f}"
        rows.append(
            (
                known.name,
                percent(seen.fidelity["baseline"]),
                chance,
                percent(known.drift, "+"),
                percent(seen.drift, "+"),
            )
        )
    return format_table(rows)


def curves(found: dict[str, dict[float, DriftFile]]) -> Figure:
    """Fidelity by the share left out, one panel per model: subset and control, both read by the ground truth."""
    x = logarithmic("most frequent entries left out", SHARES, percent=True)
    y = linear("stated values shown", [0, 1], percent=True)
    panels = []
    for family, files in found.items():
        chart = Chart(NAMES[family], x, y, width=330, height=270)
        before = files[SHARES[0]].drift.overall.fidelity["baseline"].value
        chart.path([(x.low, before), (x.high, before)], "guide")
        for run, words, style, shape in LINES:
            ends = {share: file.drift.overall.fidelity[run] for share, file in files.items()}
            chart.path([(share, interval.value) for share, interval in ends.items()], style)
            for share, (value, low, high) in ends.items():
                chart.interval((share, low), (share, high), style)
                chart.mark(share, value, shape, style, f"{words}, {100 * share:g} %: {100 * value:.1f} %")
        panels.append(chart.svg())
    return Figure("drift", tuple(panels), "", 3, key([(shape, style, words) for _, words, style, shape in LINES]))


def measured(folder: Path) -> str:
    """All tables; draws the figures."""
    controls = find_controls(folder)
    found = {
        family: {
            scorer: {share: drift_of(family, share, controls[family, share], scorer, folder) for share in SHARES}
            for scorer in SCORERS
        }
        for family in NAMES
    }
    truth = {family: by_scorer["postcards"] for family, by_scorer in found.items()}
    (HERE / "drift.svg").write_text(to_svg(curves(truth)), encoding="utf-8")
    sky = next(each for each in truth["llamagen"][SHOWN].drift.attributes if each.name == "sky")
    maps = Figure("maps", confusion_maps(sky.values, sky.matrices), "")
    (HERE / "drift_sky.svg").write_text(to_svg(maps), encoding="utf-8")
    parts = [f"64 prompts x 4 samples, seed 0, torch {torch.__version__.split('+')[0]}:"]
    for family, files in truth.items():
        subsets = {share: folder / "runs" / f"{family}-drop-{share:g}-seed0" for share in SHARES}
        table = share_table(files, subsets, {share: controls[family, share] for share in SHARES})
        parts.append(f"**{NAMES[family]}**:\n\n```\n{table}\n```")
        parts.append(f"{100 * SHOWN:g} % left out, by attribute:\n\n```\n{attribute_table(files[SHOWN])}\n```")
    parts.append(f"**Ground truth and CLIP**:\n\n```\n{agreement_table(found)}\n```")
    by_both = [found["llamagen"][scorer][SHOWN] for scorer in SCORERS]
    parts.append(f"LlamaGen, {100 * SHOWN:g} % left out, by attribute:\n\n```\n{reading_table(*by_both)}\n```")
    return "\n\n".join(parts)


def main() -> None:
    """Run what is missing, and write the tables and the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/drift"), help="folder of the runs (default: runs/drift)")
    folder = parser.parse_args().out
    printed("study", "--config", HERE / "drift.yaml", "--out", folder / "runs")
    text = (HERE / "drift.md").read_text(encoding="utf-8")
    first, last = "<!-- measured -->", "<!-- end -->"
    before, after = text.split(first)[0], text.split(last)[1]
    tables = measured(folder)
    (HERE / "drift.md").write_text(f"{before}{first}\n\n{tables}\n\n{last}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
