"""No test reaches the network or the user's cache. Models are tiny and random, except in tests marked `real`."""

import json
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from study_runs import decomposed, drifting, hostile, study  # noqa: F401  fixtures
from tiny_token_models import PIXELS, build_emu3, build_glm_image, build_janus

from gendiv_lightning.generators import VAR, Amused, Emu3, GLMImage, Janus, LlamaGen, Meissonic, VQDiffusion
from gendiv_lightning.generators.llamagen.tokenizer import VQ_SIZES, VQConfig, VQModel
from gendiv_lightning.generators.llamagen.transformer import GPT, GPT_SIZES, GPTConfig
from gendiv_lightning.generators.meissonic.transformer import MeissonicConfig, MeissonicTransformer
from gendiv_lightning.generators.var.tokenizer import VQVAE, VAEConfig
from gendiv_lightning.generators.var.transformer import VARConfig, VARTransformer
from gendiv_lightning.records import NoiseKey, Prompt, PromptBatch
from gendiv_lightning.toy.files import (
    TINY_AMUSED,
    TINY_AMUSED_SCHEDULE,
    TINY_CLIP,
    TINY_GPT,
    TINY_T5,
    TINY_VQ,
    TINY_VQ_DIFFUSION,
    TINY_VQ_DIFFUSION_SCHEDULE,
    num_words,
    write_tokenizer,
)

torch.set_num_threads(1)  # such small models gain nothing from more threads, and lose much on a busy machine

SMALL_GPT = {"n_layer": 2, "n_head": 2, "dim": 32}
SMALL_VQ = VQConfig(base_channels=32, ch_mult=(1, 1, 1, 1, 1), num_res_blocks=1, z_channels=32)


REAL_WEIGHTS = "GENDIV_REAL_WEIGHTS"

# Folders, files and fixtures that sample whole images, train, or start a process.
RUN = {
    *("cli", "contract", "generators", "testing", "toy", "tracking", "test_api.py", "test_ddp.py", "test_examples.py"),
    *("test_from_captions_to_runs.py", "test_hub.py", "test_package.py", "test_readme.py", "test_soak.py"),
    *("test_real_backbones.py", "test_real_pictures.py"),
    *("decomposed", "drifting", "hostile", "study"),
}


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests of `RUN` as `run`, and tests that are neither `run` nor `slow` as `fast`; see CONTRIBUTING.md.

    Tests marked `real` are skipped unless `GENDIV_REAL_WEIGHTS` names a folder.
    """
    tests = Path(__file__).parent
    for item in items:
        if item.get_closest_marker("real") and not os.environ.get(REAL_WEIGHTS):
            item.add_marker(pytest.mark.skip(reason=f"{REAL_WEIGHTS} is not set to a folder of official weights"))
        if RUN & {item.path.relative_to(tests).parts[0], *getattr(item, "fixturenames", ())}:
            item.add_marker("run")
        if not item.get_closest_marker("run") and not item.get_closest_marker("slow"):
            item.add_marker("fast")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENDIV_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def write_random_weights(module: torch.nn.Module, path: Path, seed: int) -> None:
    """Random weights in the official wrapper, peaked enough for samples to differ from the mode and from each other."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if tensor.ndim > 1:
            scale = {"output.weight": 2.0, "tok_embeddings.weight": 8.0}.get(name, 1.0)
            tensor.normal_(std=scale / tensor[0].numel() ** 0.5, generator=generator)
    torch.save({"model": module.state_dict()}, path)


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """Folder of random weights: gpt.pt, vq.pt, t5 of a tiny t2i model, c2i_gpt.pt and c2i_vq.pt of a small c2i one."""
    from transformers import T5Config, T5EncoderModel

    folder = tmp_path_factory.mktemp("weights")
    write_random_weights(GPT(TINY_GPT), folder / "gpt.pt", 0)
    write_random_weights(VQModel(TINY_VQ), folder / "vq.pt", 1)
    write_random_weights(GPT(GPTConfig(**SMALL_GPT, block_size=16)), folder / "c2i_gpt.pt", 2)
    write_random_weights(VQModel(SMALL_VQ), folder / "c2i_vq.pt", 3)
    write_tokenizer(folder / "t5")
    with torch.random.fork_rng():
        torch.manual_seed(4)
        T5EncoderModel(T5Config(vocab_size=num_words(), **TINY_T5)).save_pretrained(folder / "t5")
    return folder


