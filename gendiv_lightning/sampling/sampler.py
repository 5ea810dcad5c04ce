"""`TokenSampler`: every random decision of a sampling loop, for autoregressive, masked and diffusion models.

Probes change the sampler before the loop, the loop calls the sampler for each decision, and `TokenGrid` stores the
drawn tokens and notifies the observers.
- autoregressive: `draw_tokens` at each position, in raster order, so there is no path;
- next-scale: `draw_tokens` at all positions of a scale, coarse scales first, so there is no path either;
- masked: `draw_tokens` at all masked positions, then `choose_positions(confidence, count=...)` for those to keep;
- diffusion: `choose_positions(log p(change))`, then `draw_tokens` for the token given the change.

Notation: B rows, L positions of an image, K codebook entries; N of the B x L positions are drawn at a time.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor

from gendiv_lightning.errors import ConfigValueError, ProbeError
from gendiv_lightning.functional.finite import ADVICE, NonFiniteError, broken_rows
from gendiv_lightning.records import TokenSamples
from gendiv_lightning.sampling.noise import Noise


@dataclass(frozen=True)
class Draw:
    """Tokens drawn in one decision, with their distributions.

    Attributes:
        step: step of the loop.
        rows: (N,) int64, row of each token.
        positions: (N,) int64, position of each token in its image, in raster order.
        tokens: (N,) int64.
        logits: (N, K) float32, unnormalised: after guidance, codebook subset, temperature, top-k and top-p.
        is_mode: execution noise is off, so the tokens are the modes.
        num_broken: () number of distributions that were not finite, before any `take`; None for 0.
    """

    step: int
    rows: Tensor
    positions: Tensor
    tokens: Tensor
    logits: Tensor
    is_mode: bool = False
    num_broken: Tensor | None = None

    def take(self, chosen: Tensor) -> Draw:
        """Select some of the N tokens, by index or mask."""
        rows, positions, tokens, logits = (x[chosen] for x in (self.rows, self.positions, self.tokens, self.logits))
        return Draw(self.step, rows, positions, tokens, logits, self.is_mode, self.num_broken)

    @cached_property
    def log_probs(self) -> Tensor:
        """Log-probabilities (N, K) of the network's distributions, nats."""
        return self.logits.log_softmax(-1)

    @cached_property
    def probs(self) -> Tensor:
        """The distributions (N, K) that tokens were drawn from; one-hot with execution noise off."""
        if self.is_mode:
            return torch.zeros_like(self.logits).scatter_(-1, self.tokens[:, None], 1.0)
        # Softmax of log-probabilities equals their exp, but is several times faster if many entries are -inf.
        return self.log_probs.softmax(-1)

    @property
    def confidence(self) -> Tensor:
        """Log-probability of the drawn tokens (N,), nats."""
        return self.logits.gather(-1, self.tokens[:, None])[:, 0] - self.logits.logsumexp(-1)

    @property
    def log_prob(self) -> Tensor:
        """Log2-probability of the drawn tokens (N,), bits; 0 with execution noise off."""
        if self.is_mode:
            return torch.zeros_like(self.logits[:, 0])
        return self.log_probs.gather(-1, self.tokens[:, None])[:, 0] / math.log(2)

    @property
    def entropy(self) -> Tensor:
        """Entropy (N,) of the distributions that the tokens were drawn from, bits; 0 with execution noise off."""
        if self.is_mode:
            return torch.zeros_like(self.logits[:, 0])
        return torch.special.entr(self.probs).sum(-1) / math.log(2)


class Observer(ABC):
    """Receives the tokens that a loop writes, without changing them."""

    @abstractmethod
    def observe(self, draw: Draw) -> None:
        """Receive a draw; called whenever tokens are written, in the order of the loop."""


@dataclass(frozen=True)
class Sampler:
    """Settings and noise of B rows, common to all kinds of sampling loops. Probes replace its fields.

    Attributes:
        path: noise of the structural decisions; each kind of sampler defines which these are.
        exec: noise of the decisions that fill in the structure.
        guidance: scale s of classifier-free guidance; guidance is on if s > 1.
        observers: called with every draw.
    """

    path: Noise
    exec: Noise
    guidance: float = field(default=1.0, kw_only=True)
    observers: tuple[Observer, ...] = field(default=(), kw_only=True)

    @property
    def is_guided(self) -> bool:
        """Whether unconditional predictions are needed."""
        return self.guidance > 1.0


