"""Pipeline folders: found, checked and loaded part by part; and diffusers still has everything we need."""

import ast
import json
import os
import shutil
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import Transformer2DModel, UVit2DModel, VQModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from gendiv_lightning.weights.diffusers_folder import PipelineFolder, weight_files
from gendiv_lightning.weights.resolve import MissingWeightsError

PARTS = ("text_encoder", "tokenizer", "transformer", "scheduler", "vqvae")
MODELS = {"text_encoder": CLIPTextModel, "transformer": Transformer2DModel, "vqvae": VQModel}
every_model = pytest.mark.parametrize("part", MODELS)


@pytest.fixture
def folder(pipelines, tmp_path):
    """A copy of the VQ-Diffusion folder that tests may damage."""
    return shutil.copytree(pipelines / "vq_diffusion", tmp_path / "pipeline")


def open_folder(folder, parts=PARTS):
    return PipelineFolder(str(folder), parts, "checkpoint", "Take another.")


def load(folder, part, dtype=torch.float32):
    return open_folder(folder).load(MODELS[part], part, dtype)


def weight_file(folder, part):
    return next((folder / part).glob("*.safetensors"))


def rewrite(folder, part, change):
    """Replace the tensors of a part by `change(tensors)`."""
    path = weight_file(folder, part)
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def to_pickle(folder, part, **more):
    """Store the weights of a part in the older file format, the only one of older repositories."""
    path = weight_file(folder, part)
    torch.save(
        {**load_file(path), **more}, path.with_name("pytorch_model.bin" if "text" in part else f"{path.stem}.bin")
    )
    path.unlink()


def reconfigure(folder, part, **changes):
    """Replace settings of a part; None removes a setting."""
    path = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def output(part, model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        if part == "text_encoder":
            return model(torch.randint(90, (2, 64), generator=generator)).last_hidden_state
        if part == "transformer":
            states = torch.randn(2, 64, 64, generator=generator)
            return model(torch.randint(257, (2, 36), generator=generator), states, torch.tensor(3)).sample
        return model(torch.randn(2, 3, 48, 48, generator=generator)).sample


# --- whole ---


def test_parts_are_found_with_their_configurations(folder):
    opened = open_folder(folder)
    assert opened.path == folder
    assert opened.config("transformer")["num_vector_embeds"] == 257
    assert opened.config("scheduler")["num_train_timesteps"] == 100
    opened.check("transformer", {"num_vector_embeds": 257, "sample_size": 6}, "checkpoint")


@every_model
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_part_is_loaded_with_the_requested_dtype_frozen_and_in_eval_mode(folder, part, dtype):
    model = load(folder, part, dtype)
    assert isinstance(model, MODELS[part])
    assert {tensor.dtype for tensor in model.parameters()} == {dtype}
    assert not any(tensor.requires_grad or tensor.is_meta for tensor in model.parameters())
    assert not any(module.training for module in model.modules())


@every_model
def test_the_tensors_equal_those_of_the_file(folder, part):
    loaded, stored = load(folder, part).state_dict(), load_file(weight_file(folder, part))
    assert len(stored) > 20
    assert all(torch.equal(loaded[name], tensor) for name, tensor in stored.items())


@every_model
def test_half_precision_files_are_cast_to_the_requested_dtype(folder, part):
    expected = load(folder, part).half().float()
    rewrite(folder, part, lambda tensors: {name: tensor.half() for name, tensor in tensors.items()})
    for ours, theirs in zip(load(folder, part).parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_identity_distinguishes_parts(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    reconfigure(other, "scheduler", gamma_cum_end=0.5)
    rewrite(other, "vqvae", lambda tensors: {name: 2 * tensor for name, tensor in tensors.items()})
    one, two = open_folder(folder).identity(), open_folder(other).identity()
    assert set(one) == set(PARTS)
    assert [part for part in PARTS if one[part] != two[part]] == ["scheduler", "vqvae"]


# --- files of older versions ---


@every_model
def test_pickled_weights_are_loaded(folder, part):
    expected = output(part, load(folder, part))
    to_pickle(folder, part)
    assert torch.equal(output(part, load(folder, part)), expected)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@every_model
def test_a_pickle_with_code_is_rejected_without_running_it(folder, part, tmp_path):
    to_pickle(folder, part, bomb=Bomb(str(tmp_path / "boom")))
    with pytest.raises(ValueError, match=part):
        load(folder, part)
    assert not (tmp_path / "boom").exists()


def test_text_encoders_of_earlier_transformers_are_loaded(folder):
    """Their keys have a prefix, and they store the position ids."""
    expected = output("text_encoder", load(folder, "text_encoder"))

    def as_it_was(tensors):
        named = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in tensors.items()}
        return {**named, "text_model.embeddings.position_ids": torch.arange(64)[None]}

    rewrite(folder, "text_encoder", as_it_was)
    assert torch.equal(output("text_encoder", load(folder, "text_encoder")), expected)


def test_tokenizers_of_earlier_diffusers_are_loaded(folder):
    """Their attention layers have other names."""
    expected = output("vqvae", load(folder, "vqvae"))
    names = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}

    def earlier(name):
        for now, then in names.items():
            name = name.replace(now, then)
        return name

    rewrite(folder, "vqvae", lambda tensors: {earlier(name): tensor for name, tensor in tensors.items()})
    assert any("proj_attn" in name for name in load_file(weight_file(folder, "vqvae")))
    assert torch.equal(output("vqvae", load(folder, "vqvae")), expected)


def test_transformers_of_earlier_diffusers_are_loaded(folder):
    """Their configuration does not name the norm, like the official one."""
    expected = output("transformer", load(folder, "transformer"))
    reconfigure(folder, "transformer", norm_type=None)
    model = open_folder(folder).load(MODELS["transformer"], "transformer", torch.float32, norm_type="ada_norm")
    assert torch.equal(output("transformer", model), expected)


# --- broken ---


def test_a_missing_folder_is_named_in_the_error(tmp_path):
    with pytest.raises(MissingWeightsError, match=r"checkpoint: .*/nothing'.*Take another\."):
        open_folder(tmp_path / "nothing")


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_part_is_named_in_the_error(folder, part):
    shutil.rmtree(folder / part)
    with pytest.raises(
        MissingWeightsError, match=rf"checkpoint: .*must contain the folders .*; missing: {part}\.\nTake another"
    ):
        open_folder(folder)


@pytest.mark.parametrize("content", ["", "{no json", "[]", None])
@pytest.mark.parametrize(("part", "file"), [("transformer", "config.json"), ("scheduler", "scheduler_config.json")])
def test_an_unreadable_configuration_is_named_in_the_error(folder, part, file, content):
    path = folder / part / file
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(ValueError, match=f"{part}/{file} cannot be read"):
        open_folder(folder).config(part)


def test_another_model_is_rejected_with_the_reason(folder):
    requested = {"num_vector_embeds": 4097, "sample_size": 6, "nothing": 1}
    with pytest.raises(ValueError, match=r"checkpoint: .*transformer does not match the settings") as error:
        open_folder(folder).check("transformer", requested, "checkpoint")
    assert str(error.value).endswith("num_vector_embeds 257, not 4097; nothing None, not 1")


def some_name(folder, part):
    """Return the name of a tensor in the middle."""
    names = sorted(name for name, tensor in load_file(weight_file(folder, part)).items() if tensor.ndim == 2)
    return names[len(names) // 2]


@every_model
def test_a_missing_tensor_is_named_in_the_error(folder, part):
    name = some_name(folder, part)
    rewrite(folder, part, lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name})
    with pytest.raises(ValueError, match=rf"{part}.*{name}"):
        load(folder, part)


@every_model
def test_a_tensor_of_another_shape_is_named_in_the_error(folder, part):
    name = some_name(folder, part)
    rewrite(folder, part, lambda tensors: {**tensors, name: torch.zeros(3, 5)})
    with pytest.raises(ValueError, match=rf"{part}.*{name}"):
        load(folder, part)


@every_model
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_damaged_file_is_an_error(folder, part, share):
    path = weight_file(folder, part)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=part):
        load(folder, part)


