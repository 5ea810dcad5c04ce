"""The autoregressive sampler: one token after another, in raster order. The order is no chance, so there is no path."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gendiv_lightning.records import TokenSamples
from gendiv_lightning.sampling.sampler import TokenGrid, TokenSampler


def sample_autoregressive(
    predict: Callable[[Tensor, int], Tensor], sampler: TokenSampler, num_tokens: int
) -> TokenSamples:
    """Sample B images, B being the sampler's rows.

    Args:
        predict: the network, which keeps what it has seen: tokens (B, 1) and a position to the logits (B, 1, K) of that
            position, guided. The tokens are those of the position before; position 0 has none, and what is handed in
            for them means nothing.
        sampler: decides each token, step i being image token i.
        num_tokens: L.
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
