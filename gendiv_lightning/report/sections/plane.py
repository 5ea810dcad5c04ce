"""The information bottleneck plane."""

from __future__ import annotations

from gendiv_lightning.report.charts import arms_key, ib_plane
from gendiv_lightning.report.context import (
    Study,
    about,
    baselines_in_words,
    comparable,
    shown_in,
    with_settings,
    with_tokens,
)
from gendiv_lightning.report.document import Figure, Section


def section(study: Study) -> Section:
    """The information bottleneck plane of the families with tokens."""
    study, title = with_settings(with_tokens(study)), "The information bottleneck plane"
    if not study.families:
        return Section("plane", title)
    words = (
        "H(C) is the entropy of all tokens pooled: compression keeps it low. H(C|X) is that of one prompt's tokens: "
        "diversity keeps it high. Their difference is I(X; C), the information of a token about its prompt. A probe "
        "moves a model on this plane."
    )
    caption = (
        "Entropy of the codebook's use over all prompts and within one prompt (Chao-Wang-Jost estimates, positions "
        f"ignored), with 95 % intervals over prompts. {baselines_in_words(study)} {about(study, shown_in(study))}"
    )
    panels = ib_plane(study.families, comparable)
    return Section("plane", title, (words,), (Figure("ib-plane", panels, caption, key=arms_key(shown_in(study))),))
