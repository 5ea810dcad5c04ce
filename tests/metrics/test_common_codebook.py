"""One codebook for the images of any generator: tokens, metrics, names."""

import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from gendiv_lightning.analysis.lenses import find_lenses
from gendiv_lightning.cli.main import main
from gendiv_lightning.generators.tokenizers import DiffusersTokenizer, Emu3Tokenizer, JanusTokenizer, LlamaGenTokenizer
from gendiv_lightning.generators.vqgan import from_uint8
from gendiv_lightning.metrics import CodebookUsage, CommonCodebook, TokenEntropy
from gendiv_lightning.metrics.registry import make_metric
from gendiv_lightning.records import PromptSamples
from gendiv_lightning.toy import postcards as dataset
from gendiv_lightning.toy.features import TinyTokenizer


def postcards(num=8, seed=0):
    return dataset.render(torch.randint(dataset.NUM_IMAGES, (num,), generator=torch.Generator().manual_seed(seed)))


def prompts(num=4):
    path = torch.arange(4).repeat_interleave(4)
    return [PromptSamples(postcards(16, seed), place=seed, path=path) for seed in range(num)]


def measured(metric, samples):
    for each in samples:
        metric.update(each)
    return metric


def test_the_metrics_are_those_of_the_tokens_of_the_tokenizer():
    metric, tokenizer = measured(make_metric("codebook[tiny]"), prompts()), TinyTokenizer()
    assert isinstance(metric, CommonCodebook)
    usage, entropy = CodebookUsage(256), TokenEntropy()
    for samples in prompts():
        own = samples._replace(tokens=tokenizer.tokens(samples.images))
        assert own.tokens.shape == (16, 36)
        usage.update(own)
        entropy.update(own)
    estimates, columns = metric.compute(), metric.columns()
    assert estimates.keys() == {*metric.names}
    for name, estimate in usage.compute().items():
        assert estimates[f"codebook[tiny]/{name.removeprefix('codebook/')}"][:3] == pytest.approx(
            estimate[:3], nan_ok=True
        )
    parts = entropy.compute()
    for part in ("h_total", "h_exec", "h_path", "h_sampler_path"):
        assert estimates[f"codebook[tiny]/{part}"].value == parts[f"{part}/token/counts"].value
    assert estimates["codebook[tiny]/h_total"].method.startswith("tokens by tiny")
    assert columns["codebook[tiny]/h_total"].shape == (4,)
    (lens,) = find_lenses(estimates)
    assert lens[:4] == ("A codebook[tiny], counts", "bits/token", "codebook[tiny]/h_total", "codebook[tiny]/h_exec")


def test_the_tokens_of_a_run_are_not_used():
    samples = prompts(1)[0]
    spoilt = samples._replace(tokens=torch.zeros(16, 3, dtype=torch.int64))
    first, second = (measured(make_metric("codebook[tiny]"), [each]).compute() for each in (samples, spoilt))
    assert first["codebook[tiny]/h_total"] == second["codebook[tiny]/h_total"]


def test_merging_and_resetting_reach_the_parts():
    whole = measured(make_metric("codebook[tiny]"), prompts())
    first, second = measured(make_metric("codebook[tiny]"), prompts()[:2]), make_metric("codebook[tiny]")
    first.merge_state(measured(second, prompts()[2:]))
    assert first.compute()["codebook[tiny]/entropy_bits"] == whole.compute()["codebook[tiny]/entropy_bits"]
    first.reset()
    assert first.usage.counts.sum() == 0
    measured(first, prompts())
    assert first.compute()["codebook[tiny]/h_total"].value == whole.compute()["codebook[tiny]/h_total"].value


def test_names_and_identity_contain_the_tokenizer():
    metric = make_metric("codebook[tiny,side=96]")
    assert all(name.startswith("codebook[tiny,side=96]/") for name in metric.names)
    assert metric.identity() != make_metric("codebook[tiny]").identity()
    with pytest.raises(ValueError, match="side must be a multiple of 8"):
        make_metric("codebook[tiny,side=50]")
    with pytest.raises(ValueError, match="'no-such' is not a registered name among the tokenizers"):
        make_metric("codebook[no-such]")
    with pytest.raises(ValueError, match=r"the option 'model'"):
        make_metric("codebook[diffusers]")
    with pytest.raises(ValueError, match=r"codebook\[llamagen-vq16\]"):
        make_metric("codebook")


@pytest.mark.parametrize(
    ("name", "tag"),
    [("llamagen-vq16", "llamagen-vq16"), ("amused", "amused"), ("vq-diffusion", "vq-diffusion"), ("janus", "janus")],
)
def test_metrics_of_registered_tokenizers_are_built_without_weights(name, tag):
    assert make_metric(f"codebook[{name}]").names[0] == f"codebook[{tag}]/entropy_bits"


