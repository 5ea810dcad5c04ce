"""Names for runs of version 0.1, whose folders do not describe their generator, probes and metrics.

Later runs have a `description.json`, so this module never grows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TITLES = {"llamagen": "LlamaGen", "amused": "aMUSEd", "vqdiffusion": "VQ-Diffusion"}  # in the paper's order
CONFIGS = {"llamagen": "llamagen", "amused": "amused", "vqdiffusion": "vq_diffusion"}
QUALITIES = {"postcards/coherence": "coherence"}  # higher is better
_SELECTIONS = {"most_frequent": "top", "least_frequent": "rare", "random": "random", "list": "list"}
_ISOLATES = {
    "Argmax": "the diversity of the sampler path",
    "PosteriorArgmax": "the diversity of the prompt's paraphrases",
    "FreezePath": "the diversity of the token draws",
    "CodebookSubset": "what a smaller codebook leaves of the diversity",
    "Paraphrase": "the diversity that other words for the same meaning add",
    "Decompose": "path and execution, each with its own noise",
}


def describe_generator(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Family, title and size of a generator, from its identity in the protocol."""
    family = identity["generator"]
    size = str(identity.get("gpt") or identity.get("size") or "tiny")
    return {"family": family, "title": TITLES.get(family, family), "size": "" if size == "tiny" else size}


def describe_probe(probe: Mapping[str, Any]) -> dict[str, str]:
    """Label and short label of a probe with its settings, and what it isolates."""
    label = _label(probe)
    return {"label": label, "short": _short(probe) or label, "isolates": _ISOLATES.get(probe["probe"], "")}


def _label(probe: Mapping[str, Any]) -> str:
    match probe["probe"]:
        case "CodebookSubset":
            return _subset(probe)
        case "Paraphrase":
            return f"{probe['num_paraphrases']} {_length(probe)}paraphrases"
        case "Decompose":
            num, paraphrases = probe["num_paths"], probe["num_paraphrases"]
            pool = f" x {paraphrases} {_length(probe)}wordings" if paraphrases else ""
            return f"decomposed ({num} paths x {num} executions{pool})"
        case "FreezePath":
            return "frozen path"
        case "PosteriorArgmax":
            return "posterior argmax"
    settings = [str(value) for name, value in probe.items() if name != "probe"]
    return " ".join([probe["probe"].lower(), *settings])


def _short(probe: Mapping[str, Any]) -> str:
    match probe["probe"]:
        case "CodebookSubset":
            share = probe["size"] / probe["codebook_size"]
            if probe["select"] == "drop_most_frequent":
                return f"drop {100 * (1 - share):.3g} %"
            return f"{_SELECTIONS.get(probe['select'], probe['select'])} {100 * share:.3g} %"
        case "Paraphrase":
            return "paraphrases" if probe["length"] == "any" else probe["length"]
        case "Decompose":
            return "decomposed"
    return ""


def _subset(probe: Mapping[str, Any]) -> str:
    share = probe["size"] / probe["codebook_size"]
    select = probe["select"].replace("_", " ")
    if probe["select"] == "drop_most_frequent":
        return f"most frequent {100 * (1 - share):.3g} % dropped"
    return f"{'listed' if select == 'list' else select} {100 * share:.3g} %"


def _length(probe: Mapping[str, Any]) -> str:
    return "" if probe["length"] == "any" else f"{probe['length']} "
