"""Random CLIPs of toy size, in the layouts of transformers and of open_clip. Their context is 16 tokens, 14 words."""

import json

import torch
from safetensors.torch import save_file

from gendiv_lightning.toy.captions import vocabulary
from gendiv_lightning.toy.files import write_tokenizer

CONTEXT = 16
NUM_WORDS = len(vocabulary()) + 4
VISION = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
TEXT = {"context_length": CONTEXT, "width": 32, "heads": 2, "layers": 2}


def sentence(num_words, start=0):
    """A number of different words of the grammar of Postcards."""
    return " ".join((vocabulary() * 3)[start : start + num_words])


def pictures(num=4, height=32, width=32):
    generator = torch.Generator().manual_seed(height * width)
    return torch.randint(0, 256, (num, 3, height, width), dtype=torch.uint8, generator=generator)


def randomise(model):
    """Weights large enough for features of images, and of texts, to differ from each other."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.named_parameters():
        if tensor.ndim > 1:
            tensor.data = torch.randn(tensor.shape, generator=generator) * 1.5 / tensor[0].numel() ** 0.5
        elif "bias" in name or "class" in name:
            tensor.data = torch.randn(tensor.shape, generator=generator) * 0.1
    return model


def write_transformers_clip(folder):
    """A CLIPModel that resizes the shorter side to 36 pixels and crops 32."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"vocab_size": NUM_WORDS, "max_position_embeddings": CONTEXT, "eos_token_id": NUM_WORDS - 1}
    config = CLIPConfig(
        text_config={**sizes, **text, "pad_token_id": 0, "bos_token_id": NUM_WORDS - 2},
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    with torch.random.fork_rng():
        randomise(CLIPModel(config)).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    write_tokenizer(folder, kind="clip")
    return str(folder)


def write_open_clip(folder, *, knows_english=False, **processing):
    """An open_clip CLIP with the words of postcards, or with OpenAI's vocabulary."""
    import open_clip

    words = {"vocab_size": NUM_WORDS, "hf_tokenizer_name": "clip", "tokenizer_kwargs": {"clean": "whitespace"}}
    text = {**TEXT, **({"vocab_size": 49408} if knows_english else words)}
    config = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": text}
    with torch.random.fork_rng():
        model = randomise(open_clip.CLIP(**config))
    write_tokenizer(folder, kind="clip")
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": processing}))
    return f"local-dir:{folder}"