def test_images_of_another_size_are_resized_and_tokens_do_not_depend_on_the_batch():
    tokenizer, images = TinyTokenizer(), postcards()
    large = torch.nn.functional.interpolate(images.float(), scale_factor=2).to(torch.uint8)
    same = (tokenizer.tokens(large) == tokenizer.tokens(images)).double().mean()
    assert same > 0.7
    assert torch.equal(tokenizer.tokens(images)[2:3], TinyTokenizer().tokens(images[2:3]))


def test_our_tokenizer_agrees_with_that_of_the_generator(weights, make_t2i):
    generator = make_t2i()
    generator.load()
    tokenizer = LlamaGenTokenizer("toy:llamagen_vq.json", str(weights / "vq.pt"), 48)
    images = postcards(3)
    assert torch.equal(tokenizer.tokens(images), generator.encode_images(images))
    assert tokenizer.codebook_size == generator.codebook_size


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Random tokenizers of diffusers and transformers, in separate folders and in checkpoints of whole models."""
    from diffusers import VQModel as DiffusersVQ
    from transformers import Emu3VQVAE, Emu3VQVAEConfig
    from transformers.models.janus import JanusVQVAE
    from transformers.models.janus.configuration_janus import JanusVQVAEConfig

    folder = tmp_path_factory.mktemp("tokenizers")
    channels = {"base_channels": 32, "channel_multiplier": [1, 1, 1], "num_res_blocks": 1, "latent_channels": 32}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        models = {
            "vq": DiffusersVQ(block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2, num_vq_embeddings=64, vq_embed_dim=4, latent_channels=4),
            "janus": JanusVQVAE(JanusVQVAEConfig(**channels, num_embeddings=64, num_patches=4)),
            "emu3": Emu3VQVAE(Emu3VQVAEConfig(**{**channels, "latent_channels": 4}, codebook_size=64,
                attn_resolutions=[], hidden_size=32, temporal_downsample_factor=2)),
        }  # fmt: skip
    for name, model in models.items():
        model.save_pretrained(folder / name)
    return folder, models


def test_tokenizers_of_libraries_give_the_tokens_of_the_library(folders):
    folder, models = folders
    images = postcards(2)
    pixels = from_uint8(images)
    # The decoder of Janus normalises codes and its official tokenizer compares directions; `encode` here does not.
    codes = models["janus"].quantize.embedding.weight
    with torch.no_grad():
        codes.copy_(normalize(codes, dim=-1))
        wanted = {
            "vq": models["vq"].quantize(models["vq"].encode(pixels).latents)[2][2].view(2, -1),
            "janus": models["janus"].eval().encode(pixels).image_tokens.view(2, -1),
            "emu3": torch.stack(models["emu3"].eval().encode(pixels, torch.full((2, 2), 48)).image_tokens).flatten(1),
        }  # fmt: skip
    made = {
        "vq": DiffusersTokenizer(str(folder / "vq"), "", side=48),
        "janus": JanusTokenizer(str(folder / "janus"), side=48),
        "emu3": Emu3Tokenizer(str(folder / "emu3"), side=48),
    }
    for name, tokenizer in made.items():
        tokens = tokenizer.tokens(images)
        assert tokenizer.codebook_size == 64
        assert len(tokens.unique()) > 2, name
        assert (tokens == wanted[name]).double().mean() > 0.99, name
        assert tokenizer.identity()["weights"]
    names = make_metric(f"codebook[janus,model={folder / 'janus'},side=48]").names
    assert names[0] == "codebook[janus,side=48]/entropy_bits"
    low = DiffusersTokenizer(str(folder / "vq"), "", low=0.0, side=48)
    assert low.identity() != made["vq"].identity()


def test_a_tokenizer_is_loaded_from_the_checkpoint_of_its_model(folders, tmp_path):
    import json

    from safetensors.torch import load_file, save_file

    folder, _ = folders
    config = json.loads((folder / "janus" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "janus", "vq_config": config}))
    tensors = load_file(folder / "janus" / "model.safetensors")
    inside = {f"model.vqmodel.{name}": tensor for name, tensor in tensors.items()}
    save_file({**inside, "lm_head.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    images = postcards(2)
    alone, within = (JanusTokenizer(str(path), side=48) for path in (folder / "janus", tmp_path))
    assert within.codebook_size == 64
    assert torch.equal(alone.tokens(images), within.tokens(images))


def test_a_folder_without_a_tokenizer_is_named_in_the_error(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a tokenizer"):
        _ = JanusTokenizer(str(tmp_path)).codebook_size


def test_a_folder_of_images_is_measured_by_command(tmp_path, capsys):
    for prompt in range(3):
        folder = tmp_path / "images" / f"prompt {prompt}"
        folder.mkdir(parents=True)
        for number, image in enumerate(postcards(4, prompt)):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    with pytest.raises(SystemExit) as stopped:
        main(["measure", str(tmp_path / "images"), "--metrics", "codebook[tiny]", "--out", str(tmp_path / "out")])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert "codebook[tiny]/entropy_bits" in printed
    assert "codebook[tiny]/h_total" in printed
