"""Do toy networks order settings as official LPIPS and FID do, and do the first findings hold with official LPIPS?

    python tests/real_files.py real --only lpips inception       # or a folder with the official files
    python docs/studies/real_backbones.py --weights real         # about an hour on one core; resumes

Runs the studies `configs/tiny/study.yaml` and `first_finding.yaml` with official LPIPS (AlexNet) as a further metric.
Measures the samples of the first again: LPIPS with VGG16, LPIPS of enlarged images, FID and KID. Writes the tables of
real_backbones.md between its markers. The samples are those of toy models; only the measuring networks are real.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from first_finding import as_markdown, printed
from first_finding import measured as in_words
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from gendiv_lightning.analysis.effects import change, share_left, share_within
from gendiv_lightning.analysis.paper_claims import check_claims, find_profile, find_verdict
from gendiv_lightning.metrics import FID, KID, LPIPS
from gendiv_lightning.metrics.base import SampleMetric, compute_metrics
from gendiv_lightning.records import PromptSamples, split_by_prompt
from gendiv_lightning.report.context import share
from gendiv_lightning.runs.load import Family, Setting, families_of, find_runs
from gendiv_lightning.storage.atomic import write_atomically
from gendiv_lightning.storage.config_files import find_config

HERE = Path(__file__).parent
STUDIES = {"embedded": "configs/tiny/study.yaml", "first_finding": str(HERE / "first_finding.yaml")}
SIDE = 192  # pixels of enlarged images: four times 48
NUM_POSTCARDS = 1024  # images of the reference
TINY, ALEX, VGG = "diversity/lpips[tiny]", "diversity/lpips", "diversity/lpips[vgg]"
ENLARGED = f"diversity/lpips at {SIDE} pixels"
TRUTH = "postcards/free_entropy_bits"
DISTANCES = {
    TINY: "`lpips[tiny]`",
    ALEX: "LPIPS, AlexNet",
    VGG: "LPIPS, VGG16",
    ENLARGED: f"LPIPS, AlexNet, {SIDE} pixels",
    "diversity/pixel_cosine": "pixel cosine",
    "diversity/ssim": "1 - SSIM",
}
COHERENCE, FD, FRECHET, KERNEL = "postcards/coherence", "quality/fd[tiny-clip]", "quality/fid", "quality/kid"
COHERENT = 0.8  # least share of coherent images of a setting that counts as coherent
NUM_RESAMPLES = 2000


class Weights(NamedTuple):
    """The weight files in a folder."""

    alexnet: Path
    vgg16: Path
    inception: Path

    @classmethod
    def find(cls, folder: Path) -> Weights:
        """The one file for each network."""
        return cls(*(next(folder.glob(f"*{network}*.pth")).resolve() for network in cls._fields))


# --- the runs ---


def derive(name: str, weights: Weights, out: Path) -> Path:
    """A study that also measures official LPIPS, as a file."""
    source = find_config(STUDIES[name])
    study, metric = yaml.safe_load(source.read_text(encoding="utf-8")), f"lpips[weights={weights.alexnet}]"
    study["metrics"].append(metric)
    for generator in study["generators"].values():
        generator["config"] = str((source.parent / generator["config"]).resolve())
        if "metrics" in generator:
            generator["metrics"].append(metric)
    study["settings"]["wandb"] = "disabled"
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    return path


def is_plain(setting: Setting) -> bool:
    """Whether all samples of a prompt are independent: the settings whose diversity can be ordered."""
    return not setting.design and all(probe["probe"] != "Branch" for probe in setting.probes)


def plain_settings(families: Sequence[Family]) -> Iterator[tuple[Family, Setting]]:
    """The plain settings of all families."""
    return ((family, setting) for family in families for setting in family.settings if is_plain(setting))


def has_quality(setting: Setting) -> bool:
    """Whether FID is measured: not for paraphrases of one length, since those of mixed length contain them."""
    return setting.label.paraphrase_length not in ("short", "medium", "long")


# --- measuring them again ---


class Measured(NamedTuple):
    """A plain setting with all its numbers.

    Attributes:
        family: its family.
        setting: the setting.
        values: means by name.
        columns: numbers (P,) per prompt by name.
    """

    family: Family
    setting: Setting
    values: dict[str, float]
    columns: dict[str, Tensor]


def enlarged(samples: PromptSamples) -> PromptSamples:
    """The images at `SIDE` pixels, as `gendiv measure --resize` enlarges them."""
    images = [to_pil_image(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for image in samples.images]
    return samples._replace(images=torch.stack([pil_to_tensor(image) for image in images]))


def measure(family: Family, setting: Setting, weights: Weights, reference: Path, folder: Path) -> Measured:
    """Measure a setting by the further metrics, or read their numbers from a file if that was done."""
    (run,) = setting.runs
    file = folder / f"{run.folder.path.name}.json"
    if not file.exists():
        vgg, at_side = LPIPS("vgg", str(weights.vgg16)), LPIPS("alex", str(weights.alexnet))
        options = {"reference": str(reference), "weights": str(weights.inception)}
        quality: list[SampleMetric] = [FID(**options), KID(**options)] if has_quality(setting) else []
        for batch in run.folder.read_samples():
            for samples in split_by_prompt(batch):
                at_side.update(enlarged(samples))
                for metric in (vgg, *quality):
                    metric.update(samples)
        estimates, columns = compute_metrics([vgg, *quality])
        columns[ENLARGED] = at_side.columns()[ALEX]
        values = {plain_name(name): estimate.value for name, estimate in estimates.items()}
        content = {"values": values, "columns": {name: column.tolist() for name, column in columns.items()}}
        write_atomically(file, lambda path: path.write_text(json.dumps(content), encoding="utf-8"))
    content = json.loads(file.read_text(encoding="utf-8"))
    columns = {name: torch.tensor(column, dtype=torch.float64) for name, column in content["columns"].items()}
    values = {name: estimate.value for name, estimate in setting.estimates.items()} | content["values"]
    means = {name: column.mean().item() for name, column in columns.items()}
    return Measured(family, setting, values | means, setting.columns | columns)


def plain_name(name: str) -> str:
    """The name of a number of Inception without the hash of the weights: their file is not the official one."""
    first, found, last = name.partition("[inception-")
    return first.replace("/fd", "/fid").replace("/kd", "/kid") + last.partition("]")[2] if found else name


# --- ranks ---


def rank_correlations(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's and Kendall's (tau-b) rank correlation (2, R) of each row of two tensors (R, settings)."""
    order_a, order_b = ((x[:, :, None] - x[:, None, :]).sign() for x in (a, b))  # of each pair of settings
    ranks_a, ranks_b = order_a.sum(2), order_b.sum(2)  # twice the rank, minus its mean; ties share theirs
    spearman = (ranks_a * ranks_b).sum(1) / ((ranks_a**2).sum(1) * (ranks_b**2).sum(1)).sqrt()
    kendall = (order_a * order_b).sum((1, 2)) / ((order_a**2).sum((1, 2)) * (order_b**2).sum((1, 2))).sqrt()
    return torch.stack([spearman, kendall])


