"""How far to trust a scorer of attributes? The toy's CLIP, compared with the ground truth of postcards.

    for f in llamagen amused vq_diffusion latent_diffusion; do
      gendiv predict --config configs/tiny/$f.yaml --data.limit 24 --data.num_samples 16 --run_dir runs/attributes/$f
    done
    python docs/studies/attributes.py runs/attributes/*        # a minute; writes the tables in attributes.md

Every image of the runs is read twice, by `tiny-clip` and exactly, as are true postcards: 2,048 drawn uniformly, which
also give the confusion matrices, and 16 per prompt of the runs that fit it. Differences are per prompt and on the same
images; intervals are BCa over prompts.
"""

from __future__ import annotations

import argparse
import math
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from gendiv_lightning.attributes.lists import read_attributes
from gendiv_lightning.console.tables import format_table
from gendiv_lightning.functional.bootstrap import bootstrap_mean
from gendiv_lightning.functional.entropy import chao_wang_jost_entropy, plugin_entropy
from gendiv_lightning.records import PromptSamples, split_by_prompt
from gendiv_lightning.records.questions import Attribute
from gendiv_lightning.runs.folder import RunFolder
from gendiv_lightning.scorers.registry import scorer_of
from gendiv_lightning.toy import captions, postcards

HERE = Path(__file__).parent
SCORER, TRUTH = scorer_of("tiny-clip")(), scorer_of("postcards")()
LIST = read_attributes("postcards")
NUM_UNIFORM = 2048
PERFECT, COPIES = "true postcards", "copies"


class Read(NamedTuple):
    """One attribute of the N images of a prompt, read by the scorer and exactly.

    Attributes:
        attribute: the attribute, with V values.
        probs: (N, V) of the scorer.
        truth: (N,) number of the true value.
    """

    attribute: Attribute
    probs: Tensor
    truth: Tensor

    @property
    def labels(self) -> Tensor:
        """Number (N,) of the most probable value."""
        return self.probs.argmax(1)

    @property
    def right(self) -> float:
        """Share of the images that are read correctly."""
        return (self.labels == self.truth).double().mean().item()

    def counts(self, numbers: Tensor) -> Tensor:
        """Counts (V,) of values."""
        return numbers.bincount(minlength=self.probs.shape[1])


Set = list[list[Read]]  # the attributes of each prompt


def read(samples: PromptSamples) -> list[Read]:
    """All attributes of the images of a prompt."""
    return [
        Read(a, SCORER.choose(samples.images, a.question), TRUTH.choose(samples.images, a.question).argmax(1))
        for a in LIST.of(samples.prompt)
    ]


def perfect(prompts: list[PromptSamples]) -> list[PromptSamples]:
    """True postcards that fit each prompt, as many as there are samples."""
    generator = torch.Generator().manual_seed(0)
    drawn = []
    for samples in prompts:
        stated, num = captions.parse(samples.prompt), len(samples.images)
        columns = [
            torch.full((num,), stated[group])
            if group in stated
            else torch.randint(len(values), (num,), generator=generator)
            for group, values in postcards.GROUPS.items()
        ]
        drawn.append(samples._replace(images=postcards.render(postcards.index_of(torch.stack(columns, 1)))))
    return drawn


def uniform() -> Tensor:
    """Numbers of 2,048 postcards, drawn uniformly."""
    return torch.randperm(postcards.NUM_IMAGES, generator=torch.Generator().manual_seed(1))[:NUM_UNIFORM]


def by_mean_features(factor: str) -> float:
    """Accuracy on uniform postcards if the captions of a value are replaced by their mean feature."""
    (question,) = (a.question for a in LIST.of("blue sky") if a.question.name == factor)
    texts = torch.stack([SCORER.features.texts(some).mean(0) for some in question.captions])
    scored = (SCORER.features(postcards.render(uniform())) @ torch.nn.functional.normalize(texts).T).argmax(1)
    return (scored == postcards.factors_of(uniform())[factor]).double().mean().item()


def confusions() -> dict[str, Tensor]:
    """By factor, P(scored | true) (V, V) on uniform postcards; a row per true value."""
    found = {}
    for one in read(PromptSamples(postcards.render(uniform()), prompt="blue sky")):
        values = len(one.attribute.question.values)
        counts = (values * one.truth + one.labels).bincount(minlength=values**2).reshape(values, values).double()
        found[one.attribute.question.name] = counts / counts.sum(1, keepdim=True)
    return found


# --- estimates of the entropy of one attribute, and the truth that each is compared with ---


