"""The toy tokenizer as diffusers' `VQModel`: all families share one codebook, so that they can be compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional as F

from gendiv_lightning.generators.llamagen.tokenizer import VQModel
from gendiv_lightning.toy.files import TINY_VQ

if TYPE_CHECKING:
    import diffusers

_RESNET = {
    "norm1": "norm1",
    "conv1": "conv1",
    "norm2": "norm2",
    "conv2": "conv2",
    "nin_shortcut": "conv_shortcut",
}
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def diffusers_vq(model: VQModel) -> diffusers.VQModel:
    """Convert LlamaGen's tokenizer to diffusers' class, with identical tokens and images, both in [-1, 1].

    LlamaGen compares unit vectors. With unit codes the nearest code does not depend on the length of the latent, so it
    suffices to normalise the codebook.
    """
    from diffusers import VQModel as DiffusersVQ

    widths = [TINY_VQ.base_channels * m for m in TINY_VQ.ch_mult]
    target = DiffusersVQ(
        down_block_types=["DownEncoderBlock2D"] * (len(widths) - 1) + ["AttnDownEncoderBlock2D"],
        up_block_types=["AttnUpDecoderBlock2D"] + ["UpDecoderBlock2D"] * (len(widths) - 1),
        block_out_channels=widths,
        layers_per_block=TINY_VQ.num_res_blocks,
        latent_channels=TINY_VQ.z_channels,
        sample_size=48,
        num_vq_embeddings=TINY_VQ.codebook_size,
        vq_embed_dim=TINY_VQ.codebook_embed_dim,
    )
    named = {_name(name): tensor for name, tensor in model.state_dict().items() if "codebook_used" not in name}
    named["quantize.embedding.weight"] = F.normalize(named["quantize.embedding.weight"], dim=-1)
    expected = target.state_dict()
    target.load_state_dict({name: tensor.reshape(expected[name].shape) for name, tensor in named.items()})
    return target.requires_grad_(False).eval()


def in_unit_range(model: diffusers.VQModel) -> diffusers.VQModel:
    """Change the image range to aMUSEd's [0, 1] in place, by the first and last convolutions.

    Exact except for the outermost pixels of the encoder, where zero padding is now black instead of grey.
    """
    first, last = model.encoder.conv_in, model.decoder.conv_out
    assert first.bias is not None, "the first convolution has a bias"
    assert last.bias is not None, "the last convolution has a bias"
    first.bias.data -= first.weight.data.sum((1, 2, 3))
    first.weight.data *= 2
    last.weight.data /= 2
    last.bias.data = last.bias.data / 2 + 0.5
    return model


def _name(name: str) -> str:
    """The name of a tensor in diffusers, from its name in LlamaGen."""
    side, *rest = name.split(".")
    if side not in ("encoder", "decoder"):
        return name
    block = "down_blocks" if side == "encoder" else "up_blocks"
    match rest:
        case ["conv_blocks", level, "res", number, part, kind]:
            return f"{side}.{block}.{level}.resnets.{number}.{_RESNET[part]}.{kind}"
        case ["conv_blocks", level, "attn", number, part, kind]:
            return f"{side}.{block}.{level}.attentions.{number}.{_ATTENTION[part]}.{kind}"
        case ["conv_blocks", level, ("downsample" | "upsample") as change, "conv", kind]:
            return f"{side}.{block}.{level}.{change}rs.0.conv.{kind}"
        case ["mid", "1", part, kind]:
            return f"{side}.mid_block.attentions.0.{_ATTENTION[part]}.{kind}"
        case ["mid", number, part, kind]:
            return f"{side}.mid_block.resnets.{int(number) // 2}.{_RESNET[part]}.{kind}"
        case ["norm_out", kind]:
            return f"{side}.conv_norm_out.{kind}"
    return name