def draws(number: int) -> Tensor:
    """Bootstrap resamples (R, number) of indices."""
    return torch.randint(number, (NUM_RESAMPLES, number), generator=torch.Generator().manual_seed(0))


def correlation_over_prompts(found: Sequence[Measured], a: str, b: str) -> tuple[str, str]:
    """Rank correlations of two numbers over settings; their intervals resample prompts, together in all settings."""
    columns = [torch.stack([one.columns[name] for one in found]) for name in (a, b)]  # (settings, P)
    whole = rank_correlations(*(column.nanmean(1)[None] for column in columns))[:, 0]
    chosen = draws(columns[0].shape[1])
    resampled = rank_correlations(*(column[:, chosen].nanmean(2).T for column in columns))
    return in_brackets(whole, resampled)


def correlation_over_settings(found: Sequence[Measured], a: str, b: str) -> tuple[str, str]:
    """Rank correlations of two numbers over settings; their intervals resample settings."""
    found = [one for one in found if a in one.values and b in one.values]
    numbers = [torch.tensor([one.values[name] for one in found], dtype=torch.float64) for name in (a, b)]
    whole = rank_correlations(*(number[None] for number in numbers))[:, 0]
    chosen = draws(len(found))
    return in_brackets(whole, rank_correlations(*(number[chosen] for number in numbers)))


def in_brackets(whole: Tensor, resampled: Tensor) -> tuple[str, str]:
    """Both correlations (2,) with 95 % percentile intervals of their resamples (2, R)."""
    ends = torch.nanquantile(resampled, torch.tensor([0.025, 0.975], dtype=resampled.dtype), dim=1).T
    first, second = (
        f"{value:.2f} [{low:.2f}, {high:.2f}]" for value, (low, high) in zip(whole.tolist(), ends.tolist(), strict=True)
    )
    return first, second


