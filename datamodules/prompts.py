"""`PromptData`: the samples that each prompt of a set gets, dealt to ranks by whole prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader

from gendiv_lightning.prompts.files import LENGTHS, check_suffix, read_prompts
from gendiv_lightning.prompts.prompt_set import (
    PromptSet,
    collect_prompts,
    materialise_dataset,
    read_manifest,
    write_manifest,
)
from gendiv_lightning.records import NoiseKey, Prompt, PromptBatch, SamplePlan
from gendiv_lightning.sampling.sampler import Probe, plan_samples
from gendiv_lightning.storage.named_files import expand

from .sharding import check_positive, deal

__all__ = ["PromptData", "PromptSet", "check_plan", "choose_wordings", "plan_rows", "read_manifest", "write_manifest"]


def choose_wordings(prompt: Prompt, plan: SamplePlan) -> list[int]:
    """Numbers of the wordings that a plan samples: 0 without paraphrases, else the first ones of the asked length.

    Raises:
        ValueError: if the prompt has too few paraphrases of that length.
    """
    if plan.num_paraphrases == 0:
        return [0]
    wanted = share_lengths(plan.num_paraphrases, plan.length)
    return [number for length, count in wanted.items() for number in _first_wordings(prompt, length, count)]


def share_lengths(num_paraphrases: int, length: str) -> dict[str, int]:
    """Paraphrases of each length class: of "mixed" as evenly as three can share, the shorter first."""
    if length != "mixed":
        return {length: num_paraphrases}
    return {name: (num_paraphrases + len(LENGTHS) - 1 - place) // len(LENGTHS) for place, name in enumerate(LENGTHS)}


def _first_wordings(prompt: Prompt, length: str, count: int) -> list[int]:
    there = [n for n, paraphrase in enumerate(prompt.paraphrases, start=1) if length in ("any", paraphrase.length)]
    if len(there) < count:
        raise ValueError(
            f"prompt {prompt.id} ({prompt.text[:60]!r}) has {len(there)} paraphrases of length {length!r}, the plan "
            f"wants {count}: ask for fewer, for another length, or add paraphrases to the prompt set"
        )
    return there[:count]


def check_plan(plan: SamplePlan) -> None:
    """Raises ValueError for a plan that no prompt can follow."""
    check_positive(num_samples=plan.num_samples)
    if plan.length not in (*LENGTHS, "mixed", "any"):
        raise ValueError(f"length must be one of {', '.join(LENGTHS)}, mixed, any, got {plan.length!r}")
    if plan.num_paraphrases < 0:
        raise ValueError(f"num_paraphrases must be 0 (the base prompt alone) or more, got {plan.num_paraphrases}")
    if plan.num_paraphrases and (
        plan.num_samples % plan.num_paraphrases or plan.num_samples < 2 * plan.num_paraphrases
    ):
        raise ValueError(
            f"num_samples must be a multiple of num_paraphrases and give at least 2 samples a wording, got "
            f"{plan.num_samples} samples for {plan.num_paraphrases} wordings; {2 * plan.num_paraphrases} would do"
        )
    if plan.num_paths and plan.num_samples % (plan.num_paths * max(1, plan.num_paraphrases)):
        raise ValueError(
            f"num_samples must be a multiple of paths x wordings, got {plan.num_samples} samples for "
            f"{plan.num_paths} x {max(1, plan.num_paraphrases)}"
        )


def plan_rows(prompt: Prompt, plan: SamplePlan) -> list[NoiseKey]:
    """Names of a prompt's samples: sample s = 0..N-1 takes the s-th chosen wording, round and round.

    It has path s; or, where paths are shared, the next path of its wording, round and round too. Its execution noise
    is its own in any case: if paths shared it, samples of different paths would be alike by more than chance.

    Raises:
        ValueError: for a plan that cannot be, or that this prompt has too few paraphrases for.
    """
    check_plan(plan)
    wordings = choose_wordings(prompt, plan)
    numbers = range(plan.num_samples)
    num_wordings, num_paths = len(wordings), plan.num_paths
    return [
        NoiseKey(prompt.id, wordings[s % num_wordings], s // num_wordings % num_paths if num_paths else s, sample=s)
        for s in numbers
    ]


class PromptData(LightningDataModule):
    """Prompts of a file or of a streamed Hugging Face dataset, and `num_samples` samples of each.

    A rank gets whole prompts, so that nothing about a prompt crosses ranks. A dataset is materialised on first use into
    a manifest in the cache and read from there ever after, so that a run is reproducible: delete it to read anew.

    Attributes:
        finished: ids of prompts that a former run completed; set before the loader is asked for, they are left out.

    Args:
        path: a prompt file, see `read_prompts`; or else
        dataset: a Hugging Face dataset, by Hub name or local folder.
        column: where the prompt stands; None looks for the usual names.
        config: configuration of the dataset.
        split: split of the dataset.
        revision: commit, branch or tag of the dataset.
        limit: number of prompts to keep, from the start; None keeps all.
        num_samples: images a prompt.
        seed: root seed of all noise.
        prompts_per_batch: whole prompts a batch; it changes no sample.
        max_words: prompts of more words are reported as over-long, and kept whole.
        record_marginals: keep sums of the distributions that tokens are drawn from, for the entropies of token
            marginals (`MarginalSums`); it changes no sample.
        cache_dir: where manifests are kept; None means `$GENDIV_CACHE` or `~/.cache/gendiv`.

    Raises:
        ValueError: for arguments that cannot be, a missing file included.
    """

    def __init__(
        self,
        path: str | None = None,
        dataset: str | None = None,
        column: str | None = None,
        config: str | None = None,
        split: str = "train",
        revision: str | None = None,
        limit: int | None = None,
        num_samples: int = 8,
        seed: int = 0,
        prompts_per_batch: int = 8,
        max_words: int | None = None,
        record_marginals: bool = True,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__()
        if (path is None) == (dataset is None):
            raise ValueError(
                f"give either path (a prompt file) or dataset (a Hugging Face name), got {path} and {dataset}"
            )
        check_positive(limit=limit, num_samples=num_samples, prompts_per_batch=prompts_per_batch, max_words=max_words)
        if path is not None:
            check_suffix(expand(path))
            if not expand(path).is_file():
                raise ValueError(
                    f"prompt file {path} is missing; paths are taken from the working directory, {Path.cwd()}"
                )
            if config is not None or revision is not None:
                raise ValueError("config and revision belong to a dataset, not to a path; leave them out")
        self.path, self.dataset, self.column = path, dataset, column
        self.config, self.split, self.revision = config, split, revision
        self.limit, self.max_words, self.cache_dir = limit, max_words, cache_dir
        self.num_samples, self.seed, self.prompts_per_batch = num_samples, seed, prompts_per_batch
        self.record_marginals = record_marginals
        self.finished: frozenset[str] = frozenset()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # more ranks than unfinished prompts
        self._prompt_set: PromptSet | None = None

    def prompt_set(self) -> PromptSet:
        """The prompts, read on the first call.

        Raises:
            ValueError: if no prompt is left.
        """
        if self._prompt_set is None:
            self._prompt_set = self._materialise()
            rank_zero_info(f"Prompt set {self._prompt_set.name}: {self._prompt_set.report}")
        return self._prompt_set

    def identity(self) -> dict[str, Any]:
        """Everything here that can change a number."""
        prompt_set = self.prompt_set()
        return {
            "prompt_set": prompt_set.name,
            "prompts_sha256": prompt_set.sha256,
            "num_prompts": len(prompt_set.prompts),
            "num_samples": self.num_samples,
            "seed": self.seed,
        }

    @property
    def own_plan(self) -> SamplePlan:
        """The sample plan without probes."""
        return SamplePlan(self.num_samples, records_marginals=self.record_marginals)

    def plan(self) -> SamplePlan:
        """The sample plan that the trainer's probes make of it."""
        callbacks = self.trainer.callbacks if self.trainer else []  # type: ignore[attr-defined]
        probes = [callback for callback in callbacks if isinstance(callback, Probe)]
        return plan_samples(self.own_plan, probes)

    def prepare_data(self) -> None:
        """One process a machine streams the dataset, the others find its manifest."""
        self.prompt_set()

    def setup(self, stage: str) -> None:
        """Fail over prompts, plan and ranks here, before a model loads."""
        plan = self.plan()
        for prompt in deal(self.prompt_set().prompts, self.trainer):
            plan_rows(prompt, plan)

    def predict_dataloader(self) -> DataLoader[PromptBatch]:
        """This rank's unfinished prompts, `prompts_per_batch` at a time."""
        plan = self.plan()
        places = [place for place, prompt in enumerate(self.prompt_set().prompts) if prompt.id not in self.finished]
        mine = deal(places, self.trainer)
        batches = [
            self._batch(mine[start : start + self.prompts_per_batch], plan)
            for start in range(0, len(mine), self.prompts_per_batch)
        ]
        return DataLoader(batches, batch_size=None, collate_fn=_as_it_is)  # type: ignore[arg-type]

    def _batch(self, places: Sequence[int], plan: SamplePlan) -> PromptBatch:
        prompts = tuple(self.prompt_set().prompts[place] for place in places)
        named = [(row, key) for row, prompt in enumerate(prompts) for key in plan_rows(prompt, plan)]
        return PromptBatch(
            self.seed,
            prompts,
            tuple(places),
            tuple(key for _, key in named),
            tuple(row for row, _ in named),
            plan.scores_wordings,
            plan.records_marginals,
        )

    def _materialise(self) -> PromptSet:
        if self.path is not None:
            path = expand(self.path)
            prompts = read_prompts(path, column=self.column)
            return collect_prompts(
                prompts, name=path.stem, source=self.path, limit=self.limit, max_words=self.max_words
            )
        assert self.dataset is not None, "the constructor wants a path or a dataset"
        return materialise_dataset(
            self.dataset,
            config=self.config,
            split=self.split,
            column=self.column,
            revision=self.revision,
            limit=self.limit,
            max_words=self.max_words,
            cache_dir=self.cache_dir,
        )


def _as_it_is(batch: PromptBatch) -> PromptBatch:
    # The default would turn the tuples into lists.
    return batch
