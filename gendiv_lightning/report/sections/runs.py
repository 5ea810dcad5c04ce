"""All runs, and the methods of the numbers."""

from __future__ import annotations

from gendiv_lightning.report.context import Study
from gendiv_lightning.report.document import Section, Table
from gendiv_lightning.runs.load import Setting


def section(study: Study) -> Section:
    """All runs, and the methods of the numbers."""
    rows = tuple(
        (run.label.fingerprint, run.label.title, str(run.label.seed), *_counts(setting), setting.size)
        for family in study.families
        for setting in family.settings
        for run in setting.runs
    )
    table = Table("runs", "Runs", ("run", "what it is", "seed", "prompt set", "samples per prompt", "size"), rows)
    methods: dict[str, str] = {}
    for family in study.families:
        for setting in family.settings:
            for name, _ in (*study.numbers, ("codebook/entropy_bits", "")):
                if name in setting.runs[0].estimates:
                    methods.setdefault(name, f"`{name}`: {setting.runs[0].estimates[name].method}.")
    words = "A run is named by the first eight digits of its fingerprint, a hash of everything that can change a "
    "number."
    return Section("runs", "Runs and methods", (words, *methods.values()), (table,))


def _counts(setting: Setting) -> tuple[str, str]:
    data = setting.runs[0].protocol["data"]
    return str(data["prompt_set"]), str(data["num_samples"])
