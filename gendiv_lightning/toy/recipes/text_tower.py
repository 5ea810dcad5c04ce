"""The text encoder of the toy CLIP in transformers' classes, for aMUSEd and VQ-Diffusion."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file
from torch import Tensor

from gendiv_lightning.errors import MissingWeightsError
from gendiv_lightning.toy.files import TINY_CLIP

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection


def text_tower(clip: Path, *, projects: bool) -> CLIPTextModel | CLIPTextModelWithProjection:
    """Convert the text encoder of an open_clip folder to transformers' class, float32 and frozen.

    Args:
        clip: folder with `open_clip_model.safetensors`.
        projects: include the projection into the joint space with images (aMUSEd) or not (VQ-Diffusion).
    """
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    if not (clip / "open_clip_model.safetensors").exists():
        raise MissingWeightsError(f"there is no CLIP at {clip}. Train it first: gendiv toy train clip")

    sizes = TINY_CLIP["text_cfg"]
    config = CLIPTextConfig(
        vocab_size=sizes["vocab_size"],
        hidden_size=sizes["width"],
        intermediate_size=4 * sizes["width"],
        projection_dim=TINY_CLIP["embed_dim"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        max_position_embeddings=sizes["context_length"],
        hidden_act="gelu",
        pad_token_id=0,
        bos_token_id=sizes["vocab_size"] - 2,
        eos_token_id=sizes["vocab_size"] - 1,
    )
    model = (CLIPTextModelWithProjection if projects else CLIPTextModel)(config)
    tensors = {name: tensor.float() for name, tensor in load_file(clip / "open_clip_model.safetensors").items()}
    converted = _transformers_names(tensors)
    # transformers 5 dropped the prefix `text_model.` of the plain text model.
    prefix = "text_model." if any(name.startswith("text_model.") for name in model.state_dict()) else ""
    named = {name if name.startswith("text_projection") else prefix + name: t for name, t in converted.items()}
    if not projects:
        del named["text_projection.weight"]
    model.load_state_dict({**{k: v for k, v in model.state_dict().items() if k.endswith("position_ids")}, **named})
    return model.requires_grad_(False).eval()


def _transformers_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    named = {
        "embeddings.token_embedding.weight": tensors["token_embedding.weight"],
        "embeddings.position_embedding.weight": tensors["positional_embedding"],
        "final_layer_norm.weight": tensors["ln_final.weight"],
        "final_layer_norm.bias": tensors["ln_final.bias"],
        "text_projection.weight": tensors["text_projection"].T.contiguous(),
    }
    parts = {
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "attn.out_proj": "self_attn.out_proj",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
    for layer in range(TINY_CLIP["text_cfg"]["layers"]):
        source, target = f"transformer.resblocks.{layer}", f"encoder.layers.{layer}"
        for kind in ("weight", "bias"):
            for open_clip_part, part in parts.items():
                named[f"{target}.{part}.{kind}"] = tensors[f"{source}.{open_clip_part}.{kind}"]
            for name, chunk in zip("qkv", tensors[f"{source}.attn.in_proj_{kind}"].chunk(3), strict=True):
                named[f"{target}.self_attn.{name}_proj.{kind}"] = chunk.contiguous()
    return named
