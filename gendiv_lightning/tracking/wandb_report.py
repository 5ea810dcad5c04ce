"""Convert a report to a W&B Report: the same text and tables, with W&B's panels over the runs instead of figures.

Runs are found on W&B by the `fingerprint` in their config (`tracking.wandb.describe`). Only `save` uses the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gendiv_lightning.analysis.lenses import find_lenses
from gendiv_lightning.analysis.paper_claims import find_profile
from gendiv_lightning.errors import NetworkError, PackageError
from gendiv_lightning.report.charts import ENTROPY, GIVEN_PROMPT
from gendiv_lightning.report.context import Study
from gendiv_lightning.report.document import Report, Section, Table
from gendiv_lightning.report.markdown import block_to_markdown, section_to_markdown
from gendiv_lightning.runs.load import Family
from gendiv_lightning.tracking.wandb import FAILURES

SETTINGS = ("probe", "ratio", "branch_step", "paraphrase_length", "seed")  # keys of the config of a run, for sorting


def build_report(report: Report, study: Study, entity: str, project: str) -> Any:
    """Build the W&B Report of a report, without saving it.

    Raises:
        PackageError: wandb-workspaces is not installed.
    """
    wr = _workspaces()
    blocks: list[Any] = [wr.P(report.answer)]
    blocks += [wr.CalloutBlock(report.warning)] if report.warning else []
    blocks += [wr.MarkdownBlock(f"**{answer.name}.** {answer.words}") for answer in report.answers]
    blocks += [wr.MarkdownBlock(block_to_markdown(report.numbers))] if report.numbers else []
    blocks += [wr.MarkdownBlock(report.rule), wr.TableOfContents()]
    for section in report.sections:
        blocks.append(wr.H2(section.title))
        words = section_to_markdown(_without_pictures(section))
        blocks += [wr.MarkdownBlock(words)] if words else []
        panels = _panels(section.anchor, study)
        if panels:
            blocks.append(wr.PanelGrid(runsets=[_runset(family) for family in study.families], panels=panels))
    title = f"{'Toy models: ' if report.warning else ''}{report.title}"
    return wr.Report(
        project=project, entity=entity, title=title, description=report.answer, blocks=blocks, width="fluid"
    )


def save(built: Any) -> str:
    """Send a W&B Report; returns its address.

    Raises:
        NetworkError: the service did not accept it.
    """
    try:
        return str(built.save().url)
    except FAILURES as error:
        raise NetworkError(
            f"Weights & Biases did not accept the report: {error}. Check entity, project and network"
        ) from error


def _workspaces() -> Any:
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # its models use an older API of pydantic
            import wandb_workspaces.reports.v2 as wr
    except ImportError as error:
        raise PackageError(
            "--wandb needs wandb-workspaces. Install it with pip install 'gendiv_lightning[wandb]'"
        ) from error
    return wr


def _without_pictures(section: Section) -> Section:
    return section._replace(blocks=tuple(block for block in section.blocks if isinstance(block, Table)))


def _runset(family: Family) -> Any:
    from wandb_workspaces import expr

    wr = _workspaces()
    ids = [run.label.fingerprint for setting in family.settings for run in setting.runs]
    order = [wr.OrderBy(wr.Config(name), ascending=True) for name in SETTINGS]
    return wr.Runset(name=family.name, filters=[expr.Config("fingerprint").isin(ids)], order=order)


def _panels(anchor: str, study: Study) -> list[Any]:
    """W&B panels of a section, for figures whose numbers are on W&B."""
    wr = _workspaces()

    def bars(title: str, names: Sequence[str]) -> Any:
        metrics = [wr.SummaryMetric(name) for name in names]
        return wr.BarPlot(title=title, metrics=metrics, max_bars_to_show=100, layout=wr.Layout(w=24, h=12))

    def scatter(title: str, x: Any, y: str) -> Any:
        return wr.ScatterPlot(title=title, x=x, y=wr.SummaryMetric(y), layout=wr.Layout(w=12, h=10))

    name, words = study.diversity
    match anchor:
        case "samples":
            return [wr.MediaBrowser(media_keys=["grid"], num_columns=2, layout=wr.Layout(w=24, h=16))]
        case "profile":
            return [bars(words, [name, f"{name}/low", f"{name}/high"])]
        case "decomposition":
            lenses = [lens for f in study.families if (s := find_profile(f).plain) for lens in find_lenses(s.estimates)]
            return [bars(f"{lens.title}, {lens.unit}", [part for part in lens[2:] if part]) for lens in lenses[:1]]
        case "branch":
            return [scatter(f"{words} of samples that share all noise until a step", wr.Config("branch_step"), name)]
        case "subset":
            return [scatter(f"{each} by ratio", wr.Config("ratio"), number) for number, each in study.numbers]
        case "frontier":
            return [scatter(f"{q.words} by {words}", wr.SummaryMetric(name), q.name) for q in study.qualities]
        case "plane":
            return [scatter("H(C|X) by H(C)", wr.SummaryMetric(ENTROPY), GIVEN_PROMPT)]
        case "runs":
            return [wr.RunComparer(diff_only="split", layout=wr.Layout(w=24, h=12))]
    return []
