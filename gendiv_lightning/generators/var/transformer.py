"""VAR's transformer (Tian et al. 2024, arXiv 2404.02905), with the official state-dict names.

It takes the sum of the codes so far and predicts the tokens of the next scale.

Notation: R rows, S scales, n positions of one scale, L positions of all scales, D hidden size, H heads, d head size, K
codebook entries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Store = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

_LARGEST_SCALE = math.log(100)  # upper bound of the learned log-factor on unit queries


@dataclass(frozen=True)
class VARConfig:
    """Sizes of a VAR transformer; the depth determines a released model, see `of_depth`.

    Attributes:
        depth: number of blocks.
        dim: hidden size D.
        num_heads: number of heads H.
        num_classes: number of labels; one additional label is "no label".
        codebook_size: number of codebook entries K.
        code_dim: size of a code.
        sides: positions per side of each scale, from coarse to fine.
    """

    depth: int
    dim: int
    num_heads: int
    num_classes: int = 1000
    codebook_size: int = 4096
    code_dim: int = 32
    sides: Sequence[int] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)

    @classmethod
    def of_depth(cls, depth: int) -> VARConfig:
        """Sizes of a released model; `var_d16.pth` has depth 16."""
        return cls(depth, 64 * depth, depth)

    @property
    def sizes(self) -> list[int]:
        """Number of positions n of each scale."""
        return [side**2 for side in self.sides]

    @property
    def starts(self) -> list[int]:
        """The first position of each scale, followed by L."""
        return [0, *accumulate(self.sizes)]


class Attention(nn.Module):
    """Self-attention with unit queries and keys; each head has a learned factor on its queries."""

    zero_k_bias: Tensor

    def __init__(self, config: VARConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.scale_mul_1H11 = nn.Parameter(torch.full((1, config.num_heads, 1, 1), math.log(4.0)))
        self.mat_qkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.q_bias, self.v_bias = (nn.Parameter(torch.zeros(config.dim)) for _ in range(2))
        self.register_buffer("zero_k_bias", torch.zeros(config.dim))  # zero, but contained in official files
        self.proj = nn.Linear(config.dim, config.dim)

    def forward(self, x: Tensor, store: Store, bias: Tensor | None) -> Tensor:
        """Map (R, n, D) to the same shape; `store` takes keys and values (R, H, n, d) and returns all attended ones."""
        qkv = F.linear(x, self.mat_qkv.weight, torch.cat([self.q_bias, self.zero_k_bias, self.v_bias]))
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q = F.normalize(q, dim=-1) * self.scale_mul_1H11.clamp(max=_LARGEST_SCALE).exp()
        out = F.scaled_dot_product_attention(q, *store(F.normalize(k, dim=-1), v), attn_mask=bias, scale=1.0)
        return self.proj(out.transpose(1, 2).flatten(-2))


class FeedForward(nn.Module):
    """Two linear layers with a tanh-approximated GELU in between."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to the same shape."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


def _modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (scale + 1) + shift


class Block(nn.Module):
    """Attention and feed-forward layer; the class label sets scale, shift and gate of both (adaptive layer norm)."""

    def __init__(self, config: VARConfig) -> None:
        super().__init__()
        self.attn = Attention(config)
        self.ffn = FeedForward(config.dim)
        self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(config.dim, 6 * config.dim))

    def modulation(self, label: Tensor) -> Tensor:
        """Gates, scales and shifts (6, R, 1, D) of attention and feed-forward layer, from embedded labels (R, D)."""
        return self.ada_lin(label).unflatten(-1, (6, 1, -1)).movedim(1, 0)

    def forward(self, x: Tensor, modulation: Tensor, store: Store, bias: Tensor | None = None) -> Tensor:
        """Map (R, n, D) to the same shape."""
        gate, ffn_gate, scale, ffn_scale, shift, ffn_shift = modulation
        x = x + self.attn(_modulate(x, scale, shift), store, bias) * gate
        return x + self.ffn(_modulate(x, ffn_scale, ffn_shift)) * ffn_gate


class Head(nn.Module):
    """The adaptive layer norm before the logits."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Map last states (R, n, D) and embedded labels (R, D) to (R, n, D)."""
        return _modulate(x, *self.ada_lin(label).unflatten(-1, (2, 1, -1)).unbind(1))


