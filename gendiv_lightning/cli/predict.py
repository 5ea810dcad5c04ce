"""`gendiv predict` and `gendiv validate` (long form: `gendiv fit-free predict`): from a config to a run folder."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from argparse import ArgumentError, RawDescriptionHelpFormatter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from gendiv_lightning import plugins
from gendiv_lightning.callbacks import CodebookCounts, Measure, RunWriter, SamplesPerSecond
from gendiv_lightning.callbacks.probes import SettingCallback
from gendiv_lightning.cli.options import check_once, check_output_folder, check_words
from gendiv_lightning.cli.values import check_values, expand_home
from gendiv_lightning.console.text import printable
from gendiv_lightning.datamodules.images import ImageModule
from gendiv_lightning.datamodules.prompts import PromptData, UnfinishedPrompts
from gendiv_lightning.errors import (
    ConfigKeyError,
    ConfigValueError,
    ImageSizeError,
    OutputError,
    ProbeError,
    command_line_text,
    kind_of,
    restated,
)
from gendiv_lightning.generators.base import Generator, TokenGenerator, check_precision
from gendiv_lightning.records import PromptBatch, SampleBatch
from gendiv_lightning.runs.assemble import Parts, Run, assemble, check
from gendiv_lightning.runs.folder import RunFolder
from gendiv_lightning.runs.former import upgrade_words, upgraded_configs
from gendiv_lightning.runs.lock import RunLock
from gendiv_lightning.runs.protocol import fingerprint_of
from gendiv_lightning.storage.config_files import check_yaml, explain, find_configs
from gendiv_lightning.storage.files import valid_text
from gendiv_lightning.weights.load import first_line

DESCRIPTION = """
No training: `predict` generates images under probes and measures them; `validate` counts how often a tokenizer uses
each entry of its codebook on real images.

A run is described by a config. Its parts are `model` (the generator), `data` (the prompts), `probes`, `measure` (the
metrics) and `trainer`. Every value can be set on the command line, as in --data.num_samples 16. Results are written to
a run folder: images, tokens, metrics.json, per_prompt.parquet, grid.png. Run the same command again after an
interruption: it resumes and produces identical results.

examples:
  gendiv predict --config configs/tiny/llamagen.yaml
  gendiv predict --config configs/tiny/llamagen.yaml --probes+=Argmax --data.num_samples 16 --run_dir runs/mine
  gendiv predict --config configs/tiny/llamagen.yaml --trainer.devices 4 --trainer.strategy ddp   (no torchrun)
  gendiv validate --config configs/tiny/llamagen_codebook.yaml
"""

PREDICT = """
Generates images for each prompt, with probes or without, and measures them. Writes a run folder: images, tokens,
metrics.json, per_prompt.parquet, grid.png. Run the same command again after an interruption: it resumes and produces
identical results.

A config has the parts `model` (the generator), `data` (the prompts), `probes`, `measure` (the metrics) and `trainer`.
Every value can be set on the command line, after --config: --data.num_samples 16. Several --config are merged in order.
--model.help CLASS, --data.help CLASS and --probes.help CLASS list the values of a class. --print_config prints the
whole config. `gendiv configs` lists the shipped configs, `gendiv list` the names of generators, probes and metrics.

examples:
  gendiv predict --config configs/tiny/llamagen.yaml
  gendiv predict --config configs/tiny/llamagen.yaml --probes+=Argmax --data.num_samples 16 --run_dir runs/mine
  gendiv predict --config configs/tiny/llamagen.yaml --trainer.devices 4 --trainer.strategy ddp   (no torchrun)
"""

VALIDATE = """
Encodes real images with the tokenizer of a generator, and counts how often it uses each entry of its codebook. Writes
the counts to usage.safetensors in the run folder. Pass this file to the CodebookSubset probe, as --probes.usage.

A config has the parts `model` (a generator with tokens), `data` (the images) and `trainer`. Every value can be set on
the command line, after --config: --data.limit 1000. --print_config prints the whole config.

examples:
  gendiv validate --config configs/tiny/llamagen_codebook.yaml
