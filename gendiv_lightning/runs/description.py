"""Names of the generator, probes and metrics of a run. They describe themselves, and `description.json` stores it.

    {"generator": {"family": "llamagen", "title": "LlamaGen", "size": "XL", "config": "llamagen",
                   "chance": {"path": "", "execution": "which token each position gets"}},
     "probes": [{"probe": "Argmax", "label": "argmax", "short": "argmax", "isolates": "the diversity of the path"}],
     "metrics": {"quality/fid": {"short": "FID", "title": "Frechet Inception distance", "higher_is_better": false}}}

Reports therefore need neither the classes nor lists of their names. Missing keys have defaults. A folder without the
file is from version 0.1 and is described by `runs/legacy.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gendiv_lightning.runs import legacy
from gendiv_lightning.runs.files import field, malformed, read_json

NAME, BASELINE = "description.json", "baseline"


class GeneratorDescription(NamedTuple):
    """A family of generators in words.

    Attributes:
        family: name in protocols.
        title: name as its authors write it.
        size: size within the family; empty if there is only one.
        chance: random decisions of the family, by kind of noise ("path", "execution"); empty if there are none.
        config: stem of its configs, such as `llamagen` of `configs/llamagen_argmax.yaml`; empty if none is shipped.
    """

    family: str
    title: str
    size: str = ""
    chance: Mapping[str, str] = {}
    config: str = ""

    @property
    def name(self) -> str:
        """Title and size: "LlamaGen XL"."""
        return f"{self.title} {self.size}".rstrip()

    @property
    def has_execution(self) -> bool:
        """False if execution is deterministic by construction, as in an ODE sampler."""
        return self.chance.get("execution") != ""


class ProbeDescription(NamedTuple):
    """A probe with its settings in words.

    Attributes:
        probe: name of its class.
        label: description with settings, such as "most frequent 25 %".
        short: one or two words for figures, such as "top 25 %".
        isolates: the part of the diversity that remains under the probe, or that it adds; empty for plain settings.
    """

    probe: str
    label: str
    short: str
    isolates: str = ""


class MetricDescription(NamedTuple):
    """A number of a metric in words.

    Attributes:
        short: label of axes and columns.
        title: what the number measures.
        higher_is_better: None if neither is better, as for a diversity.
    """

    short: str
    title: str = ""
    higher_is_better: bool | None = None


class Description(NamedTuple):
    """Description of a run: generator, probes sorted by name, metrics by name of the number."""

    generator: GeneratorDescription
    probes: tuple[ProbeDescription, ...]
    metrics: Mapping[str, MetricDescription]

    @property
    def setting(self) -> str:
        """The probes with their settings: "argmax", "most frequent 25 %, 4 mixed paraphrases"."""
        return ", ".join(probe.label for probe in self.probes) or BASELINE

    @property
    def short(self) -> str:
        """The probes in a word or two, for labels in figures: "argmax", "drop 5 % + mixed"."""
        return " + ".join(probe.short for probe in self.probes) or BASELINE


def read_description(path: Path, protocol: Mapping[str, Any]) -> Description:
    """The description of a run.

    Args:
        path: path of its `description.json`, which does not exist for version 0.1.
        protocol: protocol of the run.

    Raises:
        DamagedRunError: the file is malformed, or describes other probes than the protocol.
    """
    if not path.exists():
        return describe(protocol)
    entry = read_json(path)
    probes = [_probe(path, place, probe) for place, probe in enumerate(_optional(path, entry, "probes", list))]
    own, described = (sorted(names) for names in ((p["probe"] for p in protocol["probes"]), (p.probe for p in probes)))
    if own != described:
        raise malformed(path, f"it describes the probes {described}, but the run has {own}")
    metrics = {name: _metric(path, name, metric) for name, metric in _optional(path, entry, "metrics", dict).items()}
    probes.sort(key=lambda probe: probe.probe)
    return Description(_generator(path, field(path, entry, "generator", dict)), tuple(probes), metrics)


def _generator(path: Path, entry: Mapping[str, Any]) -> GeneratorDescription:
    family, title = (field(path, entry, key, str, "generator.") for key in ("family", "title"))
    size = _optional(path, entry, "size", str, "generator.")
    chance = _optional(path, entry, "chance", dict, "generator.")
    config = _optional(path, entry, "config", str, "generator.") or legacy.CONFIGS.get(family, "")
    return GeneratorDescription(family, title, size, chance, config)


def _probe(path: Path, place: int, entry: Any) -> ProbeDescription:
    if not isinstance(entry, dict):
        raise malformed(path, f"probes[{place}] must be an object, got {entry!r:.80}")
    where = f"probes[{place}]."
    probe, label, short = (field(path, entry, key, str, where) for key in ("probe", "label", "short"))
    return ProbeDescription(probe, label, short, _optional(path, entry, "isolates", str, where))


def _metric(path: Path, name: str, entry: Any) -> MetricDescription:
    if not isinstance(entry, dict):
        raise malformed(path, f"metrics.{name} must be an object, got {entry!r:.80}")
    short, title = (_optional(path, entry, key, str, f"metrics.{name}.") for key in ("short", "title"))
    is_better = entry.get("higher_is_better")
    if not (is_better is None or isinstance(is_better, bool)):
        raise malformed(path, f"metrics.{name}.higher_is_better must be true, false or null, got {is_better!r:.80}")
    return MetricDescription(short or name, title, is_better)


def _optional(path: Path, entry: Mapping[str, Any], key: str, kind: type, where: str = "") -> Any:
    return field(path, entry, key, kind, where) if key in entry else kind()


def describe(protocol: Mapping[str, Any]) -> Description:
    """A description derived from the protocol, for a run without one."""
    generator = legacy.describe_generator(protocol["generator"])
    probes = sorted(protocol["probes"], key=lambda probe: probe["probe"])
    return Description(
        GeneratorDescription(**generator, config=legacy.CONFIGS.get(generator["family"], "")),
        tuple(ProbeDescription(probe["probe"], **legacy.describe_probe(probe)) for probe in probes),
        {name: MetricDescription(short, higher_is_better=True) for name, short in legacy.QUALITIES.items()},
    )


def rank_of(generator: GeneratorDescription) -> tuple[int, str]:
    """Sort key of generators in tables: the families of the paper in its order, then others by name."""
    families = list(legacy.TITLES)
    known = generator.family in families
    return families.index(generator.family) if known else len(families), generator.name
