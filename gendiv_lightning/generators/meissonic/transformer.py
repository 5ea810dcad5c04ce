"""Meissonic's transformer (Bai et al. 2024, arXiv 2410.08261), with the official state-dict names.

It maps partly masked tokens and caption features to logits of all tokens. Caption and image attend to each other: first
in blocks with separate weights, then in blocks with shared weights.

Notation: R rows, T caption positions, (h, w) token grid, P = h w positions (a quarter of them if the network halves the
grid), D hidden size, H heads, d head size, K codebook entries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gendiv_lightning.errors import ConfigValueError, WrongWeightsError

_NUM_SINUSOIDS = 256  # per embedded number, that is, the time and each micro-condition
_NUM_MICRO_CONDITIONS = 5
_EPS = 1e-6


@dataclass(frozen=True)
class MeissonicConfig:
    """Sizes, with their names in the official `config.json`.

    Attributes:
        num_layers: number of blocks with separate weights for caption and image.
        num_single_layers: number of blocks with shared weights.
        attention_head_dim: head size d.
        num_attention_heads: number of heads H.
        joint_attention_dim: size of the caption features.
        pooled_projection_dim: size of the pooled caption vector, equal to D.
        axes_dims_rope: parts of a head that are not rotated, rotated with the row, and rotated with the column.
        vocab_size: number of input tokens, including the mask.
        codebook_size: number of codebook entries K.
        downsample: halve the grid before the blocks.
        upsample: double the grid after the blocks.
    """

    num_layers: int
    num_single_layers: int
    attention_head_dim: int
    num_attention_heads: int
    joint_attention_dim: int
    pooled_projection_dim: int
    axes_dims_rope: Sequence[int] = (16, 56, 56)
    vocab_size: int = 8256
    codebook_size: int = 8192
    downsample: bool = False
    upsample: bool = False

    def __post_init__(self) -> None:
        if self.pooled_projection_dim != self.dim or sum(self.axes_dims_rope) != self.attention_head_dim:
            raise ConfigValueError(
                f"pooled_projection_dim must be {self.dim} (heads times head size) and axes_dims_rope must sum to "
                f"{self.attention_head_dim}, got {self.pooled_projection_dim} and {self.axes_dims_rope}"
            )
        if self.downsample != self.upsample:
            raise ConfigValueError(
                f"downsample and upsample must be equal, got {self.downsample} and {self.upsample}. Otherwise the "
                "grids of logits and tokens differ"
            )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> MeissonicConfig:
        """Read an official `config.json`, ignoring other entries; ValueError if a size is missing or invalid."""
        if values.get("guidance_embeds"):
            raise ConfigValueError(
                "guidance_embeds: true is not supported, because distilled models have other weights"
            )
        try:
            return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})
        except TypeError as error:
            raise WrongWeightsError(f"not the configuration of Meissonic's transformer: {error}") from error

    @property
    def dim(self) -> int:
        """Hidden size D."""
        return self.num_attention_heads * self.attention_head_dim


def sinusoids(x: Tensor) -> Tensor:
    """Embed numbers (...) as cosines and sines (..., 256) of decreasing frequencies."""
    half = _NUM_SINUSOIDS // 2
    frequencies = (-math.log(10000) * torch.arange(half, dtype=torch.float32, device=x.device) / half).exp()
    angles = x.float()[..., None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def rotary_table(side: int, num_captions: int, axes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Cosines and sines (T + side^2, d) of the rotary embedding; caption positions are not rotated."""
    cells = torch.cartesian_prod(torch.arange(side), torch.arange(side)).double()
    positions = torch.cat([torch.zeros(num_captions, 3), F.pad(cells, (1, 0))])
    angles = [
        torch.outer(positions[:, axis], 1.0 / 10000.0 ** (torch.arange(0, size, 2, dtype=torch.float64) / size))
        for axis, size in enumerate(axes)
    ]
    joined = torch.cat(angles, 1).repeat_interleave(2, 1)
    return joined.cos().float(), joined.sin().float()


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate each pair (x[2j], x[2j + 1]) by angle j: x (R, H, P, d), tables (P, d)."""
    cos, sin = table
    perpendicular = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
    return (x.float() * cos + perpendicular.float() * sin).to(x.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square norm in float32, scaled in the dtype of the weights."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., dim) to the same shape."""
        return F.rms_norm(x.float(), x.shape[-1:], eps=_EPS).to(self.weight.dtype) * self.weight


class PlaneNorm(RMSNorm):
    """Root-mean-square norm over the channels of a plane."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (R, D, h, w) to the same shape."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class TwoLayers(nn.Module):
    """Two linear layers with a SiLU in between."""

    def __init__(self, in_dim: int, dim: int, bias: bool = True) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(in_dim, dim, bias), nn.Linear(dim, dim, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (R, in) to (R, D)."""
        return self.linear_2(F.silu(self.linear_1(x)))


