"""Where does the diversity of three toy models come from, and which findings of the paper hold for them?

    python docs/studies/first_finding.py --jobs 2     # about half an hour; resumes if it was interrupted

Runs `first_finding.yaml` with `gendiv study`, decomposes each family with `gendiv decompose`, compares it with the
ground truth, and checks the findings of the paper by the rule of the report. Writes first_finding.md (between its
markers), first_finding.svg and first_finding_plane.svg beside it.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

from gendiv_lightning.analysis.paper_claims import PAPER, Finding, check_claims, find_profile, find_verdict
from gendiv_lightning.cli.main import main as gendiv
from gendiv_lightning.console.tables import format_table
from gendiv_lightning.metrics.base import PromptMetric
from gendiv_lightning.metrics.registry import make_metric
from gendiv_lightning.report.charts import decomposition_bars, ib_plane
from gendiv_lightning.report.context import comparable, share
from gendiv_lightning.report.document import Figure
from gendiv_lightning.report.html import to_svg
from gendiv_lightning.runs.load import Family, Setting, families_of, find_runs
from gendiv_lightning.storage.atomic import write_atomically
from gendiv_lightning.toy.ground_truth import compare_with_truth, format_truth

HERE = Path(__file__).parent
DISTANCES = ("diversity/lpips[tiny]", "diversity/pixel_cosine")


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


def runs_of(setting: Setting | None) -> list[Path]:
    """Run folders of a setting, by seed."""
    return [] if setting is None else [run.folder.path for run in setting.runs]


def cached(file: Path, make: Callable[[], str]) -> str:
    """The text of a file, which is computed and written if it does not exist."""
    if not file.exists():
        words = make()
        write_atomically(file, lambda path: path.write_text(words, encoding="utf-8"))
    return file.read_text(encoding="utf-8").strip()


def decompositions(family: Family, folder: Path) -> str:
    """The output of `gendiv decompose` for each seed."""
    parts = []
    for plain, argmax, subset in zip(*map(runs_of, find_profile(family)), strict=True):
        make = partial(printed, "decompose", plain, "--argmax", argmax, "--subset", subset, "--test")
        parts.append(f"```\n{cached(folder / f'{plain.name}.txt', make)}\n```")
    return "\n\n".join(parts)


def ground_truth(family: Family, folder: Path) -> str:
    """The comparison of `gendiv decompose --truth` for the first seed."""
    plain = find_profile(family).plain
    assert plain is not None, "the study contains the plain run"
    run, metric = plain.runs[0], make_metric("lpips[tiny]")
    assert isinstance(metric, PromptMetric), "LPIPS is a distance"
    metric.load()
    make = partial(compare_with_truth, run.folder.read_samples(), run.columns, metric)
    return f"```\n{cached(folder / f'{run.folder.path.name}-truth.txt', lambda: format_truth(make()))}\n```"


def findings(families: list[Family]) -> str:
    """The findings of the paper, by each distance."""
    rows = [("generator", f"{PAPER} reports", "as a number", "distance", "measured", "outcome")]
    for family in families:
        for distance in DISTANCES:
            rows += [
                (family.name, f.claim.words, f.claim.criterion, distance.split("/")[1], measured(f), f.outcome)
                for f in check_claims(family, distance)
            ]
    return as_markdown(rows)


def measured(finding: Finding) -> str:
    """The share with its interval."""
    return str(share(finding.share)) if finding.share else "-"


def verdicts(families: list[Family]) -> str:
    """The verdict of the rule, over all seeds."""
    rows = [
        (
            "generator",
            "distance",
            "verdict",
            "certainty",
            "left under argmax",
            "left under subset",
            "paths",
            "perplexity / K",
        )
    ]
    for family in families:
        for distance in DISTANCES:
            verdict = find_verdict(family, distance)
            if verdict is not None:
                shares = [f"{100 * share:.1f} %" for share in verdict.shares]
                rows.append(
                    (family.name, distance.split("/")[1], verdict.kind, f"{100 * verdict.certainty:.0f} %", *shares)
                )
    return as_markdown(rows)


def as_markdown(rows: list[tuple[str, ...]]) -> str:
    """Format a table; the first row is its header."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def qualities(families: list[Family]) -> str:
    """Fidelity of each setting, because broken samples look diverse."""
    names = {"stated right": "postcards/stated_right", "coherence": "postcards/coherence"}
    names |= {"free entropy / truth": "postcards/free_entropy_share", "LPIPS": DISTANCES[0]}
    rows = [("generator", "setting", *names, "runs")]
    for family in families:
        for setting in family.settings:
            cells = [
                f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}]"
                for e in (setting.estimates[name] for name in names.values())
            ]
            rows.append((family.name, setting.short, *cells, setting.fingerprints))
    return format_table(rows)


def write(folder: Path) -> None:
    """Write the tables and figures of the runs in a folder."""
    families = families_of(find_runs([folder])[0])
    plain = [(family, setting) for family in families if (setting := find_profile(family).plain) is not None]
    figures = {
        "first_finding": Figure("first_finding", decomposition_bars(plain), ""),
        "first_finding_plane": Figure("first_finding_plane", ib_plane(families, comparable), ""),
    }
    for name, figure in figures.items():
        picture = to_svg(figure)
        write_atomically(HERE / f"{name}.svg", lambda path, picture=picture: path.write_text(picture, encoding="utf-8"))
    parts = [verdicts(families), findings(families), f"```\n{qualities(families)}\n```"]
    for family in families:
        parts += [f"### {family.name}", decompositions(family, folder), ground_truth(family, folder)]
    text = (HERE / "first_finding.md").read_text(encoding="utf-8")
    first, last = "<!-- measured -->", "<!-- end -->"
    before, after = text.split(first)[0], text.split(last)[1]
    page = "\n".join([before + first, "\n\n".join(parts), last + after])
    write_atomically(HERE / "first_finding.md", lambda path: path.write_text(page, encoding="utf-8"))


def main() -> None:
    """Run the study, decompose it, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/first_finding"), help="folder of the runs")
    parser.add_argument("--jobs", default="1", help="number of parallel runs")
    arguments = parser.parse_args()
    printed("study", "--config", HERE / "first_finding.yaml", "--out", arguments.out, "--jobs", arguments.jobs)
    write(arguments.out)


if __name__ == "__main__":
    main()