@every_model
def test_a_part_without_weights_is_an_error(folder, part):
    weight_file(folder, part).unlink()
    with pytest.raises(ValueError, match=part):
        load(folder, part)


def to_shards(folder, part):
    """Store the weights of a part as two shards with an index."""
    path = weight_file(folder, part)
    tensors = load_file(path)
    path.unlink()
    names = sorted(tensors)
    weight_map = {name: f"{path.stem}-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for shard in set(weight_map.values()):
        save_file({name: tensors[name] for name in names if weight_map[name] == shard}, path.with_name(shard))
    path.with_name(f"{path.name}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return tensors


def test_all_shards_of_a_part_are_read(folder):
    tensors = to_shards(folder, "transformer")
    loaded = open_folder(folder).load(Transformer2DModel, "transformer", torch.float32, not_in_the_configuration=1)
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in tensors.items())


def test_a_missing_shard_is_named_in_the_error(folder):
    to_shards(folder, "transformer")
    next((folder / "transformer").glob("*-00002-of-00002.safetensors")).unlink()
    with pytest.raises(ValueError, match=r"index.json lists files that are missing: .*-00002-of-00002.safetensors"):
        weight_files(folder / "transformer")


# --- the Hub ---


@pytest.fixture
def hub(tmp_path, monkeypatch, folder):
    """A pipeline in the local cache of the Hub, without a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    cached, commit = tmp_path / "hub/models--owner--vq-diffusion", "0123456789abcdef0123456789abcdef01234567"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text(commit)
    return shutil.copytree(folder, cached / "snapshots" / commit)


def test_a_pipeline_in_the_local_cache_of_the_hub_is_found(hub):
    """Its tokenizer and scheduler have no weights."""
    assert open_folder("owner/vq-diffusion").path == hub


def test_an_older_pipeline_in_the_local_cache_of_the_hub_is_found(hub):
    for part in MODELS:
        to_pickle(hub, part)
    assert open_folder("owner/vq-diffusion").path == hub


@every_model
def test_a_partly_cached_pipeline_counts_as_missing(hub, part):
    weight_file(hub, part).unlink()
    with pytest.raises(MissingWeightsError, match="hf download"):
        open_folder("owner/vq-diffusion")


def test_without_a_network_the_error_says_how_to_get_a_pipeline(hub):
    with pytest.raises(MissingWeightsError) as error:
        open_folder("owner/other")
    first, to_get, with_copy, advice = str(error.value).splitlines()
    assert first.startswith("checkpoint: the Hub repository 'owner/other' is neither in the Hub's local cache nor")
    assert to_get.split()[-3:] == ["hf", "download", "owner/other"]
    assert with_copy.endswith("--model.checkpoint /path/to/other")
    assert advice == "Take another."


# --- diffusers ---

ROOT = Path(__file__).parents[2]
USED = {
    *("UVit2DModel", "VQModel", "Transformer2DModel", "VQDiffusionScheduler"),
    *("AutoencoderKL", "DDIMScheduler", "UNet2DConditionModel"),  # the toy's latent diffusion
}
PIPELINES = ROOT / "gendiv_lightning" / "generators" / "diffusers_pipeline.py"  # any pipeline is its subject


def names_of_diffusers():
    """All names that the package imports from diffusers, with their modules."""
    for folder in ("gendiv_lightning", "callbacks", "datamodules"):
        for path in {*(ROOT / folder).rglob("*.py")} - {PIPELINES}:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "diffusers":
                    yield from ((node.module, alias.name) for alias in node.names)
                elif isinstance(node, ast.Import):
                    yield from ((alias.name, "") for alias in node.names if alias.name.startswith("diffusers."))


def test_the_package_uses_only_the_diffusers_classes_tested_here():
    """It uses no pipeline class: those of aMUSEd and VQ-Diffusion are deprecated."""
    assert set(names_of_diffusers()) == {("diffusers", name) for name in USED}


@pytest.mark.parametrize("name", sorted(USED | {"AmusedScheduler"}))
def test_diffusers_still_has_the_class(name):
    moved = (
        f"diffusers {diffusers.__version__} has no {name} among its models and schedulers: set an upper bound on "
        "diffusers in pyproject.toml, or bring the class into gendiv_lightning/generators"
    )
    assert hasattr(diffusers, name), moved
    assert "pipelines" not in getattr(diffusers, name).__module__.split("."), moved


def test_the_masked_transformer_is_unchanged(pipelines):
    model = PipelineFolder(str(pipelines / "amused"), PARTS, "").load(UVit2DModel, "transformer", torch.float32)
    micro = torch.tensor([[48.0, 48.0, 0.0, 0.0, 6.0]]).expand(2, -1)
    logits = model(torch.full((2, 6, 6), 256), torch.zeros(2, 64, 64), torch.zeros(2, 64), micro)
    assert logits.shape == (2, 256, 6, 6)


def test_the_diffusion_transformer_is_unchanged(folder):
    log_probs = output("transformer", load(folder, "transformer"))
    assert log_probs.shape == (2, 256, 36)
    torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(2, 36))


def test_the_tokenizer_is_unchanged(folder):
    model = load(folder, "vqvae")
    latents = model.encode(torch.zeros(2, 3, 48, 48)).latents
    assert latents.shape == (2, 8, 6, 6)
    codes, _, (_, _, tokens) = model.quantize(latents)
    torch.testing.assert_close(model.quantize.embedding(tokens.view(2, 6, 6)).permute(0, 3, 1, 2), codes)
    decoded = model.decoder(model.post_quant_conv(codes), None)
    assert torch.equal(decoded, model.decode(codes, force_not_quantize=True).sample)


def test_the_projected_state_belongs_to_the_end_token(pipelines):
    """It is found by its id, not by its position, because captions are padded."""
    text = PipelineFolder(str(pipelines / "amused"), PARTS, "")
    model = text.load(CLIPTextModelWithProjection, "text_encoder", torch.float32)
    end = text.config("text_encoder")["eos_token_id"]
    ids = torch.tensor([[end - 1, 5, 6, end, 0, 0]])
    outputs = model(ids)
    torch.testing.assert_close(outputs.text_embeds, model.text_projection(outputs.last_hidden_state[:, 3]))


@pytest.mark.parametrize("name", ["../elsewhere.safetensors", "/elsewhere.safetensors"])
def test_an_index_names_only_files_of_its_folder(tmp_path, name):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"weight": name}}))
    with pytest.raises(ValueError, match="not in its folder"):
        weight_files(tmp_path)
