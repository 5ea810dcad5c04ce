"""VAR's image tokenizer, a VQGAN whose tokens form a pyramid, with official state-dict names. Always runs in float32.

An image is the sum of the contributions of all scales: the codes of a scale are upsampled to the finest grid and
smoothed by a convolution.

Notation: B images, C code size, S scales, n tokens of one scale, L tokens of all scales, K codebook entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gendiv_lightning.generators.vqgan import Downsample, ResnetBlock, Upsample, group_norm

NUM_SMOOTHINGS = 4  # number of convolutions shared by the scales


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of a tokenizer; the defaults are those of `vae_ch160v4096z32.pth`.

    `ch_mult` multiplies `base_channels` at each level; the resolution is halved between levels. `sides` are the sides
    of the scales, from coarse to fine.
    """

    base_channels: int = 160
    ch_mult: Sequence[int] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    code_dim: int = 32
    codebook_size: int = 4096
    sides: Sequence[int] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)

    @property
    def image_size(self) -> int:
        """Pixels per side."""
        return self.sides[-1] * 2 ** (len(self.ch_mult) - 1)


class AttnBlock(nn.Module):
    """Single-head self-attention over all positions, with one projection for queries, keys and values."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2)[:, None].chunk(3, -1)
        h = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).reshape_as(x)
        return x + self.proj_out(h)


class Level(nn.Module):
    """Residual blocks of one resolution, each optionally followed by attention, then an optional resize."""

    def __init__(self, in_channels: int, out_channels: int, num_blocks: int, attention: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResnetBlock(out_channels if i else in_channels, out_channels) for i in range(num_blocks)
        )
        self.attn = nn.ModuleList(AttnBlock(out_channels) for _ in range(num_blocks if attention else 0))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, out, H', W')."""
        for i, block in enumerate(self.block):
            x = block(x)
            x = self.attn[i](x) if len(self.attn) else x
        for name in ("downsample", "upsample"):
            x = self.get_submodule(name)(x) if name in self._modules else x
        return x


class Middle(nn.Module):
    """The blocks between the levels and the latents."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1, self.attn_1 = ResnetBlock(channels, channels), AttnBlock(channels)
        self.block_2 = ResnetBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """Encode images into latents, 2^(levels - 1) times smaller; attention at the lowest resolution."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = [config.base_channels * m for m in (1, *config.ch_mult)]
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        for i, (before, width) in enumerate(pairwise(widths)):
            last = i == len(config.ch_mult) - 1
            level = Level(before, width, config.num_res_blocks, attention=last)
            if not last:
                level.downsample = Downsample(width)
            self.down.append(level)
        self.mid = Middle(widths[-1])
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.code_dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) in [-1, 1] to (B, C, h, w)."""
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Decode latents into images; one residual block per level more than the encoder, levels from fine to coarse."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = [config.base_channels * m for m in config.ch_mult]
        self.conv_in = nn.Conv2d(config.code_dim, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1])
        self.up = nn.ModuleList()
        for i, (width, before) in enumerate(zip(widths, [*widths[1:], widths[-1]], strict=True)):
            level = Level(before, width, config.num_res_blocks + 1, attention=i == len(widths) - 1)
            if i:
                level.upsample = Upsample(width)
            self.up.append(level)
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, 3, H, W), approximately in [-1, 1], not clamped."""
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Smoothing(nn.Conv2d):
    """The mean of the input and its convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return 0.5 * x + 0.5 * super().forward(x)


class Smoothings(nn.Module):
    """The convolutions shared by the scales."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.qresi_ls = nn.ModuleList(Smoothing(channels) for _ in range(NUM_SMOOTHINGS))