@dataclass(frozen=True)
class TokenSampler(Sampler):
    """A sampler of tokens. `filter_logits` defines the order of all operations on logits.

    Attributes:
        path: noise that decides which positions change at which step.
        exec: noise that decides the token of a chosen position.
        codebook_size: number of codebook entries K.
        allowed: (K,) bool, codebook entries that may be drawn; None allows all.
        temperature: divides the logits; 0 acts as 1e-5, as in the reference implementation.
        top_k: number of most probable entries to keep, plus ties with the k-th; None or 0 keeps all.
        top_p: nucleus threshold: keep the smallest set of most probable tokens whose total probability reaches
            `top_p`; 1 keeps all.
    """

    codebook_size: int
    allowed: Tensor | None = None
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0

    def guide(self, conditional: Tensor, unconditional: Tensor) -> Tensor:
        """Classifier-free guidance u + s (c - u) in float32 (Ho & Salimans 2022)."""
        unconditional = unconditional.float()
        return unconditional + self.guidance * (conditional.float() - unconditional)

    def filter_logits(self, logits: Tensor) -> Tensor:
        """Apply codebook subset, temperature, top-k and top-p, in this order, to logits (..., K).

        Excluded entries become -inf. At least one entry stays finite, because the most probable allowed entry passes
        every filter.
        """
        logits = logits.float()
        if self.allowed is not None:
            logits = logits.masked_fill(~self.allowed, -torch.inf)
        if self.temperature != 1.0:
            logits = logits / max(self.temperature, 1e-5)
        if self.top_k and self.top_k < logits.shape[-1]:
            threshold = logits.topk(self.top_k, dim=-1).values[..., -1:]
            logits = logits.masked_fill(logits < threshold, -torch.inf)
        if self.top_p < 1.0:
            ordered, order = logits.sort(dim=-1, descending=True)
            probs = ordered.softmax(-1)
            dropped = probs.cumsum(-1) - probs > self.top_p
            logits = logits.masked_fill(dropped.scatter(-1, order, dropped), -torch.inf)
        return logits

    def draw_tokens(self, logits: Tensor, step: int, rows: Tensor, positions: Tensor) -> Draw:
        """Filter logits (N, K) and draw a token for each of N positions, given by `rows` and `positions` (N,)."""
        return self.draw_filtered(self.filter_logits(logits), step, rows, positions)

    def draw_filtered(self, logits: Tensor, step: int, rows: Tensor, positions: Tensor) -> Draw:
        """Draw from filtered logits (N, K) by inverse CDF, one uniform per position; take the mode if `exec` is off."""
        num_broken = broken_rows(logits)
        if self.exec.is_off:
            return Draw(step, rows, positions, logits.argmax(-1), logits, is_mode=True, num_broken=num_broken)
        tokens = invert_cdf(logits.softmax(-1), self.exec.uniform(step, rows, positions))
        return Draw(step, rows, positions, tokens, logits, num_broken=num_broken)

    def choose_positions(
        self, log_weights: Tensor, step: int, *, count: int | Tensor | None = None, noise_scale: float = 1.0
    ) -> Tensor:
        """Choose positions with path noise.

        Args:
            log_weights: (B, P) nats, log-weight of each position; inf is always chosen, -inf never.
            step: step of the loop.
            count: number of positions to choose per row, an int or (B,): those with the largest log-weight plus
                `noise_scale` times Gumbel noise (Gumbel-top-k without replacement; Kool et al. 2019). None chooses
                each position independently with probability exp(log_weights).
            noise_scale: scale of the Gumbel noise.

        Returns:
            (B, P) bool.
        """
        if count is None:
            u = 0.5 if self.path.is_off else self.path.uniform_grid(step, log_weights.shape[1])
            return log_weights.double().exp() > u
        scores = log_weights.double()
        if not self.path.is_off:
            scores = scores - noise_scale * (-self.path.uniform_grid(step, log_weights.shape[1]).log()).log()
        ranks = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        return (ranks < torch.as_tensor(count, device=ranks.device).reshape(-1, 1)) & (scores > -torch.inf)


AnySampler = TypeVar("AnySampler", bound=Sampler)


class TokenGrid:
    """The tokens of B images during a loop, with the statistics of each token's last draw.

    Attributes:
        tokens: (B, L) int64; `blank` at positions that have not been drawn.
    """

    def __init__(self, sampler: TokenSampler, num_tokens: int, blank: int = -1) -> None:
        self.observers = sampler.observers
        num_rows, device = len(sampler.exec.keys), sampler.exec.keys.device
        self.tokens = torch.full((num_rows, num_tokens), blank, device=device)
        self._entropy = torch.zeros(num_rows, num_tokens, device=device)
        self._log_prob = torch.zeros(num_rows, num_tokens, device=device)
        self._broken: list[tuple[int, Tensor]] = []

    def write(self, draw: Draw) -> None:
        """Write tokens to their positions and call the observers."""
        if draw.num_broken is not None:
            self._broken.append((draw.step, draw.num_broken))
        index = draw.rows, draw.positions
        self.tokens[index] = draw.tokens
        self._entropy[index], self._log_prob[index] = draw.entropy, draw.log_prob
        for observer in self.observers:
            observer.observe(draw)

    def samples(self) -> TokenSamples:
        """Tokens, entropies and log-probabilities (B, L).

        Raises:
            NonFiniteError: the network's logits were not finite; the message names the step and the number of draws.
        """
        self._check_finite()
        return TokenSamples(self.tokens, self._entropy, self._log_prob)

    def _check_finite(self) -> None:
        # Checked once at the end, so that the loop does not synchronise with the device at each step.
        counts = torch.stack([count for _, count in self._broken]).tolist() if self._broken else []
        steps = [(step, count) for (step, _), count in zip(self._broken, counts, strict=True) if count]
        if steps:
            step, count = steps[0]
            raise NonFiniteError(
                f"the transformer's logits are not finite from step {step} of the sampling loop on: {count} draws "
                f"at that step, {sum(n for _, n in steps)} in all. {ADVICE}"
            )