"""

# Titles of the groups of options in --help. jsonargparse takes them from docstrings of Lightning otherwise.
TITLES = {
    "trainer": "trainer, options of Lightning's Trainer",
    "model": "model, the generator",
    "data": "data, the prompts or images",
}

DEFAULTS: dict[str, Any] = {
    "devices": 1,
    "use_distributed_sampler": False,  # the data module assigns each prompt to one rank
    "enable_checkpointing": False,
    "enable_model_summary": False,
}
# How jsonargparse says that a key is unknown or missing.
_WRONG_KEY = re.compile("unrecognized arguments|are required|is not (accepted|expected)")
USER_ERRORS = (ValueError, OSError, ArgumentError, MisconfigurationException)


class Config(LightningCLI):
    """A config of `predict` or `validate`, with overrides from the command line. Instantiates its parts, runs nothing.

    Attributes:
        subcommand: "predict" or "validate".
        options: options of the run itself: run_dir, overwrite, wandb, wandb_project.
        callbacks: those of `trainer.callbacks`, `probes` and `measure`.
    """

    def __init__(self, args: list[str] | None = None) -> None:
        super().__init__(
            Generator,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=False,
            auto_configure_optimizers=False,
            trainer_defaults=DEFAULTS,
            parser_kwargs={
                "prog": "gendiv fit-free",
                "description": DESCRIPTION,
                "formatter_class": RawDescriptionHelpFormatter,
                "exit_on_error": False,
                "predict": {
                    "usage": "gendiv predict --config FILE [options]",
                    "description": PREDICT,
                    "formatter_class": RawDescriptionHelpFormatter,
                    "exit_on_error": False,
                },
                "validate": {
                    "usage": "gendiv validate --config FILE [options]",
                    "description": VALIDATE,
                    "formatter_class": RawDescriptionHelpFormatter,
                    "exit_on_error": False,
                },
            },
            args=args,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Both subcommands, with the parameters that are hidden from the command line."""
        skipped = {"model", "dataloaders", "datamodule", "ckpt_path", "verbose", "weights_only", "return_predictions"}
        return {"predict": skipped, "validate": skipped}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of a run besides model, data and trainer."""
        for name, group in (parser.groups or {}).items():
            group.title = TITLES.get(name, group.title)
        parser.add_argument(
            "--probes",
            type=list[SettingCallback],
            default=[],
            sub_configs=True,
            help="Probes that are applied together: names, or class_path with init_args. `--probes+=Argmax` adds one.",
        )
        parser.add_argument(
            "--measure",
            type=Measure | None,
            default=None,
            sub_configs=True,
            help="Metrics and their reference file, for example configs/measures/paper.yaml.",
        )
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="Run folder (default: runs/<config name>-<fingerprint>).",
        )
        parser.add_argument(
            "--overwrite", type=bool, default=False, help="Delete the existing run in the folder first."
        )
        parser.add_argument(
            "--wandb",
            type=Literal["online", "offline", "disabled"],
            default="offline",
            help="Log to Weights & Biases. Offline runs are stored in the run folder; `gendiv report RUN --sync` "
            "sends them.",
        )
        parser.add_argument("--wandb_project", type=str | None, default="gendiv", help="Project on Weights & Biases.")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the command line; registered probes are available by name."""
        words = command_words() if args is None else args
        check_words(words)
        check_once(words)
        check_yaml(words)
        for plugin in plugins.registered("probes").values():
            plugin.load()  # jsonargparse finds a class by name only after its import
        with upgraded_configs(find_configs(words)) as configs:
            self.config = parser.parse_args(upgrade_words(configs))

    def instantiate_classes(self) -> None:
        """Instantiate generator, data, probes, metrics and other callbacks, but no trainer."""
        config = self.config[self.subcommand] = expand_home(self.config[self.subcommand])
        check_values(
            config, {"trainer": Trainer}, {"overwrite": bool, "wandb": str, "wandb_project": str, "run_dir": str | None}
        )
        self.config_init = self.parser.instantiate_classes(self.config)
        self.options = self.config_init[self.subcommand]
        measure = [self.options.measure] if self.options.measure else []
        callbacks = self.options.trainer.callbacks or []
        callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
        self.callbacks: list[Callback] = [*self.options.probes, *callbacks, *measure]

    def _run_subcommand(self, subcommand: str) -> None:
        pass

    @property
    def name(self) -> str:
        """Name of the config: `llamagen`, or `tiny-llamagen` in a folder `tiny`."""
        files = self.options.get("config") or []
        path = Path(str(files[0])) if files else Path(type(self.options.model).__name__.lower())
        return path.stem if path.parent.name in ("", ".", "configs") else f"{path.parent.name}-{path.stem}"

    @property
    def measure(self) -> Measure:
        """The metrics of a run.

        Raises:
            ConfigKeyError: there is no set of metrics, or more than one.
        """
        found = [callback for callback in self.callbacks if isinstance(callback, Measure)]
        if len(found) != 1:
            raise ConfigKeyError(
                f"a run needs exactly one `measure`, or one Measure in trainer.callbacks; got {len(found)}. Add or "
                "remove one"
            )
        return found[0]

    @property
    def parts(self) -> Parts:
        """The parts that a run of `predict` is assembled from.

        Raises:
            ValueError: `data` does not provide prompts, or `measure` raises.
        """
        data = self.options.data
        if not isinstance(data, PromptData):
            raise ConfigValueError(
                f"`predict` samples prompts: data must be PromptData, got {type(data).__name__}. Change data.class_path"
            )
        probes = [callback for callback in self.callbacks if isinstance(callback, SettingCallback)]
        return Parts(self.options.model, data, probes, self.measure.metrics)

    def resolved(self) -> dict[str, Any]:
        """The config with all default values filled in, which is itself a config."""
        return yaml.safe_load(self.parser.dump(self.config, skip_none=False))[self.subcommand]

    def make_trainer(self, folder: RunFolder, *more: Callback) -> Trainer:
        """The trainer of the config, with a progress bar, and `more` after the callbacks of the config."""
        bar = [] if self.options.trainer.enable_progress_bar is False else [SamplesPerSecond()]
        try:
            return self.instantiate_trainer(
                callbacks=[*self.callbacks, *bar, *more],
                default_root_dir=str(folder.path),
                logger=self.options.trainer.logger or False,
            )
        except (TypeError, LookupError, ModuleNotFoundError) as error:  # of strategies and devices that are not here
            raise ConfigValueError(
                f"trainer: {first_line(error)}. Correct its devices, accelerator or strategy"
            ) from error


