"""Assemble and check a run, once, for commands, callbacks and notebooks.

`Parts` are the objects that a config names. `check` checks them in milliseconds, without files. `assemble` also locates
weights, reads prompts and tokenizes them. Neither loads the weights of the generator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NamedTuple, Protocol
from warnings import catch_warnings, simplefilter

from gendiv_lightning.errors import MetricInputError
from gendiv_lightning.generators.base import Generator, TokenGenerator
from gendiv_lightning.metrics.base import SampleMetric
from gendiv_lightning.prompts.design import Design, apply_designs, check_design, choose_paraphrases, name_samples
from gendiv_lightning.prompts.prompt_set import PromptSet
from gendiv_lightning.records import NoiseKey, Prompt, SampleDesign
from gendiv_lightning.runs.protocol import fingerprint_of
from gendiv_lightning.sampling import Probe

# Packages that clean and tokenize captions, sample tokens and measure images.
VERSIONS = ("gendiv_lightning", "torch", "transformers", "tokenizers", "ftfy", "beautifulsoup4", "torchvision", "lpips")


class PromptSource(Protocol):
    """The part of `PromptData` that a run needs: prompts, samples per prompt and seed."""

    seed: int
    num_samples: int
    prompts_per_batch: int

    def prompt_set(self) -> PromptSet:
        """The prompts, read on the first call."""

    def identity(self) -> dict[str, Any]:
        """The settings that can change a number."""


class Parts(NamedTuple):
    """The objects that a config names.

    Attributes:
        generator: the generator; its weights need not exist yet.
        data: prompts, samples per prompt and seed.
        probes: probes and designs.
        metrics: the metrics; codebook usage is always measured in addition.
    """

    generator: Generator
    data: PromptSource
    probes: Sequence[Probe | Design] = ()
    metrics: Sequence[SampleMetric] = ()

    @property
    def sampler_probes(self) -> list[Probe]:
        """The probes that change the sampler."""
        return [probe for probe in self.probes if isinstance(probe, Probe)]


@dataclass(frozen=True)
class Run:
    """An assembled and checked run.

    Attributes:
        parts: its parts; the weights of the generator are located, not loaded.
        prompt_set: the prompts.
        design: the samples that each prompt gets.
        protocol: everything that can change a number, as plain values.
        description: generator, probes and metrics in words, see `runs/description.py`.
        prompt_metadata: how many prompts were read and dropped, and how many the text encoder truncates.
        warnings: warnings about the prompts.
    """

    parts: Parts
    prompt_set: PromptSet
    design: SampleDesign
    protocol: dict[str, Any]
    description: dict[str, Any]
    prompt_metadata: dict[str, Any]
    warnings: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """Hash of the protocol."""
        return fingerprint_of(self.protocol)

    def sample_names(self) -> Mapping[str, Sequence[NoiseKey]]:
        """Noise keys of the samples of each prompt, by the prompt's id; computed on lookup."""
        return _SampleNames(self.prompt_set.prompts, self.design)


class _SampleNames(Mapping[str, Sequence[NoiseKey]]):
    def __init__(self, prompts: Sequence[Prompt], design: SampleDesign) -> None:
        self._prompts, self._design = {prompt.id: prompt for prompt in prompts}, design

    def __getitem__(self, prompt: str) -> list[NoiseKey]:
        return name_samples(self._prompts[prompt], self._design)

    def __iter__(self) -> Iterator[str]:
        return iter(self._prompts)

    def __len__(self) -> int:
        return len(self._prompts)


def check(parts: Parts) -> SampleDesign:
    """Check the parts of a run without reading weights or prompts.

    Returns:
        The samples that each prompt gets.

    Raises:
        ProbeError: probes contradict each other, or do not apply to the generator.
        MetricInputError: a metric does not apply to the generator.
        DesignError: the numbers of the design do not fit together.
    """
    generator, data = parts.generator, parts.data
    generator.check_probes(parts.sampler_probes)
    _check_metrics(generator, parts.metrics)
    design = apply_designs(SampleDesign(data.num_samples), parts.probes)
    check_design(design)
    return design


def _check_metrics(generator: Generator, metrics: Sequence[SampleMetric]) -> None:
    """Raise MetricInputError if a metric needs tokens and the generator has none."""
    for metric in metrics:
        if "tokens" in metric.needs and not isinstance(generator, TokenGenerator):
            raise MetricInputError(
                f"{type(metric).__name__} needs tokens, but {type(generator).__name__} has continuous latents. Remove "
                "the "
                f"metric ({metric.title}) from measure.metrics"
            )


def assemble(parts: Parts, *, thorough: bool = True) -> Run:
    """Check everything that can be checked before the weights of the generator are loaded.

    Args:
        parts: the parts of the run.
        thorough: False skips the slow checks, which tokenize every prompt and load the networks of the metrics. Use it
            on ranks other than zero, or for a run that was checked before. There are no warnings and no metadata then.

    Raises:
        ValueError: `check` fails, weights are missing, a file belongs to another generator, a prompt has too few
            paraphrases, or the generator or a metric does not accept a prompt.
        OSError: the network of a metric is missing.
    """
    design = check(parts)
    generator, data = parts.generator, parts.data
    generator.locate()
    identity = generator.identity()
    for probe in parts.sampler_probes:
        probe.check_generator(identity)
    prompt_set = data.prompt_set()
    chosen = [(prompt, choose_paraphrases(prompt, design)) for prompt in prompt_set.prompts]
    warnings: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}
    if thorough:
        texts = sorted({prompt.wording(number) for prompt, numbers in chosen for number in numbers})
        warnings = tuple(generator.check_prompts(texts))
        metadata = _metadata(generator, prompt_set, chosen)
        for metric in parts.metrics:
            metric.load()
            with catch_warnings(record=True) as caught:
                simplefilter("always")
                metric.check_prompts([prompt.text for prompt in prompt_set.prompts])
            warnings += tuple(str(warning.message) for warning in caught)
    return Run(parts, prompt_set, design, _protocol(parts), _description(parts), metadata, warnings)


def _protocol(parts: Parts) -> dict[str, Any]:
    generator = parts.generator
    return {
        "generator": generator.identity(),
        "probes": sorted((probe.identity(generator.codebook_size) for probe in parts.probes), key=str),
        "data": parts.data.identity(),
        "metrics": sorted((metric.identity() for metric in parts.metrics), key=str),
        "versions": {name: version(name) for name in VERSIONS},
    }


def _description(parts: Parts) -> dict[str, Any]:
    size = parts.generator.codebook_size
    return {
        "generator": parts.generator.describe(),
        "probes": [{"probe": type(probe).__name__, **probe.describe(size)._asdict()} for probe in parts.probes],
        "metrics": {name: words for metric in parts.metrics for name, words in metric.describe().items()},
    }


def _metadata(
    generator: Generator, prompt_set: PromptSet, chosen: Sequence[tuple[Prompt, Sequence[int]]]
) -> dict[str, Any]:
    paraphrases = [prompt.wording(number) for prompt, numbers in chosen for number in numbers if number]
    kinds = {"prompts": [prompt.text for prompt in prompt_set.prompts], "paraphrases": paraphrases}
    lengths = {kind: generator.text_lengths(texts) for kind, texts in kinds.items()}
    text_encoder: dict[str, Any] = {}
    for kind, found in lengths.items():
        if found is not None:
            text_encoder |= {"limit": found.limit, kind: found.facts()}
    return {
        "prompt_set": prompt_set.name,
        "prompts_sha256": prompt_set.sha256,
        "report": prompt_set.report._asdict(),
        "text_encoder": text_encoder,
    }