@pytest.fixture(scope="session")
def make_t2i(weights) -> Callable[..., LlamaGen]:
    """A tiny text-to-image LlamaGen, 36 tokens, K = 256; not loaded yet."""

    def make(**settings) -> LlamaGen:
        files = {name: str(weights / file) for name, file in T2I_FILES.items()}
        defaults = {"dtype": "float32", "guidance_scale": 2.0, "top_k": 0, "batch_size": 8}
        return LlamaGen(
            **files, gpt="toy:llamagen_gpt.json", vq="toy:llamagen_vq.json", image_size=48, **{**defaults, **settings}
        )

    return make


@pytest.fixture(scope="session")
def make_c2i(weights) -> Callable[..., LlamaGen]:
    """A small class-to-image LlamaGen, 16 tokens, K = 16384; not loaded yet."""

    def make(**settings) -> LlamaGen:
        files = {name: str(weights / f"c2i_{file}") for name, file in T2I_FILES.items() if name != "text_encoder"}
        defaults = {"dtype": "float32", "guidance_scale": 2.0, "top_k": 0, "batch_size": 8, "image_size": 64}
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(GPT_SIZES, "GPT-B", SMALL_GPT)
            patch.setitem(VQ_SIZES, "VQ-16", SMALL_VQ)
            return LlamaGen(**files, gpt="GPT-B", vq="VQ-16", model_type="c2i", **{**defaults, **settings})

    return make


@pytest.fixture(scope="session")
def make_var(tmp_path_factory) -> Callable[..., VAR]:
    """A tiny VAR, 30 tokens on 4 scales, K = 300, 64 pixels; not loaded yet."""
    folder = tmp_path_factory.mktemp("var")
    sides = {"sides": (1, 2, 3, 4), "code_dim": 8, "codebook_size": 300}
    var = VARConfig(depth=2, dim=32, num_heads=2, **sides)
    vq = VAEConfig(base_channels=32, ch_mult=(1, 1, 1, 1, 1), num_res_blocks=1, **sides)
    randomise(transformer := VARTransformer(var), 0, head=3.0, word_embed=3.0, pos_1LC=4.0)
    randomise(tokenizer := VQVAE(vq), 1, embedding=2.0)
    files = {}
    for name, module, config in (("var", transformer, var), ("vq", tokenizer, vq)):
        torch.save(module.state_dict(), folder / f"{name}.pth")
        (folder / f"{name}.json").write_text(json.dumps(asdict(config)))
        files[f"{name}_checkpoint"] = str(folder / f"{name}.pth")

    def make(**settings) -> VAR:
        sizes = {"size": str(folder / "var.json"), "vq": str(folder / "vq.json")}
        defaults = {"guidance_scale": 2.0, "top_k": 0, "top_p": 1.0, "batch_size": 8}
        return VAR(**{**files, **sizes, **defaults, **settings})

    return make


