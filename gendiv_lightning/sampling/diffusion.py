"""The reverse process of mask-and-replace diffusion (VQ-Diffusion, Gu et al. 2022), split into path and execution.

In the forward process a token is kept, replaced by a random token, or masked for good: at time t it is x_0 with
probability keep_t + replace_t, each other token with replace_t, and masked with mask_t (K replace + keep + mask = 1).
In the reverse process a transition has two parts: *whether* a position changes (path), and *what* it becomes given
that it changes (execution).
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
    """Probabilities of one transition: the token is kept, replaced by one particular token, or masked."""

    keep: float
    replace: float
    mask: float


@dataclass(frozen=True)
class NoiseSchedule:
    """The forward process: `keep` and `mask` are linear in time, from a value at time 0 to a value at time T - 1.

    Attributes:
        codebook_size: number of codebook entries K.
        num_times: number of times T that the network was trained on, at least 2.
        keep: probability that a token is kept, at the first and the last time.
        mask: probability that a token is masked, at the first and the last time.
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
                raise ConfigValueError(f"keep and mask must be in (0, 1) and sum to at most 1, got {keep} and {mask}")

    def cumulative(self, time: int) -> Rates:
        """Rates from x_0 to x_t; time -1 stands for x_0 itself."""
        if time < 0:
            return Rates(1.0, 0.0, 0.0)
        share = time / (self.num_times - 1)
        keep, mask = (first + share * (last - first) for first, last in (self.keep, self.mask))
        return self._rates(keep, mask)

    def between(self, earlier: int, later: int) -> Rates:
        """Rates from x_s to x_t, s < t."""
        first, last = self.cumulative(earlier), self.cumulative(later)
        keep, mask = last.keep / first.keep, 1 - (1 - last.mask) / (1 - first.mask)
        return self._rates(keep, mask)

    def _rates(self, keep: float, mask: float) -> Rates:
        rest = 1 - keep - mask
        # If tokens are never replaced, the rest is rounding error of either sign.
        return Rates(keep, rest / self.codebook_size if rest > 1e-12 else 0.0, mask)

    def times(self, num_steps: int, spacing: Literal["even", "last"] = "even") -> list[int]:
        """The times of a sampling loop, in decreasing order; the last step ends at the image.

        Args:
            num_steps: number of steps, at most T.
            spacing: "even" spreads the steps over all times; "last" uses the last `num_steps` times before the image,
                although all tokens are masked at the start (as diffusers does).
        """
        if not 1 <= num_steps <= self.num_times:
            raise ConfigValueError(
                f"num_steps must be in 1..{self.num_times}, the times of the network, got {num_steps}"
            )
        if spacing == "last":
            return list(range(num_steps - 1, -1, -1))
        return [round((step + 1) * self.num_times / num_steps) - 1 for step in range(num_steps - 1, -1, -1)]


