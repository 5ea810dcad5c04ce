"""The reverse process of mask-and-replace diffusion (VQ-Diffusion, Gu et al. 2022), as path and execution.

Forward, a token is kept, replaced by any token, or masked for good: at time t it is still x_0 with probability
keep_t + replace_t, each other token with replace_t, and masked with mask_t (K replace + keep + mask = 1). Backward,
a transition has two parts: *whether* a position changes (path) and *what* it becomes, given that it does (execution).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gendiv_lightning.errors import ConfigValueError
from gendiv_lightning.records import TokenSamples
from gendiv_lightning.sampling.sampler import Draw, TokenGrid, TokenSampler


class Rates(NamedTuple):
    """Probabilities of one transition: the token is kept, replaced by one certain other, masked."""

    keep: float
    replace: float
    mask: float


@dataclass(frozen=True)
class NoiseSchedule:
    """The forward process: keep and mask go in straight lines from a first value at time 0 to a last one at T - 1.

    Attributes:
        codebook_size: K.
        num_times: T, times that the network was trained on.
        keep: probability that a token is not touched at the first and the last time.
        mask: that it is masked.
    """

    codebook_size: int
    num_times: int = 100
    keep: tuple[float, float] = (0.99999, 0.000009)
    mask: tuple[float, float] = (0.000009, 0.99999)

    def __post_init__(self) -> None:
        if self.num_times < 2:
            raise ConfigValueError(f"the noise schedule must have at least 2 times, got {self.num_times}")
        for keep, mask in zip(self.keep, self.mask, strict=True):
            if not (0 < keep < 1 and 0 < mask < 1 and keep + mask <= 1 + 1e-12):
                raise ConfigValueError(f"keep and mask must lie in (0, 1) and sum to at most 1, got {keep} and {mask}")

    def cumulative(self, time: int) -> Rates:
        """From x_0 to x_t; time -1 is x_0 itself."""
        if time < 0:
            return Rates(1.0, 0.0, 0.0)
        share = time / (self.num_times - 1)
        keep, mask = (first + share * (last - first) for first, last in (self.keep, self.mask))
        return self._rates(keep, mask)

    def between(self, earlier: int, later: int) -> Rates:
        """From x_s to x_t, s < t."""
        first, last = self.cumulative(earlier), self.cumulative(later)
        keep, mask = last.keep / first.keep, 1 - (1 - last.mask) / (1 - first.mask)
        return self._rates(keep, mask)

    def _rates(self, keep: float, mask: float) -> Rates:
        rest = 1 - keep - mask
        # Without replacement the rest is nothing but rounding, of either sign.
        return Rates(keep, rest / self.codebook_size if rest > 1e-12 else 0.0, mask)

    def times(self, num_steps: int, spacing: Literal["even", "last"] = "even") -> list[int]:
        """The times of a sampling loop, from the noisy end down; from the last one the image itself is taken.

        Args:
            num_steps: at most T.
            spacing: fewer steps than T are spread evenly over all times ("even"), or are the last `num_steps` times
                before the image, though all tokens are masked at the start ("last", as diffusers does it).
        """
        if not 1 <= num_steps <= self.num_times:
            raise ConfigValueError(f"num_steps must be in 1..{self.num_times}, the network's times, got {num_steps}")
        if spacing == "last":
            return list(range(num_steps - 1, -1, -1))
        return [round((step + 1) * self.num_times / num_steps) - 1 for step in range(num_steps - 1, -1, -1)]


class Transition:
    """q(x_s | x_t, x_0) averaged over a prediction of x_0, for one pair of times (equations 5 and 11 of the paper).

    No (K + 1) x K matrices and no one-hot vectors: every sum over x_0 has a closed form in the prediction's value at
    the current token.

    Args:
        schedule: the forward process.
        time: t.
        earlier: s < t; -1 for x_0.
        allowed: (K,) bool, entries that may be drawn; with a codebook subset tokens are replaced by its entries alone.
    """

    def __init__(self, schedule: NoiseSchedule, time: int, earlier: int, allowed: Tensor | None = None) -> None:
        self.codebook_size, self.allowed = schedule.codebook_size, allowed
        self.num_allowed = schedule.codebook_size if allowed is None else int(allowed.sum())
        self.step, self.past = schedule.between(earlier, time), schedule.cumulative(earlier)
        now = schedule.cumulative(time)
        self._replaced = now.replace / (now.keep + now.replace)

    @property
    def stay_masked(self) -> float:
        """Probability that a masked position stays masked; no prediction changes it."""
        becomes_token = self.step.mask * (self.past.keep + self.past.replace * self.num_allowed)
        return self.past.mask / (self.past.mask + becomes_token)

    def stay(self, own: Tensor) -> Tensor:
        """Probability (N,) that tokens stay, from the prediction's probability `own` (N,) of just these tokens."""
        stays, total = self._stay_weight(own)
        others = self.past.keep * (1 - own) + self.past.replace * total * (self.num_allowed - 1)
        changes = self.step.replace * others
        return torch.where(changes > 0, stays / (stays + changes), 1.0)

    def _stay_weight(self, own: Tensor) -> tuple[Tensor, Tensor]:
        # The paper divides p_k by q(x_t | x_0 = k), which is the same for all k but x_t; here all is relative to that.
        mine = own * self._replaced
        total = mine + (1 - own)
        return (self.step.keep + self.step.replace) * (self.past.keep * mine + self.past.replace * total), total

    def change_weights(self, probs: Tensor, tokens: Tensor) -> Tensor:
        """Weights (N, K) of what N positions become, given that they change: to a factor, the reverse transition.

        Args:
            probs: (N, K), prediction of x_0, 0 outside of the subset.
            tokens: (N,), where they are; K is masked.
        """
        masked, here = tokens == self.codebook_size, tokens.clamp(max=self.codebook_size - 1)[:, None]
        own = probs.gather(1, here)
        total = torch.where(masked[:, None], 1.0, self._stay_weight(own)[1])
        weights = self.past.keep * probs + self.past.replace * total
        weights = weights.scatter(1, here, torch.where(masked[:, None], weights.gather(1, here), 0.0))
        return weights if self.allowed is None else weights.masked_fill(~self.allowed, 0.0)

    def posterior(self, probs: Tensor, tokens: Tensor) -> Tensor:
        """The whole reverse transition p(x_s | x_t), (N, K + 1), the mask last. The loop needs parts of it only."""
        masked, here = tokens == self.codebook_size, tokens.clamp(max=self.codebook_size - 1)[:, None]
        rate = torch.where(masked, self.step.mask, self.step.replace)
        weights = rate[:, None] * self.change_weights(probs, tokens)
        stays = self._stay_weight(probs.gather(1, here))[0]
        stays = torch.where(weights.sum(1, keepdim=True) > 0, stays, 1.0)  # without replacement a token never changes
        weights = weights.scatter_add(1, here, torch.where(masked[:, None], 0.0, stays))
        stays_masked = torch.where(masked, self.past.mask, 0.0)[:, None]
        weights = torch.cat([weights, stays_masked.to(weights)], dim=1)
        return weights / weights.sum(1, keepdim=True)


