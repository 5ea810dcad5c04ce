"""`RunWriter`: keeps the run folder. It starts or resumes a run, stores samples as they come, closes with results."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from gendiv_lightning.batch import NoiseKey, SampleBatch
from gendiv_lightning.datamodules.prompts import PromptData, choose_wordings, write_manifest
from gendiv_lightning.functional.estimate import Estimate
from gendiv_lightning.generators.base import Generator
from gendiv_lightning.report.grid import draw_grid
from gendiv_lightning.report.tables import format_estimates
from gendiv_lightning.run_folder import RunFolder, write_atomically
from gendiv_lightning.sampling import Probe
from gendiv_lightning.usage import write_usage

from .measure import Measure

GRID_PROMPTS = 8
GRID_SAMPLES = 8


def protocol_of(generator: Generator, data: PromptData, callbacks: list[Callback]) -> dict[str, Any]:
    """Everything that can change a number of a run, as plain values; its hash is the run's fingerprint."""
    probes = [callback.identity(generator.codebook_size) for callback in callbacks if isinstance(callback, Probe)]
    return {
        "generator": generator.identity(),
        "probes": sorted(probes, key=str),
        "data": data.identity(),
        "metrics": sorted(
            name for callback in callbacks if isinstance(callback, Measure) for name in callback.identity()
        ),
        "versions": {name: version(name) for name in ("gendiv_lightning", "torch", "transformers")},
    }


def environment() -> dict[str, Any]:
    """Machine and versions: where the numbers were made, for the reader; nothing is compared by it."""
    packages = ("torch", "torchvision", "lightning", "torchmetrics", "transformers", "datasets", "lpips", "numpy")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["CPU"],
        "versions": {name: version(name) for name in packages},
    }


class RunWriter(Callback):
    """Keeps the run folder, which is the trainer's `default_root_dir`.

    Before any weights are loaded it checks the probes together and the prompts, and starts the folder or finds what a
    killed run has finished; those prompts are measured from their stored samples and not sampled again.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check, start or resume."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(pl_module, Generator), "a run is of a generator"
        assert isinstance(data, PromptData), "a run is over a prompt set"
        self.folder = RunFolder(trainer.default_root_dir)
        probes = [callback for callback in trainer.callbacks if isinstance(callback, Probe)]  # type: ignore[attr-defined]
        pl_module.sampler(0, [NoiseKey("", 0, 0, 0)], probes)
        prompts = data.prompt_set().prompts
        plan = data.plan()
        wordings = sorted({prompt.wording(n) for prompt in prompts for n in choose_wordings(prompt, plan)})
        for warning in pl_module.check_prompts(wordings):
            rank_zero_warn(warning)
        if trainer.is_global_zero:
            self.folder.start(protocol_of(pl_module, data, trainer.callbacks), environment())  # type: ignore[attr-defined]
            write_manifest(data.prompt_set(), self.folder.path / "prompts.jsonl")
        trainer.strategy.barrier("the run folder is there")
        self._resume(trainer, data)
        trainer.strategy.barrier("all ranks know what is finished")

    def _resume(self, trainer: Trainer, data: PromptData) -> None:
        data.finished = self.folder.finished_prompts()
        shards = self.folder.shards()
        if shards:
            rank_zero_info(f"Resuming: {len(data.finished)} prompts are finished in {self.folder.path}")
        for batch in self.folder.read_samples(shards[trainer.global_rank :: trainer.world_size]):
            for measure in self._measures(trainer):
                measure.add(batch)

    @staticmethod
    def _measures(trainer: Trainer) -> list[Measure]:
        return [callback for callback in trainer.callbacks if isinstance(callback, Measure)]  # type: ignore[attr-defined]

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Store a batch of whole prompts."""
        self.folder.write_samples(outputs, pl_module.codebook_size)  # type: ignore[arg-type]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the run, once all ranks are done: results, picture, loggers.

        Here and not at the end of the predict loop, since a rank without work never enters the loop.
        """
        trainer.strategy.barrier("all samples are stored")
        estimates: dict[str, Estimate] = {}
        for measure in self._measures(trainer):
            new, per_prompt = measure.compute()
            estimates |= new
            if trainer.is_global_zero:
                self._close(trainer, pl_module, measure, estimates, per_prompt)

    def _close(
        self,
        trainer: Trainer,
        generator: LightningModule,
        measure: Measure,
        estimates: dict[str, Estimate],
        per_prompt: Any,
    ) -> None:
        assert measure.usage is not None, "`setup` made it"
        assert isinstance(generator, Generator), "samples are written of generators"
        provenance = {"what": "samples of this run", "generator": generator.identity()}
        write_usage(self.folder.path / "usage.safetensors", measure.usage.counts, provenance)
        first = [batch for _, batch in zip(range(GRID_PROMPTS), self.folder.read_samples(), strict=False)]
        grid = draw_grid(first, GRID_PROMPTS, GRID_SAMPLES)
        write_atomically(self.folder.path / "grid.png", lambda path: grid.save(path, "PNG"))
        log_run(trainer, estimates, first, self.folder.path / "grid.png")
        self.folder.write_per_prompt(per_prompt)
        self.folder.write_metrics(estimates)
        rank_zero_info(f"\n{format_estimates(estimates)}\n\nRun folder: {self.folder.path}")


def log_run(trainer: Trainer, estimates: dict[str, Estimate], first: list[SampleBatch], grid: Path) -> None:
    """Send the results to the loggers: scalars to all, a table of samples and the grid to W&B."""
    scalars = {name: estimate.value for name, estimate in estimates.items()}
    scalars |= {f"{name}/low": e.low for name, e in estimates.items()} | {
        f"{name}/high": e.high for name, e in estimates.items()
    }
    for logger in trainer.loggers:
        logger.log_metrics(scalars, step=0)
        if isinstance(logger, WandbLogger):
            import wandb

            table = wandb.Table(columns=["prompt", "wording", "paraphrase", "path", "sample", "image"])
            for batch in first:
                for row, key, text, image in zip(
                    batch.batch.rows, batch.batch.keys, batch.batch.texts, batch.images, strict=True
                ):
                    picture = wandb.Image(image.permute(1, 2, 0).numpy())
                    table.add_data(batch.batch.prompts[row].text, text, key.paraphrase, key.path, key.sample, picture)
            logger.experiment.log({"samples": table, "grid": wandb.Image(str(grid))})
        if isinstance(logger, CSVLogger):
            logger.save()