class Cache:
    """Keys and values of the scales so far, and the modulations of all blocks.

    Attributes:
        label: (R, D) embedded labels.
        modulations: modulation of each block.
        keys: (blocks, R, H, L, d).
        values: (blocks, R, H, L, d).
        length: number of filled positions.
    """

    def __init__(self, var: VARTransformer, labels: Tensor) -> None:
        config = var.config
        self.label = var.class_emb(labels)
        self.modulations = [block.modulation(self.label) for block in var.blocks]
        shape = (config.depth, len(labels), config.num_heads, config.starts[-1], config.dim // config.num_heads)
        self.keys, self.values = (self.label.new_zeros(shape) for _ in range(2))
        self.length = 0


class VARTransformer(nn.Module):
    """The transformer: `predict` returns the logits of one scale after another, `forward` those of all at once."""

    blocks: Sequence[Block]
    lvl_1L: Tensor
    attn_bias_for_masking: Tensor

    def __init__(self, config: VARConfig) -> None:
        super().__init__()
        self.config = config
        num_positions, sizes = config.starts[-1], torch.tensor(config.sizes, device="cpu")
        self.word_embed = nn.Linear(config.code_dim, config.dim)
        self.class_emb = nn.Embedding(config.num_classes + 1, config.dim)
        self.pos_start = nn.Parameter(torch.zeros(1, config.sizes[0], config.dim))
        self.pos_1LC = nn.Parameter(torch.zeros(1, num_positions, config.dim))
        self.lvl_embed = nn.Embedding(len(config.sides), config.dim)
        # The members of a ModuleList are typed as plain modules.
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))  # type: ignore[assignment]
        scale = torch.arange(len(sizes), device="cpu").repeat_interleave(sizes)
        self.register_buffer("lvl_1L", scale[None])
        is_later = scale[:, None] < scale
        self.register_buffer("attn_bias_for_masking", torch.where(is_later, -torch.inf, 0.0)[None, None])
        self.head_nm = Head(config.dim)
        self.head = nn.Linear(config.dim, config.codebook_size)

    def first_inputs(self, label: Tensor) -> Tensor:
        """Inputs (R, n, D) of scale 0, from embedded labels (R, D)."""
        return label[:, None] + self.pos_start + self._positions(0, self.config.sizes[0])

    def inputs(self, codes: Tensor, scale: int) -> Tensor:
        """Inputs (R, n, D) of a later scale, from the sum of the codes so far, resized to (R, n, code_dim)."""
        start, stop = self.config.starts[scale : scale + 2]
        return self.word_embed(codes.to(self.word_embed.weight.dtype)) + self._positions(start, stop)

    def _positions(self, start: int, stop: int) -> Tensor:
        return self.lvl_embed(self.lvl_1L[:, start:stop]) + self.pos_1LC[:, start:stop]

    def predict(self, x: Tensor, cache: Cache) -> Tensor:
        """Logits (R, n, K) float32 of the scale with inputs (R, n, D); the previous scales are in the cache."""
        start, stop = cache.length, cache.length + x.shape[1]
        for block, modulation, keys, values in zip(
            self.blocks, cache.modulations, cache.keys, cache.values, strict=True
        ):

            def store(k: Tensor, v: Tensor, keys: Tensor = keys, values: Tensor = values) -> tuple[Tensor, Tensor]:
                keys[:, :, start:stop], values[:, :, start:stop] = k, v
                return keys[:, :, :stop], values[:, :, :stop]

            x = block(x, modulation, store)
        cache.length = stop
        return self.logits(x, cache.label)

    def logits(self, x: Tensor, label: Tensor) -> Tensor:
        """Logits (R, n, K) float32 from last states (R, n, D) and embedded labels (R, D)."""
        return self.head(self.head_nm(x, label)).float()

    def forward(self, labels: Tensor, codes: Sequence[Tensor]) -> Tensor:
        """Logits (R, L, K) of all scales at once, from labels (R,) and the input codes of scales 1 to S - 1."""
        label = self.class_emb(labels)
        x = torch.cat([self.first_inputs(label), *(self.inputs(c, i) for i, c in enumerate(codes, 1))], 1)
        for block in self.blocks:
            x = block(x, block.modulation(label), lambda k, v: (k, v), self.attn_bias_for_masking.to(x.dtype))
        return self.logits(x, label)