def by_family(found: Sequence[Measured]) -> list[list[Measured]]:
    """The settings of each family."""
    names = dict.fromkeys(one.family.name for one in found)
    return [[one for one in found if one.family.name == name] for name in names]


def groups_of(found: Sequence[Measured]) -> dict[str, list[Measured]]:
    """The settings of each family, all, and those whose images are mostly not broken."""
    groups = {some[0].family.name: some for some in by_family(found)}
    groups |= {"all": list(found), "coherent": [one for one in found if one.values[COHERENCE] >= COHERENT]}
    return {f"{name} ({len(some)})": some for name, some in groups.items()}


# --- the tables ---


def order_of_distances(found: Sequence[Measured]) -> str:
    """Rank correlations of the distances with official LPIPS."""
    groups = groups_of(found)
    rows = [("distance", "rank correlation", *groups)]
    for name in DISTANCES:
        if name != ALEX:
            columns = zip(*(correlation_over_prompts(some, name, ALEX) for some in groups.values()), strict=True)
            rows += [(DISTANCES[name], kind, *c) for kind, c in zip(("Spearman", "Kendall"), columns, strict=True)]
    over = correlation_over_settings(found, TINY, ALEX)
    return (
        f"{as_markdown(rows)}\n\nThe same for `lpips[tiny]` over all {len(found)} settings, with intervals that "
        f"resample settings instead of prompts:\nSpearman {over[0]}, Kendall {over[1]}."
    )


def order_of_truth(found: Sequence[Measured]) -> str:
    """Rank correlations of the distances with the true diversity."""
    groups = groups_of(found)
    rows = [("distance", *groups)]
    rows += [(DISTANCES[n], *(correlation_over_prompts(s, n, TRUTH)[0] for s in groups.values())) for n in DISTANCES]
    return as_markdown(rows)


def order_of_quality(found: Sequence[Measured]) -> str:
    """Rank correlations of the distances to real images with each other and with coherence."""
    found = [one for one in found if FRECHET in one.values]
    groups = groups_of(found)
    pairs = {
        "FD [tiny-clip] and FID": (FD, FRECHET),
        "FD [tiny-clip] and KID": (FD, KERNEL),
        "FID and KID": (FRECHET, KERNEL),
        "FD [tiny-clip] and coherence": (FD, COHERENCE),
        "FID and coherence": (FRECHET, COHERENCE),
        "KID and coherence": (KERNEL, COHERENCE),
    }
    rows = [("numbers", *groups)]
    for words, pair in pairs.items():
        rows.append((words, *(correlation_over_settings(some, *pair)[0] for some in groups.values())))
    return as_markdown(rows)


def direction(setting: Measured, base: Measured, name: str) -> int:
    """Whether a number is above (1) or below (-1) that of the baseline, or the interval contains 0."""
    found = change(setting.setting._replace(columns=setting.columns), base.setting._replace(columns=base.columns), name)
    return int(found.low > 0) - int(found.high < 0)


def changes(found: Sequence[Measured]) -> str:
    """Do the networks agree on which settings change the diversity?"""
    words = {1: "rises", -1: "falls", 0: "no change shown"}
    names = (TINY, ALEX, VGG, ENLARGED)
    rows = [("generator", "setting", *(DISTANCES[name] for name in names), "coherence")]
    counts: dict[tuple[int, int], int] = {}
    for some in by_family(found):
        (base,) = (one for one in some if not one.setting.probes)
        for one in some:
            if one is not base:
                found_directions = [direction(one, base, name) for name in names]
                pair = (found_directions[0], found_directions[1])
                counts[pair] = counts.get(pair, 0) + 1
                if len(set(found_directions)) > 1:
                    coherence = f"{one.values[COHERENCE]:.2f}"
                    cells = (words[number] for number in found_directions)
                    rows.append((one.family.name, one.setting.short, *cells, coherence))
    agree = sum(number for (toy, official), number in counts.items() if toy == official)
    opposite = sum(number for (toy, official), number in counts.items() if toy * official < 0)
    return (
        f"`lpips[tiny]` and official LPIPS (AlexNet) agree on the direction of {agree} of {sum(counts.values())} "
        f"settings,\nand contradict each other in {opposite}. All settings on which any two networks differ:"
        f"\n\n{as_markdown(rows)}"
    )


