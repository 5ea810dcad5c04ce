"""What a run is, in a few words: `label_of` reads them from its protocol. Reports, studies and W&B name runs by it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from gendiv_lightning.runs.protocol import fingerprint_of

GENERATORS = {"llamagen": "LlamaGen", "amused": "aMUSEd", "vqdiffusion": "VQ-Diffusion"}
BASELINE = "baseline"


class RunLabel(NamedTuple):
    """Names of a run, to group and to sort by.

    Attributes:
        generator: the family as its authors write it, with its size where there are several: "LlamaGen XL".
        probe: class names of the probes in alphabetical order, joined by " + "; "baseline" where there are none.
        select: which codebook entries `CodebookSubset` allows ("most_frequent", ...); None without that probe.
        ratio: share of the codebook that is allowed, in (0, 1]; None without a subset.
        paraphrase_length: "short", "medium", "long", "mixed" or "any"; None for one wording.
        seed: root seed of the noise.
        embedded: whether it is an embedded (toy) model.
        fingerprint: first 8 digits of the run's fingerprint, its id in tables and captions.
        group: generator, probes and their settings, for people; the same for all seeds.
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


def label_of(protocol: Mapping[str, Any]) -> RunLabel:
    """The label of a run from its protocol (`RunFolder.read_protocol`)."""
    probes = sorted(protocol["probes"], key=lambda probe: probe["probe"])
    generator, embedded = _generator_name(protocol["generator"]), bool(protocol["generator"].get("embedded"))
    subset: dict[str, Any] = next((probe for probe in probes if probe["probe"] == "CodebookSubset"), {})
    wordings: dict[str, Any] = next((probe for probe in probes if probe.get("num_paraphrases")), {})
    seed = protocol["data"]["seed"]
    group = f"{generator}{' (toy)' if embedded else ''}, {setting_of(probes)}"
    return RunLabel(
        generator,
        " + ".join(probe["probe"] for probe in probes) or BASELINE,
        subset.get("select"),
        subset["size"] / subset["codebook_size"] if subset else None,
        wordings.get("length"),
        seed,
        embedded,
        fingerprint_of(protocol)[:8],
        group,
        f"{group}, seed {seed}" if seed else group,
    )


def setting_of(probes: list[dict[str, Any]]) -> str:
    """Probes with their settings in words: "argmax", "most frequent 25 %, 4 mixed paraphrases"."""
    return ", ".join(_in_words(probe) for probe in probes) or BASELINE


def short_of(probes: list[dict[str, Any]]) -> str:
    """Probes in a word or two, for a label in a picture: "argmax", "top 25 %", "drop 5 % + mixed"."""
    words = {"Decompose": "decomposed", "FreezePath": "frozen path", "PosteriorArgmax": "posterior argmax"}
    selections = {"most_frequent": "top", "least_frequent": "rare", "random": "random", "list": "list"}
    found = []
    for probe in probes:
        share = probe["size"] / probe["codebook_size"] if probe["probe"] == "CodebookSubset" else 0
        if probe["probe"] == "CodebookSubset" and probe["select"] == "drop_most_frequent":
            found.append(f"drop {100 * (1 - share):.3g} %")
        elif probe["probe"] == "CodebookSubset":
            found.append(f"{selections[probe['select']]} {100 * share:.3g} %")
        elif probe["probe"] == "Paraphrase":
            found.append("paraphrases" if probe["length"] == "any" else probe["length"])
        else:
            found.append(words.get(probe["probe"], _in_words(probe)))
    return " + ".join(found) or BASELINE


def _generator_name(identity: Mapping[str, Any]) -> str:
    name = GENERATORS.get(identity["generator"], identity["generator"])
    size = identity.get("gpt") or identity.get("size") or "tiny"
    return name if size == "tiny" else f"{name} {size}"


def _in_words(probe: Mapping[str, Any]) -> str:
    match probe["probe"]:
        case "CodebookSubset":
            return _subset_in_words(probe)
        case "Paraphrase":
            return f"{probe['num_paraphrases']} {_length(probe)}paraphrases"
        case "Decompose":
            num, wordings = probe["num_paths"], probe["num_paraphrases"]
            pool = f" x {wordings} {_length(probe)}wordings" if wordings else ""
            return f"decomposed ({num} paths x {num} executions{pool})"
        case "FreezePath":
            return "frozen path"
        case "PosteriorArgmax":
            return "posterior argmax"
    settings = [str(value) for name, value in probe.items() if name != "probe"]
    return " ".join([probe["probe"].lower(), *settings])


def _subset_in_words(probe: Mapping[str, Any]) -> str:
    share = probe["size"] / probe["codebook_size"]
    select = probe["select"].replace("_", " ")
    if probe["select"] == "drop_most_frequent":
        return f"most frequent {100 * (1 - share):.3g} % dropped"
    return f"{'random' if select == 'random' else 'listed' if select == 'list' else select} {100 * share:.3g} %"


def _length(probe: Mapping[str, Any]) -> str:
    return "" if probe["length"] == "any" else f"{probe['length']} "
