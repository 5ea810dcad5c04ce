"""The probes as callbacks: each changes its own field of the sampler, before the loop, in every family alike."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from gendiv_lightning.generators.base import Generator
from gendiv_lightning.records import SamplePlan
from gendiv_lightning.sampling import Noise, Probe, TokenSampler, check_settings
from gendiv_lightning.storage.codebook_counts import read_usage
from gendiv_lightning.weights.resolve import resolve

Selection = Literal["most_frequent", "least_frequent", "drop_most_frequent", "random", "list"]


class ProbeCallback(Probe, Callback):
    """A probe that a config names. It is checked against the generator before any weights are loaded."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check against the generator."""
        assert isinstance(pl_module, Generator), "probes work on generators"
        self.check(pl_module.codebook_size)

    def identity(self, codebook_size: int) -> dict[str, object]:
        """Name and arguments; a trainer adds attributes of its own, so `vars` would not do."""
        arguments = {name: getattr(self, name) for name in signature(type(self)).parameters}
        return {"probe": type(self).__name__, **arguments}


class Argmax(ProbeCallback):
    """Execution noise off: every chosen position gets its most probable token. What is left is path diversity."""

    def apply(self, sampler: TokenSampler) -> TokenSampler:
        """Switch execution noise off."""
        return replace(sampler, exec=sampler.exec.off())


class PosteriorArgmax(ProbeCallback):
    """No noise at all: every decision takes its mode, the sampler's structural ones too. One sample a wording is left.

    In VQ-Diffusion this is the literal argmax of the reverse transition: "stay masked" is by far its most probable
    outcome, so all tokens stay masked until the last steps and are then revealed at once. That is why `Argmax` acts on
    the token given the change, and leaves the changes to the path noise.
    """

    def apply(self, sampler: TokenSampler) -> TokenSampler:
        """Switch path and execution noise off."""
        return replace(sampler, path=sampler.path.off(), exec=sampler.exec.off())


class FreezePath(ProbeCallback):
    """One path noise for all samples of a prompt and wording. What is left is execution diversity."""

    def apply(self, sampler: TokenSampler) -> TokenSampler:
        """Share path noise."""
        return replace(sampler, path=sampler.path.shared())

    def plan(self, plan: SamplePlan) -> SamplePlan:
        """All samples of a wording have path 0, by which they are counted."""
        return _set_paths(plan, 1)


class Paraphrase(ProbeCallback):
    """Spread the samples of a prompt over paraphrases of it: the prompt path.

    Args:
        num_paraphrases: wordings; the number of samples must be a multiple of it and at least twice as large.
        length: "short", "medium", "long", "mixed" (evenly from the three) or "any" (in the order of the prompt set).
    """

    def __init__(
        self, num_paraphrases: int = 4, length: Literal["short", "medium", "long", "mixed", "any"] = "any"
    ) -> None:
        if num_paraphrases < 1:
            raise ValueError(f"num_paraphrases must be at least 1, got {num_paraphrases}")
        self.num_paraphrases, self.length = num_paraphrases, length

    def apply(self, sampler: TokenSampler) -> TokenSampler:
        """The sampler is left as it is."""
        return sampler

    def plan(self, plan: SamplePlan) -> SamplePlan:
        """Ask for paraphrases."""
        if plan.num_paraphrases:
            raise ValueError("two probes choose wordings (Paraphrase, Decompose): keep one of them")
        return replace(plan, num_paraphrases=self.num_paraphrases, length=self.length)


