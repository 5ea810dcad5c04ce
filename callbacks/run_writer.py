"""`RunWriter`: keeps the run folder. It starts or resumes a run, stores samples as they come, closes with results."""

from __future__ import annotations

from importlib.metadata import version
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
from gendiv_lightning.datamodules.prompts import PromptData
from gendiv_lightning.generators.base import Generator, TokenGenerator
from gendiv_lightning.prompts.design import Design, apply_designs, check_design, choose_paraphrases
from gendiv_lightning.prompts.prompt_set import write_manifest
from gendiv_lightning.records import NoiseKey, SampleBatch
from gendiv_lightning.records.estimate import Estimate
from gendiv_lightning.runs.folder import RunFolder, environment
from gendiv_lightning.sampling import Probe
from gendiv_lightning.storage.atomic import write_atomically
from gendiv_lightning.storage.codebook_counts import write_usage

from .measure import Measure

# What cleans and splits captions, samples tokens and measures images.
VERSIONS = ("gendiv_lightning", "torch", "transformers", "tokenizers", "ftfy", "beautifulsoup4", "torchvision", "lpips")
GRID_PROMPTS = 8
GRID_SAMPLES = 8


def protocol_of(generator: Generator, data: PromptData, callbacks: list[Callback]) -> dict[str, Any]:
    """Everything that can change a number of a run, as plain values; its hash is the run's fingerprint."""
    probes = [item.identity(generator.codebook_size) for item in callbacks if isinstance(item, Probe | Design)]
    return {
        "generator": generator.identity(),
        "probes": sorted(probes, key=str),
        "data": data.identity(),
        "metrics": sorted(_measure_of(callbacks).identity(), key=str),
        "versions": {name: version(name) for name in VERSIONS},
    }


def check_probes(generator: Generator, callbacks: list[Callback]) -> list[Probe]:
    """The probes among callbacks; ValueError if one cannot work on the generator's codebook, or two contradict."""
    probes: list[Probe] = [callback for callback in callbacks if isinstance(callback, Probe)]
    if isinstance(generator, TokenGenerator) and not generator.codebook_size:
        generator.locate()  # its checkpoint's configuration says how large the codebook is
    for probe in probes:
        probe.check(generator.codebook_size)
    generator.sampler(0, [NoiseKey("", 0, 0, 0)], probes)
    return probes


def check_run(generator: Generator, data: PromptData, callbacks: list[Callback]) -> list[str]:
    """All that can be found wrong without weights; warnings about wordings are returned.

    Raises:
        ValueError: probes contradict each other, a prompt lacks wordings, or a wording cannot be a condition.
        OSError: a metric's backbone cannot be had.
    """
    probes = check_probes(generator, callbacks)
    for probe in probes:
        probe.check_generator(generator.identity())
    design = apply_designs(data.own_design, callbacks)
    check_design(design)
    prompts = data.prompt_set().prompts
    wordings = sorted({prompt.wording(n) for prompt in prompts for n in choose_paraphrases(prompt, design)})
    measure = _measure_of(callbacks)
    measure.check_generator(generator)
    measure.load()
    for metric in measure.metrics:
        metric.check_prompts([prompt.text for prompt in prompts])
    return generator.check_prompts(wordings)


def prompt_card(generator: Generator, data: PromptData, callbacks: list[Callback]) -> dict[str, Any]:
    """What became of the prompts on their way into a run: read and dropped, and cut by the generator's text encoder."""
    prompt_set = data.prompt_set()
    design = apply_designs(data.own_design, callbacks)
    paraphrases = [p.wording(n) for p in prompt_set.prompts for n in choose_paraphrases(p, design) if n]
    kinds = {"prompts": [prompt.text for prompt in prompt_set.prompts], "paraphrases": paraphrases}
    text_encoder: dict[str, Any] = {}
    for kind, texts in kinds.items():
        if (found := generator.text_lengths(texts)) is not None:
            text_encoder |= {"limit": found.limit, kind: found.facts()}
    return {
        "prompt_set": prompt_set.name,
        "prompts_sha256": prompt_set.sha256,
        "report": prompt_set.report._asdict(),
        "text_encoder": text_encoder,
    }