class Transition:
    """q(x_s | x_t, x_0) averaged over a prediction of x_0, for one pair of times (equations 5 and 11 of the paper).

    Needs no (K + 1) x K matrices and no one-hot vectors: every sum over x_0 has a closed form in the predicted
    probability of the current token.

    Args:
        schedule: the forward process.
        time: current time t.
        earlier: next time s < t; -1 for x_0.
        allowed: (K,) bool, entries that may be drawn. With a codebook subset, tokens are replaced by its entries only.
    """

    def __init__(self, schedule: NoiseSchedule, time: int, earlier: int, allowed: Tensor | None = None) -> None:
        self.codebook_size, self.allowed = schedule.codebook_size, allowed
        self.num_allowed = schedule.codebook_size if allowed is None else int(allowed.sum())
        self.step, self.past = schedule.between(earlier, time), schedule.cumulative(earlier)
        now = schedule.cumulative(time)
        self._replaced = now.replace / (now.keep + now.replace)

    @property
    def stay_masked(self) -> float:
        """Probability that a masked position stays masked, which does not depend on the prediction."""
        becomes_token = self.step.mask * (self.past.keep + self.past.replace * self.num_allowed)
        return self.past.mask / (self.past.mask + becomes_token)

    def stay(self, own: Tensor) -> Tensor:
        """Probability (N,) that tokens stay, from the predicted probability `own` (N,) of these tokens."""
        stays, total = self._stay_weight(own)
        others = self.past.keep * (1 - own) + self.past.replace * total * (self.num_allowed - 1)
        changes = self.step.replace * others
        return torch.where(changes > 0, stays / (stays + changes), 1.0)

    def _stay_weight(self, own: Tensor) -> tuple[Tensor, Tensor]:
        # The paper divides p_k by q(x_t | x_0 = k), which is equal for all k except x_t; weights are relative to it.
        scaled = own * self._replaced
        total = scaled + (1 - own)
        return (self.step.keep + self.step.replace) * (self.past.keep * scaled + self.past.replace * total), total

    def change_weights(self, probs: Tensor, tokens: Tensor) -> Tensor:
        """Unnormalised probabilities (N, K) of the new tokens of N positions, given that these positions change.

        Args:
            probs: (N, K) prediction of x_0, 0 outside the codebook subset.
            tokens: (N,) current tokens; K is masked.
        """
        masked, here = tokens == self.codebook_size, tokens.clamp(max=self.codebook_size - 1)[:, None]
        own = probs.gather(1, here)
        total = torch.where(masked[:, None], 1.0, self._stay_weight(own)[1])
        weights = self.past.keep * probs + self.past.replace * total
        weights = weights.scatter(1, here, torch.where(masked[:, None], weights.gather(1, here), 0.0))
        return weights if self.allowed is None else weights.masked_fill(~self.allowed, 0.0)

    def posterior(self, probs: Tensor, tokens: Tensor) -> Tensor:
        """The complete reverse transition p(x_s | x_t), (N, K + 1), with the mask last; the loop needs only parts."""
        masked, here = tokens == self.codebook_size, tokens.clamp(max=self.codebook_size - 1)[:, None]
        rate = torch.where(masked, self.step.mask, self.step.replace)
        weights = rate[:, None] * self.change_weights(probs, tokens)
        stays = self._stay_weight(probs.gather(1, here))[0]
        # A token never changes if the forward process does not replace tokens.
        stays = torch.where(weights.sum(1, keepdim=True) > 0, stays, 1.0)
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
    """Sample B images, one per row of the sampler.

    With path noise off (`PosteriorArgmax`) each position takes the mode of its complete reverse transition, which
    includes staying unchanged.

    Args:
        predict: the network: maps tokens (B, L), K where masked, and the time to guided logits (B, L, K) of x_0.
        sampler: decides which positions change and draws their tokens; top-p is the paper's truncation rate.
        schedule: the forward process.
        times: times of the loop, in decreasing order.
        num_tokens: number of image tokens L.
    """
    grid = TokenGrid(sampler, num_tokens, blank=schedule.codebook_size)
    for step, (time, earlier) in enumerate(zip(times, [*times[1:], -1], strict=True)):
        move = Transition(schedule, time, earlier, sampler.allowed)
        grid.write(_draw_changes(move, predict(grid.tokens, time), grid.tokens, sampler, step))
    return grid.samples()


def _draw_changes(move: Transition, logits: Tensor, tokens: Tensor, sampler: TokenSampler, step: int) -> Draw:
    """Draw the new tokens of the positions that change."""
    rows, positions = _choose_changes(move, logits, tokens, sampler, step).nonzero(as_tuple=True)
    probs = sampler.filter_logits(logits[rows, positions]).softmax(-1)
    weights = move.change_weights(probs, tokens[rows, positions])
    return sampler.draw_filtered(weights.log(), step, rows, positions)


def _choose_changes(move: Transition, logits: Tensor, tokens: Tensor, sampler: TokenSampler, step: int) -> Tensor:
    """Which positions (B, L) change. With path noise on, only unmasked positions need the prediction."""
    if sampler.path.is_off:
        probs = sampler.filter_logits(logits).softmax(-1)
        modes = move.posterior(probs.flatten(0, 1), tokens.flatten()).argmax(-1)
        return modes.view_as(tokens) != tokens
    stay = torch.full(tokens.shape, move.stay_masked, device=tokens.device)
    rows, positions = (tokens != move.codebook_size).nonzero(as_tuple=True)
    probs = sampler.filter_logits(logits[rows, positions]).softmax(-1)
    stay[rows, positions] = move.stay(probs.gather(1, tokens[rows, positions][:, None])[:, 0])
    return sampler.choose_positions((1 - stay).log(), step)