def randomise(module: torch.nn.Module, seed: int, **scales: float) -> torch.nn.Module:
    """Random parameters, including biases and norms; those of submodules in `scales` are multiplied by the factor."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.named_parameters():
        noise = torch.randn(tensor.shape, generator=generator)
        scale = next((scale for part, scale in scales.items() if part in name.split(".")), 1.0)
        if tensor.ndim > 1:
            tensor.data = scale * noise / tensor[0].numel() ** 0.5
        else:
            tensor.data = 0.1 * noise + name.endswith("weight")  # the weights of norms are about 1
    return module.eval()


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory) -> Path:
    """Random pipelines at toy size, folders like the official repositories: `amused` and `vq_diffusion`.

    Scales are such that tokens differ from the mode and from each other, and depend on the caption.
    """
    from diffusers import AmusedScheduler, Transformer2DModel, UVit2DModel, VQDiffusionScheduler, VQModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    folder, text = tmp_path_factory.mktemp("pipelines"), TINY_CLIP["text_cfg"]
    config = CLIPTextConfig(
        vocab_size=text["vocab_size"],
        hidden_size=text["width"],
        intermediate_size=4 * text["width"],
        projection_dim=TINY_CLIP["embed_dim"],
        num_hidden_layers=text["layers"],
        num_attention_heads=text["heads"],
        max_position_embeddings=text["context_length"],
        pad_token_id=0,
        bos_token_id=text["vocab_size"] - 2,
        eos_token_id=text["vocab_size"] - 1,
    )
    codec = {
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [16] * 4,
        "norm_num_groups": 8,
        "vq_embed_dim": 8,
        "num_vq_embeddings": TINY_VQ.codebook_size,
    }
    # The official model looks up its codes itself, which diffusers can only do if latents are as wide as codes.
    unit = randomise(VQModel(**codec, latent_channels=8, lookup_from_codebook=True), 0, conv_out=0.3)
    unit.decoder.conv_out.bias.data += 0.5  # images in [0, 1]
    narrow = {"hidden_size": 64, "in_channels": 64, "block_out_channels": 64, "num_res_blocks": 1}
    amused = {
        "text_encoder": randomise(CLIPTextModelWithProjection(config), 1, token_embedding=4.0),
        "transformer": randomise(UVit2DModel(**{**TINY_AMUSED, **narrow}), 2, conv2=2.0),
        "scheduler": AmusedScheduler(**TINY_AMUSED_SCHEDULE),
        "vqvae": unit,
    }
    transformer = Transformer2DModel(**{**TINY_VQ_DIFFUSION, "num_layers": 2})
    vq_diffusion = {
        "text_encoder": randomise(CLIPTextModel(config), 3, token_embedding=4.0),
        "transformer": randomise(transformer, 4, out=2.0, latent_image_embedding=8.0, attn2=5.0),
        "scheduler": VQDiffusionScheduler(**TINY_VQ_DIFFUSION_SCHEDULE),
        "vqvae": randomise(VQModel(**codec, latent_channels=16), 5, conv_out=0.6),
    }
    for name, parts in {"amused": amused, "vq_diffusion": vq_diffusion}.items():
        for part, model in parts.items():
            model.save_pretrained(folder / name / part)
        write_tokenizer(folder / name / "tokenizer", kind="clip")
        (folder / name / "gendiv.json").write_text('{"toy": true}')
    learned = folder / "vq_diffusion" / "learned_classifier_free_sampling_embeddings"
    learned.mkdir()
    embeddings = torch.randn(text["context_length"], text["width"], generator=torch.Generator().manual_seed(6))
    save_file({"embeddings": embeddings / text["width"] ** 0.5}, learned / "diffusion_pytorch_model.safetensors")
    sizes = {"learnable": True, "hidden_size": text["width"], "length": text["context_length"]}
    (learned / "config.json").write_text(json.dumps(sizes))
    return folder


@pytest.fixture(scope="session")
def make_meissonic(pipelines, tmp_path_factory) -> Callable[..., Meissonic]:
    """A tiny Meissonic, 64 tokens, K = 256, in few steps; parts but the transformer are aMUSEd's. Not loaded yet."""
    folder = tmp_path_factory.mktemp("meissonic")
    for part in ("text_encoder", "tokenizer", "scheduler", "vqvae"):
        (folder / part).symlink_to(pipelines / "amused" / part)
    text = json.loads((folder / "text_encoder" / "config.json").read_text())
    config = {
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": text["projection_dim"] // 2,
        "num_attention_heads": 2,
        "joint_attention_dim": text["hidden_size"],
        "pooled_projection_dim": text["projection_dim"],
        "axes_dims_rope": [text["projection_dim"] // 4, *[text["projection_dim"] // 8] * 2],
        "vocab_size": TINY_VQ.codebook_size + 8,
        "codebook_size": TINY_VQ.codebook_size,
        "downsample": True,
        "upsample": True,
    }
    (folder / "transformer").mkdir()
    (folder / "transformer" / "config.json").write_text(json.dumps(config))
    transformer = randomise(MeissonicTransformer(MeissonicConfig(**config)), 7, conv2=3.0, context_embedder=3.0)
    save_file(transformer.state_dict(), folder / "transformer" / "diffusion_pytorch_model.safetensors")

    def make(**settings) -> Meissonic:
        defaults = {"checkpoint": str(folder), "image_size": 64, "num_steps": 5, "batch_size": 8}
        return Meissonic(**{**defaults, "guidance_scale": 2.0, **settings})

    return make


@pytest.fixture(scope="session")
def make_amused(pipelines) -> Callable[..., Amused]:
    """A tiny aMUSEd, 36 tokens, K = 256, in few steps; not loaded yet."""

    def make(**settings) -> Amused:
        defaults = {"checkpoint": str(pipelines / "amused"), "num_steps": 5, "guidance_scale": 2.0, "batch_size": 8}
        return Amused(**{**defaults, **settings})

    return make


@pytest.fixture(scope="session")
def make_vq_diffusion(pipelines) -> Callable[..., VQDiffusion]:
    """A tiny VQ-Diffusion, 36 tokens, K = 256, in few steps; not loaded yet."""

    def make(**settings) -> VQDiffusion:
        checkpoint = str(pipelines / "vq_diffusion")
        defaults = {"checkpoint": checkpoint, "num_steps": 5, "guidance_scale": 2.0, "batch_size": 8}
        return VQDiffusion(**{**defaults, **settings})

    return make


@pytest.fixture(scope="session")
def make_janus(tmp_path_factory) -> Callable[..., Janus]:
    """A tiny Janus, 16 tokens, K = 64; not loaded yet."""
    folder = build_janus(tmp_path_factory.mktemp("janus"))

    def make(**settings) -> Janus:
        defaults = {"checkpoint": str(folder), "dtype": "float32", "guidance_scale": 2.0, "batch_size": 8}
        return Janus(**{**defaults, **settings})

    return make


@pytest.fixture(scope="session")
def make_emu3(tmp_path_factory) -> Callable[..., Emu3]:
    """A tiny Emu3, 16 tokens and 4 row ends, K = 64; not loaded yet."""
    folder = build_emu3(tmp_path_factory.mktemp("emu3"))

    def make(**settings) -> Emu3:
        texts = {"suffix": " red hill", "negative_prompt": "black tree"}
        defaults = {"checkpoint": str(folder), "image_size": PIXELS, "dtype": "float32", "top_k": 0, **texts}
        return Emu3(**{**defaults, "guidance_scale": 2.0, "batch_size": 8, **settings})

    return make


@pytest.fixture(scope="session")
def make_glm_image(tmp_path_factory) -> Callable[..., GLMImage]:
    """A tiny GLM-Image in two steps, plans of 260 tokens; not loaded yet."""
    import diffusers

    if not hasattr(diffusers, "GlmImagePipeline"):
        pytest.skip("this diffusers has no GLM-Image")
    folder = build_glm_image(tmp_path_factory.mktemp("glm_image"))

    def make(**settings) -> GLMImage:
        defaults = {"checkpoint": str(folder), "image_size": 64, "num_steps": 2, "dtype": "float32", "batch_size": 8}
        return GLMImage(**{**defaults, "guidance_scale": 2.0, "top_k": 0, **settings})

    return make


T2I_FILES = {"gpt_checkpoint": "gpt.pt", "vq_checkpoint": "vq.pt", "text_encoder": "t5"}


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., PromptBatch]:
    """Whole prompts of some texts and `num_samples` rows of each."""

    def make(*texts: str, num_samples: int = 1, seed: int = 0) -> PromptBatch:
        prompts = tuple(Prompt(f"id of {text}", text) for text in texts)
        named = [
            (row, NoiseKey(p.id, 0, path=s, sample=s)) for row, p in enumerate(prompts) for s in range(num_samples)
        ]
        rows, keys = zip(*named, strict=True)
        return PromptBatch(seed, prompts, tuple(range(len(prompts))), keys, rows)

    return make