class Decompose(ProbeCallback):
    """Give each prompt `num_paths` x `num_paths` samples a wording, which tell H_path from H_exec.

    There are as many executions of a path as there are paths: groups of samples that share a path, and groups of one
    sample a path, are then of one size, and what few samples do to an entropy falls out of their difference. Samples of
    a path share its noise; execution noise is each sample's own. It changes the samples that a prompt gets, not how
    they are drawn: other probes act beside it, and `data.num_samples` has no say.

    Args:
        num_paths: sampler paths of a wording, and samples of a path; an even number.
        num_paraphrases: wordings of a prompt, a divisor of `num_paths`; 0 is the base prompt alone, and then there is
            no prompt path to see.
        length: of the wordings, see `Paraphrase`.
        score_wordings: compute each sample's likelihood under every wording, where the generator has one (LlamaGen):
            one more pass of the network a sample and wording.
    """

    def __init__(
        self,
        num_paths: int = 4,
        num_paraphrases: int = 0,
        length: Literal["short", "medium", "long", "mixed", "any"] = "any",
        score_wordings: bool = True,
    ) -> None:
        if num_paths < 2 or num_paths % 2:
            raise ValueError(f"num_paths must be an even number, 2 or more, got {num_paths}")
        if num_paraphrases and (num_paraphrases < 2 or num_paths % num_paraphrases):
            raise ValueError(
                f"num_paraphrases must be 0 (the base prompt alone), or a divisor of num_paths above 1, got "
                f"{num_paraphrases} for {num_paths} paths"
            )
        self.num_paths, self.num_paraphrases = num_paths, num_paraphrases
        self.length, self.score_wordings = length, score_wordings

    def apply(self, sampler: TokenSampler) -> TokenSampler:
        """The sampler is left as it is."""
        return sampler

    def plan(self, plan: SamplePlan) -> SamplePlan:
        """Ask for the crossed samples."""
        if plan.num_paraphrases:
            raise ValueError("Decompose and Paraphrase both choose wordings: give num_paraphrases to Decompose alone")
        return replace(
            _set_paths(plan, self.num_paths),
            num_samples=self.num_paths**2 * max(1, self.num_paraphrases),
            num_paraphrases=self.num_paraphrases,
            length=self.length,
            scores_wordings=self.score_wordings and self.num_paraphrases > 1,
        )


class Temperature(ProbeCallback):
    """Divide the logits by `temperature` >= 0; for a mode instead of a draw use `Argmax`."""

    def __init__(self, temperature: float) -> None:
        check_settings(temperature=temperature)
        self.temperature = temperature

    def apply(self, sampler: TokenSampler) -> TokenSampler:
        """Set the temperature."""
        return replace(sampler, temperature=self.temperature)


class TopK(ProbeCallback):
    """Keep the `top_k` >= 1 most probable tokens, ties with the last one too."""

    def __init__(self, top_k: int) -> None:
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        self.top_k = top_k

    def apply(self, sampler: TokenSampler) -> TokenSampler:
        """Set top-k."""
        return replace(sampler, top_k=self.top_k)


class TopP(ProbeCallback):
    """Keep the most probable tokens that hold `top_p` of the probability, in [0, 1]."""

    def __init__(self, top_p: float) -> None:
        check_settings(top_p=top_p)
        self.top_p = top_p

    def apply(self, sampler: TokenSampler) -> TokenSampler:
        """Set top-p."""
        return replace(sampler, top_p=self.top_p)


class Guidance(ProbeCallback):
    """Classifier-free guidance by `guidance_scale`; 1 and below switch it off."""

    def __init__(self, guidance_scale: float) -> None:
        check_settings(guidance=guidance_scale)
        self.guidance_scale = guidance_scale

    def apply(self, sampler: TokenSampler) -> TokenSampler:
        """Set the guidance scale."""
        return replace(sampler, guidance=self.guidance_scale)


