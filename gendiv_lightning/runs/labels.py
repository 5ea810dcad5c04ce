"""Short names of runs, derived from protocol and description, for reports, studies and W&B."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from gendiv_lightning.runs.description import BASELINE, Description, describe
from gendiv_lightning.runs.protocol import fingerprint_of


class RunLabel(NamedTuple):
    """Names of a run, for grouping and sorting.

    Attributes:
        generator: title of the family, with its size if there are several: "LlamaGen XL".
        probe: class names of the probes in alphabetical order, joined by " + "; "baseline" if there are none.
        select: which codebook entries a subset allows ("most_frequent", ...); None without a subset.
        ratio: share of the codebook that is allowed, in (0, 1]; None without a subset.
        paraphrase_length: "short", "medium", "long", "mixed" or "any"; None for the original prompt alone.
        seed: root seed of the noise.
        embedded: whether it is a toy model.
        fingerprint: first 8 digits of the run's fingerprint, its id in tables and captions.
        group: generator, probes and settings in words; the same for all seeds.
        title: the group and the seed.
    """

    generator: str
    probe: str
    select: str | None
    ratio: float | None
    paraphrase_length: str | None
    seed: int
    embedded: bool
    fingerprint: str
    group: str
    title: str


def label_of(protocol: Mapping[str, Any], description: Description | None = None) -> RunLabel:
    """The label of a run.

    Args:
        protocol: protocol of the run, see `RunFolder.read_protocol`.
        description: description of the run; None for version 0.1.
    """
    description = describe(protocol) if description is None else description
    probes = protocol["probes"]
    generator, embedded = description.generator.name, bool(protocol["generator"].get("embedded"))
    subset: Mapping[str, Any] = next((probe for probe in probes if "codebook_size" in probe), {})
    paraphrases: Mapping[str, Any] = next((probe for probe in probes if probe.get("num_paraphrases")), {})
    seed = protocol["data"]["seed"]
    group = f"{generator}{' (toy)' if embedded else ''}, {description.setting}"
    return RunLabel(
        generator,
        " + ".join(sorted(probe["probe"] for probe in probes)) or BASELINE,
        subset.get("select"),
        subset["size"] / subset["codebook_size"] if subset else None,
        paraphrases.get("length"),
        seed,
        embedded,
        fingerprint_of(protocol)[:8],
        group,
        f"{group}, seed {seed}" if seed else group,
    )
