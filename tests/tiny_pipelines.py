"""Random text-to-image pipelines of diffusers, a few thousand parameters each, as folders that a generator can load."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from gendiv_lightning.toy.files import num_words, write_tokenizer

VOCABULARY = num_words() + 1
WIDTH = 32

Parts = dict[str, Any]


# --- text ---


def _tokenizer(folder: Path, max_length: int = 16) -> Any:
    write_tokenizer(folder / "words", kind="clip")
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder / "words")
    tokenizer.model_max_length = max_length
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return tokenizer


def _clip(projects: bool = False) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=WIDTH,
        max_position_embeddings=16,
        bos_token_id=VOCABULARY - 2,
        eos_token_id=VOCABULARY - 1,
        pad_token_id=0,
    )
    return (transformers.CLIPTextModelWithProjection if projects else transformers.CLIPTextModel)(config)


def _t5(kind: str = "T5", width: int = WIDTH) -> Any:
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=VOCABULARY, d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2
    )
    return getattr(transformers, f"{kind}EncoderModel")(config)


def _decoder(kind: str, **more: Any) -> Any:
    """A text encoder that is a small language model without its head."""
    config = getattr(transformers, f"{kind}Config")(**_LANGUAGE_MODEL, **more)
    return getattr(transformers, f"{kind}Model")(config)


_LANGUAGE_MODEL = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}


def _qwen_vl() -> Any:
    rope = {"type": "default", "rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    text = {k: v for k, v in _LANGUAGE_MODEL.items() if k != "head_dim"}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": WIDTH}
    config = transformers.Qwen2_5_VLConfig(
        text_config={**text, "rope_scaling": rope, "rope_parameters": rope}, vision_config=vision
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


# --- images ---


def _kl(channels: int = 4, num_levels: int = 2, **more: Any) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=[4, 8, 8, 8][:num_levels],
        down_block_types=["DownEncoderBlock2D"] * num_levels,
        up_block_types=["UpDecoderBlock2D"] * num_levels,
        latent_channels=channels,
        norm_num_groups=2,
        sample_size=32,
        **{"shift_factor": 0.0, **more},
    )


def _unet(**more: Any) -> Any:
    settings = {
        "block_out_channels": (4, 8),
        "layers_per_block": 1,
        "sample_size": 16,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 2,
        "norm_num_groups": 2,
    }
    return diffusers.UNet2DConditionModel(**{**settings, **more})


def _qwen_vae() -> Any:
    return diffusers.AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=16,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
    )


def _flow(**more: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**more)


# --- pipelines ---


def _stable_diffusion(folder: Path, name: str, **more: Any) -> Parts:
    return {
        "vae": _kl(),
        "text_encoder": _clip(),
        "tokenizer": _tokenizer(folder),
        "unet": _unet(**more),
        "scheduler": diffusers.LCMScheduler() if name.startswith("Latent") else diffusers.DDIMScheduler(),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def _xl(folder: Path, name: str) -> Parts:
    extra = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    unet = _unet(
        **extra, projection_class_embeddings_input_dim=80, cross_attention_dim=2 * WIDTH, use_linear_projection=True
    )
    return {
        "vae": _kl(),
        "text_encoder": _clip(),
        "text_encoder_2": _clip(projects=True),
        "tokenizer": _tokenizer(folder),
        "tokenizer_2": _tokenizer(folder),
        "unet": unet,
        "scheduler": diffusers.EulerDiscreteScheduler(),
    }


def _sd3(folder: Path, name: str) -> Parts:
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=2 * WIDTH,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=16,
    )
    return {
        "transformer": transformer,
        "scheduler": _flow(),
        "vae": _kl(use_quant_conv=False, use_post_quant_conv=False),
        "text_encoder": _clip(projects=True),
        "tokenizer": _tokenizer(folder),
        "text_encoder_2": _clip(projects=True),
        "tokenizer_2": _tokenizer(folder),
        "text_encoder_3": _t5(width=2 * WIDTH),
        "tokenizer_3": _tokenizer(folder),
    }


_FLUX = {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}


def _flux(folder: Path, name: str, guidance_embeds: bool = True) -> Parts:
    transformer = diffusers.FluxTransformer2DModel(
        **_FLUX,
        in_channels=16,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=guidance_embeds,
    )
    return {
        "scheduler": _flow(use_dynamic_shifting=True),
        "vae": _kl(),
        "text_encoder": _clip(),
        "tokenizer": _tokenizer(folder),
        "text_encoder_2": _t5(),
        "tokenizer_2": _tokenizer(folder),
        "transformer": transformer,
    }


def _chroma(folder: Path, name: str) -> Parts:
    transformer = diffusers.ChromaTransformer2DModel(
        **_FLUX,
        in_channels=16,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
        approximator_num_channels=8,
        approximator_hidden_dim=16,
        approximator_layers=1,
    )
    parts = {"scheduler": _flow(), "vae": _kl(), "text_encoder": _t5(), "tokenizer": _tokenizer(folder)}
    return {**parts, "transformer": transformer}


def _bria(folder: Path, name: str) -> Parts:
    transformer = diffusers.BriaTransformer2DModel(
        **_FLUX, in_channels=16, joint_attention_dim=WIDTH, axes_dims_rope=[0, 4, 12]
    )
    parts = {"scheduler": _flow(), "vae": _kl(), "text_encoder": _t5(), "tokenizer": _tokenizer(folder)}
    return {**parts, "transformer": transformer}


def _pixart(folder: Path, name: str) -> Parts:
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=16,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=WIDTH,
        in_channels=4,
        out_channels=8,
        cross_attention_dim=16,
        use_additional_conditions=False,
    )
    parts = {"tokenizer": _tokenizer(folder), "text_encoder": _t5(), "vae": _kl(), "transformer": transformer}
    return {**parts, "scheduler": diffusers.DPMSolverMultistepScheduler()}


def _sana(folder: Path, name: str) -> Parts:
    transformer = diffusers.SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        sample_size=16,
        qk_norm="rms_norm_across_heads" if "Sprint" in name else None,
        guidance_embeds="Sprint" in name,
    )
    vae = diffusers.AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        upsample_block_type="interpolate",
        downsample_block_type="stride_conv",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
    )
    scheduler = diffusers.SCMScheduler() if "Sprint" in name else diffusers.DPMSolverMultistepScheduler()
    parts = {"tokenizer": _tokenizer(folder), "text_encoder": _decoder("Gemma2"), "vae": vae}
    return {**parts, "transformer": transformer, "scheduler": scheduler}


def _auraflow(folder: Path, name: str) -> Parts:
    transformer = diffusers.AuraFlowTransformer2DModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=WIDTH,
        pos_embed_max_size=256,
    )
    parts = {"tokenizer": _tokenizer(folder), "text_encoder": _t5("UMT5"), "vae": _kl(), "transformer": transformer}
    return {**parts, "scheduler": _flow()}


def _lumina(folder: Path, name: str) -> Parts:
    transformer = diffusers.LuminaNextDiT2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        hidden_size=24,
        num_layers=1,
        num_attention_heads=3,
        num_kv_heads=1,
        multiple_of=16,
        cross_attention_dim=WIDTH,
    )
    parts = {"tokenizer": _tokenizer(folder), "text_encoder": _decoder("Gemma"), "vae": _kl()}
    return {**parts, "transformer": transformer, "scheduler": _flow()}


def _lumina2(folder: Path, name: str) -> Parts:
    transformer = diffusers.Lumina2Transformer2DModel(
        sample_size=16,
        in_channels=4,
        hidden_size=24,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=3,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(128, 64, 64),
        cap_feat_dim=WIDTH,
    )
    parts = {"tokenizer": _tokenizer(folder, 64), "text_encoder": _decoder("Gemma2"), "vae": _kl()}
    return {**parts, "transformer": transformer, "scheduler": _flow()}


def _cogview3(folder: Path, name: str) -> Parts:
    transformer = diffusers.CogView3PlusTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=4,
        num_attention_heads=2,
        text_embed_dim=WIDTH,
        time_embed_dim=8,
        condition_dim=2,
        pos_embed_max_size=16,
        sample_size=16,
    )
    parts = {"tokenizer": _tokenizer(folder), "text_encoder": _t5(), "vae": _kl(), "transformer": transformer}
    return {**parts, "scheduler": diffusers.CogVideoXDDIMScheduler()}


def _cogview4(folder: Path, name: str) -> Parts:
    transformer = diffusers.CogView4Transformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=4,
        num_attention_heads=2,
        text_embed_dim=WIDTH,
        time_embed_dim=8,
        condition_dim=2,
        pos_embed_max_size=16,
        sample_size=16,
        rope_axes_dim=(16, 16),
    )
    parts = {"tokenizer": _tokenizer(folder, 64), "text_encoder": _decoder("Glm"), "vae": _kl()}
    return {**parts, "transformer": transformer, "scheduler": _flow(use_dynamic_shifting=True)}


def _hunyuan_dit(folder: Path, name: str) -> Parts:
    transformer = diffusers.HunyuanDiT2DModel(
        sample_size=16,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        in_channels=4,
        cross_attention_dim=WIDTH,
        cross_attention_dim_t5=WIDTH,
        pooled_projection_dim=16,
        hidden_size=24,
        activation_fn="gelu-approximate",
    )
    bert = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    return {
        "vae": _kl(num_levels=4),
        "text_encoder": transformers.BertModel(bert),
        "tokenizer": _tokenizer(folder),
        "text_encoder_2": _t5(),
        "tokenizer_2": _tokenizer(folder),
        "transformer": transformer,
        "scheduler": diffusers.DDPMScheduler(),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def _qwen_image(folder: Path, name: str) -> Parts:
    transformer = diffusers.QwenImageTransformer2DModel(
        in_channels=64,
        out_channels=16,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    parts = {"text_encoder": _qwen_vl(), "tokenizer": _tokenizer(folder, 512), "vae": _qwen_vae()}
    return {**parts, "transformer": transformer, "scheduler": _flow(use_dynamic_shifting=True)}


def _z_image(folder: Path, name: str) -> Parts:
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=16,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[4, 6, 6],
        axes_lens=[1024, 64, 64],
    )
    # Its padding tokens are allocated but not initialised.
    for parameter in (transformer.x_pad_token, transformer.cap_pad_token):
        torch.nn.init.normal_(parameter, std=0.02)
    parts = {"text_encoder": _decoder("Qwen3"), "tokenizer": _tokenizer(folder, 512), "vae": _kl(16)}
    return {**parts, "transformer": transformer, "scheduler": _flow()}


def _ovis(folder: Path, name: str) -> Parts:
    transformer = diffusers.OvisImageTransformer2DModel(
        **_FLUX, in_channels=16, out_channels=16, joint_attention_dim=WIDTH, axes_dims_rope=(4, 4, 8)
    )
    parts = {"text_encoder": _decoder("Qwen3"), "tokenizer": _tokenizer(folder, 512), "vae": _kl()}
    return {**parts, "transformer": transformer, "scheduler": _flow(use_dynamic_shifting=True)}


def _kandinsky3(folder: Path, name: str) -> Parts:
    unet = diffusers.Kandinsky3UNet(
        in_channels=4,
        time_embedding_dim=4,
        groups=2,
        attention_head_dim=4,
        layers_per_block=3,
        block_out_channels=(32, 64),
        cross_attention_dim=4,
        encoder_hid_dim=WIDTH,
    )
    movq = diffusers.VQModel(
        block_out_channels=[32, 64],
        down_block_types=["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
        up_block_types=["AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        norm_type="spatial",
        num_vq_embeddings=12,
        vq_embed_dim=4,
    )
    parts = {"tokenizer": _tokenizer(folder), "text_encoder": _t5(), "unet": unet, "movq": movq}
    return {**parts, "scheduler": diffusers.DDPMScheduler()}


def _floyd(folder: Path, name: str) -> Parts:
    unet = _unet(
        in_channels=3,
        out_channels=6,
        sample_size=32,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        encoder_hid_dim=WIDTH,
        cross_attention_dim=16,
        only_cross_attention=(True, False),
        resnet_time_scale_shift="scale_shift",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        act_fn="gelu",
        class_embed_type=None,
    )
    parts: Parts = {"tokenizer": _tokenizer(folder), "text_encoder": _t5(), "unet": unet}
    none: Parts = {"safety_checker": None, "feature_extractor": None, "watermarker": None}
    return {
        **parts,
        **none,
        "scheduler": diffusers.DDPMScheduler(variance_type="learned_range"),
        "requires_safety_checker": False,
    }


def _kolors(folder: Path, name: str) -> Parts:
    from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel
    from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer

    config = ChatGLMConfig(
        num_layers=2,
        padded_vocab_size=400,
        hidden_size=WIDTH,
        ffn_hidden_size=32,
        kv_channels=16,
        num_attention_heads=2,
        multi_query_attention=True,
        multi_query_group_num=1,
        seq_length=64,
        add_qkv_bias=True,
        rmsnorm=True,
        apply_residual_connection_post_layernorm=False,
        post_layer_norm=True,
        original_rope=True,
    )
    unet = _unet(
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=80,
        cross_attention_dim=WIDTH,
        use_linear_projection=True,
    )
    tokenizer = ChatGLMTokenizer(str(_sentencepiece(folder)))
    encoder = ChatGLMModel(config)
    for parameter in encoder.parameters():  # allocated but not initialised
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.05)
    parts = {"vae": _kl(), "text_encoder": encoder, "tokenizer": tokenizer, "unet": unet}
    return {**parts, "scheduler": diffusers.EulerDiscreteScheduler()}


def _sentencepiece(folder: Path) -> Path:
    import sentencepiece

    from gendiv_lightning.toy.captions import vocabulary

    (folder / "words.txt").write_text("\n".join(vocabulary() * 3))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "words.txt"),
        model_prefix=str(folder / "words"),
        vocab_size=200,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return folder / "words.model"


BUILDERS: dict[str, Callable[[Path, str], Parts]] = {
    "StableDiffusionPipeline": _stable_diffusion,
    "StableDiffusionPAGPipeline": _stable_diffusion,
    "LatentConsistencyModelPipeline": partial(_stable_diffusion, time_cond_proj_dim=32),
    "StableDiffusionXLPipeline": _xl,
    "StableDiffusionXLPAGPipeline": _xl,
    "StableDiffusion3Pipeline": _sd3,
    "StableDiffusion3PAGPipeline": _sd3,
    "FluxPipeline": _flux,
    "ChromaPipeline": _chroma,
    "BriaPipeline": _bria,
    "PixArtAlphaPipeline": _pixart,
    "PixArtSigmaPipeline": _pixart,
    "PixArtSigmaPAGPipeline": _pixart,
    "SanaPipeline": _sana,
    "SanaPAGPipeline": _sana,
    "SanaSprintPipeline": _sana,
    "AuraFlowPipeline": _auraflow,
    "LuminaPipeline": _lumina,
    "Lumina2Pipeline": _lumina2,
    "CogView3PlusPipeline": _cogview3,
    "CogView4Pipeline": _cogview4,
    "HunyuanDiTPipeline": _hunyuan_dit,
    "HunyuanDiTPAGPipeline": _hunyuan_dit,
    "QwenImagePipeline": _qwen_image,
    "ZImagePipeline": _z_image,
    "OvisImagePipeline": _ovis,
    "KolorsPipeline": _kolors,
    "KolorsPAGPipeline": _kolors,
    "Kandinsky3Pipeline": _kandinsky3,
    "IFPipeline": _floyd,
}


def build(name: str, folder: Path) -> Path:
    """A random pipeline of a class, saved in a separate folder."""
    target = folder / name
    target.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = getattr(diffusers, name)(**BUILDERS[name](target, name))
        pipeline.save_pretrained(target, safe_serialization=True)
    return target