class CodebookSubset(ProbeCallback):
    """Allow a subset of the codebook only; it caps H(C) at log2 of its size.

    Args:
        select: which entries are allowed: the "most_frequent" ones (the paper's), the "least_frequent", all but the
            most frequent ("drop_most_frequent", the enhancement), as many "random" ones (the control), or an explicit
            "list".
        size: how many entries (to drop, for "drop_most_frequent"). Give this or `ratio`.
        ratio: the same as a share of the codebook, in (0, 1].
        tokens: the entries of a "list".
        usage: file of counts written by `gendiv fit-free validate`, or any run's `usage.safetensors`; needed for the
            selections by frequency. `toy:llamagen_usage.safetensors` is the embedded model's.
        seed: of the random selection.
    """

    def __init__(
        self,
        select: Selection = "most_frequent",
        size: int | None = None,
        ratio: float | None = None,
        tokens: list[int] | None = None,
        usage: str | None = None,
        seed: int = 0,
    ) -> None:
        if select == "list":
            if tokens is None or size is not None or ratio is not None or usage is not None:
                raise ValueError('select "list" takes tokens, and neither size, ratio nor usage')
            if not tokens or len(set(tokens)) < len(tokens):
                raise ValueError(f"tokens must be at least one entry, each once, got {_show(tokens)}")
        else:
            if tokens is not None or (size is None) == (ratio is None):
                raise ValueError(
                    f'select "{select}" takes either size or ratio, and no tokens; got {size=} {ratio=} {tokens=}'
                )
            if (usage is None) != (select == "random"):
                raise ValueError(
                    f'select "{select}" takes {"no" if select == "random" else "a"} usage file, got {usage!r}'
                )
        if ratio is not None and not 0 < ratio <= 1:
            raise ValueError(f"ratio is a share of the codebook in (0, 1], got {ratio}")
        if size is not None and size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        self.select, self.size, self.ratio = select, size, ratio
        self.tokens, self.usage, self.seed = tokens, usage, seed

    def apply(self, sampler: TokenSampler) -> TokenSampler:
        """Set the allowed entries."""
        return replace(sampler, allowed=self.allowed(sampler.codebook_size).to(sampler.exec.keys.device))

    def check(self, codebook_size: int) -> None:
        """Out of range, empty, or counts of another codebook: ValueError."""
        self.allowed(codebook_size)

    def check_generator(self, identity: Mapping[str, object]) -> None:
        """Counts of another tokenizer would select entries at random: ValueError."""
        if self.usage is None:
            return
        counted = _tokenizer_hash(read_usage(self._usage_file())[1].get("generator", {}))
        own = _tokenizer_hash(identity)
        if counted is not None and counted != own:
            raise ValueError(
                f"{self.usage} counts another tokenizer's codes than this generator's (sha256 {counted[:12]}..., not "
                f"{str(own)[:12]}...). {_USAGE_ADVICE}"
            )

    def _usage_file(self) -> Path:
        return resolve(str(self.usage), "CodebookSubset.usage", advice=_USAGE_ADVICE)

    def identity(self, codebook_size: int) -> dict[str, object]:
        """The subset itself, by its hash: where the counts lie does not matter, what they select does."""
        allowed = self.allowed(codebook_size)
        digest = hashlib.sha256(allowed.numpy().tobytes()).hexdigest()
        size = int(allowed.sum())
        return {
            "probe": "CodebookSubset",
            "select": self.select,
            "size": size,
            "codebook_size": codebook_size,
            "sha256": digest,
        }

    @lru_cache(maxsize=16)  # noqa: B019  shared by all probes; a run has a handful of them
    def allowed(self, codebook_size: int) -> Tensor:
        """The entries that may be drawn, (K,) bool."""
        chosen = self._chosen(codebook_size)
        if not len(chosen):
            raise ValueError(
                f"CodebookSubset allows no entry: {self._amount(codebook_size)} of {codebook_size} entries"
            )
        if not 0 <= int(chosen.min()) <= int(chosen.max()) < codebook_size:
            wrong = [t for t in chosen.tolist() if not 0 <= t < codebook_size]
            raise ValueError(f"tokens must be in 0..{codebook_size - 1}, got {_show(wrong)}")
        return torch.zeros(codebook_size, dtype=torch.bool).index_fill(0, chosen, True)

    def _chosen(self, codebook_size: int) -> Tensor:
        if self.select == "list":
            return torch.tensor(self.tokens)
        amount = self._amount(codebook_size)
        if amount > codebook_size:
            raise ValueError(f"size must be at most {codebook_size}, the generator's codebook, got {amount}")
        if self.select == "random":
            uniforms = Noise.of(self.seed, "subset", [()]).uniform_grid(0, codebook_size)[0]
            return uniforms.argsort()[:amount]
        counts, _ = read_usage(self._usage_file())
        if len(counts) != codebook_size:
            raise ValueError(f"{self.usage} counts {len(counts)} entries, the generator's codebook has {codebook_size}")
        order = counts.argsort(descending=True, stable=True)  # equally frequent: the lower number first
        if self.select == "least_frequent":
            return order[codebook_size - amount :]
        return order[:amount] if self.select == "most_frequent" else order[amount:]

    def _amount(self, codebook_size: int) -> int:
        return self.size if self.size is not None else round((self.ratio or 0) * codebook_size)


def _tokenizer_hash(identity: Mapping[str, Any]) -> str | None:
    """Of the tokenizer of images, by the names that the families have for it."""
    return identity.get("vq_checkpoint") or identity.get("vqvae")


_USAGE_ADVICE = (
    "It is written by `gendiv fit-free validate --config configs/FAMILY_codebook.yaml` (or configs/tiny/...); every "
    "run's folder holds one of its own samples too."
)


def _show(tokens: list[int] | None, most: int = 8) -> str:
    tokens = tokens or []
    return f"{tokens[:most]}" + (f" and {len(tokens) - most} more" if len(tokens) > most else "")


def _set_paths(plan: SamplePlan, num_paths: int) -> SamplePlan:
    if plan.num_paths:
        raise ValueError("two probes share paths (FreezePath, Decompose): keep one of them")
    return replace(plan, num_paths=num_paths)
