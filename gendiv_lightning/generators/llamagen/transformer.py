"""LlamaGen's transformer (Sun et al. 2024, arXiv 2406.06525), with the official state-dict names.

Notation: R rows, T condition positions, n of them valid (left-padded), N image tokens, H heads, d head size, K codebook
entries.

The rotary table of the official model is zero, not the identity, on condition positions. So their queries and keys
vanish, and
1. a condition position attends evenly: its attention output is the running mean of the values up to it;
2. for an image token the n valid condition positions act as one key with score log(n) and their mean value as value.
The condition is therefore run once, without attention, and takes one cache slot per layer and head, for any length
of the caption.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gendiv_lightning.errors import ConfigValueError

Store = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class GPTConfig:
    """Sizes of a LlamaGen transformer, with their official names; the defaults are those of the released models.

    Attributes:
        cls_token_num: number of condition positions T (1 for a class label, 120 for a caption).
        block_size: number of image tokens N, a perfect square.
        model_type: "t2i" is conditioned on caption features (T, caption_dim), "c2i" on a class label.
    """

    dim: int
    n_layer: int
    n_head: int
    n_kv_head: int | None = None
    multiple_of: int = 256
    ffn_dim_multiplier: float | None = None
    rope_base: float = 10000.0
    norm_eps: float = 1e-5
    vocab_size: int = 16384
    cls_token_num: int = 1
    block_size: int = 256
    num_classes: int = 1000
    caption_dim: int = 2048
    class_dropout_prob: float = 0.1
    model_type: Literal["c2i", "t2i"] = "c2i"

    def __post_init__(self) -> None:
        if math.isqrt(self.block_size) ** 2 != self.block_size:
            raise ConfigValueError(
                f"block_size must be a perfect square, the tokens of a square grid, got {self.block_size}"
            )
        if self.dim % self.n_head or self.head_dim % 4:
            raise ConfigValueError(f"dim / n_head must be a multiple of 4, got dim {self.dim} and n_head {self.n_head}")

    @property
    def head_dim(self) -> int:
        """Size d of a head."""
        return self.dim // self.n_head

    @property
    def num_kv_heads(self) -> int:
        """Number of key and value heads; fewer than H means grouped-query attention."""
        return self.n_kv_head or self.n_head

    @property
    def ffn_hidden(self) -> int:
        """Hidden size of the feed-forward layers: 2/3 of 4 dim, rounded up to `multiple_of`."""
        hidden = int(2 * (4 * self.dim) / 3)
        if self.ffn_dim_multiplier is not None:
            hidden = int(self.ffn_dim_multiplier * hidden)
        return -(-hidden // self.multiple_of) * self.multiple_of


GPT_SIZES: dict[str, dict[str, int]] = {
    "GPT-B": {"n_layer": 12, "n_head": 12, "dim": 768},
    "GPT-L": {"n_layer": 24, "n_head": 16, "dim": 1024},
    "GPT-XL": {"n_layer": 36, "n_head": 20, "dim": 1280},
    "GPT-XXL": {"n_layer": 48, "n_head": 24, "dim": 1536},
    "GPT-XXXL": {"n_layer": 48, "n_head": 40, "dim": 2560},
    "GPT-1B": {"n_layer": 22, "n_head": 32, "dim": 2048},
    "GPT-3B": {"n_layer": 24, "n_head": 32, "dim": 3200},
    "GPT-7B": {"n_layer": 32, "n_head": 32, "dim": 4096},
}


def rotary_table(grid: int, head_dim: int, base: float = 10000.0) -> Tensor:
    """Angles of the 2-D rotary embedding as (cos, sin), (grid * grid, head_dim / 2, 2) float32.

    The first half of a cell's angles depends on its row, the second half on its column.
    """
    half = head_dim // 2
    frequencies = 1.0 / base ** (torch.arange(0, half, 2)[: half // 2].float() / half)
    angles = torch.outer(torch.arange(grid).float(), frequencies)
    rows, columns = angles[:, None].expand(-1, grid, -1), angles[None].expand(grid, -1, -1)
    angles = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate each pair (x[2j], x[2j+1]) by angle j. x (..., positions, heads, d), table (positions, d / 2, 2)."""
    # On a CPU one complex product is several times faster than strided real ones.
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    rotated = torch.view_as_real(pairs * torch.view_as_complex(table)[:, None])
    return rotated.flatten(-2).to(x.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square norm in float32, scaled in the dtype of the weights."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., dim) to (..., dim)."""
        return F.rms_norm(x.float(), (x.shape[-1],), eps=self.eps).to(self.weight.dtype) * self.weight


class Attention(nn.Module):
    """Projections of self-attention; rows of `wqkv` are all query heads, then all key heads, then all value heads."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = config.n_head, config.num_kv_heads, config.head_dim
        self.wqkv = nn.Linear(config.dim, (config.n_head + 2 * config.num_kv_heads) * config.head_dim, bias=False)
        self.wo = nn.Linear(config.dim, config.dim, bias=False)

    def project(self, x: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries, rotated keys and values: x (R, P, dim) to (R, heads, P, d) each."""
        heads = self.wqkv(x).unflatten(-1, (-1, self.head_dim))
        q_and_k, v = heads.split([self.num_heads + self.num_kv_heads, self.num_kv_heads], dim=-2)
        q, k = rotate(q_and_k, table).transpose(1, 2).split([self.num_heads, self.num_kv_heads], dim=1)
        return q, k, v.transpose(1, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """Attention with an additive bias (broadcast to (R, H, P, S)), heads joined and projected: (R, P, dim)."""
        out = F.scaled_dot_product_attention(q, self._to_heads(k), self._to_heads(v), attn_mask=bias)
        return self.wo(out.transpose(1, 2).flatten(-2))

    def running_mean(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Attention output (R, T, dim) of condition positions, and their mean value (R, kv heads, d)."""
        values = F.linear(x, self.wqkv.weight[-self.num_kv_heads * self.head_dim :]).float() * mask[..., None]
        means = values.cumsum(1) / mask.cumsum(1).clamp(min=1)[..., None]
        means = means.to(x.dtype).unflatten(-1, (-1, self.head_dim))
        heads = means.repeat_interleave(self.num_heads // self.num_kv_heads, dim=-2)
        return self.wo(heads.flatten(-2)), means[:, -1]

    def _to_heads(self, x: Tensor) -> Tensor:
        if self.num_kv_heads == self.num_heads:
            return x
        return x.repeat_interleave(self.num_heads // self.num_kv_heads, dim=1)


class FeedForward(nn.Module):
    """Gated feed-forward layer: w2(silu(w1 x) * w3 x)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.dim, config.ffn_hidden, bias=False)
        self.w3 = nn.Linear(config.dim, config.ffn_hidden, bias=False)
        self.w2 = nn.Linear(config.ffn_hidden, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., dim) to (..., dim)."""
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)

    def condition(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Next states of condition positions (R, T, dim), and the mean value that image tokens attend to."""
        out, mean_value = self.attention.running_mean(self.attention_norm(x), mask)
        x = x + out
        return x + self.feed_forward(self.ffn_norm(x)), mean_value

    def image(self, x: Tensor, table: Tensor, store: Store, bias: Tensor) -> Tensor:
        """Next states of image positions (R, P, dim); `store` takes their keys and values, returns all attended."""
        q, k, v = self.attention.project(self.attention_norm(x), table)
        x = x + self.attention.attend(q, *store(k, v), bias)
        return x + self.feed_forward(self.ffn_norm(x))


class CaptionEmbedder(nn.Module):
    """Embeds caption features as condition positions; the features of "no caption" are a fixed buffer."""

    uncond_embedding: Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.cap_proj = nn.ModuleDict(
            {
                "fc1": nn.Linear(config.caption_dim, config.dim, bias=False),
                "fc2": nn.Linear(config.dim, config.dim, bias=False),
            }
        )
        # The values must come from a checkpoint, because the official random draw was not saved anywhere else.
        self.register_buffer("uncond_embedding", torch.zeros(config.cls_token_num, config.caption_dim))

    def forward(self, features: Tensor) -> Tensor:
        """Map (R, T, caption_dim) to (R, T, dim)."""
        return self.cap_proj["fc2"](F.gelu(self.cap_proj["fc1"](features), approximate="tanh"))


class LabelEmbedder(nn.Module):
    """Embeds a class label as one condition position; the last row of the table is "no label"."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(config.num_classes + (config.class_dropout_prob > 0), config.dim)

    def forward(self, labels: Tensor) -> Tensor:
        """Map labels (R,) to (R, 1, dim)."""
        return self.embedding_table(labels)[:, None]


class Prefill(NamedTuple):
    """Result of running the conditions, which is all that sampling needs.

    Attributes:
        values: (R, layers, kv heads, d), mean value of the valid condition positions in each layer.
        log_count: (R,) float32, log of their number n, which is the score of their common key.
        logits: (R, K) float32, logits of image token 0.
    """

    values: Tensor
    log_count: Tensor
    logits: Tensor

    def take(self, rows: Tensor) -> Prefill:
        """Select rows, possibly repeated."""
        return Prefill(self.values[rows], self.log_count[rows], self.logits[rows])


def join_prefills(parts: Sequence[Prefill]) -> Prefill:
    """Concatenate the rows of several prefills."""
    return Prefill(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


class Cache:
    """Static key and value cache of all layers, with S = N slots per row.

    Slot 0 is the condition, slot i + 1 is image token i. Feeding a token again overwrites its slot.

    Attributes:
        keys: (layers, R, kv heads, S, d), rotated; zero in slot 0, whose score is `bias` only.
        values: (layers, R, kv heads, S, d).
        bias: (R, 1, 1, S) added to the scores of a slot: log(n) in slot 0, 0 elsewhere.
    """

    def __init__(self, prefill: Prefill, num_slots: int) -> None:
        rows, layers, heads, head_dim = prefill.values.shape
        self.keys = prefill.values.new_zeros(layers, rows, heads, num_slots, head_dim)
        self.values = torch.zeros_like(self.keys)
        self.values[:, :, :, 0] = prefill.values.transpose(0, 1)
        self.bias = prefill.values.new_zeros(rows, 1, 1, num_slots)
        self.bias[..., 0] = prefill.log_count[:, None, None]

    def spread(self, spread: Callable[[Tensor], Tensor]) -> None:
        """Replace the rows of the cache: `spread` maps the current rows (R, ...) to the new ones (R', ...)."""
        self.keys, self.values = (spread(x.transpose(0, 1)).transpose(0, 1) for x in (self.keys, self.values))
        self.bias = spread(self.bias)


class GPT(nn.Module):
    """The transformer: `prefill_*` runs conditions, `decode` some image tokens, `forward` all image tokens at once."""

    layers: Sequence[Block]
    rotary: Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.cls_embedding = CaptionEmbedder(config) if config.model_type == "t2i" else LabelEmbedder(config)
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        # The members of a ModuleList are typed as plain modules.
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layer))  # type: ignore[assignment]
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)
        table = rotary_table(math.isqrt(config.block_size), config.head_dim, config.rope_base)
        self.register_buffer("rotary", table, persistent=False)

    def logits(self, x: Tensor) -> Tensor:
        """Logits (..., K) float32 of last states (..., dim)."""
        return self.output(self.norm(x)).float()

    def condition(self, positions: Tensor, mask: Tensor) -> tuple[Prefill, Tensor]:
        """Run condition positions (R, T, dim), left-padded with `mask` (R, T) bool; also returns their last states."""
        x, values = positions, []
        for layer in self.layers:
            x, mean_value = layer.condition(x, mask)
            values.append(mean_value)
        return Prefill(torch.stack(values, 1), mask.sum(1).float().log(), self.logits(x[:, -1])), x

    def prefill_labels(self, labels: Tensor) -> Prefill:
        """Prefill of class labels (R,) with their null conditions: R conditional rows, then R null rows."""
        labels = torch.cat([labels, torch.full_like(labels, self.config.num_classes)])
        return self.condition(
            self.cls_embedding(labels), torch.ones(len(labels), 1, dtype=torch.bool, device=labels.device)
        )[0]

    def prefill_captions(self, features: Tensor, mask: Tensor) -> Prefill:
        """Prefill of caption features (R, T, caption_dim), left-padded with mask (R, T) bool."""
        return self.condition(self.cls_embedding(features), mask)[0]

    def null_features(self, num_valid: Tensor) -> tuple[Tensor, Tensor]:
        """Features and mask of "no caption" for captions of `num_valid` (R,) tokens.

        The null condition has the same mask as the caption: it is the last n of the T fixed rows and therefore depends
        on the caption's length.
        """
        assert isinstance(self.cls_embedding, CaptionEmbedder), "only caption models have null features"
        num_positions = self.config.cls_token_num
        mask = torch.arange(num_positions, device=num_valid.device) >= num_positions - num_valid[:, None]
        return self.cls_embedding.uncond_embedding.expand(len(num_valid), -1, -1), mask

    def decode(self, tokens: Tensor, positions: Tensor, length: int, cache: Cache) -> Tensor:
        """Feed image tokens (R, P) at consecutive `positions` (P,) and return the logits (R, P, K) of the next tokens.

        Every token attends to the condition and to all tokens up to its own position. Only the first `length` cache
        slots are used, which must be at least two more than the last position, and only the first R rows of the cache.
        """
        slots, num_rows = positions + 1, len(tokens)
        is_later = torch.arange(length, device=slots.device) > slots[:, None]
        bias = torch.where(is_later, -torch.inf, cache.bias[:num_rows, ..., :length])
        attended = cache.keys[:, :num_rows, :, :length], cache.values[:, :num_rows, :, :length]
        x, table = self.tok_embeddings(tokens), self.rotary[positions]
        for layer, keys, values in zip(self.layers, *attended, strict=True):

            def store(k: Tensor, v: Tensor, keys: Tensor = keys, values: Tensor = values) -> tuple[Tensor, Tensor]:
                return keys.index_copy_(2, slots, k), values.index_copy_(2, slots, v)

            x = layer.image(x, table, store, bias)
        return self.logits(x)

    def forward(self, positions: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
        """Logits (R, N', K) that predict each image token of (R, N') from the condition and the tokens before it."""
        prefill, states = self.condition(positions, mask)
        num_inputs = tokens.shape[1] - 1
        x = self.tok_embeddings(tokens[:, :-1])
        causal = torch.ones(num_inputs, num_inputs + 1, dtype=torch.bool, device=x.device).tril(1)
        bias = torch.zeros(len(x), 1, num_inputs, num_inputs + 1, device=x.device).masked_fill(~causal, -torch.inf)
        bias[..., 0] = prefill.log_count[:, None, None]
        for layer, value in zip(self.layers, prefill.values.unbind(1), strict=True):

            def append(k: Tensor, v: Tensor, value: Tensor = value[:, :, None]) -> tuple[Tensor, Tensor]:
                return torch.cat([torch.zeros_like(value), k], 2), torch.cat([value, v], 2)

            x = layer.image(x, self.rotary[:num_inputs], append, bias.to(prefill.values.dtype))
        return self.logits(torch.cat([states[:, -1:], x], 1))
