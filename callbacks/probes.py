"""Probes as callbacks: each changes its own fields of the sampler before the loop, in the same way in every family.

Designs, which choose the samples of a prompt, are in `designs.py`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import Callback
from torch import Tensor

from gendiv_lightning.errors import ConfigValueError, OptionConflictError, ProbeError
from gendiv_lightning.prompts.design import Design, share_paths
from gendiv_lightning.records import SampleDesign
from gendiv_lightning.sampling import AnySampler, Description, Noise, Probe, TokenSampler, check_settings
from gendiv_lightning.sampling.planned import Part, PlannedSampler
from gendiv_lightning.storage.codebook_counts import read_usage
from gendiv_lightning.weights.resolve import resolve

Selection = Literal["most_frequent", "least_frequent", "drop_most_frequent", "random", "list"]


class SettingCallback(Callback):
    """Base class of probes and designs: by default their arguments identify and describe them.

    Attributes:
        isolates: the part of the diversity that remains, or that is added, for tables.
    """

    isolates: ClassVar[str] = ""

    def identity(self, codebook_size: int) -> dict[str, object]:
        """Name and arguments. `vars` would include attributes that a trainer adds."""
        return {"probe": type(self).__name__, **self._arguments()}

    def describe(self, codebook_size: int) -> Description:
        """The name of the class and its arguments."""
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(self).__name__).lower()
        label = " ".join([words, *map(str, self._arguments().values())])
        return Description(label, label, self.isolates)

    def _arguments(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in signature(type(self)).parameters}


class ProbeCallback(SettingCallback, Probe):
    """A probe that a config names."""


class Argmax(ProbeCallback):
    """Execution noise off: every chosen position gets its most probable token. Only path diversity remains."""

    sets = ("exec",)
    isolates = "the diversity of the sampler path"

    def apply(self, sampler: AnySampler) -> AnySampler:
        """Switch execution noise off."""
        return replace(sampler, exec=sampler.exec.off())


class PosteriorArgmax(ProbeCallback):
    """Fully deterministic sampling: token and path decisions both take their mode, leaving one sample per paraphrase.

    In VQ-Diffusion this is the literal argmax of the reverse transition: "stay masked" is by far its most probable
    outcome, so all tokens stay masked until the last steps and are then revealed at once. `Argmax` therefore acts on
    the token given the change, and leaves the changes to the path noise. The probe does not apply to continuous
    generators, because the mode of their initial noise is a blank.
    """

    sets = ("path", "exec")
    isolates = "the diversity of the prompt's paraphrases"

    def apply(self, sampler: AnySampler) -> AnySampler:
        """Switch path and execution noise off."""
        if not isinstance(sampler, TokenSampler):
            raise ProbeError(
                f"PosteriorArgmax needs a sampler of tokens, got a {type(sampler).__name__}, whose initial noise "
                "cannot be "
                "switched off. Use Argmax, or FreezePath and Argmax"
            )
        return replace(sampler, path=sampler.path.off(), exec=sampler.exec.off())


class FreezePath(ProbeCallback, Design):
    """One path noise for all samples of a paraphrase. Only execution diversity remains.

    Args:
        part: the part of a path that is shared, "plan" or "decoder", for a generator whose path has both (GLM-Image);
            the other part remains each sample's own. None shares the whole path.
    """

    sets = ("path",)
    isolates = "the diversity of the token draws"

    def __init__(self, part: Part | None = None) -> None:
        self.part = part

    def identity(self, codebook_size: int) -> dict[str, object]:
        """With the part, if there is one."""
        return {"probe": type(self).__name__, **({"part": self.part} if self.part else {})}

    def describe(self, codebook_size: int) -> Description:
        """Describe the probe."""
        if self.part:
            other = {"plan": "decoder's noise", "decoder": "plan"}[self.part]
            return Description(f"frozen {self.part}", f"frozen {self.part}", f"the diversity of the {other}")
        return Description("frozen path", "frozen path", self.isolates)

    def apply(self, sampler: AnySampler) -> AnySampler:
        """Share path noise, or a part of it."""
        if self.part is None:
            return replace(sampler, path=sampler.path.shared())
        if not isinstance(sampler, PlannedSampler):
            raise ProbeError(
                f"FreezePath(part={self.part!r}) needs a path of two parts, a plan and a decoder, which a "
                f"{type(sampler).__name__} does not have. Use FreezePath without part"
            )
        return replace(sampler, path=sampler.share(self.part))

    def design(self, design: SampleDesign) -> SampleDesign:
        """Give all samples of a paraphrase path 0, so that they are counted as one path, unless a part is their own."""
        return design if self.part else share_paths(design, 1)


class Branch(ProbeCallback):
    """All samples of a paraphrase share all noise before decision `step`, and have independent noise from then on.

    A decision is an image token in raster order (autoregressive), a step of the loop (masked models, discrete
    diffusion), a scale (next-scale models), or the initial noise and then the scheduler's steps (continuous models).

    Args:
        step: first decision that differs between samples; 0 shares nothing.
    """

    sets = ("path", "exec")
    isolates = "the diversity that is decided from this step on"

    def __init__(self, step: int) -> None:
        if step < 0:
            raise ConfigValueError(f"step must be at least 0, got {step}. Use 0 to share nothing")
        self.step = step

    def describe(self, codebook_size: int) -> Description:
        """Describe the probe."""
        return Description(f"shared until step {self.step}", f"until {self.step}", self.isolates)

    def apply(self, sampler: AnySampler) -> AnySampler:
        """Share path and execution noise before the step."""
        return replace(sampler, path=sampler.path.branch(self.step), exec=sampler.exec.branch(self.step))


class Temperature(ProbeCallback):
    """Divide the logits by `temperature` >= 0. Use `Argmax` for the mode instead of a draw.

    Args:
        temperature: divisor of the logits, at least 0.
    """

    sets = ("temperature",)

    def __init__(self, temperature: float) -> None:
        check_settings(temperature=temperature)
        self.temperature = temperature

    def apply(self, sampler: TokenSampler) -> TokenSampler:
        """Set the temperature."""
        return replace(sampler, temperature=self.temperature)


class TopK(ProbeCallback):
    """Keep the `top_k` >= 1 most probable tokens, including ties with the last one.

    Args:
        top_k: number of tokens, at least 1.
    """

    sets = ("top_k",)

    def __init__(self, top_k: int) -> None:
        if top_k < 1:
            raise ConfigValueError(f"top_k must be at least 1, got {top_k}. Remove the probe to keep all tokens")
        self.top_k = top_k

    def apply(self, sampler: TokenSampler) -> TokenSampler:
        """Set top-k."""
        return replace(sampler, top_k=self.top_k)


class TopP(ProbeCallback):
    """Keep the smallest set of most probable tokens whose total probability reaches `top_p`, in [0, 1].

    Args:
        top_p: probability mass, in [0, 1].
    """

    sets = ("top_p",)

    def __init__(self, top_p: float) -> None:
        check_settings(top_p=top_p)
        self.top_p = top_p

    def apply(self, sampler: TokenSampler) -> TokenSampler:
        """Set top-p."""
        return replace(sampler, top_p=self.top_p)


class Guidance(ProbeCallback):
    """Set the scale of classifier-free guidance.

    Args:
        guidance_scale: weight of the condition; 1 and below is off.
    """

    sets = ("guidance",)

    def __init__(self, guidance_scale: float) -> None:
        check_settings(guidance=guidance_scale)
        self.guidance_scale = guidance_scale

    def apply(self, sampler: AnySampler) -> AnySampler:
        """Set the guidance scale."""
        return replace(sampler, guidance=self.guidance_scale)


class CodebookSubset(ProbeCallback):
    """Allow only a subset of the codebook, which caps H(C) at log2 of its size.

    Args:
        select: the allowed entries: the "most_frequent" ones (as in the paper), the "least_frequent", all but the most
            frequent ("drop_most_frequent", the enhancement), the same number of "random" ones (the control), or an
            explicit "list".
        size: number of entries (to drop, for "drop_most_frequent"). Give this or `ratio`.
        ratio: the same as a share of the codebook, in (0, 1].
        tokens: the entries of a "list".
        usage: codebook counts written by `gendiv validate`, or the `usage.safetensors` of any run; required for
            selections by frequency. `toy:llamagen_usage.safetensors` contains the counts of the toy model.
        seed: seed of the random selection.
    """

    sets = ("allowed",)
    isolates = "what a smaller codebook leaves of the diversity"

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
                raise OptionConflictError(
                    'select "list" needs tokens, and excludes size, ratio and usage. Remove those'
                )
            if not tokens or len(set(tokens)) < len(tokens):
                raise ConfigValueError(
                    f"tokens must be at least one entry without repetitions, got {_show(tokens)}. Correct the list"
                )
        else:
            if tokens is not None or (size is None) == (ratio is None):
                raise OptionConflictError(
                    f'select "{select}" needs either size or ratio, and excludes tokens. Got {size=} {ratio=} {tokens=}'
                )
            if usage is None and select != "random":
                raise OptionConflictError(f'select "{select}" needs usage, a file of codebook counts. {_USAGE_ADVICE}')
            if usage is not None and select == "random":
                raise OptionConflictError(f'select "random" excludes usage, got {usage!r}. Remove it')
        if ratio is not None and not 0 < ratio <= 1:
            raise ConfigValueError(
                f"ratio must be a share of the codebook in (0, 1], got {ratio}. Give for example 0.25"
            )
        if seed and select != "random":
            raise OptionConflictError(
                f'seed is only for select "random", got seed {seed} and select "{select}". Remove it'
            )
        if size is not None and size < 1:
            raise ConfigValueError(f"size must be at least 1, got {size}. Give the number of entries")
        self.select, self.size, self.ratio = select, size, ratio
        self.tokens, self.usage, self.seed = tokens, usage, seed

    def apply(self, sampler: TokenSampler) -> TokenSampler:
        """Set the allowed entries."""
        return replace(sampler, allowed=self.allowed(sampler.codebook_size).to(sampler.exec.keys.device))

    def check(self, codebook_size: int) -> None:
        """Raise ValueError if the subset is out of range or empty, or the counts are of another codebook."""
        self.allowed(codebook_size)

    def check_generator(self, identity: Mapping[str, object]) -> None:
        """Raise ProbeError for counts of another tokenizer, which would select arbitrary entries."""
        if self.usage is None:
            return
        _, provenance = read_usage(self._usage_file())
        if "generator" not in provenance:  # counts that the user made, of no recorded tokenizer
            return
        counted, own = _tokenizer_hash(provenance["generator"]), _tokenizer_hash(identity)
        if counted != own:
            given, expected = (f"sha256 {known[:12]}..." if known else "unknown" for known in (counted, own))
            raise ProbeError(
                f"{self.usage} contains counts of another tokenizer than this generator's ({given}, not {expected}). "
                f"{_USAGE_ADVICE}"
            )

    def _usage_file(self) -> Path:
        return resolve(str(self.usage), "CodebookSubset.usage", advice=_USAGE_ADVICE, folder=False)

    def identity(self, codebook_size: int) -> dict[str, object]:
        """The subset, by its hash: the selected entries matter, not the path of the counts."""
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

    def describe(self, codebook_size: int) -> Description:
        """Describe the subset, in percent of the codebook."""
        share = 100 * int(self.allowed(codebook_size).sum()) / codebook_size
        if self.select == "drop_most_frequent":
            return Description(f"most frequent {100 - share:.3g} % dropped", f"drop {100 - share:.3g} %", self.isolates)
        label, short = {
            "most_frequent": ("most frequent", "top"),
            "least_frequent": ("least frequent", "rare"),
            "random": ("random", "random"),
            "list": ("listed", "list"),
        }[self.select]
        return Description(f"{label} {share:.3g} %", f"{short} {share:.3g} %", self.isolates)

    @lru_cache(maxsize=16)  # noqa: B019  shared by all probes; a run has only a few
    def allowed(self, codebook_size: int) -> Tensor:
        """The allowed entries (K,) bool."""
        chosen = self._chosen(codebook_size)
        if not len(chosen):
            raise ProbeError(
                f"CodebookSubset allows no entry: {self._amount(codebook_size)} of {codebook_size} entries. Choose a "
                "larger "
                "subset"
            )
        if not 0 <= int(chosen.min()) <= int(chosen.max()) < codebook_size:
            wrong = [t for t in chosen.tolist() if not 0 <= t < codebook_size]
            raise ConfigValueError(f"tokens must be in 0..{codebook_size - 1}, got {_show(wrong)}. Correct the list")
        return torch.zeros(codebook_size, dtype=torch.bool).index_fill(0, chosen, True)

    def _chosen(self, codebook_size: int) -> Tensor:
        if self.select == "list":
            return torch.tensor(self.tokens)
        amount = self._amount(codebook_size)
        if amount > codebook_size:
            raise ConfigValueError(
                f"size must be at most {codebook_size}, the size of the codebook, got {amount}. Choose a smaller subset"
            )
        if self.select == "random":
            uniforms = Noise.of(self.seed, "subset", [()]).uniform_grid(0, codebook_size)[0]
            return uniforms.argsort()[:amount]
        counts, _ = read_usage(self._usage_file())
        if len(counts) != codebook_size:
            raise ProbeError(
                f"{self.usage} counts {len(counts)} entries, but the codebook has {codebook_size}. {_USAGE_ADVICE}"
            )
        order = counts.argsort(descending=True, stable=True)  # ties: the lower number first
        if self.select == "least_frequent":
            return order[codebook_size - amount :]
        return order[:amount] if self.select == "most_frequent" else order[amount:]

    def _amount(self, codebook_size: int) -> int:
        return self.size if self.size is not None else round((self.ratio or 0) * codebook_size)


def _tokenizer_hash(identity: Mapping[str, Any]) -> str | None:
    """Hash of the image tokenizer, by the names that the families use for it; None if there is none.

    A `checkpoint` contains the tokenizer together with the language model.
    """
    return next((identity[name] for name in ("vq_checkpoint", "vqvae", "checkpoint") if identity.get(name)), None)


_USAGE_ADVICE = (
    "Make the file with `gendiv validate --config configs/FAMILY_codebook.yaml` (or configs/tiny/...), or use "
    "usage.safetensors of a run"
)


def _show(tokens: list[int] | None, most: int = 8) -> str:
    tokens = tokens or []
    return f"{tokens[:most]}" + (f" and {len(tokens) - most} more" if len(tokens) > most else "")