def verdicts_by_distance(families: Sequence[Family]) -> str:
    """The verdict of the rule, and the shares behind it, by the toy network and by official LPIPS."""
    rows = [("generator", "distance", "verdict", "certainty", "execution", "sampler path", "argmax", "subset")]
    for family in families:
        plain, argmax, subset = find_profile(family)
        for name in (TINY, ALEX):
            verdict = find_verdict(family, name)
            if verdict is None or plain is None or argmax is None or subset is None:
                continue
            whole = f"{name}/within"
            shares = (
                share_within(plain, f"{name}/exec", whole),
                share_within(plain, f"{name}/sampler_path", whole),
                share_left(argmax, plain, whole),
                share_left(subset, plain, whole),
            )
            certainty = f"{100 * verdict.certainty:.0f} %"
            rows.append((family.name, DISTANCES[name], verdict.kind, certainty, *(str(share(s)) for s in shares)))
    return as_markdown(rows)


def claims_by_distance(families: Sequence[Family]) -> str:
    """The outcome of the paper's claims by the toy network and by official LPIPS."""
    rows = [("generator", "claim", DISTANCES[TINY], "outcome", DISTANCES[ALEX], "outcome")]
    for family in families:
        for toy, official in zip(check_claims(family, TINY), check_claims(family, ALEX), strict=True):
            cells = [cell for one in (toy, official) for cell in (in_words(one), one.outcome)]
            rows.append((family.name, toy.claim.criterion, *cells))
    return as_markdown(rows)


def all_numbers(found: Sequence[Measured]) -> str:
    """Every setting with its numbers."""
    names = [*list(DISTANCES)[:4], TRUTH, FD, FRECHET, KERNEL, COHERENCE]
    titles = [*(DISTANCES[name] for name in names[:4]), "true bits", "FD [tiny-clip]", "FID", "KID", "coherence"]
    digits = (3, 3, 3, 3, 2, 3, 1, 4, 2)
    rows = [("generator", "setting", *titles)]
    for one in found:
        numbers = (one.values.get(name, math.nan) for name in names)
        cells = (f"{n:.{d}f}" if math.isfinite(n) else "" for n, d in zip(numbers, digits, strict=True))
        rows.append((one.family.name, one.setting.short, *cells))
    return as_markdown(rows)


def write(weights: Weights, out: Path) -> None:
    """Measure the samples again, and write the tables."""
    embedded, first = (families_of(find_runs([out / name])[0]) for name in STUDIES)
    folder, reference = out / "measured", out / "postcards.safetensors"
    folder.mkdir(exist_ok=True)
    if not reference.exists():
        backbone = f"inception,weights={weights.inception}"
        options = ("--backbone", backbone, "--num", str(NUM_POSTCARDS), "--keep-features", "--out", reference)
        printed("reference", "postcards", *options)
    found = [measure(*one, weights, reference, folder) for one in plain_settings(embedded)]
    parts = {
        "Rank correlation with official LPIPS (AlexNet) over settings": order_of_distances(found),
        "Which settings change the diversity?": changes(found),
        "Rank correlation with the true diversity over settings (Spearman)": order_of_truth(found),
        "Rank correlation of the distances to real images (Spearman)": order_of_quality(found),
        "The first findings: verdicts and shares": verdicts_by_distance(first),
        "The first findings: the claims": claims_by_distance(first),
        "All settings": all_numbers(found),
    }
    text = (HERE / "real_backbones.md").read_text(encoding="utf-8")
    first_line, last_line = "<!-- measured -->", "<!-- end -->"
    before, after = text.split(first_line)[0], text.split(last_line)[1]
    tables = "\n\n".join(f"### {title}\n\n{table}" for title, table in parts.items())
    page = f"{before}{first_line}\n\n{tables}\n\n{last_line}{after}"
    write_atomically(HERE / "real_backbones.md", lambda path: path.write_text(page, encoding="utf-8"))


def main() -> None:
    """Run the studies, measure them, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="folder of the weight files")
    parser.add_argument("--out", type=Path, default=Path("runs/real_backbones"), help="folder of the runs")
    parser.add_argument("--jobs", default="1", help="number of parallel runs")
    arguments = parser.parse_args()
    weights = Weights.find(arguments.weights)
    for name in STUDIES:
        study = derive(name, weights, arguments.out)
        printed("study", "--config", study, "--out", arguments.out / name, "--jobs", arguments.jobs)
    write(weights, arguments.out)


if __name__ == "__main__":
    main()
