"""`gendiv fit-free predict | validate`: Lightning's command line without fit. It names the run and its loggers."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import sys
import warnings
from argparse import ArgumentError, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from gendiv_lightning.callbacks import RunWriter, SamplesPerSecond, WriteUsage
from gendiv_lightning.callbacks.codebook_usage import usage_protocol
from gendiv_lightning.callbacks.run_writer import check_probes, check_run, protocol_of
from gendiv_lightning.datamodules import ImageModule, PromptData
from gendiv_lightning.generators.base import Generator
from gendiv_lightning.prompts.design import apply_designs, check_design
from gendiv_lightning.records import PromptBatch, SampleBatch
from gendiv_lightning.runs.folder import RunFolder, fingerprint_of
from gendiv_lightning.sampling import Probe
from gendiv_lightning.storage.atomic import write_atomically
from gendiv_lightning.storage.config_files import find_configs

DESCRIPTION = """
Without training: predict generates under probes and measures, validate counts how a tokenizer uses its codebook.

examples:
  gendiv fit-free predict --config configs/tiny/llamagen.yaml
  gendiv fit-free predict --config configs/tiny/llamagen_argmax.yaml --data.num_samples 16 --run_dir runs/mine
  gendiv fit-free validate --config configs/tiny/llamagen_codebook.yaml
  torchrun is not needed: --trainer.devices 4 --trainer.strategy ddp