def check_settings(
    *, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0, guidance: float = 1.0
) -> None:
    """Raise ValueError for an invalid setting; called by constructors, before a model loads."""
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ConfigValueError(f"temperature must be a finite number of at least 0, got {temperature}")
    if top_k is not None and top_k < 0:
        raise ConfigValueError(f"top_k must be at least 1, or 0 for all, got {top_k}")
    if not 0 <= top_p <= 1:
        raise ConfigValueError(f"top_p must be a probability in [0, 1], got {top_p}")
    if not math.isfinite(guidance):
        raise ConfigValueError(f"guidance_scale must be a finite number, got {guidance}")


def invert_cdf(probs: Tensor, uniforms: Tensor) -> Tensor:
    """First token at which the cumulative sum of `probs` (..., K) exceeds `uniforms` (...), which are in (0, 1).

    Computed in float64; an entry of probability 0 is never drawn, regardless of the rounding.
    """
    cdf = probs.cumsum(-1, dtype=torch.float64)
    total = cdf[..., -1]
    # Rounding can make u * total equal to the total, which no cumulative sum exceeds.
    target = torch.minimum(uniforms * total, torch.nextafter(total, torch.zeros_like(total)))
    # The clamp is needed for NaN only; `TokenGrid.samples` reports it.
    return torch.searchsorted(cdf, target[..., None], right=True)[..., 0].clamp(max=probs.shape[-1] - 1)


class Description(NamedTuple):
    """A setting of a run in words, for tables, captions and figures.

    Attributes:
        label: description such as "most frequent 25 %".
        short: one or two words for a figure, such as "top 25 %".
        isolates: the part of the diversity that the setting leaves or adds.
    """

    label: str
    short: str
    isolates: str = ""


class Probe(ABC):
    """A function from sampler to sampler. It does not depend on the loop, so it works in every family.

    Attributes:
        sets: fields of the sampler that the probe may replace. Applying it to a sampler without them is an error.
    """

    sets: ClassVar[tuple[str, ...]]

    @abstractmethod
    def apply(self, sampler: Any) -> Any:
        """Return the sampler with this probe's fields replaced."""

    def check(self, codebook_size: int) -> None:  # noqa: B027 (optional: most probes work on any codebook)
        """Raise ValueError if the probe cannot work on a codebook of this size; called before weights are loaded."""

    def check_generator(self, identity: Mapping[str, object]) -> None:  # noqa: B027 (optional: most probes have no files)
        """Raise ValueError if a file of the probe belongs to a generator other than the one of this identity."""

    @abstractmethod
    def identity(self, codebook_size: int) -> dict[str, object]:
        """All settings that can change a number, for the run's fingerprint."""

    @abstractmethod
    def describe(self, codebook_size: int) -> Description:
        """The probe and its settings in words."""


def apply_probes(sampler: AnySampler, probes: Iterable[Probe]) -> AnySampler:
    """Apply probes; the result does not depend on their order. Codebook subsets are intersected.

    Raises:
        ValueError: a probe sets a field that the sampler does not have, two probes set the same field, or two subsets
            are disjoint.
    """
    # Values that no probe can set, so that a field counts as set even if it is set to its present value.
    numbers = {"temperature": math.nan, "top_k": 1 << 62, "top_p": math.nan, "guidance": math.nan}
    names = {f.name for f in fields(sampler)}
    untouched: AnySampler = replace(sampler, **{k: v for k, v in numbers.items() if k in names})  # type: ignore[arg-type]
    changes: dict[str, object] = {}
    owners: dict[str, str] = {}
    for probe in probes:
        name = type(probe).__name__
        if missing := [f for f in probe.sets if f not in names]:
            raise ProbeError(
                f"{name} sets {', '.join(missing)}, which a {type(sampler).__name__} does not have: it requires a "
                f"generator that draws tokens. Remove {name} from the probes"
            )
        changed = probe.apply(untouched)
        for f in fields(sampler):
            value = getattr(changed, f.name)
            if value is getattr(untouched, f.name):
                continue
            assert f.name in probe.sets, f"{name} changes {f.name}, which is not among its `sets`"
            if f.name == "allowed" and "allowed" in changes:
                value = value & changes["allowed"]
                if not value.any():
                    raise ProbeError(
                        f"{owners['allowed']} and {name} allow no codebook entry in common. Widen one of the subsets"
                    )
            elif f.name in changes:
                raise ProbeError(f"{owners[f.name]} and {name} both set {f.name!r}. Keep one of them")
            changes[f.name], owners[f.name] = value, name
    return replace(sampler, **changes)  # type: ignore[arg-type]
