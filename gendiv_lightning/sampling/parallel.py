"""Exact parallel decoding of autoregressive models: many positions per pass, with the tokens of the sequential loop.

Every position has its own uniform, so sequential sampling is a deterministic function of the condition and the noise.
Its tokens are the only fixed point of an iteration (Wiggers & Hoogeboom 2020, arXiv 2002.09928; Song et al. 2021, arXiv
2002.03629): guess the tokens of a window, predict all of its positions in one pass, draw each with its own uniform,
and use the draws as the next guess. A draw is final once all guesses before it were correct.

A pass over many positions rounds differently from a pass over one: the logits differ in their last digits, and so can
a token whose uniform is on the boundary between two tokens. Such draws are detected: `is_certain` checks whether logits
that are off by `tolerance` could give another token. If so, all tokens since the last sequential one are fed one at a
time, in the shapes of the sequential loop, and the token is drawn from the logits of the sequential loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from gendiv_lightning.errors import ConfigValueError, OptionConflictError
from gendiv_lightning.records import TokenSamples
from gendiv_lightning.sampling.sampler import Draw, TokenGrid, TokenSampler

# Relative to a row's largest logit. Passes of 4 to 63 positions moved no logit by more than 2.2e-6 of it (GPT-B, 12
# layers, float32 on a CPU); the tolerance is about five times that. Other models and GPUs were not measured.
TOLERANCE = 1e-5


def check_decoding(decoding: str, window: int, dtype: str) -> None:
    """Raise ValueError for settings of a generator that offers both loops, before its weights are loaded.

    Args:
        decoding: "sequential" or "parallel".
        window: positions that a parallel pass predicts.
        dtype: of the network.
    """
    if decoding not in ("sequential", "parallel"):
        raise ConfigValueError(f'decoding must be "sequential" or "parallel", got {decoding!r}. Choose one of the two')
    if window < 1:
        raise ConfigValueError(f"window must be at least 1, got {window}. Set the number of tokens per pass")
    if decoding == "parallel" and dtype != "float32":
        raise OptionConflictError(
            f"decoding: parallel requires dtype: float32, got {dtype} (in half precision passes of different widths "
            "give different tokens). Change the dtype, or use decoding: sequential"
        )


def sample_in_parallel(
    predict: Callable[[Tensor, int], Tensor],
    sampler: TokenSampler,
    num_tokens: int,
    window: int,
    tolerance: float = TOLERANCE,
) -> TokenSamples:
    """The tokens of `sample_autoregressive`, in fewer passes. Observers receive each final draw once, in raster order.

    Entropies and log-probabilities equal those of the sequential loop up to the last digits.

    Args:
        predict: the network with its cache: maps tokens (B, P) and a position to the guided logits (B, P, K) of the P
            positions that start there. Each token is the one before its position. Position 0 has none and is always
            predicted alone. Passing a token again overwrites the cached one.
        sampler: draws each token; step i is image token i.
        num_tokens: number of image tokens L.
        window: number of positions per pass, at least 1.
        tolerance: largest rounding error of a logit before guidance, relative to the largest guided logit of its row.

    Raises:
        ArithmeticError: rounding moved a logit by more than `tolerance`.
    """
    grid = TokenGrid(sampler, num_tokens)
    num_rows, device = len(grid.tokens), grid.tokens.device
    rows = torch.arange(num_rows, device=device)
    # Column i is the token before position i: final up to `start`, guessed from there on. Column 0 is unused.
    before = torch.zeros(num_rows, num_tokens + 1, dtype=torch.int64, device=device)

    def draw_token(filtered: Tensor, position: int) -> Draw:
        return sampler.draw_filtered(filtered, position, rows, torch.full_like(rows, position))

    start = alone = 0  # number of final tokens; number of tokens predicted one at a time, as in the sequential loop
    while start < num_tokens:
        first, stop = start, min(num_tokens, start + window) if start else 1
        given = before[:, first:stop].clone()
        logits = predict(given, first)
        filtered = sampler.filter_logits(logits)
        draws = [draw_token(filtered[:, i], first + i) for i in range(stop - first)]
        before[:, first + 1 : stop + 1] = torch.stack([draw.tokens for draw in draws], 1)
        for draw in draws:
            if alone == first == stop - 1:
                alone = stop
            elif not is_certain(sampler, logits[:, start - first], draw, tolerance).all():
                for position in range(alone, start + 1):
                    exact = predict(before[:, position : position + 1], position)[:, 0]
                alone = start + 1
                _check_rounding(sampler, logits[:, start - first], exact, tolerance)
                draw = draw_token(sampler.filter_logits(exact), start)
                before[:, alone] = draw.tokens
            grid.write(draw)
            start += 1
            if start < stop and not torch.equal(draw.tokens, given[:, start - first]):
                break  # the following positions were predicted from a wrong guess
        # Positions beyond the last pass are guessed from its last logits, each with its own uniform.
        for position in range(stop, min(num_tokens, start + window) - 1):
            before[:, position + 1] = draw_token(filtered[:, -1], position).tokens
    return grid.samples()


def is_certain(sampler: TokenSampler, logits: Tensor, draw: Draw, tolerance: float = TOLERANCE) -> Tensor:
    """Whether draws from logits (N, K) are the same for any rounding within `tolerance`: (N,) bool.

    Compares the uniforms with the extreme values of the cumulative distribution at both ends of the drawn token.
    Entries that top-k or top-p keep in one case and drop in another are counted as the worst case requires.
    """
    slack = _slack(sampler, logits, tolerance)
    values = replace(sampler, top_k=None, top_p=1.0).filter_logits(logits).double()
    if draw.is_mode:
        best = values.topk(min(2, values.shape[-1])).values
        return best[:, 0] - best[:, -1] > 2 * slack if best.shape[-1] > 1 else torch.ones_like(slack, dtype=torch.bool)
    surely, maybe = _kept(sampler, values, slack)
    # Relative to the drawn token, whose weight is 1, every other log-weight is off by at most 2 slack.
    here = draw.tokens[:, None]
    relative = values - values.gather(-1, here)
    least = torch.where(surely, relative.clamp(max=500).exp(), 0.0).scatter(-1, here, 0.0).cumsum(-1)
    most = (
        torch.where(maybe, (relative + 2 * slack[:, None]).clamp(max=500).exp(), 0.0).scatter(-1, here, 0.0).cumsum(-1)
    )
    least_before, most_before = least.gather(-1, here)[:, 0], most.gather(-1, here)[:, 0]
    least_after, most_after = least[:, -1] - least_before, most[:, -1] - most_before
    uniforms = sampler.exec.uniform(draw.step, draw.rows, draw.positions)
    starts_before = most_before <= uniforms * (most_before + 1 + least_after)
    ends_after = least_before + 1 > uniforms * (least_before + 1 + most_after)
    return surely.gather(-1, here)[:, 0] & starts_before & ends_after


def _slack(sampler: TokenSampler, logits: Tensor, tolerance: float) -> Tensor:
    """Largest rounding error (N,) of guided logits (N, K) after division by the temperature."""
    # u + s (c - u) adds s times the error of the conditional logits and s - 1 times that of the unconditional ones.
    # Only guided logits are known here; it is assumed that guidance does not shrink the largest one of a row.
    # The second term is the rounding error of the draw itself.
    amplified = 2 * sampler.guidance - 1 if sampler.is_guided else 1.0
    largest = logits.abs().amax(-1).double()
    return tolerance * (amplified * largest / max(sampler.temperature, 1e-5) + 1)


def _kept(sampler: TokenSampler, values: Tensor, slack: Tensor) -> tuple[Tensor, Tensor]:
    """Entries (N, K) that top-k and top-p keep for any rounding, and entries that they keep for some rounding.

    An entry is kept if fewer than k entries are larger and their total probability is at most p. Rounding cannot
    swap two entries that are more than 2 slack apart.
    """
    possible = values > -torch.inf
    if not sampler.top_k and sampler.top_p >= 1:
        return possible, possible
    ordered, order = values.sort(dim=-1, descending=True)
    margin = 2 * slack[:, None]
    fewest = torch.searchsorted(-ordered, -ordered - margin)  # smallest possible number of larger entries
    most = torch.searchsorted(-ordered, -ordered + margin, right=True) - 1  # largest possible number
    num_kept = sampler.top_k or values.shape[-1]
    surely, maybe = most < num_kept, fewest < num_kept
    if sampler.top_p < 1:
        ranked, shrunk = (ordered - ordered[:, :1]).exp(), (-margin).exp()
        mass = torch.nn.functional.pad(ranked.cumsum(-1), (1, 0))  # total of the n largest, n = 0, 1, ...
        surely = surely & (mass.gather(-1, most) <= sampler.top_p * (ranked * surely).sum(-1, True) * shrunk)
        maybe = maybe & (mass.gather(-1, fewest) * shrunk <= sampler.top_p * (ranked * maybe).sum(-1, True))
    surely, maybe = (torch.zeros_like(kept).scatter(-1, order, kept) for kept in (surely, maybe))
    return surely & possible, maybe & possible


def _check_rounding(sampler: TokenSampler, logits: Tensor, exact: Tensor, tolerance: float) -> None:
    """Raise ArithmeticError if logits (N, K) differ from those of the sequential loop by more than the tolerance."""
    allowed = _slack(sampler, exact, tolerance) * max(sampler.temperature, 1e-5)
    excess = ((logits - exact).abs().amax(-1) / allowed).max()
    if excess > 1:
        raise ArithmeticError(
            f"parallel decoding moved a logit by {float(excess):.3g} times its tolerance, so its tokens may differ "
            "from those of the sequential loop. Sample with decoding: sequential."
        )