"""


WITHOUT_FIT: dict[str, Any] = {
    "use_distributed_sampler": False,  # prompts are dealt to ranks by the data module, whole and once
    "enable_checkpointing": False,
    "enable_model_summary": False,
}
USER_ERRORS = (ValueError, OSError, ArgumentError, MisconfigurationException)


class FitFreeCLI(LightningCLI):
    """Predict and validate of a `Generator`; every value of the config can be overridden on the command line."""

    def __init__(self, args: list[str] | None = None) -> None:
        super().__init__(
            Generator,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=False,
            auto_configure_optimizers=False,
            trainer_defaults=WITHOUT_FIT,
            parser_kwargs={
                "prog": "gendiv fit-free",
                "description": DESCRIPTION,
                "formatter_class": RawDescriptionHelpFormatter,
                "exit_on_error": False,
                "predict": {"description": "Generate under probes, measure, log.", "exit_on_error": False},
                "validate": {"description": "Count codebook usage on images.", "exit_on_error": False},
            },
            args=args,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The two, and those parameters of theirs that are not for the command line."""
        skipped = {"model", "dataloaders", "datamodule", "ckpt_path", "verbose", "weights_only", "return_predictions"}
        return {"predict": skipped, "validate": skipped}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The run's own options."""
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="Folder of the run (default: runs/<config name>-<fingerprint>).",
        )
        parser.add_argument("--overwrite", type=bool, default=False, help="Delete the run that is in the folder first.")
        parser.add_argument(
            "--wandb",
            type=Literal["online", "offline", "disabled"],
            default="offline",
            help="Log to Weights & Biases; offline runs lie in the run folder: `gendiv report RUN --sync` sends them.",
        )
        parser.add_argument("--wandb_project", type=str, default="gendiv", help="Project on Weights & Biases.")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse what follows `gendiv fit-free`; `sys.argv` stays whole, since DDP starts the other ranks from it."""
        self.config = parser.parse_args(find_configs(sys.argv[2:] if args is None else args))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Name the run, now that generator, data and callbacks are there, and give it its folder and callbacks."""
        config = self.config[self.subcommand]
        assert isinstance(self.model, Generator), "the parser takes generators only"
        self.callbacks = list(self._get(self.config_init, "trainer.callbacks") or [])
        check_probes(self.model, self.callbacks)  # before weights are looked for: they may have to be downloaded
        self.model.locate()
        settle(self.model)
        self.protocol = self._protocol(self.model)
        fingerprint = fingerprint_of(self.protocol)
        self.folder = RunFolder(config.run_dir or Path("runs") / f"{self._config_name()}-{fingerprint[:8]}")
        # The id makes a resumed run the same W&B run; a run folder of another name is another run.
        self.wandb_id = hashlib.sha256(f"{fingerprint} {self.folder.path.name}".encode()).hexdigest()[:16]
        own = [] if config.trainer.enable_progress_bar is False else [SamplesPerSecond()]
        kwargs["callbacks"] = [*self.callbacks, *own, *([RunWriter()] if self.subcommand == "predict" else [])]
        kwargs["default_root_dir"] = str(self.folder.path)
        kwargs["logger"] = self._get(self.config_init, "trainer.logger") or False
        return super().instantiate_trainer(**kwargs)

    def _protocol(self, generator: Generator) -> dict[str, Any]:
        if self.subcommand == "predict":
            return protocol_of(generator, _prompts_of(self.datamodule), self.callbacks)
        if not isinstance(self.datamodule, ImageModule):
            data = type(self.datamodule).__name__
            raise ValueError(f"validate counts images: data must be an ImageModule, such as ImageData, got {data}")
        if not any(isinstance(callback, WriteUsage) for callback in self.callbacks):
            raise ValueError(
                "validate wants WriteUsage among trainer.callbacks, see configs/tiny/llamagen_codebook.yaml"
            )
        return usage_protocol(generator, self.datamodule)

    def _config_name(self) -> str:
        files = self.config[self.subcommand].get("config") or []
        path = Path(str(files[0])) if files else Path(type(self.model).__name__.lower())
        return path.stem if path.parent.name in ("", ".", "configs") else f"{path.parent.name}-{path.stem}"

    def predict(self, **kwargs: Any) -> None:
        """Run what is not finished, keep nothing in memory."""
        self._run(lambda: self.trainer.predict(return_predictions=False, **kwargs))

    def validate(self, **kwargs: Any) -> None:
        """Count the codebook usage of a validation image set."""
        self._run(lambda: self.trainer.validate(verbose=False, **kwargs))

    def _run(self, run: Callable[[], object]) -> None:
        """Check all that can be checked here: other ranks are not started yet, and a former run not deleted."""
        overwrite = self.config[self.subcommand].overwrite
        if not overwrite:
            self.folder.check(self.protocol)
            if self.folder.is_finished:
                _say(f"{self.folder.path} is finished, nothing to do. Run it again with --overwrite true.")
                return
        with ExitStack() as stack:
            if self.trainer.is_global_zero:
                if self.subcommand == "predict":
                    check_run(self.model, self.datamodule, self.callbacks)
                if overwrite:
                    self.folder.delete()
                self._open(stack)
            run()

    def _open(self, stack: ExitStack) -> None:
        """Write the resolved config, which is itself a config, and start the loggers."""
        resolved = yaml.safe_load(self.parser.dump(self.config, skip_none=False))[self.subcommand]
        text = f"# gendiv fit-free {self.subcommand} --config THIS_FILE\n{yaml.safe_dump(resolved, sort_keys=False)}"
        self.folder.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder.path / "config.yaml", lambda path: path.write_text(text))
        if self.subcommand == "predict" and resolved["trainer"]["logger"] is None:
            self.trainer.loggers = self._loggers(resolved, stack)

    def _loggers(self, resolved: dict[str, Any], stack: ExitStack) -> list[Logger]:
        csv = CSVLogger(self.folder.path, name="log", version="")
        csv.log_hyperparams(resolved)
        if resolved["wandb"] == "disabled":
            return [csv]
        from gendiv_lightning.tracking.wandb import close_run, how_to_send, open_run

        run = open_run(
            self.folder.path,
            self.protocol,
            resolved,
            run_id=self.wandb_id,
            project=resolved["wandb_project"],
            mode=resolved["wandb"],
        )
        if run.offline:
            stack.callback(_say, how_to_send(self.folder.path))
        stack.push(lambda error, *_: close_run(run, self.folder.path, exit_code=int(error is not None)))
        return [csv, WandbLogger(experiment=run)]


class CheckedConfig(FitFreeCLI):
    """Generator, data and callbacks of a config of `predict`, made and checked together; nothing is loaded or run."""

    def instantiate_classes(self) -> None:
        """Make them, check the probes and the design of samples."""
        self.config_init = self.parser.instantiate_classes(self.config)
        self.model, self.datamodule = self._get(self.config_init, "model"), self._get(self.config_init, "data")
        self.callbacks = list(self._get(self.config_init, "trainer.callbacks") or [])
        check_probes(self.model, self.callbacks)
        check_design(apply_designs(_prompts_of(self.datamodule).own_design, self.callbacks))

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def _prompts_of(data: object) -> PromptData:
    if not isinstance(data, PromptData):
        raise ValueError(f"predict samples prompts: data must be PromptData, got {type(data).__name__}")
    return data


