"""LlamaGen's image tokenizer, a VQGAN with unit-norm codes and official state-dict names. Always runs in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gendiv_lightning.generators.vqgan import Downsample, ResnetBlock, Upsample, group_norm


@dataclass(frozen=True)
class VQConfig:
    """Sizes of a tokenizer; the defaults are those of VQ-16.

    `ch_mult` multiplies `base_channels` at each level; the resolution is halved between levels.
    """

    base_channels: int = 128
    ch_mult: Sequence[int] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    z_channels: int = 256
    codebook_size: int = 16384
    codebook_embed_dim: int = 8

    @property
    def downsample(self) -> int:
        """Pixels per side of a token."""
        return 2 ** (len(self.ch_mult) - 1)


VQ_SIZES = {"VQ-16": VQConfig(), "VQ-8": VQConfig(ch_mult=(1, 2, 2, 4))}


class AttnBlock(nn.Module):
    """Single-head self-attention over all positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        h = self.norm(x)
        q, k, v = (project(h).flatten(2).transpose(1, 2)[:, None] for project in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).reshape_as(x)
        return x + self.proj_out(h)


class Level(nn.Module):
    """Residual blocks of one resolution, each optionally followed by attention, then an optional resize."""

    def __init__(self, in_channels: int, out_channels: int, num_blocks: int, attention: bool) -> None:
        super().__init__()
        channels = [in_channels] + [out_channels] * num_blocks
        self.res = nn.ModuleList(ResnetBlock(*pair) for pair in pairwise(channels))
        self.attn = nn.ModuleList(AttnBlock(out_channels) for _ in range(num_blocks if attention else 0))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the blocks, without the resize."""
        for i, block in enumerate(self.res):
            x = block(x)
            x = self.attn[i](x) if len(self.attn) else x
        return x


def _middle(channels: int) -> nn.Sequential:
    return nn.Sequential(ResnetBlock(channels, channels), AttnBlock(channels), ResnetBlock(channels, channels))


class Encoder(nn.Module):
    """Encode images into latents, 2^(levels - 1) times smaller; attention at the lowest resolution."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        widths = [config.base_channels * m for m in config.ch_mult]
        self.conv_in = nn.Conv2d(3, config.base_channels, 3, padding=1)
        self.conv_blocks = nn.ModuleList()
        for i, (before, width) in enumerate(zip([config.base_channels, *widths], widths, strict=False)):
            last = i == len(widths) - 1
            level = Level(before, width, config.num_res_blocks, attention=last)
            if not last:
                level.downsample = Downsample(width)
            self.conv_blocks.append(level)
        self.mid = _middle(widths[-1])
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) in [-1, 1] to (B, z_channels, h, w)."""
        x = self.conv_in(x)
        for level in self.conv_blocks:
            x = level(x)
            x = level.get_submodule("downsample")(x) if "downsample" in level._modules else x
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Decode latents into images; one residual block per level more than the encoder, in execution order."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        widths = [config.base_channels * m for m in reversed(config.ch_mult)]
        self.conv_in = nn.Conv2d(config.z_channels, widths[0], 3, padding=1)
        self.mid = _middle(widths[0])
        self.conv_blocks = nn.ModuleList()
        for i, (before, width) in enumerate(zip([widths[0], *widths], widths, strict=False)):
            level = Level(before, width, config.num_res_blocks + 1, attention=i == 0)
            if i < len(widths) - 1:
                level.upsample = Upsample(width)
            self.conv_blocks.append(level)
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Map (B, z_channels, h, w) to (B, 3, H, W), approximately in [-1, 1], not clamped."""
        z = self.mid(self.conv_in(z))
        for level in self.conv_blocks:
            z = level(z)
            z = level.get_submodule("upsample")(z) if "upsample" in level._modules else z
        return self.conv_out(F.silu(self.norm_out(z)))


class Quantizer(nn.Module):
    """A codebook of unit vectors, which are stored as trained and normalised at every use."""

    codebook_used: Tensor

    def __init__(self, num_codes: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_codes, dim)
        self.register_buffer(
            "codebook_used", torch.zeros(65536)
        )  # an official training statistic, kept to load strictly

    def codes(self) -> Tensor:
        """Unit-norm codebook (K, D)."""
        return F.normalize(self.embedding.weight, dim=-1)

    def nearest(self, latents: Tensor) -> Tensor:
        """Tokens (B, h * w) of the codes nearest to latents (B, D, h, w)."""
        z = F.normalize(latents, dim=1).flatten(2).transpose(1, 2)
        codes = self.codes()
        distance = z.square().sum(-1, keepdim=True) + codes.square().sum(-1) - 2 * z @ codes.T
        return distance.argmin(-1)

    def lookup(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Unit-norm codes (B, D, h, w) of tokens (B, h * w) in raster order."""
        return F.embedding(tokens, self.codes()).transpose(1, 2).unflatten(2, (height, width))


class VQModel(nn.Module):
    """The tokenizer: `encode` images to tokens, `decode` tokens to images."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = Quantizer(config.codebook_size, config.codebook_embed_dim)
        self.quant_conv = nn.Conv2d(config.z_channels, config.codebook_embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.codebook_embed_dim, config.z_channels, 1)

    def latents(self, images: Tensor) -> Tensor:
        """Latents (B, D, h, w) of images (B, 3, H, W) in [-1, 1], before quantisation."""
        return self.quant_conv(self.encoder(images))

    def encode(self, images: Tensor) -> Tensor:
        """Tokens (B, h * w), in raster order, of images (B, 3, H, W) in [-1, 1]."""
        return self.quantize.nearest(self.latents(images))

    def decode_codes(self, codes: Tensor) -> Tensor:
        """Images (B, 3, H, W) from codes (B, D, h, w), approximately in [-1, 1], not clamped."""
        return self.decoder(self.post_quant_conv(codes))

    def decode(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Images (B, 3, H, W) from tokens (B, height * width) in raster order, approximately in [-1, 1]."""
        return self.decode_codes(self.quantize.lookup(tokens, height, width))


def to_uint8(images: Tensor) -> Tensor:
    """Convert images in [-1, 1] to uint8 as the official scripts do: floor(clamp(127.5 x + 128, 0, 255))."""
    return (127.5 * images + 128).clamp(0, 255).to(torch.uint8)