class Quantizer(nn.Module):
    """A codebook, and the sum over scales that represents an image."""

    ema_vocab_hit_SV: Tensor

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.sides = config.sides
        self.embedding = nn.Embedding(config.codebook_size, config.code_dim)
        self.quant_resi = Smoothings(config.code_dim)
        # An official training statistic, needed for strict loading.
        self.register_buffer("ema_vocab_hit_SV", torch.zeros(len(config.sides), config.codebook_size))

    def smoothing(self, scale: int) -> int:
        """Index of the convolution of a scale: the one whose position in [0, 1] is nearest to that of the scale.

        Two positions can be equally near, so the result depends on the rounding of exactly these expressions.
        """
        positions = np.linspace(1 / 3 / NUM_SMOOTHINGS, 1 - 1 / 3 / NUM_SMOOTHINGS, NUM_SMOOTHINGS)
        return int(np.argmin(np.abs(positions - scale / (len(self.sides) - 1))))

    def added(self, tokens: Tensor, scale: int) -> Tensor:
        """Contribution (B, C, h, w) of a scale's tokens (B, n) to the image, on the finest grid."""
        side, finest = self.sides[scale], self.sides[-1]
        codes = self.embedding(tokens).transpose(1, 2).unflatten(2, (side, side))
        if side != finest:
            codes = F.interpolate(codes, size=(finest, finest), mode="bicubic")
        return self.quant_resi.qresi_ls[self.smoothing(scale)](codes)

    def at_scale(self, total: Tensor, scale: int) -> Tensor:
        """A sum (B, C, h, w) resized to a scale, in raster order: (B, n, C)."""
        side = self.sides[scale]
        return F.interpolate(total, size=(side, side), mode="area").flatten(2).transpose(1, 2)

    def by_scale(self, tokens: Tensor) -> list[Tensor]:
        """Split tokens (B, L) into a list of (B, n)."""
        return list(tokens.split([side**2 for side in self.sides], dim=1))

    def totals(self, tokens: Tensor) -> list[Tensor]:
        """The sums (B, C, h, w) of tokens (B, L) up to each scale; the last one is the image."""
        return list(accumulate(self.added(part, scale) for scale, part in enumerate(self.by_scale(tokens))))

    def nearest(self, codes: Tensor) -> Tensor:
        """Tokens (B, n) of the codebook entries nearest to codes (B, n, C)."""
        book = self.embedding.weight
        distance = codes.square().sum(-1, keepdim=True) + book.square().sum(-1) - 2 * codes @ book.T
        return distance.argmin(-1)

    def encode(self, latents: Tensor) -> Tensor:
        """Tokens (B, L) of latents (B, C, h, w); each scale encodes the residual of the previous scales."""
        rest, tokens = latents, []
        for scale in range(len(self.sides)):
            tokens.append(self.nearest(self.at_scale(rest, scale)))
            rest = rest - self.added(tokens[-1], scale)
        return torch.cat(tokens, 1)


class VQVAE(nn.Module):
    """The tokenizer: `encode` images to tokens, `decode` tokens to images."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quantize = Quantizer(config)
        self.quant_conv, self.post_quant_conv = (
            nn.Conv2d(config.code_dim, config.code_dim, 3, padding=1) for _ in range(2)
        )

    def latents(self, images: Tensor) -> Tensor:
        """Latents (B, C, h, w) of images (B, 3, H, W) in [-1, 1], before quantisation."""
        return self.quant_conv(self.encoder(images))

    def encode(self, images: Tensor) -> Tensor:
        """Tokens (B, L), from coarse to fine, of images (B, 3, H, W) in [-1, 1]."""
        return self.quantize.encode(self.latents(images))

    def decode(self, tokens: Tensor) -> Tensor:
        """Images (B, 3, H, W) from tokens (B, L), clamped to [-1, 1]."""
        return self.decode_codes(self.quantize.totals(tokens)[-1])

    def decode_codes(self, total: Tensor) -> Tensor:
        """Images (B, 3, H, W) from a sum of codes (B, C, h, w), clamped to [-1, 1]."""
        return self.decoder(self.post_quant_conv(total)).clamp(-1, 1)


def to_uint8(images: Tensor) -> Tensor:
    """Convert images in [-1, 1] to uint8, rounding down as the official sampling script does."""
    return (255 * (0.5 * (images + 1))).to(torch.uint8)
