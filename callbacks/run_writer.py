"""`RunWriter`: writes the run folder, from the start or resumption of a run to its results."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from tqdm import tqdm

from gendiv_lightning.console.decomposition import format_decomposition
from gendiv_lightning.console.grid import draw_grid
from gendiv_lightning.console.tables import format_estimates, format_truncation, scalars_of
from gendiv_lightning.errors import UnfinishedRunError
from gendiv_lightning.prompts.prompt_set import write_manifest
from gendiv_lightning.records import SampleBatch
from gendiv_lightning.records.estimate import Estimate
from gendiv_lightning.runs.assemble import Run
from gendiv_lightning.runs.environment import environment
from gendiv_lightning.runs.folder import RunFolder
from gendiv_lightning.runs.lock import token_of
from gendiv_lightning.storage.codebook_counts import write_usage

from .measure import Measure

GRID_PROMPTS = 8
GRID_SAMPLES = 8


class RunWriter(Callback):
    """Stores a run in its folder. Prompts with stored samples are measured from these.

    Args:
        run: the run.
        folder: its folder, empty or with a part of the same run.
        measure: the metrics, which must also be among the callbacks of the trainer.
    """

    def __init__(self, run: Run, folder: RunFolder, measure: Measure) -> None:
        self.run, self.folder, self.measure = run, folder, measure

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Create the folder, or measure the samples in it."""
        if trainer.is_global_zero:
            self.folder.start(self.run.protocol, environment())
            self.folder.write("prompts.jsonl", lambda path: write_manifest(self.run.prompt_set, path))
            self.folder.write_prompt_card(self.run.prompt_metadata)
            self.folder.write_description(self.run.description)
            self.folder.finished_prompts(self.run.sample_names(), self.run.parts.data.seed)
        trainer.strategy.barrier("the run folder exists")
        self._token, self._parent = token_of(self.folder.path), os.getppid()
        self._resume(trainer)
        trainer.strategy.barrier("all ranks have listed the stored samples")  # before one of them stores more

    def _resume(self, trainer: Trainer) -> None:
        shards = self.folder.shards()
        if shards:
            num_finished = len(self.folder.finished_prompts())
            rank_zero_info(f"Resuming {self.folder.path}: {num_finished} prompts are finished")
        own = shards[trainer.global_rank :: trainer.world_size]
        bar = tqdm(own, desc="Measuring stored samples", unit="shard", delay=2, disable=not trainer.is_global_zero)
        for batch in self.folder.read_samples(bar):
            self.measure.add(batch)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Store a batch of whole prompts.

        Raises:
            UnfinishedRunError: the process that started this rank died, or another process has taken over the run.
        """
        if token_of(self.folder.path) != self._token or (trainer.global_rank and os.getppid() != self._parent):
            raise UnfinishedRunError(
                f"{self.folder.path}: rank {trainer.global_rank} stops, because the main process of this run died. Run "
                "the same command again to resume"
            )
        self.folder.write_samples(outputs, self.run.parts.generator.codebook_size)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write results, picture and logs after all ranks have finished.

        This is not in `on_predict_end`, because a rank without work never enters the loop.
        """
        trainer.strategy.barrier("all samples are stored")
        prompts = self.run.prompt_set.prompts
        num_missing = len(prompts) - len(self.folder.finished_prompts())
        if num_missing:
            rank_zero_warn(f"{num_missing} prompts are not sampled yet. Run the same command again to finish")
            return
        estimates, columns, counts = self.measure.compute()
        if trainer.is_global_zero:
            names = {"prompt_id": [prompt.id for prompt in prompts], "prompt": [prompt.text for prompt in prompts]}
            table = pa.table({**names, **{name: column.numpy() for name, column in columns.items()}})
            if counts is not None:
                provenance = {"what": "samples of this run", "generator": self.run.parts.generator.identity()}
                self.folder.write("usage.safetensors", lambda path: write_usage(path, counts, provenance))
            self._close(trainer, estimates, table)

    def _close(self, trainer: Trainer, estimates: dict[str, Estimate], per_prompt: pa.Table) -> None:
        first = list(self.folder.read_samples(self.folder.shards()[:GRID_PROMPTS]))
        self.folder.write_per_prompt(per_prompt)
        try:
            grid = draw_grid(first, GRID_PROMPTS, GRID_SAMPLES)
            self.folder.write("grid.png", lambda path: grid.save(path, "PNG"))
            log_run(trainer, estimates, per_prompt, first, self.folder.path / "grid.png")
        except (OSError, ValueError, RuntimeError) as error:  # a failure of these must not lose the results
            rank_zero_warn(f"the grid of samples or a log could not be written: {error}")
        self.folder.write_metrics(estimates)
        decomposition = format_decomposition(estimates)
        truncation = format_truncation(self.folder.read_prompt_card()["text_encoder"])
        cut = f"Text encoder: {truncation}\n" if truncation else ""
        parts = [
            format_estimates(estimates),
            *([decomposition] if decomposition else []),
            f"{cut}Run folder: {self.folder.path}",
        ]
        rank_zero_info("\n" + "\n\n".join(parts))


def log_run(
    trainer: Trainer, estimates: dict[str, Estimate], per_prompt: pa.Table, first: list[SampleBatch], grid: Path
) -> None:
    """Send the results to the loggers: scalars to all, and tables and the grid to W&B."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            from gendiv_lightning.tracking.wandb import send_results

            send_results(logger.experiment, estimates, per_prompt, first, grid)
        else:
            logger.log_metrics(scalars_of(estimates), step=0)
            logger.save()