def _measure_of(callbacks: list[Callback]) -> Measure:
    measures = [callback for callback in callbacks if isinstance(callback, Measure)]
    if len(measures) != 1:
        raise ValueError(f"a run has one Measure among trainer.callbacks, with all metrics in it; got {len(measures)}")
    return measures[0]


class RunWriter(Callback):
    """Keeps the run folder, which is the trainer's `default_root_dir`.

    Before any weights are loaded it checks the probes together and the prompts, and starts the folder or finds what a
    killed run has finished; those prompts are measured from their stored samples and not sampled again.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check, start or resume."""
        data, callbacks = trainer.datamodule, trainer.callbacks  # type: ignore[attr-defined]
        assert isinstance(pl_module, Generator), "a run is of a generator"
        assert isinstance(data, PromptData), "a run is over a prompt set"
        pl_module.locate()
        self.folder, self.measure = RunFolder(trainer.default_root_dir), _measure_of(callbacks)
        for warning in check_run(pl_module, data, callbacks):
            rank_zero_warn(warning)
        if trainer.is_global_zero:
            self.folder.start(protocol_of(pl_module, data, callbacks), environment())
            write_manifest(data.prompt_set(), self.folder.path / "prompts.jsonl")
            self.folder.write_prompt_card(prompt_card(pl_module, data, callbacks))
        trainer.strategy.barrier("the run folder is there")
        self._resume(trainer, data)
        trainer.strategy.barrier("all ranks know what is finished")

    def _resume(self, trainer: Trainer, data: PromptData) -> None:
        data.finished = self.folder.finished_prompts()
        shards = self.folder.shards()
        if shards:
            rank_zero_info(f"Going on with {self.folder.path}: {len(data.finished)} prompts are finished")
        mine = shards[trainer.global_rank :: trainer.world_size]
        bar = tqdm(mine, desc="Measuring stored samples", unit="shard", delay=2, disable=not trainer.is_global_zero)
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
        """Store a batch of whole prompts."""
        self.folder.write_samples(outputs, pl_module.codebook_size)  # type: ignore[arg-type]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the run, once all ranks are done: results, picture, loggers.

        Here and not at the end of the predict loop, since a rank without work never enters the loop.
        """
        trainer.strategy.barrier("all samples are stored")
        prompts = trainer.datamodule.prompt_set().prompts  # type: ignore[attr-defined]
        num_missing = len(prompts) - len(self.folder.finished_prompts())
        if num_missing:
            rank_zero_warn(f"{num_missing} prompts are not sampled yet: start the run again to finish it")
            return
        estimates, columns, counts = self.measure.compute()
        if trainer.is_global_zero:
            assert isinstance(pl_module, Generator), "a run is of a generator"
            names = {"prompt_id": [prompt.id for prompt in prompts], "prompt": [prompt.text for prompt in prompts]}
            table = pa.table({**names, **{name: column.numpy() for name, column in columns.items()}})
            if counts is not None:
                provenance = {"what": "samples of this run", "generator": pl_module.identity()}
                write_usage(self.folder.path / "usage.safetensors", counts, provenance)
            self._close(trainer, estimates, table)

    def _close(self, trainer: Trainer, estimates: dict[str, Estimate], per_prompt: pa.Table) -> None:
        first = list(self.folder.read_samples(self.folder.shards()[:GRID_PROMPTS]))
        grid = draw_grid(first, GRID_PROMPTS, GRID_SAMPLES)
        write_atomically(self.folder.path / "grid.png", lambda path: grid.save(path, "PNG"))
        log_run(trainer, estimates, per_prompt, first, self.folder.path / "grid.png")
        self.folder.write_per_prompt(per_prompt)
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
    """Send the results to the loggers: scalars to all, tables and the grid to W&B."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            from gendiv_lightning.tracking.wandb import send_results

            send_results(logger.experiment, estimates, per_prompt, first, grid)
        else:
            logger.log_metrics(scalars_of(estimates), step=0)
            logger.save()
