"""Gain and cost of the enhancement, by the number of frequent codebook entries that it leaves out.

    gendiv study --config docs/studies/enhancement.yaml --out runs/enhancement
    python docs/studies/enhancement.py runs/enhancement        # writes the tables in enhancement.md

Differences are those of `gendiv compare`: paired by prompt and noise, with BCa intervals over prompts.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from gendiv_lightning.console.tables import format_table
from gendiv_lightning.functional.comparison import compare
from gendiv_lightning.runs.folder import RunFolder
from gendiv_lightning.runs.labels import label_of

HERE = Path(__file__).parent
GAINS = {"LPIPS": "diversity/lpips[tiny]", "Vendi": "diversity/vendi[tiny]", "true bits": "postcards/free_entropy_bits"}
COSTS = {
    "coherence": "postcards/coherence",
    "stated right": "postcards/stated_right",
    "CLIP score": "quality/clip_score[tiny-clip]",
}
TOLERATED = 0.05  # loss of coherence


def columns(run: RunFolder) -> dict[str, Tensor]:
    """Numbers (P,) per prompt by name."""
    table = run.read_per_prompt()
    names = [*GAINS.values(), *COSTS.values()]
    return {name: torch.tensor(table[name].to_pylist(), dtype=torch.float64) for name in names}


def setting(run: RunFolder) -> tuple[str, int]:
    """The family, and the number of entries left out; -1 is the baseline, 0 paraphrases alone."""
    protocol = run.read_protocol()
    label = label_of(protocol)
    if label.probe == "baseline":
        return label.generator, -1
    probes = [probe for probe in protocol["probes"] if probe["probe"] == "CodebookSubset"]
    return label.generator, probes[0]["codebook_size"] - probes[0]["size"] if probes else 0


def in_words(num_left_out: int) -> str:
    """Description of the setting of a row."""
    names = {-1: "baseline", 0: "paraphrases"}
    return names.get(num_left_out, f"and {num_left_out} left out")


def family_table(runs: dict[int, RunFolder]) -> str:
    """One row per setting with its differences from the baseline; the row of the baseline contains values."""
    names = GAINS | COSTS
    base = columns(runs[-1])
    rows = [("setting", *names), (in_words(-1), *(f"{base[name].nanmean():.3f}" for name in names.values()))]
    for num in sorted(runs)[1:]:
        changed = columns(runs[num])
        changes = [compare(base[name], changed[name]) for name in names.values()]
        rows.append((in_words(num), *(f"{c.difference:+.3f} [{c.low:+.3f}, {c.high:+.3f}]" for c in changes)))
    return format_table(rows)


def most_tolerated(runs: dict[int, RunFolder]) -> int:
    """Largest number of entries up to which the loss of coherence, relative to paraphrases, is at most `TOLERATED`."""
    alone = columns(runs.get(0, runs[-1]))[COSTS["coherence"]]
    lost = {num: -compare(alone, columns(run)[COSTS["coherence"]]).difference for num, run in runs.items() if num > 0}
    return max((num for num in lost if all(lost[n] <= TOLERATED for n in lost if n <= num)), default=0)


def main() -> None:
    """Read the runs and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, nargs="+", help="folders of one or more studies")
    families: dict[str, dict[int, RunFolder]] = {}
    for path in sorted(path for study in parser.parse_args().study for path in study.glob("*/metrics.json")):
        family, num = setting(RunFolder(path.parent))
        families.setdefault(family, {})[num] = RunFolder(path.parent)
    parts = []
    for family, runs in families.items():
        verdict = f"number of entries that can be left out at a loss of coherence of at most {TOLERATED}"
        parts.append(f"**{family}**, {verdict}: {most_tolerated(runs)}:\n\n```\n{family_table(runs)}\n```")
    text = (HERE / "enhancement.md").read_text(encoding="utf-8")
    first, last = "<!-- measured -->", "<!-- end -->"
    before, after = text.split(first)[0], text.split(last)[1]
    measured = "\n\n".join(parts)
    (HERE / "enhancement.md").write_text(f"{before}{first}\n{measured}\n{last}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
