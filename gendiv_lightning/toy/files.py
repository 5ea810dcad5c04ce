"""Files and sizes of the toy models. Weights are fp16 safetensors with the parameter names of the real models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gendiv_lightning.generators.llamagen.tokenizer import VQConfig
from gendiv_lightning.generators.llamagen.transformer import GPTConfig
from gendiv_lightning.toy import FILES
from gendiv_lightning.toy.captions import vocabulary

WEIGHTS = FILES

TINY_VQ = VQConfig(base_channels=32, ch_mult=(1, 1, 2, 2), num_res_blocks=1, z_channels=32, codebook_size=256)
TINY_GPT = GPTConfig(
    dim=128,
    n_layer=6,
    n_head=4,
    multiple_of=32,
    vocab_size=256,
    cls_token_num=64,
    block_size=36,
    caption_dim=64,
    model_type="t2i",
)
TINY_T5: dict[str, Any] = {
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_layers": 2,
    "num_heads": 4,
    "feed_forward_proj": "gated-gelu",
    "dropout_rate": 0.0,
    "tie_word_embeddings": False,
}

# Image and text encoder of open_clip's CLIP, and its image normalisation.
TINY_CLIP: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 48, "patch_size": 8, "width": 96, "layers": 3, "head_width": 32},
    "text_cfg": {
        "context_length": 64,
        "vocab_size": len(vocabulary()) + 4,
        "width": 64,
        "heads": 4,
        "layers": 3,
        "hf_tokenizer_name": "clip",
        "tokenizer_kwargs": {"clean": "whitespace"},
    },
}
TINY_CLIP_PREPROCESSING = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "size": 48}


# Toy sizes of diffusers' classes, with the same codebook as LlamaGen.
TINY_AMUSED: dict[str, Any] = {
    "hidden_size": 128,
    "cond_embed_dim": 64,
    "micro_cond_encode_dim": 16,
    "micro_cond_embed_dim": 80,
    "encoder_hidden_size": 64,
    "vocab_size": 264,
    "codebook_size": 256,
    "in_channels": 128,
    "block_out_channels": 128,
    "num_res_blocks": 2,  # their convolutions are the only source of position information
    "block_num_heads": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "sample_size": 6,
}
TINY_AMUSED_SCHEDULE: dict[str, Any] = {"mask_token_id": 256, "masking_schedule": "cosine"}
TINY_VQ_DIFFUSION: dict[str, Any] = {
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "num_layers": 5,
    "cross_attention_dim": 64,
    "attention_bias": True,
    "sample_size": 6,
    "num_vector_embeds": 257,
    "activation_fn": "geglu-approximate",
    "num_embeds_ada_norm": 100,
    "norm_type": "ada_norm",
}
# The noise of the paper's section 4.1: at the end 9 of 10 tokens are masked and 1 of 10 is uniformly random.
TINY_VQ_DIFFUSION_SCHEDULE: dict[str, Any] = {
    "num_vec_classes": 257,
    "num_train_timesteps": 100,
    "alpha_cum_start": 0.99999,
    "alpha_cum_end": 0.000009,
    "gamma_cum_start": 0.000009,
    "gamma_cum_end": 0.9,
}

# Stable Diffusion at toy size: the shared tokenizer's autoencoder with 8 continuous channels, and a one-level UNet.
TINY_KL: dict[str, Any] = {
    "down_block_types": ["DownEncoderBlock2D"] * 3 + ["AttnDownEncoderBlock2D"],
    "up_block_types": ["AttnUpDecoderBlock2D"] + ["UpDecoderBlock2D"] * 3,
    "block_out_channels": [TINY_VQ.base_channels * multiple for multiple in TINY_VQ.ch_mult],
    "layers_per_block": TINY_VQ.num_res_blocks,
    "latent_channels": 8,
    "sample_size": 48,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
TINY_UNET: dict[str, Any] = {
    "sample_size": 6,
    "in_channels": 8,
    "out_channels": 8,
    "block_out_channels": [96],
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D"],
    "cross_attention_dim": 64,
    "attention_head_dim": 3,  # diffusers' name for the number of heads
}
# The cosine schedule ends in pure noise, which samplers assume at their first step.
TINY_UNET_SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "steps_offset": 1,
    "timestep_spacing": "trailing",
}


def save_half(tensors: dict[str, Tensor], path: Path, **metadata: str) -> None:
    """Write tensors as fp16 safetensors; integers keep their type."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = {k: (v.half() if v.is_floating_point() else v).contiguous().cpu() for k, v in tensors.items()}
    save_file(half, path, metadata=metadata)


def load_float(module: nn.Module, path: Path) -> None:
    """Load weights into a module as float32, strictly."""
    tensors = load_file(path)
    module.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()})


def write_tokenizer(folder: Path, kind: Literal["t5", "clip"] = "t5") -> None:
    """Write a word-level tokenizer of the grammar in the Hugging Face layout, with the special tokens of T5 or CLIP.

    T5: pad 0, </s> 1 (always appended), <unk> 2, then the words. CLIP: pad 0, <unk> 1, the words, then <start> and
    <end> around every text; <end> has the highest id, by which CLIP implementations find it.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    if kind == "t5":
        order = ["<pad>", "</s>", "<unk>", *vocabulary()]
        special, template = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}, "$A </s>"
    else:
        order = ["<pad>", "<unk>", *vocabulary(), "<start>", "<end>"]
        special = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<start>", "eos_token": "<end>"}
        template = "<start> $A <end>"
    words = {word: i for i, word in enumerate(order)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    around = [(token, words[token]) for token in template.split() if token in words]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=around)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **special, "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def num_words() -> int:
    """Vocabulary size of the toy text encoder, including special tokens."""
    return len(vocabulary()) + 3


def seeded(seed: int, step: int) -> torch.Generator:
    """Random generator of a training step, so that a resumed training sees the same data."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)
