"""Exact parallel decoding of autoregressive models: many positions a pass, the tokens of the sequential loop.

Every position has a uniform of its own, so sequential sampling is a function of the condition, without chance. Its
tokens are the only fixed point of an iteration (Wiggers & Hoogeboom 2020, arXiv 2002.09928; Song et al. 2021, arXiv
2002.03629): guess the tokens of a window, predict all of its positions in one pass, draw each with its own uniform,
and take the draws as the next guess. A draw is final once all guesses before it were right.

A pass over many positions rounds otherwise than one over a single position: logits differ in their last digits, and
so may a token whose uniform lies on the very edge between two. Such draws are noticed, not trusted: `is_certain` asks
whether logits that are off by `tolerance` could give another token. If so, the tokens since the last such place are fed
one by one, in the shapes of the sequential loop, and the token is drawn from the sequential loop's own logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from gendiv_lightning.records import TokenSamples
from gendiv_lightning.sampling.sampler import Draw, TokenGrid, TokenSampler

# Of a row's largest logit. Passes of 4 to 63 positions moved none by more than 2.2e-6 of it (GPT-B, 12 layers, float32
# on a CPU): five times that.
TOLERANCE = 1e-5


def sample_in_parallel(
    predict: Callable[[Tensor, int], Tensor],
    sampler: TokenSampler,
    num_tokens: int,
    window: int,
    tolerance: float = TOLERANCE,
) -> TokenSamples:
    """The tokens of `sample_autoregressive`, in fewer passes. Observers see each final draw once, in raster order.

    Entropies and log-probabilities are those of the sequential loop but for the last digits.

    Args:
        predict: the network, which keeps what it has seen: tokens (B, P) and a position to the logits (B, P, K) of P
            positions from there on, guided. The tokens are those before each position. Position 0, which has none, is
            asked for alone. A token that is handed in again takes the place of what was there.
        sampler: decides each token, step i being image token i.
        num_tokens: L.
        window: positions that a pass predicts, at least 1.
        tolerance: how far rounding may move a logit, as a share of the largest of its row, before guidance.

    Raises:
        ArithmeticError: rounding moved a logit further than that.
    """
    grid = TokenGrid(sampler, num_tokens)
    num_rows, device = len(grid.tokens), grid.tokens.device
    rows = torch.arange(num_rows, device=device)
    # Column i is the token before position i: final up to `start`, guessed from there on. Column 0 means nothing.
    before = torch.zeros(num_rows, num_tokens + 1, dtype=torch.int64, device=device)

    def draw_token(filtered: Tensor, position: int) -> Draw:
        return sampler.draw_filtered(filtered, position, rows, torch.full_like(rows, position))

    start = alone = 0  # tokens that are final; tokens that were predicted one by one, as the sequential loop does
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
                break  # what comes after was predicted from a wrong guess
        # Positions that no pass has seen are guessed from the last one that was, each with its own uniform.
        for position in range(stop, min(num_tokens, start + window) - 1):
            before[:, position + 1] = draw_token(filtered[:, -1], position).tokens
    return grid.samples()


def is_certain(sampler: TokenSampler, logits: Tensor, draw: Draw, tolerance: float = TOLERANCE) -> Tensor:
    """Whether a draw from logits (N, K) stays the same, however rounding moves them within `tolerance`: (N,) bool.

    The extremes of the cumulative distribution at both ends of the drawn token: entries that top-k and top-p may just
    keep or just drop are counted where they do harm.
    """
    slack = _slack(sampler, logits, tolerance)
    values = replace(sampler, top_k=None, top_p=1.0).filter_logits(logits).double()
    if draw.is_mode:
        best = values.topk(min(2, values.shape[-1])).values
        return best[:, 0] - best[:, -1] > 2 * slack if best.shape[-1] > 1 else torch.ones_like(slack, dtype=torch.bool)
    surely, maybe = _kept(sampler, values, slack)
    # Relative to the drawn token, whose own weight is 1, all others are raised by 2 slack at worst.
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
    """How far rounding may move the guided logits (N, K) of a row after division by the temperature: (N,)."""
    # u + s (c - u) adds up s errors of the conditional logits and s - 1 of the others. The second term is the
    # rounding of the draw itself.
    amplified = 2 * sampler.guidance - 1 if sampler.is_guided else 1.0
    largest = logits.abs().amax(-1).double()
    return tolerance * (amplified * largest / max(sampler.temperature, 1e-5) + 1)


def _kept(sampler: TokenSampler, values: Tensor, slack: Tensor) -> tuple[Tensor, Tensor]:
    """Entries (N, K) that top-k and top-p keep however rounding falls, and those that they may keep.

    An entry is kept if fewer than k are larger, and if they hold no more than the probability p. Between two entries
    that are 2 slack apart, rounding cannot turn the order.
    """
    possible = values > -torch.inf
    if not sampler.top_k and sampler.top_p >= 1:
        return possible, possible
    ordered, order = values.sort(dim=-1, descending=True)
    margin = 2 * slack[:, None]
    fewest = torch.searchsorted(-ordered, -ordered - margin)  # larger ones for certain
    most = torch.searchsorted(-ordered, -ordered + margin, right=True) - 1  # larger ones at most
    num_kept = sampler.top_k or values.shape[-1]
    surely, maybe = most < num_kept, fewest < num_kept
    if sampler.top_p < 1:
        ranked, shrunk = (ordered - ordered[:, :1]).exp(), (-margin).exp()
        mass = torch.nn.functional.pad(ranked.cumsum(-1), (1, 0))  # of the n largest, n from 0 on
        surely = surely & (mass.gather(-1, most) <= sampler.top_p * (ranked * surely).sum(-1, True) * shrunk)
        maybe = maybe & (mass.gather(-1, fewest) * shrunk <= sampler.top_p * (ranked * maybe).sum(-1, True))
    surely, maybe = (torch.zeros_like(kept).scatter(-1, order, kept) for kept in (surely, maybe))
    return surely & possible, maybe & possible


def _check_rounding(sampler: TokenSampler, logits: Tensor, exact: Tensor, tolerance: float) -> None:
    """Raise if a pass moved logits (N, K) further from those of the sequential loop than `is_certain` allows for."""
    allowed = _slack(sampler, exact, tolerance) * max(sampler.temperature, 1e-5)
    excess = ((logits - exact).abs().amax(-1) / allowed).max()
    if excess > 1:
        raise ArithmeticError(
            f"parallel decoding moved a logit {float(excess):.3g} times as far as it allows for, so its tokens may not "
            "be those of the sequential loop. Sample with decoding: sequential."
        )
