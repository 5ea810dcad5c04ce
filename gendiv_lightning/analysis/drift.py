"""Semantic drift: do images under a probe still show what their prompts state, and what do they show instead?

A scorer reads an attribute from the images of all prompts that state its value. The confusion matrix has the stated
values as rows and the seen ones as columns. The probe's is compared with the baseline's, prompt by prompt, and with
that of a control: a run without the probe at a temperature that gives its tokens the same entropy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gendiv_lightning.analysis.compare import find_obstacles
from gendiv_lightning.analysis.decompose import read_prompts
from gendiv_lightning.analysis.effects import Interval
from gendiv_lightning.errors import NotComparableError, PromptError
from gendiv_lightning.functional.bootstrap import bootstrap_mean, bootstrap_ratio
from gendiv_lightning.functional.comparison import compare_all, holm
from gendiv_lightning.functional.confusion import confusion_matrix, fidelity, target_gain
from gendiv_lightning.records.questions import Attribute, Question
from gendiv_lightning.runs.load import Run
from gendiv_lightning.scorers.base import ImageScorer

ALL = "all attributes"
BASELINE, PROBE, CONTROL = "baseline", "probe", "control"
TOLERANCE = 0.05  # largest difference of the token entropies of probe and control, as a share of the probe's


class StatedValues(NamedTuple):
    """An attribute over a prompt set.

    Attributes:
        question: the question that its values answer.
        stated: (P,) int64, number of the value that each prompt states; -1 if it states none.
    """

    question: Question
    stated: Tensor


class Answers(NamedTuple):
    """What a scorer sees in the images of a run.

    Attributes:
        seen: of each attribute the probabilities (P, V), averaged over the samples of a prompt; NaN where the prompt
            states no value.
        entropy: (P,) bits per token, mean entropy of the distributions that the tokens of a prompt were drawn from;
            None for a generator without tokens.
    """

    seen: tuple[Tensor, ...]
    entropy: Tensor | None


class Flow(NamedTuple):
    """Mass that moves from a stated value to another one.

    Attributes:
        stated: the stated value.
        seen: the other value.
        gain: probability that it gains under the probe, over the prompts that state the first.
        control: probability that it gains under the control; NaN without one.
        num_prompts: number of these prompts.
    """

    stated: str
    seen: str
    gain: Interval
    control: float
    num_prompts: int


class AttributeDrift(NamedTuple):
    """Drift of one attribute, or of all.

    Attributes:
        name: of the attribute.
        values: its values.
        num_prompts: prompts that state one.
        matrices: by run, confusion matrices (V, V) with the stated values as rows; empty for all attributes.
        fidelity: by run, probability of the stated value, mean over prompts.
        drift: fidelity that the probe loses against the baseline.
        p_value: of no drift, by sign flips; Holm-corrected over the attributes.
        beyond: fidelity that the probe loses against the control; NaN without one.
        beyond_p_value: of none.
        bleeding: share of the lost mass that one other value gains, see `functional.confusion.target_gain`; NaN unless
            the interval of the drift is above 0.
        flows: gains of other values, those that move the most mass first.
    """

    name: str
    values: tuple[str, ...]
    num_prompts: int
    matrices: Mapping[str, Tensor]
    fidelity: Mapping[str, Interval]
    drift: Interval
    p_value: float
    beyond: Interval
    beyond_p_value: float
    bleeding: Interval
    flows: tuple[Flow, ...]


class Entropies(NamedTuple):
    """Token entropies of the runs.

    Attributes:
        by_run: bits per token, mean over prompts.
        mismatch: that of the control minus that of the probe, paired; NaN without a control.
    """

    by_run: Mapping[str, Interval]
    mismatch: Interval

    @property
    def is_matched(self) -> bool:
        """Whether control and probe differ by at most `TOLERANCE` of the probe's entropy; True without a control."""
        return not abs(self.mismatch.value) > TOLERANCE * self.by_run[PROBE].value


