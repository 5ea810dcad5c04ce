"""The next-scale sampler (VAR, Tian et al. 2024, arXiv 2404.02905): all tokens of a scale at once, scales in order.

An image is a pyramid of token grids, the coarsest first. Given the scales before, the tokens of a scale are drawn
independently (execution); the order of the scales is no chance, so there is no path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gendiv_lightning.records import TokenSamples
from gendiv_lightning.sampling.sampler import TokenGrid, TokenSampler


def sample_next_scale(
    predict: Callable[[Tensor, int], Tensor], sampler: TokenSampler, scale_sizes: Sequence[int]
) -> TokenSamples:
    """Sample B images, B being the sampler's rows.

    Args:
        predict: the network, which keeps what it has seen: the tokens (B, n') of the scale before and the number of a
            scale to the logits (B, n, K) of its n positions, guided. Scale 0 has none before it, n' = 0.
        sampler: decides each token; a scale is a step of the loop.
        scale_sizes: tokens of each scale. Positions of an image count through all scales, L in all.
    """
    grid = TokenGrid(sampler, sum(scale_sizes))
    num_rows, device = len(grid.tokens), grid.tokens.device
    rows, start, before = torch.arange(num_rows, device=device), 0, grid.tokens[:, :0]
    for step, size in enumerate(scale_sizes):
        positions = torch.arange(start, start + size, device=device)
        logits = predict(before, step).flatten(0, 1)
        grid.write(sampler.draw_tokens(logits, step, rows.repeat_interleave(size), positions.repeat(num_rows)))
        before, start = grid.tokens[:, start : start + size], start + size
    return grid.samples()
