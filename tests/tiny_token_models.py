"""Tiny random transformers models that sample image tokens or read images, in folders like those on the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

WORDS = [
    *("the", "sun", "at", "left", "two", "green", "hills", "pink", "sky", "black", "tree", "red", "hill"),
    *("user", ":", "assistant"),
]
SIDE, PIXELS_PER_TOKEN, CODES = 4, 8, 64
PIXELS = SIDE * PIXELS_PER_TOKEN
LANGUAGE_MODEL = {
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
NORMALISATION = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def _tokenizer(named: dict[str, str], others: Sequence[str] = ()) -> Any:
    """A tokenizer of words, special tokens named for a processor, and others that are never split."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    vocabulary = [*special.values(), *named.values(), *others, *WORDS]
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.add_tokens([AddedToken(token, special=True) for token in others])
    return PreTrainedTokenizerFast(tokenizer_object=words, **special, extra_special_tokens=named)


def randomise(module: torch.nn.Module, **scales: float) -> None:
    """Set random weights, scaled by submodule with `scales`, such that tokens depend on earlier ones."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in module.named_parameters():
        scale = next((scale for part, scale in scales.items() if part in name), 1.0)
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim > 1:
            tensor.data = scale * noise / tensor[0].numel() ** 0.5
        else:
            tensor.data = 0.1 * noise + name.endswith("weight")


def build_janus(folder: Path) -> Path:
    """Janus with 16 tokens, K = 64, at 32 pixels."""
    from transformers import JanusConfig, JanusForConditionalGeneration, JanusImageProcessor, JanusProcessor

    tokenizer = _tokenizer({"image_token": "<image>", "boi_token": "<boi>", "eoi_token": "<eoi>"})
    template = (
        "{% for message in messages %}<s>user : {{ message['content'][0]['text'] }}{% endfor %}"
        "{% if add_generation_prompt %} assistant :{% endif %}"
    )
    images = JanusImageProcessor(**NORMALISATION, size={"height": PIXELS, "width": PIXELS})
    vision = {
        "image_size": PIXELS, "patch_size": PIXELS_PER_TOKEN, "num_image_tokens": SIDE**2, "hidden_size": 32,
        "projection_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "depth": 1,
    }  # fmt: skip
    vq = {
        "num_embeddings": CODES, "embed_dim": 8, "latent_channels": 32, "base_channels": 32,
        "channel_multiplier": [1] * 4, "num_res_blocks": 1, "projection_dim": 32, "image_token_embed_dim": 32,
    }  # fmt: skip
    text = {**LANGUAGE_MODEL, "model_type": "llama", "vocab_size": len(tokenizer), "max_position_embeddings": 64}
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    config = JanusConfig(text_config=text, vision_config=vision, vq_config=vq, image_token_id=image_token)
    model = JanusForConditionalGeneration(config)
    randomise(model, vision_head=2.0, generation_embeddings=8.0, embed_tokens=5.0, conv_out=2.0)
    model.save_pretrained(folder)
    JanusProcessor(images, tokenizer, chat_template=template, num_image_tokens=SIDE**2).save_pretrained(folder)
    return folder


# Answers of models that read, and words of the questions.
_ANSWERS = ["Yes", "yes", "No", *"ABCDEFGHIJKLMNOPQRST", *'.?"', "Answer", "What"]
_CHAT = (
    "{% for message in messages %}user : {% for part in message['content'] %}"
    "{{ 'IMAGE' if part['type'] == 'image' else part['text'] }} {% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} assistant :{% endif %}"
)


def build_llava(folder: Path) -> Path:
    """LLaVA, which answers questions about images of any size, at 32 pixels."""
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    tokenizer = _tokenizer({"image_token": "<image>"}, _ANSWERS)
    size = {"height": PIXELS, "width": PIXELS}
    images = CLIPImageProcessor(**NORMALISATION, size=size, do_center_crop=False)
    vision = {
        "model_type": "clip_vision_model", "image_size": PIXELS, "patch_size": PIXELS_PER_TOKEN, "hidden_size": 32,
        "intermediate_size": 37, "projection_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    }  # fmt: skip
    text = {**LANGUAGE_MODEL, "model_type": "llama", "vocab_size": len(tokenizer), "max_position_embeddings": 256}
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=SIDE**2,
        vision_feature_layer=-2,
    )
    model = LlavaForConditionalGeneration(config)
    randomise(model, lm_head=2.0, embed_tokens=5.0, multi_modal_projector=4.0)
    model.save_pretrained(folder)
    LlavaProcessor(
        images,
        tokenizer,
        patch_size=PIXELS_PER_TOKEN,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_CHAT.replace("IMAGE", "<image>"),
    ).save_pretrained(folder)
    return folder


def build_qwen2_vl(folder: Path) -> Path:
    """Qwen2-VL, which answers questions about images of any size and reads them in patches of 8 pixels."""
    import transformers

    named = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "vision_bos_token": "<|vision_start|>",
        "vision_eos_token": "<|vision_end|>",
    }
    tokenizer = _tokenizer(named, _ANSWERS)
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    ids = dict(zip(names, tokenizer.convert_tokens_to_ids([*named.values()]), strict=True))
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    text = {**LANGUAGE_MODEL, "vocab_size": len(tokenizer), "max_position_embeddings": 256, "rope_parameters": rope}
    patches = {"patch_size": 8, "temporal_patch_size": 2}
    vision = {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "spatial_merge_size": 2, "mlp_ratio": 2}
    config = transformers.Qwen2VLConfig(text_config=text, vision_config={**vision, **patches}, **ids)
    model = transformers.Qwen2VLForConditionalGeneration(config)
    randomise(model, lm_head=2.0, embed_tokens=5.0)
    model.save_pretrained(folder)
    sizes = {**patches, "merge_size": 2, "min_pixels": 256, "max_pixels": 4096}
    transformers.Qwen2VLProcessor(
        transformers.Qwen2VLImageProcessor(**sizes),
        tokenizer,
        transformers.Qwen2VLVideoProcessor(**sizes),
        chat_template=_CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
    ).save_pretrained(folder)
    return folder


def build_emu3(folder: Path) -> Path:
    """Emu3 with 16 tokens, 4 row ends, K = 64, at 32 pixels."""
    from transformers import Emu3Config, Emu3ForConditionalGeneration, Emu3ImageProcessor, Emu3Processor

    named = {
        "image_token": "<image>",
        "boi_token": "<|image start|>",
        "eoi_token": "<|image end|>",
        "image_wrapper_token": "<|image token|>",
        "eof_token": "<|extra_201|>",
    }
    tokenizer = _tokenizer(named, ["<|extra_200|>", "*", *map(str, range(10))])
    first = len(tokenizer)
    vocabulary = {name: tokenizer.convert_tokens_to_ids(name) for name in ("<|extra_200|>", "<image>")}
    # Not in the order of the codes, unlike in the released model.
    entries = {f"<|visual token {code:06d}|>": first + (5 * code + 3) % CODES for code in range(CODES)}
    text = {**LANGUAGE_MODEL, "vocab_size": first + CODES, "max_position_embeddings": 64}
    vq = {
        "codebook_size": CODES, "embed_dim": 8, "latent_channels": 8, "base_channels": 32, "num_res_blocks": 1,
        "channel_multiplier": [1] * 4, "attn_resolutions": [], "hidden_size": 32, "temporal_downsample_factor": 1,
    }  # fmt: skip
    config = Emu3Config(text_config=text, vq_config=vq, vocabulary_map={**vocabulary, **entries})
    model = Emu3ForConditionalGeneration(config)
    randomise(model, lm_head=2.0, embed_tokens=5.0)
    model.save_pretrained(folder)
    images = Emu3ImageProcessor(**NORMALISATION)
    Emu3Processor(images, tokenizer, chat_template="{{ messages }}").save_pretrained(folder)
    return folder


def build_glm_image(folder: Path) -> Path:
    """A GLM-Image pipeline: plans of 256 + 4 tokens at 64 pixels, K = 64."""
    import diffusers
    import transformers

    named = {"image_token": "<|image|>", "grid_bos_token": "<sop>", "grid_eos_token": "<eop>"}
    tokenizer = _tokenizer(named, [str(digit) for digit in range(10)])
    processor = transformers.GlmImageProcessor(
        transformers.GlmImageImageProcessor(),
        tokenizer,
        chat_template="{% for message in messages %}{{ message['content'][0]['text'] }}{% endfor %}",
    )
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2], "partial_rotary_factor": 1.0}
    text = {
        **{name: value for name, value in LANGUAGE_MODEL.items() if name not in ("bos_token_id", "eos_token_id")},
        "vocab_size": CODES + 64, "vision_vocab_size": CODES + 8, "eos_token_id": CODES + 1,
        "max_position_embeddings": 512, "rope_parameters": rope,
    }  # fmt: skip
    vision = {"depth": 1, "hidden_size": 32, "num_heads": 4, "image_size": 64, "intermediate_size": 32}
    planner = transformers.GlmImageForConditionalGeneration(
        transformers.GlmImageConfig(
            text_config=text,
            vision_config=vision,
            vq_config={"embed_dim": 16, "num_embeddings": CODES, "latent_channels": 32},
            image_start_token_id=CODES,
            image_end_token_id=CODES + 1,
            image_token_id=tokenizer.convert_tokens_to_ids("<|image|>"),
        )
    )
    randomise(planner, lm_head=2.0, embed_tokens=5.0)
    transformer = diffusers.GlmImageTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        text_embed_dim=32,
        time_embed_dim=16,
        condition_dim=8,
        prior_vq_quantizer_codebook_size=CODES,
    )
    randomise(transformer, prior_token_embedding=20.0, prior_projector=3.0, proj_out=3.0)
    vae = diffusers.AutoencoderKL(
        block_out_channels=[8] * 4,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        latent_channels=4,
        norm_num_groups=4,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    randomise(vae)
    encoder = transformers.T5EncoderModel(
        transformers.T5Config(vocab_size=400, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    )
    randomise(encoder)
    pipeline = diffusers.GlmImagePipeline(
        tokenizer=transformers.ByT5Tokenizer(),
        processor=processor,
        text_encoder=encoder,
        vision_language_encoder=planner,
        vae=vae,
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type="linear"),
    )
    pipeline.save_pretrained(folder)
    return folder
