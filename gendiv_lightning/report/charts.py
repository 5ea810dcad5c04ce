"""The figures of a report, with one panel per generator or number, as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from gendiv_lightning.analysis.branch import Decided
from gendiv_lightning.analysis.effects import Knee, change, share_left, usage_counts
from gendiv_lightning.analysis.lenses import Lens, find_lenses
from gendiv_lightning.analysis.paper_claims import arm_of, subset_curve
from gendiv_lightning.report.context import Quality, share
from gendiv_lightning.report.document import Number
from gendiv_lightning.report.svg import Chart, Point, bars, heat_map, key, linear, logarithmic
from gendiv_lightning.runs.load import Family, Setting

ENTROPY, GIVEN_PROMPT = "codebook/entropy_bits", "codebook/prompt_entropy_bits"
SHAPES = ("circle", "square", "triangle", "diamond", "star", "plus")
Shown = Callable[[Family], list[Setting]]
Panels = tuple[str, ...]
MARKS = {
    "baseline": "circle",
    "argmax": "square",
    "subset": "triangle",
    "paraphrase": "diamond",
    "enhanced": "star",
    "other": "plus",
}
LABELLED = ("baseline", "argmax", "enhanced")  # arms that are always labelled, even in a crowded chart
PARTS = (("execution", "exec"), ("sampler path", "sampler"), ("paraphrase", "wording"))


def _width(num_panels: int) -> int:
    """Width of a panel: three or four fill a row of the page, one fills the screen of a phone."""
    return 340 if num_panels <= 3 else 250


def arms_key(settings: Sequence[Setting]) -> str:
    """The key of the marks of some settings."""
    arms = {arm_of(setting) for setting in settings}
    return key([(shape, arm, arm) for arm, shape in MARKS.items() if arm in arms]) if len(arms) > 1 else ""


def kind_of(setting: Setting) -> tuple[str, str]:
    """Shape and style of the mark of a setting."""
    arm = arm_of(setting)
    return MARKS[arm], arm


def source_bars(execution: Number, path: Number) -> str:
    """Two bars: the share of the diversity that each source gives alone."""
    rows = (
        ("Execution alone", execution.value, execution.text, "exec"),
        ("Path alone", path.value, path.text, "sampler"),
    )
    return bars("; ".join(f"{label} {words}" for label, _, words, _ in rows), rows, width=300)


def ib_plane(families: Sequence[Family], shown: Shown) -> Panels:
    """H(C) against H(C|X): a probe moves a model; dotted lines connect points with equal I(X; C)."""
    everything = [setting for family in families for setting in shown(family)]
    x = linear("H(C), bits per token", [e for s in everything for e in _ends(s, ENTROPY)])
    y = linear("H(C|X), bits per token", [e for s in everything for e in _ends(s, GIVEN_PROMPT)])
    panels = []
    for family in families:
        chart = Chart(family.name, x, y, width=_width(len(families)), height=320)
        for information in range(0, math.ceil(x.high - y.low) + 1):
            ends = _diagonal(chart, information)
            if ends:
                chart.path(ends, "guide")
                chart.text(*ends[1], f"I = {information}", "guide", anchor="end")
        for setting in shown(family):
            at, base = (setting.value(ENTROPY), setting.value(GIVEN_PROMPT)), family.baseline_of(setting)
            shape, style = kind_of(setting)
            if base is not None:
                chart.path([(base.value(ENTROPY), base.value(GIVEN_PROMPT)), at], f"move {style}")
            horizontal, vertical = _ends(setting, ENTROPY), _ends(setting, GIVEN_PROMPT)
            chart.interval((horizontal[0], at[1]), (horizontal[1], at[1]), style)
            chart.interval((at[0], vertical[0]), (at[0], vertical[1]), style)
            chart.mark(*at, shape, style, f"{setting.name}: H(C) {at[0]:.2f}, H(C|X) {at[1]:.2f}")
            chart.label(*at, setting.short, style, anywhere=style in LABELLED)
        panels.append(chart.svg())
    return tuple(panels)


def _ends(setting: Setting, name: str) -> tuple[float, float]:
    estimate = setting.estimates[name]
    return (estimate.value, estimate.value) if math.isnan(estimate.low) else (estimate.low, estimate.high)


def _diagonal(chart: Chart, information: int) -> list[Point]:
    """The line H(C) - H(C|X) = information within the axes."""
    left = max(chart.x.low, chart.y.low + information)
    right = min(chart.x.high, chart.y.high + information)
    return [(left, left - information), (right, right - information)] if left < right else []


def decomposition_bars(settings: Sequence[tuple[Family, Setting]]) -> Panels:
    """One panel per generator, one bar per decomposition: shares of execution, sampler path and prompt path."""
    return tuple(_bars(family.name, setting, _width(len(settings))) for family, setting in settings)


def _bars(name: str, setting: Setting, width: int) -> str:
    lenses = [lens for lens in find_lenses(setting.estimates) if _is_shown(setting, lens)]
    left = max(112, *(round(6.6 * len(lens.title)) + 12 for lens in lenses)) if lenses else 112
    x = linear("share of H_total", [0, 1], percent=True)
    y = linear("", [0])._replace(low=-len(lenses) + 0.3, high=1.2, ticks=())
    chart = Chart(name, x, y, width=width, height=90 + 40 * len(lenses), left=left)
    for (words, style), shift in zip(PARTS, (-60, 14, 106), strict=True):
        chart.text(0, 0.8, words, f"key {style}", shift=shift)
    for row, lens in enumerate(lenses):
        chart.text(0, -row + 0.14, lens.title, "row", anchor="end", shift=-8)
        total = setting.value(lens.total)
        chart.text(0, -row - 0.22, f"{total:.3g} {lens.unit}", "tick", anchor="end", shift=-8)
        start = 0.0
        for (words, style), part in zip(PARTS, lens[3:], strict=True):
            share = setting.value(part) / total if part else math.nan
            if math.isnan(share):
                continue
            end = start + max(0.0, share)
            chart.box((start, -row - 0.32), (end, -row + 0.32), style, f"{lens.title}, {words}: {100 * share:.1f} %")
            if share > 0.12:
                chart.text((start + end) / 2, -row, f"{100 * share:.0f} %", f"inside {style}", anchor="middle")
            start = end
    return chart.svg()


def _is_shown(setting: Setting, lens: Lens) -> bool:
    total = setting.value(lens.total)
    return "plug-in" not in lens.title and math.isfinite(total) and total > 0


def subset_curves(families: Sequence[Family], names: Sequence[tuple[str, str]], knees: Sequence[Knee | None]) -> Panels:
    """One panel per number, one line per generator, by the allowed share of the codebook."""
    curves = [subset_curve(family) for family in families]
    x = logarithmic("share of the codebook allowed", [r for curve in curves for r, _ in curve], percent=True)
    panels = []
    for panel, (name, words) in enumerate(names):
        values = [end for curve in curves for _, s in curve for end in _ends(s, name)]
        chart = Chart(words, x, linear("", values), width=_width(len(names)), height=260)
        for number, (family, curve, knee) in enumerate(zip(families, curves, knees, strict=True)):
            style, shape = f"g{number % 6}", SHAPES[number % 6]
            if not curve:
                continue
            points = [(ratio, setting.value(name)) for ratio, setting in curve]
            chart.path(points, style)
            for (ratio, value), (_, setting) in zip(points, curve, strict=True):
                low, high = _ends(setting, name)
                chart.interval((ratio, low), (ratio, high), style)
                chart.mark(ratio, value, shape, style, f"{family.name}, {100 * ratio:.3g} %: {value:.3g}")
                if panel == 0 and knee is not None and ratio == knee.ratio < 1:
                    chart.mark(ratio, value, "ring", f"ring {style}", f"{family.name}: knee")
            chart.label(*points[0], family.name, style)
        panels.append(chart.svg())
    return tuple(panels)


def branch_curves(curves: Mapping[str, Sequence[Decided]]) -> str:
    """One panel: the share of the diversity that is decided by each step, with one line per generator."""
    points = [point for curve in curves.values() for point in curve]
    x = linear("step until which all noise is shared", [point.step for point in points])
    y = linear("decided", [0, 1], percent=True)._replace(low=min(0.0, *(point.low for point in points)))
    chart = Chart("When is the picture decided?", x, y, width=460, height=320)
    chart.path([(x.low, 0.5), (x.high, 0.5)], "guide")
    for number, (name, curve) in enumerate(curves.items()):
        style, shape = f"g{number % 6}", SHAPES[number % 6]
        chart.path([(point.step, point.share) for point in curve], style)
        for point in curve:
            chart.interval((point.step, point.low), (point.step, point.high), style)
            chart.mark(point.step, point.share, shape, style, f"{name}, step {point.step}: {100 * point.share:.1f} %")
        middle = curve[len(curve) // 2]
        chart.label(middle.step, middle.share, name, style)
    return chart.svg()


def confusion_maps(values: Sequence[str], matrices: Mapping[str, Tensor]) -> Panels:
    """One panel per run with its confusion matrix, and one with the change from the baseline to the probe."""
    panels = [heat_map(run, values, matrix.tolist()) for run, matrix in matrices.items()]
    change = (matrices["probe"] - matrices["baseline"]).tolist()
    return (*panels, heat_map("probe \u2212 baseline", values, change, is_change=True))


def effect_panels(families: Sequence[Family], shown: Shown, names: Sequence[tuple[str, str]]) -> Panels:
    """One panel per number, one row per setting: the first as a share of the baseline, the others as differences."""
    rows: list[tuple[Family, Setting | None]] = []
    for family in families:
        rows += [(family, None), *((family, setting) for setting in shown(family))]
    panels = []
    for panel, (name, words) in enumerate(names):
        numbers = [_effect(family, setting, name, is_share=panel == 0) for family, setting in rows]
        ends = [end for n in numbers if n for end in (n.low, n.high, n.value)]
        neutral = 1.0 if panel == 0 else 0.0
        x = linear("", ends, around=(neutral, *((0.0,) if panel == 0 else ())), percent=panel == 0)
        y = linear("", [0])._replace(low=-len(rows) + 0.4, high=0.6, ticks=())
        chart = Chart(words, x, y, width=_width(len(names)), height=72 + 21 * len(rows), left=104)
        chart.path([(neutral, y.low), (neutral, y.high)], "neutral")
        for row, ((family, setting), number) in enumerate(zip(rows, numbers, strict=True)):
            if setting is None or number is None:
                chart.text(x.low, -row, family.name, "row strong", anchor="end", shift=-8)
                continue
            shape, style = kind_of(setting)
            chart.text(x.low, -row, setting.short, "row", anchor="end", shift=-8)
            chart.interval((number.low, -row), (number.high, -row), style)
            chart.mark(number.value, -row, shape, style, f"{family.name}, {setting.name}: {number}")
        panels.append(chart.svg())
    return tuple(panels)


def _effect(family: Family, setting: Setting | None, name: str, *, is_share: bool) -> Number | None:
    baseline = None if setting is None else family.baseline_of(setting)
    if setting is None or baseline is None:
        return None
    if is_share:
        return share(share_left(setting, baseline, name))
    return Number(*change(setting, baseline, name), is_change=True)


def frontier(families: Sequence[Family], shown: Shown, diversity: tuple[str, str], quality: Quality) -> Panels:
    """Quality against diversity, one panel per generator, with a line through the Pareto front."""
    lower_is_better = quality.lower_is_better
    everything = [setting for family in families for setting in shown(family)]
    x = linear(diversity[1], [s.value(diversity[0]) for s in everything])
    y = linear(quality.words, [s.value(quality.name) for s in everything], backwards=lower_is_better)
    panels = []
    for family in families:
        chart = Chart(family.name, x, y, width=_width(len(families)), height=290)
        points = {s.short: (s.value(diversity[0]), s.value(quality.name)) for s in shown(family)}
        unbeaten = _unbeaten(list(points.values()), lower_is_better)
        chart.path(unbeaten, "guide")
        for setting in shown(family):
            at, (shape, style) = points[setting.short], kind_of(setting)
            chart.mark(*at, shape, style, f"{setting.name}: {diversity[1]} {at[0]:.3f}, {quality.words} {at[1]:.3f}")
            chart.label(*at, setting.short, style, anywhere=style in LABELLED or at in unbeaten)
        panels.append(chart.svg())
    return tuple(panels)


def _unbeaten(points: list[Point], lower_is_better: bool) -> list[Point]:
    """The Pareto front: points for which no other is at least as good in both, sorted by diversity."""
    sign = -1 if lower_is_better else 1
    known = sorted({p for p in points if all(map(math.isfinite, p))}, key=lambda p: (-p[0], -sign * p[1]))
    kept: list[Point] = []
    for point in known:
        if not kept or sign * point[1] > sign * kept[-1][1]:
            kept.append(point)
    return kept


def rank_frequency(families: Sequence[Family], shown: Shown) -> Panels:
    """Share of all tokens by the rank of the entry, one panel per generator; dotted: all entries equally often."""
    shares = {id(setting): _ranked(usage_counts(setting).tolist()) for family in families for setting in shown(family)}
    longest = max(len(counts) for counts in shares.values())
    x = logarithmic("rank of the codebook entry", [1, longest])
    y = logarithmic("share of tokens", [share for drawn in shares.values() for share in drawn if share], percent=True)
    panels = []
    for family in families:
        chart = Chart(family.name, x, y, width=_width(len(families)), height=270)
        for setting in shown(family):
            _, style = kind_of(setting)
            drawn = shares[id(setting)]
            used = [(rank, drawn[rank - 1]) for rank in _spread(sum(share > 0 for share in drawn))]
            if not setting.probes:
                chart.path([(1, 1 / len(drawn)), (len(drawn), 1 / len(drawn))], "guide")
            chart.path(used, style)
            chart.mark(*used[-1], "circle", f"end {style}", f"{setting.name}: {used[-1][0]} entries used")
            chart.label(*used[len(used) // 2], setting.short, style)
        panels.append(chart.svg())
    return tuple(panels)


def _ranked(counts: list[int]) -> list[float]:
    total = max(1, sum(counts))
    return [count / total for count in sorted(counts, reverse=True)]


def _spread(most: int, num: int = 120) -> list[int]:
    """Ranks in 1..most, evenly spaced on a logarithmic axis, each once."""
    return sorted({max(1, round(most ** (step / num))) for step in range(num + 1)}) if most else []
