"""The next-scale sampling loop (VAR, Tian et al. 2024, arXiv 2404.02905): all tokens of a scale at once.

An image is a pyramid of token grids, from coarse to fine. Given the previous scales, the tokens of a scale are drawn
independently (execution). The order of the scales is fixed, so there is no path.
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
    """Sample B images, one per row of the sampler.

    Args:
        predict: the network with its cache: maps the tokens (B, n') of the previous scale and the number of a scale to
            the guided logits (B, n, K) of its n positions. For scale 0, n' = 0.
        sampler: draws each token; one scale is one step of the loop.
        scale_sizes: number of tokens of each scale. Positions are numbered through all scales, L in total.
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
