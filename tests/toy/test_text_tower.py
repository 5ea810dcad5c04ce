"""The toy CLIP is compatible: open_clip loads its folder, and transformers its text tower."""

import random

import open_clip
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from torchvision.transforms.functional import to_pil_image
from transformers import PreTrainedTokenizerFast

from gendiv_lightning.generators.vqgan import from_uint8
from gendiv_lightning.toy import captions, postcards
from gendiv_lightning.toy.files import TINY_CLIP
from gendiv_lightning.toy.recipes.clip import ClipRecipe
from gendiv_lightning.toy.recipes.text_tower import text_tower

CONTEXT = TINY_CLIP["text_cfg"]["context_length"]
# With start and end token, the first fills the context exactly and the second does not fit.
FULL = " ".join(["red", "sky"] * 31)
LONG = " ".join(["red", "sky", ","] * 25)
TEXTS = ["", "sky", "blue sky, a red house on the left", FULL, LONG]

pytestmark = pytest.mark.usefixtures("_no_grad")


@pytest.fixture
def _no_grad():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def folder(toy_weights):
    return toy_weights / "clip"


@pytest.fixture(scope="module")
def model(folder):
    """The architecture in the class of open_clip, with the tensors loaded by name."""
    model = open_clip.CLIP(**TINY_CLIP).eval()
    model.load_state_dict(
        {name: tensor.float() for name, tensor in load_file(folder / "open_clip_model.safetensors").items()}
    )
    return model


@pytest.fixture(scope="module")
def ids(folder):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    texts = [*TEXTS, *(caption for length in ("short", "medium", "long") for caption in worded(length))]
    return tokenizer(texts, padding="max_length", max_length=CONTEXT, truncation=True, return_tensors="pt").input_ids


def worded(length):
    rng = random.Random(0)
    return [captions.make_caption(captions.meaning(image, 3, rng), length, rng) for image in (0, 20_000, 50_000)]


def test_the_test_captions_have_all_lengths(ids):
    end = TINY_CLIP["text_cfg"]["vocab_size"] - 1
    assert ids[:, 0].eq(end - 1).all()
    assert ids.eq(end).sum(1).eq(1).all()
    assert ids.eq(end).int().argmax(1)[: len(TEXTS)].tolist() == [1, 2, 10, CONTEXT - 1, CONTEXT - 1]
    assert ids.shape[1] == CONTEXT


@pytest.mark.parametrize("projects", [True, False])
def test_the_text_tower_has_the_states_and_features_of_open_clip(folder, model, ids, projects):
    outputs = text_tower(folder, projects=projects)(ids, output_hidden_states=True)
    layers = model.forward_intermediates(text=ids, text_indices=[0, 1, 2])["text_intermediates"]
    for there, here in zip(layers, outputs.hidden_states[1:], strict=True):
        torch.testing.assert_close(here, there, atol=1e-5, rtol=1e-5)
    last = model.ln_final(layers[-1])
    torch.testing.assert_close(outputs.last_hidden_state, last, atol=1e-5, rtol=1e-5)
    if projects:
        torch.testing.assert_close(outputs.text_embeds, model.encode_text(ids), atol=1e-5, rtol=1e-5)
    else:
        pooled = last[torch.arange(len(ids)), ids.argmax(1)]
        torch.testing.assert_close(outputs.pooler_output, pooled, atol=1e-5, rtol=1e-5)
    assert len(last[:, 0].unique(dim=0)) == 1  # the tower looks back only
    assert len(outputs[0].unique(dim=0)) == len(ids.unique(dim=0)) > len(TEXTS)


def test_the_text_tower_is_frozen(folder):
    assert not any(parameter.requires_grad for parameter in text_tower(folder, projects=True).parameters())


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe with weights rounded to half precision, as after export."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        recipe = ClipRecipe(1, 0, tmp_path_factory.mktemp("clip"))
    recipe.model.half().float()
    recipe.export(recipe.work / "exported")
    return recipe


@pytest.fixture(scope="module")
def name(recipe):
    return f"local-dir:{recipe.work / 'exported' / 'clip'}"


def test_open_clip_reads_the_exported_tokenizer(recipe, name):
    tokenizer = open_clip.get_tokenizer(name)
    texts = [*TEXTS, *worded("medium"), "  Blue   SKY, a zebra "]
    expected = recipe.tokenizer(texts, padding="max_length", max_length=CONTEXT, truncation=True, return_tensors="pt")
    assert tokenizer(texts).equal(expected.input_ids)


@pytest.mark.parametrize("create", [open_clip.create_model_from_pretrained, open_clip.create_model_and_transforms])
def test_open_clip_reads_the_exported_model(recipe, name, create):
    read, preprocess = (create(name)[i] for i in (0, -1))
    pixels = postcards.render(torch.tensor([0, 20_000, 50_000]))
    inputs = from_uint8(pixels)
    torch.testing.assert_close(
        torch.stack([preprocess(to_pil_image(image)) for image in pixels]), inputs, atol=1e-6, rtol=0
    )
    read.eval()
    assert read.logit_scale.equal(recipe.model.logit_scale)
    torch.testing.assert_close(read.encode_image(inputs), recipe.model.eval().encode_image(inputs), atol=1e-5, rtol=0)
    ids = open_clip.get_tokenizer(name)(worded("short"))
    padded = recipe.tokenizer(worded("short"), padding=True, return_tensors="pt").input_ids
    assert padded.shape[1] < ids.shape[1]
    torch.testing.assert_close(read.encode_text(ids), recipe._encode_text(padded), atol=1e-5, rtol=0)
    assert F.cosine_similarity(*read.encode_text(ids)[:2], dim=0) < 0.999