def hard(one: Read, _: Tensor) -> float:
    """The metric: entropy of the most probable values, Chao-Wang-Jost."""
    return chao_wang_jost_entropy(one.counts(one.labels)).item()


def soft(one: Read, _: Tensor) -> float:
    """Entropy of the mean probabilities."""
    return plugin_entropy(one.probs.mean(0)).item()


def information(one: Read, _: Tensor) -> float:
    """The same minus the mean entropy of the probabilities: the information of an image about the value."""
    return soft(one, _) - plugin_entropy(one.probs).mean().item()


def corrected(one: Read, confusion: Tensor) -> float:
    """`hard`, with the frequencies of the values that most probably gave the labels under a confusion matrix."""
    counts = one.counts(one.labels)
    shown = counts / counts.sum()
    mixture = torch.full((len(counts),), 1 / len(counts), dtype=torch.float64)
    for _ in range(500):  # expectation maximisation
        expected = mixture @ confusion
        weights = torch.where(expected > 0, shown / expected, 0)
        mixture = mixture * (confusion @ weights)
        mixture = mixture / mixture.sum()
    return hard(one, confusion) + (plugin_entropy(mixture) - plugin_entropy(counts)).item()


ESTIMATES: dict[str, tuple[Callable[[Read, Tensor], float], Callable[[Tensor], Tensor]]] = {
    "most probable values": (hard, chao_wang_jost_entropy),
    "mean probabilities": (soft, plugin_entropy),
    "mean probabilities minus doubt": (information, plugin_entropy),
    "most probable values, corrected": (corrected, chao_wang_jost_entropy),
}


def bias(one: Read, name: str, matrices: dict[str, Tensor]) -> float:
    """Estimate minus truth, in bits."""
    estimate, true = ESTIMATES[name]
    return estimate(one, matrices[one.attribute.question.name]) - true(one.counts(one.truth)).item()


# --- tables ---


def interval(values: list[float], sign: str = "+") -> str:
    """Mean of numbers per prompt with its interval."""
    value, low, high = bootstrap_mean(torch.tensor(values, dtype=torch.float64))
    return f"{value:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


def mean(values: list[float]) -> float:
    """Mean, NaN for no numbers."""
    return sum(values) / len(values) if values else math.nan


def open_ones(prompt: list[Read]) -> list[Read]:
    """The attributes that a prompt leaves open."""
    return [one for one in prompt if one.attribute.stated is None]


def accuracy_table(sets: dict[str, Set], matrices: dict[str, Tensor]) -> str:
    """Share of images that the scorer reads correctly, by factor."""
    rows = [("factor", "values", "chance", "mean features", *sets)]
    for factor in postcards.FACTORS:
        cells = [
            interval([o.right for p in prompts for o in p if o.attribute.question.name == factor], "")
            for prompts in sets.values()
        ]
        values = len(matrices[factor])
        rows.append((factor, str(values), f"{1 / values:.2f}", f"{by_mean_features(factor):.2f}", *cells))
    cells = [interval([mean([one.right for one in prompt]) for prompt in prompts], "") for prompts in sets.values()]
    rows.append(("mean", "", "", "", *cells))
    return format_table(rows)


def bias_table(sets: dict[str, Set], matrices: dict[str, Tensor]) -> str:
    """Bias of the metric's entropy, by factor, over the prompts that leave it open."""
    name = next(iter(ESTIMATES))
    rows = [("factor", "true bits", *sets)]
    for factor in postcards.FACTORS:
        found = [
            [one for prompt in prompts for one in open_ones(prompt) if one.attribute.question.name == factor]
            for prompts in sets.values()
        ]
        true = mean([chao_wang_jost_entropy(one.counts(one.truth)).item() for some in found for one in some])
        rows.append((factor, f"{true:.2f}", *(interval([bias(o, name, matrices) for o in some]) for some in found)))
    return format_table(rows)


def of_prompts(prompts: Set, name: str, matrices: dict[str, Tensor]) -> list[float]:
    """Bias of the mean entropy of open attributes, for each prompt that has some."""
    return [mean([bias(one, name, matrices) for one in open_ones(p)]) for p in prompts if open_ones(p)]


def with_copies(sets: dict[str, Set]) -> dict[str, Set]:
    """The sets, and true postcards of which every sample is a copy of the first, so that the entropy is 0."""
    copies = [
        [o._replace(probs=o.probs[:1].expand_as(o.probs), truth=o.truth[:1].expand_as(o.truth)) for o in prompt]
        for prompt in sets[PERFECT]
    ]
    return {**sets, COPIES: copies}


