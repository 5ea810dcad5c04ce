"""`gendiv drift`: do images under a probe still show what their prompts state?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gendiv_lightning.cli.options import check_output_file
from gendiv_lightning.errors import OptionConflictError, PromptError, UnknownNameError, listed

if TYPE_CHECKING:
    from gendiv_lightning.analysis.drift import Drift, StatedValues
    from gendiv_lightning.records.questions import Attribute
    from gendiv_lightning.runs.load import Run

NUM_FLOWS = 5
HELP = "semantic drift: do images under a probe still show what their prompts state?"
DESCRIPTION = """
A scorer looks at the stored images of two runs over the same prompts and reads each attribute whose value the prompt
states: the colour of the car, the number of dogs. The confusion matrix has a row per stated value and a column per seen
value; every prompt weighs equally. Printed are, for each attribute and for all, with intervals over prompts:

  fidelity      probability of the stated value, by run: the diagonal of the matrix
  drift         fidelity that the probe loses against the baseline, paired by prompt
  beyond noise  fidelity that the probe loses against the control, paired by prompt
  bleeding      share of the lost mass that a single other value gains. The value is chosen on the other prompts that
                state the same, so that chance alone gives an even share

A probe that adds noise to the tokens loses fidelity by the noise alone. The control (--control) is a run without the
probe, at a temperature that gives its tokens the same entropy. The token entropies are printed, with a warning if
control and probe differ by more than 5 %. To find the temperature, run `gendiv drift` without a control, and bisect:
generate a few prompts at a temperature, compare its token entropy with the probe's, and go up or down. Generators
without tokens have no such control.

The scorer is the ground truth of a toy dataset, a CLIP as a zero-shot classifier, or a vision-language model; `gendiv
list scorers` shows all. The attributes come from a file, or from a registered list (`gendiv list attributes`). For
prompts with a registered list and scorer of their name, such as postcards, these are the defaults.

