"""The autoregressive sampling loop: one token at a time in raster order. The order is fixed, so there is no path."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gendiv_lightning.records import TokenSamples
from gendiv_lightning.sampling.sampler import TokenGrid, TokenSampler


def sample_autoregressive(
    predict: Callable[[Tensor, int], Tensor], sampler: TokenSampler, num_tokens: int
) -> TokenSamples:
    """Sample B images, one per row of the sampler.

    Args:
        predict: the network with its cache: maps the tokens (B, 1) of the previous position and a position to the
            guided logits (B, 1, K) of that position. The tokens passed for position 0 are meaningless.
        sampler: draws each token; step i is image token i.
        num_tokens: number of image tokens L.
    """
    grid = TokenGrid(sampler, num_tokens)
    num_rows, device = len(grid.tokens), grid.tokens.device
    rows, positions = torch.arange(num_rows, device=device), torch.arange(num_tokens, device=device)
    previous = grid.tokens[:, :1]
    for step in range(num_tokens):
        logits = predict(previous, step)[:, 0]
        draw = sampler.draw_tokens(logits, step, rows, positions[step].expand(num_rows))
        grid.write(draw)
        previous = draw.tokens[:, None]
    return grid.samples()
