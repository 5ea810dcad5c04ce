"""Rows of samples: what the same noise becomes, with and without a probe. Small images, as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import torch
from PIL import Image

from gendiv_lightning.analysis.paper_claims import argmax_of, command_for, enhanced, mixed_paraphrases, quarter_of
from gendiv_lightning.records import PromptSamples, split_by_prompt
from gendiv_lightning.report.context import Study, about, comparable, measured, qualities_in_words
from gendiv_lightning.report.document import Samples, Section, Strip
from gendiv_lightning.runs.load import Family, Run, Setting

QUANTILES, NUM_SAMPLES = (0.75, 0.5, 0.25), 4
_LARGEST = 128  # pixels of a sample; larger ones are made smaller, and are JPEG


def typical_prompts(baseline: Setting, name: str) -> list[int]:
    """Places of the prompts whose diversity is the upper quartile, the median, the lower: by rule, not by eye."""
    column = baseline.columns[name]
    order = column.nan_to_num(0).argsort(stable=True)
    places = [order[round(quantile * (len(order) - 1))].item() for quantile in QUANTILES]
    return [int(place) for place in dict.fromkeys(places)]


def read_prompts(run: Run, places: Sequence[int]) -> dict[int, PromptSamples]:
    """All samples of the prompts at some places."""
    batches = run.folder.read_samples(run.folder.shards_of(places))
    return {samples.place: samples for b in batches for samples in split_by_prompt(b) if samples.place in places}


def make_strip(words: str, samples: PromptSamples) -> Strip:
    """The first samples side by side."""
    images = samples.images[:NUM_SAMPLES]
    side = images.shape[-1]
    joined = torch.cat(list(images), 2).permute(1, 2, 0).numpy()
    picture = Image.fromarray(joined)
    if side > _LARGEST:
        picture = picture.resize((_LARGEST * len(images), _LARGEST), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if side > _LARGEST:
        picture.save(buffer, "JPEG", quality=82)
    else:
        picture.save(buffer, "PNG", optimize=True)
    kind = "jpeg" if side > _LARGEST else "png"
    data = base64.b64encode(buffer.getvalue()).decode()
    return Strip(words, f"data:image/{kind};base64,{data}", *picture.size, f"{len(images)} samples, {words}")


def section(study: Study) -> Section:
    """The same prompts and noise, baseline and probes."""
    blocks = tuple(
        _samples_of(study, family, place) for place, family in enumerate(study.families) if family.baseline is not None
    )
    words = (
        "The first samples of three prompts, chosen by rule: those at the quartiles of the baseline's diversity, the "
        "upper one first. A sample has the noise of the baseline's sample above it wherever its wording is the same."
    )
    missing = tuple(f"{f.name}: {command_for(f, 'baseline')}" for f in study.families if f.baseline is None)
    return Section("samples", "The same noise, with and without a probe", (words,) if blocks else (), blocks, missing)


def _samples_of(study: Study, family: Family, place: int) -> Samples:
    baseline = family.baseline
    assert baseline is not None, "asked for families with a baseline"
    shown = _shown(family, baseline)
    places = typical_prompts(baseline, study.distance)
    read = {setting.short: read_prompts(setting.runs[0], places) for setting in shown}
    groups = tuple(
        (found[place].prompt, tuple(make_strip(words, of[place]) for words, of in read.items()))
        for found in [next(iter(read.values()))]
        for place in places
    )
    told = "; ".join(
        f"{s.short}: {study.diversity[1]} {measured(s, study.distance).text}, {qualities_in_words(s, study)}"
        for s in shown
    )
    caption = f"{family.name}. {told}. {about(study, shown)}"
    return Samples(f"samples-{place + 1}", groups, caption)


def _shown(family: Family, baseline: Setting) -> list[Setting]:
    """The baseline, argmax, the subset closest to a quarter, paraphrases (mixed if they are there), the enhancement."""
    there = comparable(family)
    candidates = (
        baseline,
        argmax_of(family),
        quarter_of(family),
        mixed_paraphrases(family),
        enhanced(family),
    )
    return [setting for setting in candidates if setting is not None and setting in there]