def check_config(path: Path) -> CheckedConfig:
    """Raises ValueError, in a line, for what is wrong in a config of `predict`, weights and prompts aside."""
    _quieten()
    try:
        return CheckedConfig(["predict", "--config", str(path)])
    except USER_ERRORS as error:
        raise ValueError(explain(error)) from error


class Rebuilt:
    """What a config of `predict` makes, to make single samples again; weights are found, and loaded on the first one.

    Attributes:
        generator: of the config.
        data: the prompts.
        protocol: everything that can change a number.
        device: where samples are made.
    """

    def __init__(self, config: CheckedConfig) -> None:
        self.generator, self.data = config.model, _prompts_of(config.datamodule)
        self.generator.locate()
        settle(self.generator)
        self.protocol = protocol_of(self.generator, self.data, config.callbacks)
        probes: list[Any] = [callback for callback in config.callbacks if isinstance(callback, Probe)]
        self._trainer = Trainer(
            accelerator=config.config.predict.trainer.accelerator,
            devices=1,
            callbacks=[*probes, SamplesPerSecond()],
            **WITHOUT_FIT,
            logger=False,
        )
        self.device = self._trainer.strategy.root_device

    def sample(self, batches: Sequence[PromptBatch]) -> list[SampleBatch]:
        """The rows of batches, by the generator's own predict step."""
        loader: DataLoader[PromptBatch] = DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]
        return self._trainer.predict(self.generator, loader) or []  # type: ignore[return-value]


def rebuild(path: Path) -> Rebuilt:
    """Raises ValueError, in a line, for what is wrong in a config of `predict`, missing weights included."""
    config = check_config(path)
    try:
        return Rebuilt(config)
    except USER_ERRORS as error:
        raise ValueError(explain(error)) from error


def main(args: list[str] | None = None) -> None:
    """Run `gendiv fit-free` on `args`, or on the command line. What the user got wrong ends as a line, no traceback."""
    _quieten()
    try:
        FitFreeCLI(args)
    except USER_ERRORS as error:
        hint = " (all options: gendiv fit-free predict --help)" if isinstance(error, ArgumentError) else ""
        sys.exit(f"gendiv: {explain(error)}{hint}")


_WRAPPING = re.compile(
    r"""\s*(?:Parser\ key\ "(?P<key>[^"]+)" | Problem\ with\ given\ class_path\ '(?P<cls>[^']+)' | Does\ not\ validate
    | -\ Expected\ a\ path)""",
    re.VERBOSE,
)


def explain(error: BaseException) -> str:
    """What went wrong, and at which key, without the layers of unions and subclasses that jsonargparse wraps it in."""
    keys, name = [], ""
    while (wrapping := _WRAPPING.match(str(error))) and (inner := error.__cause__ or error.__context__):
        if wrapping["key"] and wrapping["key"] not in keys:
            keys.append(wrapping["key"])
        name = (wrapping["cls"] or name).rsplit(".", 1)[-1]
        error = inner
    where = ".".join(keys) + (f" ({name})" if name else "")
    return f"{where}: {error}" if where else str(error)


def _quieten() -> None:
    """Leave to the user what is about the run; what libraries tell about themselves goes."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_about_the_run)
    # A table of the weights that do not fit, which our own error names.
    logging.getLogger("transformers.modeling_utils").addFilter(lambda record: "LOAD REPORT" not in record.getMessage())
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message="Total length of `DataLoader` across ranks is zero")
    warnings.filterwarnings("ignore", message="Experiment logs directory .* exists and is not empty")
    warnings.filterwarnings("ignore", message="The ``compute`` method of metric")  # of a rank without prompts


def _is_about_the_run(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(("GPU available", "TPU available", "HPU available", "💡 Tip"))


def settle(generator: Generator) -> None:
    """Once all weights are found: no bars of loading, and one thread for the embedded models."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # it hides the Hub's download bars too
    if generator.identity().get("embedded"):
        _use_one_thread()


def _use_one_thread() -> None:
    """The embedded models gain nothing from more, and their last digits then tell neither the machine nor the ranks."""
    os.environ["OMP_NUM_THREADS"] = "1"  # for the other ranks; Lightning does not set threads where this is set
    torch.set_num_threads(1)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