class Drift(NamedTuple):
    """Drift of a probe.

    Attributes:
        overall: all attributes: each prompt enters with the mean over those that it states.
        attributes: each attribute.
        entropies: of the tokens; None for a generator without tokens.
    """

    overall: AttributeDrift
    attributes: tuple[AttributeDrift, ...]
    entropies: Entropies | None


def check_runs(runs: Sequence[Run]) -> list[str]:
    """Check that runs can be paired by prompt, and list in which package versions they differ.

    Raises:
        NotComparableError: they have different prompts, or are of toy and of real models.
    """
    found = {str(o): o for run in runs[1:] for o in find_obstacles(runs[:1], [run])}
    fatal = ("data.prompts_sha256", "data.num_prompts", "generator.embedded")
    if blocking := [words for words, obstacle in found.items() if obstacle.difference.is_below(*fatal)]:
        raise NotComparableError(
            f"these runs cannot be paired by prompt, because they differ in {'; '.join(blocking)}. Give runs over the "
            "same prompts"
        )
    return [words for words, obstacle in found.items() if obstacle.difference.is_below("versions")]


def stated_values(prompts: Sequence[Sequence[Attribute]]) -> list[StatedValues]:
    """The attributes of prompts (P) that at least two of them state, in order of appearance.

    Attributes are equal if their names and values are.

    Raises:
        PromptError: a stated value is not among the values.
    """
    found: dict[tuple[str, tuple[str, ...]], tuple[Question, list[int]]] = {}
    for number, attributes in enumerate(prompts):
        for question, stated in attributes:
            if stated is None:
                continue
            if stated not in question.values:
                raise PromptError(
                    f"the attribute {question.name!r} states {stated!r}, which is not one of its values "
                    f"{', '.join(question.values)}. Correct the list of attributes"
                )
            _, values = found.setdefault((question.name, question.values), (question, [-1] * len(prompts)))
            values[number] = question.values.index(stated)
    everything = [StatedValues(question, torch.tensor(values)) for question, values in found.values()]
    return [each for each in everything if int((each.stated >= 0).sum()) > 1]


def read_answers(run: Run, scorer: ImageScorer, attributes: Sequence[StatedValues], device: str = "cpu") -> Answers:
    """Score the stored images of a run; prompts that state nothing are not scored.

    Args:
        run: the run.
        scorer: the scorer, loaded.
        attributes: over the run's prompts.
        device: device of the images, and of the scorer's features.
    """
    seen = [torch.full((len(run.prompts), len(q.values)), math.nan, dtype=torch.float64) for q, _ in attributes]
    entropy = torch.full((len(run.prompts),), math.nan, dtype=torch.float64)
    for samples in read_prompts(run.folder, f"Scoring {run.folder.path.name}"):
        images = samples.images.to(device)
        for rows, (question, stated) in zip(seen, attributes, strict=True):
            if stated[samples.place] >= 0:
                rows[samples.place] = scorer.choose(images, question).mean(0)
        if samples.entropy is not None:
            entropy[samples.place] = samples.entropy.double().mean()
    return Answers(tuple(seen), None if entropy.isnan().any() else entropy)


def measure_drift(attributes: Sequence[StatedValues], answers: Mapping[str, Answers]) -> Drift:
    """Fidelity, drift, bleeding and flows of each attribute and of all, with intervals over prompts.

    Args:
        attributes: over the prompt set.
        answers: of the runs "baseline" and "probe", and optionally "control".
    """
    fidelities = {
        name: torch.stack([_fidelity(found, each.stated) for found, each in zip(seen, attributes, strict=True)])
        for name, (seen, _) in answers.items()
    }
    overall = {name: columns.nanmean(0)[None] for name, columns in fidelities.items()}
    (whole,) = _compared([ALL], overall)
    names = [_name(each, attributes) for each in attributes]
    detailed = [
        _with_matrices(found, each, {name: seen[number] for name, (seen, _) in answers.items()})
        for number, (found, each) in enumerate(zip(_compared(names, fidelities), attributes, strict=True))
    ]
    return Drift(whole, tuple(detailed), _entropies({name: entropy for name, (_, entropy) in answers.items()}))