def command_words() -> list[str]:
    """The words after `gendiv` or `gendiv fit-free`. `sys.argv` is not changed: DDP starts the other ranks from it."""
    return sys.argv[1 + (sys.argv[1:2] == ["fit-free"]) :]


def predict(config: Config) -> None:
    """Sample and measure the unfinished prompts."""
    run = assemble(config.parts, thorough=rank_zero_only.rank == 0)  # type: ignore[attr-defined]
    for warning in run.warnings:
        rank_zero_warn(warning)
    if unused := config.measure.unused_reference:
        rank_zero_info(f"measure.reference {unused} is not used, because no metric compares with real images")
    generator = config.options.model
    _use_few_threads(generator)
    folder = _folder(config, run.protocol)
    if _is_done(config, folder, run.protocol):
        return
    trainer = config.make_trainer(folder, RunWriter(run, folder, config.measure))
    check_precision(trainer)
    with ExitStack() as stack:
        if trainer.is_global_zero:  # the other ranks on this machine have not started yet
            stack.enter_context(RunLock(folder.path))
            _start(config, folder)
            if config.options.trainer.logger is None:
                trainer.loggers = _loggers(config, run, folder, stack)
        trainer.predict(generator, datamodule=UnfinishedPrompts(run, folder), return_predictions=False)


def validate(config: Config) -> None:
    """Count the codebook usage of a validation image set."""
    generator, data = config.options.model, config.options.data
    if not isinstance(data, ImageModule):
        raise ConfigValueError(
            f"`validate` counts images: data must be an ImageModule such as ImageData, got {type(data).__name__}. "
            "Change data.class_path"
        )
    if not isinstance(generator, TokenGenerator):
        raise ProbeError(
            f"`validate` counts tokens, but {type(generator).__name__} has no codebook. Choose a generator with tokens"
        )
    generator.locate()
    _use_few_threads(generator)
    protocol = {"what": "validation images", "generator": generator.identity(), "data": data.identity()}
    if generator.image_side not in (None, data.image_size):
        raise ImageSizeError(
            f"data.image_size is {data.image_size}, but the tokenizer of {type(generator).__name__} takes images of "
            f"{generator.image_side} pixels per side. Pass --data.image_size {generator.image_side}"
        )
    folder = _folder(config, protocol)
    if _is_done(config, folder, protocol):
        return
    trainer = config.make_trainer(folder, CodebookCounts(protocol, generator.codebook_size, data, folder))
    if trainer.limit_val_batches != 1.0:
        raise ConfigValueError(
            f"trainer.limit_val_batches must be 1.0, got {trainer.limit_val_batches}. To count fewer images, limit "
            "the data with --data.limit, or --data.num_images for postcards"
        )
    with ExitStack() as stack:
        if trainer.is_global_zero:
            stack.enter_context(RunLock(folder.path))
            _start(config, folder)
        trainer.validate(generator, datamodule=data, verbose=False)


def _folder(config: Config, protocol: dict[str, Any]) -> RunFolder:
    if config.options.run_dir:
        check_output_folder(Path(config.options.run_dir), "run_dir")
        if (shown := valid_text(config.options.run_dir)) != config.options.run_dir:
            raise OutputError(f"run_dir: {shown} must be valid UTF-8, which the logs require. Choose another name")
    return RunFolder(config.options.run_dir or Path("runs") / f"{config.name}-{fingerprint_of(protocol)[:8]}")


