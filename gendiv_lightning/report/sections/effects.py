"""Single probes: the diversity that remains under each, and its cost in quality."""

from __future__ import annotations

from gendiv_lightning.analysis.paper_claims import arm_of, command_for, single_probes
from gendiv_lightning.report.charts import effect_panels
from gendiv_lightning.report.context import Study, about
from gendiv_lightning.report.document import Figure, Section


def section(study: Study) -> Section:
    """Argmax, paraphrases and other probes: the diversity that remains, and its cost in quality."""
    shown = {family.name: single_probes(family) for family in study.families}
    missing = [
        f"{family.name}, {run}: {command_for(family, run)}"
        for family in study.families
        for run, arm in (("argmax", "argmax"), ("paraphrases", "paraphrase"))
        if not any(arm_of(setting) == arm for setting in shown[family.name])
    ]
    used = [setting for settings in shown.values() for setting in settings]
    title = "What argmax and paraphrases change"
    if not used:
        return Section("effects", title, missing=tuple(missing))
    name, words = study.diversity
    numbers = [(name, f"{words} left"), *((q.name, f"{q.words}, change") for q in study.qualities)]
    panels = effect_panels(study.families, lambda family: shown[family.name], numbers)
    caption = (
        f"The share of the baseline's {words} that remains under argmax and paraphrases (100 %: no change), and the "
        "change in quality (0: no change), with 95 % intervals over prompts. Distances of whole sets have no "
        "interval here. Paraphrases "
        f"pool the samples of several texts. {about(study, used)}"
    )
    return Section("effects", title, (), (Figure("effects", panels, caption),), tuple(missing))