def _name(attribute: StatedValues, attributes: Sequence[StatedValues]) -> str:
    """The name of an attribute, with its values if another one has the same name."""
    name = attribute.question.name
    is_unique = sum(other.question.name == name for other in attributes) == 1
    return name if is_unique else f"{name} ({', '.join(attribute.question.values)})"


def _fidelity(seen: Tensor, stated: Tensor) -> Tensor:
    """`fidelity` (P,), NaN for prompts that state no value."""
    rows, found = stated >= 0, torch.full((len(stated),), math.nan, dtype=torch.float64)
    found[rows] = fidelity(seen[rows], stated[rows])
    return found


def _compared(names: Sequence[str], columns: Mapping[str, Tensor]) -> list[AttributeDrift]:
    """Fidelity (attributes, P) of the runs in numbers, without matrices."""
    drifts = compare_all(list(zip(columns[PROBE], columns[BASELINE], strict=True)))
    beyond = compare_all(list(zip(columns[PROBE], columns[CONTROL], strict=True))) if CONTROL in columns else []
    p_values, beyond_p_values = (_holm([each.p_value for each in tests]) for tests in (drifts, beyond))
    found = []
    for number, name in enumerate(names):
        means = {run: _mean(values[number]) for run, values in columns.items()}
        noise = Interval(*beyond[number][:3]) if beyond else Interval(math.nan)
        found.append(
            AttributeDrift(
                name,
                (),
                drifts[number].num_prompts,
                {},
                means,
                Interval(*drifts[number][:3]),
                p_values[number],
                noise,
                beyond_p_values[number] if beyond else math.nan,
                Interval(math.nan),
                (),
            )
        )
    return found


def _with_matrices(found: AttributeDrift, attribute: StatedValues, seen: Mapping[str, Tensor]) -> AttributeDrift:
    """Add what needs the whole rows: matrices, bleeding and flows."""
    rows = attribute.stated >= 0
    stated, seen = attribute.stated[rows], {name: values[rows] for name, values in seen.items()}
    bleeding = Interval(math.nan)
    if found.drift.low > 0:
        lost = fidelity(seen[BASELINE], stated) - fidelity(seen[PROBE], stated)
        bleeding = Interval(*bootstrap_ratio(target_gain(seen[BASELINE], seen[PROBE], stated), lost))
    return found._replace(
        values=attribute.question.values,
        matrices={name: confusion_matrix(values, stated) for name, values in seen.items()},
        bleeding=bleeding,
        flows=tuple(_flows(attribute.question.values, stated, seen)),
    )


def _flows(values: Sequence[str], stated: Tensor, seen: Mapping[str, Tensor]) -> list[Flow]:
    gains = seen[PROBE] - seen[BASELINE]
    under_control = seen[CONTROL] - seen[BASELINE] if CONTROL in seen else torch.full_like(gains, math.nan)
    flows = [
        Flow(values[row], values[other], _mean(gains[own, other]), under_control[own, other].mean().item(), len(own))
        for row in stated.unique().tolist()
        for own in [(stated == row).nonzero()[:, 0]]
        for other in range(len(values))
        if other != row
    ]
    return sorted(flows, key=lambda flow: -flow.gain.value * flow.num_prompts)


def _entropies(columns: Mapping[str, Tensor | None]) -> Entropies | None:
    known = {name: column for name, column in columns.items() if column is not None}
    if len(known) < len(columns):
        return None
    mismatch = _mean(known[CONTROL] - known[PROBE]) if CONTROL in known else Interval(math.nan)
    return Entropies({name: _mean(column) for name, column in known.items()}, mismatch)


def _mean(column: Tensor) -> Interval:
    return Interval(*bootstrap_mean(column[~column.isnan()]))


def _holm(p_values: Iterable[float]) -> list[float]:
    return holm(torch.tensor(list(p_values), dtype=torch.float64)).tolist()