def sample_diffusion(
    predict: Callable[[Tensor, int], Tensor],
    sampler: TokenSampler,
    schedule: NoiseSchedule,
    times: list[int],
    num_tokens: int,
) -> TokenSamples:
    """Sample B images, B being the sampler's rows.

    Without path noise (`PosteriorArgmax`) each position takes the mode of its whole reverse transition, to stay as it
    is being one of the outcomes.

    Args:
        predict: the network: tokens (B, L), K where masked, and the time to logits of x_0 (B, L, K), guided.
        sampler: decides which positions change, and into what; top-p is the paper's truncation rate.
        schedule: the forward process.
        times: times of the loop, falling.
        num_tokens: L.
    """
    grid = TokenGrid(sampler, num_tokens, blank=schedule.codebook_size)
    for step, (time, earlier) in enumerate(zip(times, [*times[1:], -1], strict=True)):
        move = Transition(schedule, time, earlier, sampler.allowed)
        grid.write(_draw_changes(move, predict(grid.tokens, time), grid.tokens, sampler, step))
    return grid.samples()


def _draw_changes(move: Transition, logits: Tensor, tokens: Tensor, sampler: TokenSampler, step: int) -> Draw:
    """Draw what positions become, for those alone that change."""
    rows, positions = _choose_changes(move, logits, tokens, sampler, step).nonzero(as_tuple=True)
    probs = sampler.filter_logits(logits[rows, positions]).softmax(-1)
    weights = move.change_weights(probs, tokens[rows, positions])
    return sampler.draw_filtered(weights.log(), step, rows, positions)


def _choose_changes(move: Transition, logits: Tensor, tokens: Tensor, sampler: TokenSampler, step: int) -> Tensor:
    """Which positions (B, L) change; with path noise only unmasked ones ask the prediction."""
    if sampler.path.is_off:
        probs = sampler.filter_logits(logits).softmax(-1)
        modes = move.posterior(probs.flatten(0, 1), tokens.flatten()).argmax(-1)
        return modes.view_as(tokens) != tokens
    stay = torch.full(tokens.shape, move.stay_masked, device=tokens.device)
    rows, positions = (tokens != move.codebook_size).nonzero(as_tuple=True)
    probs = sampler.filter_logits(logits[rows, positions]).softmax(-1)
    stay[rows, positions] = move.stay(probs.gather(1, tokens[rows, positions][:, None])[:, 0])
    return sampler.choose_positions((1 - stay).log(), step)