def _is_done(config: Config, folder: RunFolder, protocol: dict[str, Any]) -> bool:
    """Whether the run is finished.

    Raises:
        RunDiffersError: the folder contains another run.
        DamagedRunError: files of a finished run are missing.
    """
    if config.options.overwrite:
        return False
    folder.check(protocol)
    folder.check_whole()
    if folder.is_finished:
        _print_note(f"{folder.path} is already finished. Pass --overwrite true to run it again.")
    return folder.is_finished


def _start(config: Config, folder: RunFolder) -> None:
    """Delete the old run if `overwrite` is set, and write the config."""
    if config.options.overwrite:
        folder.delete()
    text = yaml.safe_dump(config.resolved(), sort_keys=False)
    header = f"# gendiv fit-free {config.subcommand} --config THIS_FILE\n"
    folder.write("config.yaml", lambda path: path.write_text(header + text, encoding="utf-8"))


def _loggers(config: Config, run: Run, folder: RunFolder, stack: ExitStack) -> list[Logger]:
    resolved = config.resolved()
    csv = CSVLogger(folder.path, name="log", version="")
    csv.log_hyperparams(resolved)
    if resolved["wandb"] == "disabled":
        return [csv]
    from gendiv_lightning.tracking.wandb import close_run, how_to_send, open_run

    project, mode = resolved["wandb_project"], resolved["wandb"]
    logged = open_run(
        folder.path, run.protocol, resolved, run_id=folder.wandb_id(run.fingerprint), project=project, mode=mode
    )
    if logged.offline:
        stack.callback(_print_note, how_to_send(folder.path))
    stack.push(lambda error, *_: close_run(logged, folder.path, exit_code=int(error is not None)))
    return [csv, WandbLogger(experiment=logged)]


def read_config(path: Path) -> Config:
    """Read a config of `predict` and check each part, without loading weights or prompts.

    Raises:
        ValueError: the config is invalid; the message is one line.
    """
    _silence_libraries()
    try:
        config = Config(["predict", "--config", str(path)])
        check(config.parts)
    except USER_ERRORS as error:
        raise restated(error, explain(error)) from error
    return config


def sample_again(config: Config, run: Run, batches: Sequence[PromptBatch]) -> tuple[list[SampleBatch], torch.device]:
    """Sample batches as a run of the config does, on the same kind of device. Returns the samples and the device."""
    _use_few_threads(config.options.model)
    trainer = Trainer(
        accelerator=config.options.trainer.accelerator,
        callbacks=[*(c for c in config.callbacks if isinstance(c, SettingCallback)), SamplesPerSecond()],
        logger=False,
        **DEFAULTS,
    )
    loader: DataLoader[PromptBatch] = DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]
    return trainer.predict(config.options.model, loader) or [], trainer.strategy.root_device  # type: ignore[return-value]


def main(args: list[str] | None = None) -> None:
    """Run `gendiv fit-free` on `args`, or on the command line. User errors end with a message, not a traceback."""
    _silence_libraries()
    try:
        config = Config(args)
        (predict if config.subcommand == "predict" else validate)(config)
    except USER_ERRORS as error:
        sys.exit(printable(command_line_text(*_describe(error)), keep="\n"))


def _describe(error: Exception) -> tuple[Exception, str]:
    """An error and its message; errors of the parser and of Lightning get a kind."""
    message = explain(error)
    if kind_of(error) is None and not isinstance(error, OSError):
        error = (ConfigKeyError if _WRONG_KEY.search(message) else ConfigValueError)(message)
        message += " (all options: gendiv predict --help)"
    return error, message


def _silence_libraries() -> None:
    """Silence library messages that are not about the run."""
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils.logging import disable_progress_bar

    hides_downloads = are_progress_bars_disabled()
    disable_progress_bar()  # for loading weights; it also hides downloads from the Hub, which should show a bar
    if not hides_downloads:
        enable_progress_bars()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_about_the_run)
    # A table of weights that do not fit; our own error names them.
    logging.getLogger("transformers.modeling_utils").addFilter(lambda record: "LOAD REPORT" not in record.getMessage())
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message="Total length of `DataLoader` across ranks is zero")
    warnings.filterwarnings("ignore", message="Experiment logs directory .* exists and is not empty")
    warnings.filterwarnings("ignore", message="The ``compute`` method of metric")  # on a rank without prompts


def _is_about_the_run(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(("GPU available", "TPU available", "HPU available", "💡 Tip"))


def _use_few_threads(generator: Generator) -> None:
    """Use one thread for toy models: more threads gain nothing, and the last digits would depend on the machine."""
    if generator.is_toy:
        os.environ["OMP_NUM_THREADS"] = "1"  # for the other ranks; Lightning leaves threads alone if this is set
        torch.set_num_threads(1)


def _print_note(line: str) -> None:
    sys.stderr.write(f"{line}\n")