examples:
  gendiv fit-free predict --config configs/tiny/llamagen.yaml --run_dir runs/plain
  gendiv fit-free predict --config configs/tiny/llamagen.yaml --run_dir runs/drop --probes+=CodebookSubset \\
    --probes.select drop_most_frequent --probes.ratio 0.05 --probes.usage toy:llamagen_usage.safetensors
  gendiv drift runs/plain runs/drop
  gendiv fit-free predict --config configs/tiny/llamagen.yaml --run_dir runs/warm --probes+=Temperature \\
    --probes.temperature 1.6
  gendiv drift runs/plain runs/drop --control runs/warm --json runs/drift.json
  gendiv drift runs/plain runs/drop --scorer tiny-clip --attribute sky
  gendiv report runs                            shows the numbers of runs/drift*.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gendiv drift`."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("baseline", type=Path, metavar="BASELINE", help="run folder without the probe")
    parser.add_argument("probe", type=Path, metavar="PROBE", help="run folder under the probe, over the same prompts")
    parser.add_argument(
        "--control", type=Path, metavar="RUN", help="run folder at a temperature of equal token entropy"
    )
    parser.add_argument(
        "--scorer",
        metavar="NAME",
        help="what reads the images, with options as in the brackets of a metric (default: the name of the prompt set)",
    )
    parser.add_argument(
        "--list",
        metavar="LIST",
        help="attributes of the prompts: a file or a registered name (default: the name of the prompt set)",
    )
    parser.add_argument("--attribute", metavar="NAME", help="only this attribute, with its matrices")
    parser.add_argument("--device", default="cpu", help="device of the scorer: cpu, cuda (default: cpu)")
    parser.add_argument(
        "--json", type=Path, metavar="FILE.json", help="also write the numbers; a report shows files named drift*.json"
    )


def run(arguments: argparse.Namespace) -> int:
    """Read and check the runs, score their images, print the tables."""
    from gendiv_lightning.analysis.drift import check_runs, measure_drift, read_answers
    from gendiv_lightning.analysis.drift_file import DriftFile, write_drift
    from gendiv_lightning.attributes.lists import read_attributes
    from gendiv_lightning.console.tables import few_prompts
    from gendiv_lightning.console.text import write
    from gendiv_lightning.features.base import check_device
    from gendiv_lightning.metrics.registry import make_scorer
    from gendiv_lightning.runs.load import read_run

    check_device(arguments.device)
    if arguments.json:
        check_output_file(arguments.json, "--json", ".json")
    paths = {"baseline": arguments.baseline, "probe": arguments.probe, "control": arguments.control}
    _check_different([path for path in paths.values() if path])
    runs = {name: read_run(path) for name, path in paths.items() if path}
    for words in check_runs(list(runs.values())):
        write(f"These runs differ in {words}, which can change their images.\n", sys.stderr)
    scorer_name, list_name = _sources(runs["baseline"], arguments.scorer, arguments.list)
    listed_attributes = read_attributes(list_name)
    attributes = _stated(runs["baseline"], listed_attributes.of, arguments.attribute)
    scorer = make_scorer(scorer_name)
    scorer.load()
    if scorer.features:
        scorer.features.to(arguments.device)
    for question, _ in attributes:
        scorer.check(question)
    answers = {name: read_answers(run, scorer, attributes, arguments.device) for name, run in runs.items()}
    found = measure_drift(attributes, answers)
    if arguments.json:
        fingerprints = {name: run.label.fingerprint for name, run in runs.items()}
        identities = scorer.identity(), listed_attributes.identity
        content = DriftFile(scorer.tag, identities[0], listed_attributes.name, identities[1], fingerprints, found)
        write_drift(arguments.json, content)
    for name, run in runs.items():
        write(f"{name}: {run.folder.path} ({run.description.setting})\n")
    write(f"scorer: {scorer.tag}\n\n{_tables(found, with_matrices=bool(arguments.attribute))}\n")
    write(few_prompts(found.overall.num_prompts))
    if arguments.json:
        write(f"\n{arguments.json}\n")
    if found.entropies and not found.entropies.is_matched:
        write(_mismatch(found), sys.stderr)
    return 0


def _check_different(paths: Sequence[Path]) -> None:
    resolved = [path.resolve() for path in paths]
    if twice := [path for path in paths if resolved.count(path.resolve()) > 1]:
        raise OptionConflictError(f"the run {twice[0]} is given twice. Compare it with another run")


def _sources(baseline: Run, scorer: str | None, attributes: str | None) -> tuple[str, str]:
    """Names of scorer and attribute list: given, or registered under the name of the prompt set."""
    from gendiv_lightning import plugins

    prompt_set = baseline.protocol["data"]["prompt_set"]
    names = []
    for option, group, given in (("--scorer", "scorers", scorer), ("--list", "attributes", attributes)):
        if given is None and prompt_set not in plugins.registered(group):
            known = ", ".join(plugins.registered(group)) or "none"
            raise UnknownNameError(
                f"{option} is required, because nothing is registered for the prompts {prompt_set!r} among the "
                f"{group}: {known}. Give {'a name' if group == 'scorers' else 'a file or a name'}"
            )
        names.append(given or prompt_set)
    return names[0], names[1]


def _stated(
    baseline: Run, attributes_of: Callable[[str], tuple[Attribute, ...]], only: str | None
) -> list[StatedValues]:
    """The attributes of the run's prompts, or the one of a name."""
    from gendiv_lightning.analysis.drift import stated_values
    from gendiv_lightning.runs.schema import PROMPT

    texts = baseline.folder.read_per_prompt()[PROMPT].to_pylist()
    found = stated_values([attributes_of(text) for text in texts])
    if not found:
        raise PromptError(
            "no attribute has a stated value in two or more of these prompts, so no confusion can be measured. Give a "
            "list whose attributes have `stated` values"
        )
    if only is None:
        return found
    chosen = [each for each in found if each.question.name == only]
    if not chosen:
        names = listed(list(dict.fromkeys(each.question.name for each in found)))
        raise UnknownNameError(f"--attribute {only} is stated by fewer than two prompts. Choose from: {names}")
    return chosen


def _tables(found: Drift, *, with_matrices: bool) -> str:
    from gendiv_lightning.console import drift as tables

    parts = [tables.format_drift(found), tables.format_legend(found), tables.format_unseen(found)]
    parts.append(tables.format_entropies(found.entropies))
    if flows := tables.largest_flows(found, NUM_FLOWS):
        parts.append(f"Where the lost mass goes, by the mass moved (gain x prompts):\n{tables.format_flows(flows)}")
    if with_matrices:
        parts += [tables.format_matrices(each) for each in found.attributes]
    return "\n\n".join(filter(None, parts))


def _mismatch(found: Drift) -> str:
    from gendiv_lightning.analysis.drift import TOLERANCE

    assert found.entropies is not None, "there is a mismatch"
    side = "higher" if found.entropies.mismatch.value < 0 else "lower"
    return (
        f"The token entropies of control and probe differ by more than {100 * TOLERANCE:g} %, so that the control does "
        f"not isolate noise: make a control at a {side} temperature.\n"
    )
