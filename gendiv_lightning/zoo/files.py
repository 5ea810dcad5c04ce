"""Where the embedded models' files are, and their sizes. Weights are fp16 safetensors with the real models' names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gendiv_lightning.models.llamagen_gpt import GPTConfig
from gendiv_lightning.models.llamagen_vq import VQConfig
from gendiv_lightning.zoo.captions import vocabulary

FOLDER = Path(__file__).parent
WEIGHTS = FOLDER / "weights"

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


def save_half(tensors: dict[str, Tensor], path: Path, **metadata: str) -> None:
    """Write tensors as fp16 safetensors (integers as they are)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = {k: (v.half() if v.is_floating_point() else v).contiguous().cpu() for k, v in tensors.items()}
    save_file(half, path, metadata=metadata)


def load_float(module: nn.Module, path: Path) -> None:
    """Load weights into a module as float32, strictly."""
    tensors = load_file(path)
    module.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()})


def write_tokenizer(folder: Path) -> None:
    """A word-level tokenizer of the grammar in the Hugging Face layout: pad 0, </s> 1 (always appended), <unk> 2."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *vocabulary()])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "model_max_length": 64,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def num_words() -> int:
    """Vocabulary of the embedded text encoder, special tokens included."""
    return len(vocabulary()) + 3


def seeded(seed: int, step: int) -> torch.Generator:
    """Randomness of a training step: a function of the step, so that a resumed training sees the same data."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)
