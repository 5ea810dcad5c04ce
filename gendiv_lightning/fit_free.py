"""`gendiv fit-free predict | validate`: Lightning's command line without fit. It names run folder and loggers."""

from __future__ import annotations

import hashlib
import logging
import sys
import warnings
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from gendiv_lightning.callbacks import RunWriter, SamplesPerSecond
from gendiv_lightning.callbacks.run_writer import protocol_of
from gendiv_lightning.generators.base import Generator
from gendiv_lightning.run_folder import RunFolder, fingerprint_of, write_atomically

EXAMPLES = """
examples:
  gendiv fit-free predict --config configs/tiny/llamagen.yaml
  gendiv fit-free predict --config configs/tiny/llamagen_argmax.yaml --data.num_samples 16 --run_dir runs/mine
  gendiv fit-free validate --config configs/tiny/llamagen_codebook.yaml
  torchrun is not needed: --trainer.devices 4 --trainer.strategy ddp
"""


class FitFreeCLI(LightningCLI):
    """Predict and validate of a `Generator`; every value of the config can be overridden on the command line."""

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
            help="Log to Weights & Biases; offline runs lie in the run folder and can be sent with `wandb sync`.",
        )
        parser.add_argument("--wandb_project", type=str, default="gendiv", help="Project on Weights & Biases.")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse what follows `gendiv fit-free`; `sys.argv` stays whole, since DDP starts the other ranks from it."""
        self.config = parser.parse_args(sys.argv[2:] if args is None else args)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Name the run, now that generator, data and callbacks are there; give it its folder, loggers and writer."""
        config = self.config[self.subcommand]
        assert isinstance(self.model, Generator), "the parser takes generators only"
        self.model.locate()
        callbacks = list(self._get(self.config_init, "trainer.callbacks") or [])
        fingerprint = (
            fingerprint_of(protocol_of(self.model, self.datamodule, callbacks))
            if self.subcommand == "predict"
            else fingerprint_of({"generator": self.model.identity(), "data": self.datamodule.identity()})
        )
        self.folder = RunFolder(config.run_dir or Path("runs") / f"{self._config_name()}-{fingerprint[:8]}")
        kwargs["default_root_dir"] = str(self.folder.path)
        if self.subcommand == "predict":
            kwargs["callbacks"] = [*callbacks, SamplesPerSecond(), RunWriter()]
        if not self._get(self.config_init, "trainer.logger"):
            kwargs["logger"] = self._loggers(config, fingerprint)
        return super().instantiate_trainer(**kwargs)

    def _config_name(self) -> str:
        files = self.config[self.subcommand].get("config") or []
        path = Path(str(files[0])) if files else Path(type(self.model).__name__.lower())
        return path.stem if path.parent.name in ("", ".", "configs") else f"{path.parent.name}-{path.stem}"

    def _loggers(self, config: Any, fingerprint: str) -> Any:
        if self.subcommand == "validate":
            return False
        csv = CSVLogger(self.folder.path, name="log", version="")
        if config.wandb == "disabled":
            return [csv]
        # The id makes a resumed run the same W&B run; a run folder of another name is another run.
        name = hashlib.sha256(f"{fingerprint} {self.folder.path.name}".encode()).hexdigest()[:16]
        wandb = WandbLogger(
            name=self.folder.path.name,
            save_dir=self.folder.path,
            id=name,
            project=config.wandb_project,
            offline=config.wandb == "offline",
            resume="allow",
        )
        return [csv, wandb]

    def predict(self, **kwargs: Any) -> None:
        """Run what is not finished, keep nothing in memory."""
        if self.folder.is_finished and not self.config.predict.overwrite:
            sys.stderr.write(f"{self.folder.path} is finished, nothing to do. Run it again with --overwrite true.\n")
            return
        self._prepare("predict")
        self.trainer.predict(return_predictions=False, **kwargs)

    def validate(self, **kwargs: Any) -> None:
        """Count the codebook usage of a validation image set."""
        self._prepare("validate")
        self.trainer.validate(verbose=False, **kwargs)

    def _prepare(self, subcommand: str) -> None:
        if not self.trainer.is_global_zero:
            return
        if self.config[subcommand].overwrite:
            self.folder.delete()
        self.folder.path.mkdir(parents=True, exist_ok=True)
        text = self.parser.dump(self.config)
        write_atomically(self.folder.path / "config.yaml", lambda path: path.write_text(text))
        for logger in self.trainer.loggers:
            logger.log_hyperparams(self.config[subcommand].as_dict())


def main(args: list[str] | None = None) -> None:
    """Run `gendiv fit-free` on `args` or the command line. A user's mistake ends as one line, not as a traceback."""
    _quieten()
    try:
        FitFreeCLI(
            Generator,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=False,
            auto_configure_optimizers=False,
            trainer_defaults={
                "use_distributed_sampler": False,  # prompts are dealt to ranks by the data module, whole and once
                "enable_checkpointing": False,
                "enable_model_summary": False,
            },
            parser_kwargs={"description": "Generate under probes, measure, log." + EXAMPLES},
            args=args,
        )
    except (ValueError, OSError) as error:
        sys.exit(f"gendiv: {error}")


def _quieten() -> None:
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