class TimeAndText(nn.Module):
    """Embeds the time and the pooled caption vector as the condition of all modulations."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.timestep_embedder, self.text_embedder = TwoLayers(_NUM_SINUSOIDS, dim), TwoLayers(dim, dim)

    def forward(self, time: Tensor, pooled: Tensor) -> Tensor:
        """Map times (R,) and vectors (R, D) to (R, D)."""
        return self.timestep_embedder(sinusoids(time).to(pooled.dtype)) + self.text_embedder(pooled)


class Modulation(nn.Module):
    """Computes `num` vectors of scales, shifts and gates."""

    def __init__(self, dim: int, num: int) -> None:
        super().__init__()
        self.num, self.linear = num, nn.Linear(dim, num * dim)

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        """Map (R, D) to `num` tensors (R, 1, D)."""
        return self.linear(F.silu(condition))[:, None].chunk(self.num, -1)


def _modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=_EPS) * (1 + scale) + shift


class Attention(nn.Module):
    """Attention with normalised queries and keys, over all positions or with separate projections for the caption."""

    def __init__(self, config: MeissonicConfig, joint: bool) -> None:
        super().__init__()
        dim, self.num_heads = config.dim, config.num_attention_heads
        self.norm_q, self.norm_k = RMSNorm(config.attention_head_dim), RMSNorm(config.attention_head_dim)
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim) for _ in range(3))
        if joint:
            self.norm_added_q, self.norm_added_k = (RMSNorm(config.attention_head_dim) for _ in range(2))
            self.add_q_proj, self.add_k_proj, self.add_v_proj = (nn.Linear(dim, dim) for _ in range(3))
            self.to_out = nn.ModuleList([nn.Linear(dim, dim)])  # followed by a dropout in the official code
            self.to_add_out = nn.Linear(dim, dim)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (R, H, P, d) of the image."""
        q, k, v = (self._heads(layer(x)) for layer in (self.to_q, self.to_k, self.to_v))
        return self.norm_q(q), self.norm_k(k), v

    def project_caption(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (R, H, T, d) of the caption."""
        q, k, v = (self._heads(layer(x)) for layer in (self.add_q_proj, self.add_k_proj, self.add_v_proj))
        return self.norm_added_q(q), self.norm_added_k(k), v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
        """Full attention with rotated queries and keys: (R, P, D)."""
        return F.scaled_dot_product_attention(rotate(q, table), rotate(k, table), v).transpose(1, 2).flatten(2)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear layers with a tanh-approximated GELU in between, with diffusers' names."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        first = nn.ModuleDict({"proj": nn.Linear(dim, 4 * dim)})
        self.net = nn.ModuleList([first, nn.Identity(), nn.Linear(4 * dim, dim)])

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to the same shape."""
        first, _, last = self.net
        return last(F.gelu(first.get_submodule("proj")(x), approximate="tanh"))


class JointBlock(nn.Module):
    """Attention over caption and image, with separate weights."""

    def __init__(self, config: MeissonicConfig) -> None:
        super().__init__()
        self.norm1, self.norm1_context = Modulation(config.dim, 6), Modulation(config.dim, 6)
        self.attn = Attention(config, joint=True)
        self.ff, self.ff_context = FeedForward(config.dim), FeedForward(config.dim)

    def forward(
        self, image: Tensor, caption: Tensor, condition: Tensor, table: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Map image (R, P, D) and caption (R, T, D) to the same shapes."""
        shift, scale, *own = self.norm1(condition)
        caption_shift, caption_scale, *caption_own = self.norm1_context(condition)
        projected = zip(
            self.attn.project_caption(_modulate(caption, caption_scale, caption_shift)),
            self.attn.project(_modulate(image, scale, shift)),
            strict=True,
        )
        q, k, v = (torch.cat(pair, 2) for pair in projected)
        attended = self.attn.attend(q, k, v, table)
        from_caption, from_image = attended.split([caption.shape[1], image.shape[1]], 1)
        image = self._finish(image, self.attn.to_out[0](from_image), own, self.ff)
        return image, self._finish(caption, self.attn.to_add_out(from_caption), caption_own, self.ff_context)

    @staticmethod
    def _finish(x: Tensor, attended: Tensor, own: Sequence[Tensor], feed_forward: nn.Module) -> Tensor:
        gate, shift, scale, feed_gate = own
        x = x + gate * attended
        return x + feed_gate * feed_forward(_modulate(x, scale, shift))


class SingleBlock(nn.Module):
    """Parallel attention and feed-forward layer, with shared weights for caption and image."""

    def __init__(self, config: MeissonicConfig) -> None:
        super().__init__()
        dim = config.dim
        self.norm, self.attn = Modulation(dim, 3), Attention(config, joint=False)
        self.proj_mlp, self.proj_out = nn.Linear(dim, 4 * dim), nn.Linear(5 * dim, dim)

    def forward(self, x: Tensor, condition: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
        """Map (R, T + P, D) to the same shape."""
        shift, scale, gate = self.norm(condition)
        h = _modulate(x, scale, shift)
        attended = self.attn.attend(*self.attn.project(h), table)
        return x + gate * self.proj_out(torch.cat([attended, F.gelu(self.proj_mlp(h), approximate="tanh")], -1))


class TokenEmbedding(nn.Module):
    """Embeds tokens (R, h, w) as a plane (R, D, h, w)."""

    def __init__(self, config: MeissonicConfig) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.layer_norm, self.conv = RMSNorm(config.dim), nn.Conv2d(config.dim, config.dim, 1, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (R, h, w) to (R, D, h, w)."""
        return self.conv(self.layer_norm(self.embeddings(tokens)).movedim(-1, 1))


class TokenHead(nn.Module):
    """Computes logits (R, K, h, w) from a plane (R, D, h, w)."""

    def __init__(self, config: MeissonicConfig) -> None:
        super().__init__()
        self.conv1, self.layer_norm = nn.Conv2d(config.dim, config.dim, 1, bias=False), PlaneNorm(config.dim)
        self.conv2 = nn.Conv2d(config.dim, config.codebook_size, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (R, D, h, w) to (R, K, h, w)."""
        return self.conv2(self.layer_norm(self.conv1(x)))


class Resize(nn.Module):
    """Halves or doubles the resolution of a plane, by a norm and a strided convolution."""

    def __init__(self, dim: int, convolution: type[nn.Conv2d] | type[nn.ConvTranspose2d]) -> None:
        super().__init__()
        self.norm, self.conv = PlaneNorm(dim), convolution(dim, dim, 2, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (R, D, h, w) to (R, D, h', w')."""
        return self.conv(self.norm(x))


class MeissonicTransformer(nn.Module):
    """Meissonic's transformer."""

    def __init__(self, config: MeissonicConfig) -> None:
        super().__init__()
        self.config, dim = config, config.dim
        self.time_text_embed = TimeAndText(dim)
        self.context_embedder = nn.Linear(config.joint_attention_dim, dim)
        self.transformer_blocks = nn.ModuleList(JointBlock(config) for _ in range(config.num_layers))
        self.single_transformer_blocks = nn.ModuleList(SingleBlock(config) for _ in range(config.num_single_layers))
        self.embed, self.mlm_layer = TokenEmbedding(config), TokenHead(config)
        self.cond_embed = TwoLayers(_NUM_MICRO_CONDITIONS * _NUM_SINUSOIDS + dim, dim, bias=False)
        self.encoder_proj_layer_norm = RMSNorm(dim)
        self.project_to_hidden_norm, self.project_from_hidden_norm = RMSNorm(dim), RMSNorm(dim)
        self.project_to_hidden, self.project_from_hidden = (nn.Linear(dim, dim, bias=False) for _ in range(2))
        self.down_block = nn.ModuleDict({"downsample": Resize(dim, nn.Conv2d)} if config.downsample else {})
        self.up_block = nn.ModuleDict({"upsample": Resize(dim, nn.ConvTranspose2d)} if config.upsample else {})

    def forward(self, tokens: Tensor, time: float, states: Tensor, pooled: Tensor, micro: Tensor) -> Tensor:
        """Logits (R, K, h, w) of tokens (R, h, w).

        Args:
            tokens: (R, h, w); the mask token of the checkpoint's scheduler where masked.
            time: number of steps left after this one.
            states: (R, T, joint_attention_dim) caption features.
            pooled: (R, D) pooled caption vector.
            micro: (R, 5) width, height, crop and aesthetic score.
        """
        condition = torch.cat([pooled, sinusoids(micro).flatten(1).to(pooled.dtype)], 1)
        times = torch.full((len(tokens),), 1000.0 * time, device=tokens.device)
        condition = self.time_text_embed(times, self.cond_embed(condition))
        caption = self.encoder_proj_layer_norm(self.context_embedder(states))
        plane = self.embed(tokens)
        for resize in self.down_block.values():
            plane = resize(plane)
        side = plane.shape[-1]
        image = self.project_to_hidden(self.project_to_hidden_norm(plane.flatten(2).transpose(1, 2)))
        table = rotary_table(side, caption.shape[1], self.config.axes_dims_rope)
        table = table[0].to(image.device), table[1].to(image.device)
        for block in self.transformer_blocks:
            image, caption = block(image, caption, condition, table)
        joined = torch.cat([caption, image], 1)
        for block in self.single_transformer_blocks:
            joined = block(joined, condition, table)
        image = self.project_from_hidden(self.project_from_hidden_norm(joined[:, caption.shape[1] :]))
        plane = image.transpose(1, 2).unflatten(2, (side, side))
        for resize in self.up_block.values():
            plane = resize(plane)
        return self.mlm_layer(plane)
