"""`PromptData`: the prompts of a run and the design of their samples, sharded over ranks by whole prompts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader

from gendiv_lightning.errors import ConfigValueError, OptionConflictError
from gendiv_lightning.prompts.design import apply_designs, check_design, choose_paraphrases, make_batch
from gendiv_lightning.prompts.files import check_prompt_file, check_suffix, read_prompts
from gendiv_lightning.prompts.prompt_set import PromptSet, collect_prompts, materialise_dataset
from gendiv_lightning.records import Prompt, PromptBatch, SampleDesign
from gendiv_lightning.runs.assemble import Run
from gendiv_lightning.runs.folder import RunFolder
from gendiv_lightning.storage.named_files import expand

from .sharding import check_positive, shard


class PromptData(LightningDataModule):
    """Prompts from a file or a streamed Hugging Face dataset, with `num_samples` samples per prompt.

    Each rank gets whole prompts, so that no statistic of a prompt crosses ranks. On first use, a dataset is copied to a
    manifest in the cache, which later runs read, so that runs are reproducible. Delete the manifest to read the dataset
    again.

    Args:
        path: prompt file, see `read_prompts`. Give either `path` or `dataset`.
        dataset: Hugging Face dataset, by Hub name or local folder.
        column: column with the prompts; None looks for the usual names.
        config: configuration of the dataset.
        split: split of the dataset; None is "train".
        revision: commit, branch or tag of the dataset.
        limit: number of prompts to use, from the start; None uses all.
        num_samples: images per prompt.
        seed: root seed of all noise.
        prompts_per_batch: prompts per batch; does not change any sample.
        max_words: prompts with more words are reported as over-long, but used unchanged.
        cache_dir: folder of the manifests; None means `$GENDIV_CACHE` or `~/.cache/gendiv`.

    Raises:
        ValueError: an argument is invalid, or the prompt file is missing.
    """

    def __init__(
        self,
        path: str | None = None,
        dataset: str | None = None,
        column: str | None = None,
        config: str | None = None,
        split: str | None = None,
        revision: str | None = None,
        limit: int | None = None,
        num_samples: int = 8,
        seed: int = 0,
        prompts_per_batch: int = 8,
        max_words: int | None = None,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__()
        if (path is None) == (dataset is None):
            raise OptionConflictError(
                f"exactly one of path and dataset is required, got {path} and {dataset}. Give path for a prompt file, "
                "or "
                "dataset for a Hugging Face name"
            )
        if not -(2**63) <= seed < 2**63:
            raise ConfigValueError(f"seed must be a 64-bit integer, got {seed}. Choose a smaller number")
        if cache_dir is not None and Path(cache_dir).is_file():
            raise ConfigValueError(f"cache_dir must be a folder, got the file {cache_dir}. Choose another name")
        check_positive(limit=limit, num_samples=num_samples, prompts_per_batch=prompts_per_batch, max_words=max_words)
        if path is not None:
            check_suffix(expand(path))
            check_prompt_file(expand(path))
            for name, value in {"config": config, "split": split, "revision": revision}.items():
                if value is not None:
                    raise OptionConflictError(f"{name} applies to a dataset, not to a path, got {value!r}. Remove it")
        self.path, self.dataset, self.column = path, dataset, column
        self.config, self.split, self.revision = config, split, revision
        self.limit, self.max_words, self.cache_dir = limit, max_words, cache_dir
        self.num_samples, self.seed, self.prompts_per_batch = num_samples, seed, prompts_per_batch
        self.allow_zero_length_dataloader_with_multiple_devices = True  # more ranks than prompts
        self._prompt_set: PromptSet | None = None

    def prompt_set(self) -> PromptSet:
        """The prompts, read on the first call.

        Raises:
            ValueError: the source cannot be read, or contains no prompts.
        """
        if self._prompt_set is None:
            self._prompt_set = self._materialise()
            rank_zero_info(f"Prompt set {self._prompt_set.name}: {self._prompt_set.report}")
        return self._prompt_set

    def identity(self) -> dict[str, Any]:
        """The settings that can change a number."""
        prompt_set = self.prompt_set()
        return {
            "prompt_set": prompt_set.name,
            "prompts_sha256": prompt_set.sha256,
            "num_prompts": len(prompt_set.prompts),
            "num_samples": self.num_samples,
            "seed": self.seed,
        }

    @property
    def own_design(self) -> SampleDesign:
        """The design before the callbacks of the trainer change it."""
        return SampleDesign(self.num_samples)

    def design(self) -> SampleDesign:
        """The design after the callbacks of the trainer have changed it."""
        callbacks = self.trainer.callbacks if self.trainer else []  # type: ignore[attr-defined]
        return apply_designs(self.own_design, callbacks)

    def prepare_data(self) -> None:
        """Stream the dataset in one process per machine; the others read its manifest."""
        self.prompt_set()

    def setup(self, stage: str) -> None:
        """Check prompts, design and ranks before the model is loaded."""
        design = self.design()
        check_design(design)
        for prompt in shard(self.prompt_set().prompts, self.trainer):
            choose_paraphrases(prompt, design)

    def predict_dataloader(self) -> DataLoader[PromptBatch]:
        """Batches of the prompts of this rank."""
        prompts = list(enumerate(self.prompt_set().prompts))
        return _load(shard(prompts, self.trainer), self.design(), self.seed, self.prompts_per_batch)

    def _materialise(self) -> PromptSet:
        if self.path is not None:
            path = expand(self.path)
            prompts = read_prompts(path, column=self.column)
            return collect_prompts(
                prompts, name=path.stem, source=self.path, limit=self.limit, max_words=self.max_words
            )
        assert self.dataset is not None, "the constructor requires a path or a dataset"
        return materialise_dataset(
            self.dataset,
            config=self.config,
            split=self.split or "train",
            column=self.column,
            revision=self.revision,
            limit=self.limit,
            max_words=self.max_words,
            cache_dir=self.cache_dir,
        )


class UnfinishedPrompts(LightningDataModule):
    """The prompts of a run whose samples are not stored yet, sharded over ranks.

    Args:
        run: the run.
        folder: its folder. No rank stores samples before `setup` has finished on all ranks.
    """

    def __init__(self, run: Run, folder: RunFolder) -> None:
        super().__init__()
        self.run, self.folder = run, folder
        self.allow_zero_length_dataloader_with_multiple_devices = True  # more ranks than unfinished prompts

    def setup(self, stage: str) -> None:
        """Find the unfinished prompts."""
        finished = self.folder.finished_prompts()
        prompts = enumerate(self.run.prompt_set.prompts)
        self.own = shard([(index, prompt) for index, prompt in prompts if prompt.id not in finished], self.trainer)

    def predict_dataloader(self) -> DataLoader[PromptBatch]:
        """Batches of the unfinished prompts of this rank."""
        data = self.run.parts.data
        return _load(self.own, self.run.design, data.seed, data.prompts_per_batch)


def _load(prompts: Sequence[tuple[int, Prompt]], design: SampleDesign, seed: int, size: int) -> DataLoader[PromptBatch]:
    """Batches of `size` prompts; prompts are given with their indices."""
    parts = [prompts[start : start + size] for start in range(0, len(prompts), size)]
    # The keys of all samples of a large set take seconds to compute, so each batch is made on demand.
    return DataLoader(parts, batch_size=None, collate_fn=partial(_make_batch, seed, design))  # type: ignore[arg-type]


def _make_batch(seed: int, design: SampleDesign, prompts: Sequence[tuple[int, Prompt]]) -> PromptBatch:
    return make_batch(seed, [prompt for _, prompt in prompts], design, [index for index, _ in prompts])
