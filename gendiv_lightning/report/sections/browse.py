"""The samples of every prompt under each setting, with its numbers."""

from __future__ import annotations

from collections.abc import Mapping

from gendiv_lightning.report.context import Study, about, digits_of
from gendiv_lightning.report.document import Number, Row, Samples, Section
from gendiv_lightning.report.pictures import make_row
from gendiv_lightning.runs.load import Family, Run

NUM_PROMPTS, NUM_SAMPLES = 50, 16
Pictures = Mapping[int, tuple[str, list[bytes]]]


def section(study: Study) -> Section:
    """The samples of all prompts, or of the number that the study requests."""
    limit = study.num_browsed
    blocks = tuple(_browse(study, family, place) for place, family in enumerate(study.families)) if limit else ()
    words = (
        "All samples of a prompt under each setting, with the numbers of this prompt. Prompts are ordered by "
        "diversity, the most diverse one first."
    )
    return Section("browse", "Browse the samples", (words,) if blocks else (), blocks)


def _browse(study: Study, family: Family, place: int) -> Samples:
    first = (family.baseline or family.settings[0]).runs[0]
    chosen = spread(first, study.distance, study.num_browsed)
    groups: dict[str, list[Row]] = {prompt: [] for prompt in chosen}
    texts: dict[str, str] = {}
    for setting in family.settings:
        run = setting.runs[0]
        places = {prompt: row for row, prompt in enumerate(run.prompts)}
        pictures: Pictures = run.folder.read_pictures([places[p] for p in chosen if p in places], NUM_SAMPLES)
        for prompt in chosen:
            row = places.get(prompt)
            if row is not None and row in pictures:
                text, images = pictures[row]
                texts.setdefault(prompt, text)
                groups[prompt].append(make_row(setting.short, images, _numbers(study, run, row)))
    num_prompts, sizes = len(first.prompts), f"{len(chosen)} of {len(first.prompts)} prompts"
    which = (
        f"All {num_prompts} prompts"
        if len(chosen) == num_prompts
        else f"{sizes}, evenly spaced by {study.diversity[1]} (`gendiv report --browse N` shows more)"
    )
    seeds = " Of several seeds, the first is shown." if any(len(s.runs) > 1 for s in family.settings) else ""
    names = ", ".join(words for name, words in study.numbers if name in first.columns)
    caption = (
        f"{which}, at most {NUM_SAMPLES} samples each. Diversity and quality are those of the prompt: {names}.{seeds} "
        f"{about(study, family.settings)}"
    )
    rows = tuple((texts[prompt], tuple(groups[prompt])) for prompt in chosen if prompt in texts)
    return Samples(f"browse-{place + 1}", rows, caption, family.name)


def spread(run: Run, name: str, limit: int) -> list[str]:
    """Ids of at most `limit` prompts, evenly spaced by one of their numbers, the largest first."""
    order = run.columns[name].nan_to_num(-1).argsort(descending=True, stable=True).tolist()
    last, num = len(order) - 1, min(limit, len(order))
    ranks = [round(step * last / max(1, num - 1)) for step in range(num)]
    return [run.prompts[order[rank]] for rank in ranks]


def _numbers(study: Study, run: Run, row: int) -> str:
    """The numbers of one prompt in a run: "LPIPS 0.612, CLIP score 31.2"."""
    return ", ".join(
        f"{words} {Number(run.columns[name][row].item(), digits=digits_of(name)).text}"
        for name, words in study.numbers
        if name in run.columns
    )