def estimate_table(sets: dict[str, Set], matrices: dict[str, Tensor]) -> str:
    """Bias of the mean entropy of open attributes, for each way to estimate it."""
    rows = [("entropy of", *with_copies(sets))]
    for name in ESTIMATES:
        rows.append((name, *(interval(of_prompts(p, name, matrices)) for p in with_copies(sets).values())))
    return format_table(rows)


def agreement_bias(prompts: Set) -> list[float]:
    """Scored minus true agreement (P,)."""
    found = []
    for prompt in prompts:
        stated = [(o, o.attribute.question.values.index(o.attribute.stated)) for o in prompt if o.attribute.stated]
        scored, true = (
            [(numbers(o) == value).double().mean().item() for o, value in stated]
            for numbers in (lambda o: o.labels, lambda o: o.truth)
        )
        found.append(mean(scored) - mean(true))
    return found


def agreement_table(sets: dict[str, Set]) -> str:
    """Bias of the agreement, and how well the mean entropies of prompts correlate with the true ones."""
    rows = [("", *sets), ("agreement, scored minus true", *(interval(agreement_bias(p)) for p in sets.values()))]
    cells = []
    for prompts in sets.values():
        some = [open_ones(prompt) for prompt in prompts if open_ones(prompt)]
        scored = [mean([hard(one, torch.zeros(0)) for one in ones]) for ones in some]
        true = [mean([chao_wang_jost_entropy(one.counts(one.truth)).item() for one in ones]) for ones in some]
        cells.append(f"{torch.corrcoef(torch.tensor([scored, true]))[0, 1].item():.2f}")
    rows.append(("correlation with the true entropy over prompts", *cells))
    return format_table(rows)


def in_words(sets: dict[str, Set], matrices: dict[str, Tensor]) -> str:
    """The findings, from the numbers."""
    right = {factor: matrices[factor].diagonal().mean().item() for factor in postcards.FACTORS}
    good, poor = ([f for f in right if (right[f] > 0.9) is is_good] for is_good in (True, False))
    lines = [
        f"**Colours are read well, shapes and places are not.** Over 90 % of the values of {', '.join(good)} are read "
        f"correctly; of {', '.join(poor)} it is {min(right[f] for f in poor):.0%} to {max(right[f] for f in poor):.0%}."
    ]
    for name in ESTIMATES:
        found = [mean(of_prompts(prompts, name, matrices)) for prompts in with_copies(sets).values()]
        lines.append(
            f"**Entropy of {name}**: bias of {min(found[:-1]):+.2f} to {max(found[:-1]):+.2f} bits per attribute in "
            f"the mean over prompts, and {found[-1]:+.2f} for copies of one image."
        )
    low, high = (end(mean(agreement_bias(p)) for p in sets.values()) for end in (min, max))
    lines.append(f"**Agreement** is off by {low:+.2f} to {high:+.2f}.")
    return "\n".join(textwrap.fill(f"- {line}", 100, subsequent_indent="  ") for line in lines)


def main() -> None:
    """Read the runs and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="finished runs of the same prompts")
    folders = [RunFolder(path) for path in parser.parse_args().runs]
    samples = {
        folder.path.name: sorted(
            (prompt for batch in folder.read_samples() for prompt in split_by_prompt(batch)), key=lambda p: p.place
        )
        for folder in folders
    }
    SCORER.load()
    matrices = confusions()
    sets = {PERFECT: [read(prompt) for prompt in perfect(next(iter(samples.values())))]}
    sets |= {name: [read(prompt) for prompt in prompts] for name, prompts in samples.items()}
    num_prompts, num_samples = len(sets[PERFECT]), len(sets[PERFECT][0][0].truth)
    parts = [
        f"{num_prompts} prompts, {num_samples} samples each.",
        in_words(sets, matrices),
        f"Share of images that `tiny-clip` reads correctly:\n\n```\n{accuracy_table(sets, matrices)}\n```",
        f"Bias of the entropy of the most probable values, in bits:\n\n```\n{bias_table(sets, matrices)}\n```",
        f"Bias of the mean entropy of open attributes, in bits:\n\n```\n{estimate_table(sets, matrices)}\n```",
        f"Agreement, and prompts in order:\n\n```\n{agreement_table(sets)}\n```",
    ]
    text = (HERE / "attributes.md").read_text(encoding="utf-8")
    first, last = "<!-- measured -->", "<!-- end -->"
    before, after = text.split(first)[0], text.split(last)[1]
    measured = "\n\n".join(parts)
    (HERE / "attributes.md").write_text(f"{before}{first}\n\n{measured}\n\n{last}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
