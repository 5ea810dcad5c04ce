import gc
import json
import pickle
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from PIL import Image
from random_clips import CONTEXT, NUM_WORDS, pictures, sentence, write_open_clip, write_transformers_clip
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from gendiv_lightning.features.base import _LoadedNetworks
from gendiv_lightning.features.clip import ClipFeatures
from gendiv_lightning.features.clip_backbones import _open_clip_preprocessing
from gendiv_lightning.features.preprocessing import Preprocessing, preprocessing_of

SIZES = [(32, 32), (48, 48), (41, 64), (90, 61), (20, 25)]
LIBRARIES = ("transformers", "open_clip", "open_clip in English")


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    positions = [folder / str(number) for number in range(3)]
    return {
        "transformers": write_transformers_clip(positions[0]),
        "open_clip": write_open_clip(positions[1]),
        "open_clip in English": write_open_clip(positions[2], knows_english=True),
    }


@pytest.fixture(scope="module")
def loaded(names):
    return {library: ClipFeatures(name).load() for library, name in names.items()}


@pytest.fixture(params=LIBRARIES)
def features(request, loaded):
    return loaded[request.param]


def as_pillow(images):
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]


def by_open_clip(config, images):
    from open_clip.transform import PreprocessCfg, image_transform_v2

    transform = image_transform_v2(PreprocessCfg(**config), is_train=False)
    return torch.stack([transform(image) for image in as_pillow(images)])


def by_transformers(folder, images):
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor.from_pretrained(folder)(images=list(images), return_tensors="pt")["pixel_values"]


def preprocessed(features, images):
    preprocessing = features.network.preprocessing
    return preprocessing.scale(preprocessing.resize(images))


# --- images ---


@pytest.mark.parametrize("size", SIZES)
def test_preprocessing_agrees_with_transformers(names, loaded, size):
    images = pictures(2, *size)
    theirs = by_transformers(names["transformers"], images)
    torch.testing.assert_close(preprocessed(loaded["transformers"], images), theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", ["shortest", "squash"])
def test_preprocessing_agrees_with_open_clip(size, way):
    """On noise, Pillow and torch differ by at most 2 of 255, in one pixel of a hundred."""
    config = {"size": 32, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25), "interpolation": "bicubic"}
    preprocessing = _open_clip_preprocessing({**config, "resize_mode": way})
    images = pictures(2, *size)
    theirs = by_open_clip({**config, "resize_mode": way}, images)
    apart = (preprocessing.scale(preprocessing.resize(images)) - theirs).abs() * torch.tensor(config["std"])[
        :, None, None
    ]
    assert apart.max() < 1e-2
    assert (apart > 1e-5).float().mean() < 0.02


def test_an_odd_margin_is_cropped_as_by_each_library():
    images = pictures(1, 33, 35)
    for rounds_half, offset in ((True, 2), (False, 1)):
        preprocessing = Preprocessing(33, (32, 32), "bicubic", rounds_half, (0.0,) * 3, (1.0,) * 3)
        assert torch.equal(preprocessing.resize(images), images[:, :, :32, offset : offset + 32])


@pytest.mark.parametrize("size", [(32, 32), (41, 64)])
@torch.no_grad()
def test_image_features_agree_with_transformers(names, loaded, size):
    images, model = pictures(4, *size), loaded["transformers"].network.model
    inputs = by_transformers(names["transformers"], images)
    theirs = F.normalize(model.visual_projection(model.vision_model(pixel_values=inputs).pooler_output), dim=1)
    ours = loaded["transformers"](images)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert ours.dtype == torch.float32
    assert (ours[0] @ ours[1]).item() < 0.99


@pytest.mark.parametrize(("size", "tolerance"), [((32, 32), 1e-6), ((41, 64), 1e-4)])
@torch.no_grad()
def test_image_features_agree_with_open_clip(loaded, size, tolerance):
    """If images are resized, only up to the difference between Pillow and torch."""
    images, model = pictures(4, *size), loaded["open_clip"].network.model
    theirs = model.encode_image(by_open_clip(model.visual.preprocess_cfg, images), normalize=True)
    ours = loaded["open_clip"](images)
    assert ((ours * theirs).sum(1) > 1 - tolerance).all()
    assert (ours[0] @ ours[1]).item() < 0.99


def test_image_features_do_not_depend_on_their_batch(features):
    images = pictures(34)  # more than one part
    together = features(images)
    for index in (0, 31, 32, 33):
        alone = features(images[index : index + 1])
        torch.testing.assert_close(together[index : index + 1], alone, rtol=0, atol=1e-6)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(34))


def test_the_same_images_are_encoded_once_and_not_confused_with_others(names, monkeypatch):
    features, again = ClipFeatures(names["transformers"]).load(), ClipFeatures(names["transformers"])
    calls = []
    encode = features.network.encode_images
    monkeypatch.setattr(features.network, "encode_images", lambda inputs: calls.append(len(inputs)) or encode(inputs))
    images = pictures(3, 48, 48)
    first = features(images)
    assert torch.equal(again(images.clone()), first)
    assert calls == [3]


@pytest.mark.parametrize("size", [32, 48])
def test_images_changed_in_place_are_encoded_again(features, size):
    images = pictures(3, size, size)
    before = features(images)
    images[0] = 255 - images[0]
    after = features(images)
    assert (before[0] @ after[0]).item() < 0.99
    assert torch.equal(before[1], after[1])


@pytest.mark.parametrize("value", [0, 127, 255])
def test_images_of_one_colour_have_features(features, value):
    vectors = features(torch.full((2, 3, 40, 40), value, dtype=torch.uint8))
    assert vectors.isfinite().all()
    assert torch.equal(vectors[0], vectors[1])


def test_input_other_than_a_batch_of_images_is_an_error(features):
    with pytest.raises(ValueError, match="uint8"):
        features(torch.rand(2, 3, 32, 32))


# --- texts ---


@pytest.mark.parametrize("num_words", [0, 1, CONTEXT - 2, CONTEXT - 1, 40])
def test_text_features_agree_with_the_library(loaded, num_words):
    text = sentence(num_words)
    with torch.no_grad():
        for library in ("open_clip", "open_clip in English"):
            network = loaded[library].network
            theirs = network.model.encode_text(network.tokenizer([text]), normalize=True)
            torch.testing.assert_close(loaded[library].texts([text]), theirs, rtol=0, atol=1e-5)
        network = loaded["transformers"].network
        ids = network.tokenizer([text], truncation=True, max_length=CONTEXT, return_tensors="pt").input_ids
        theirs = network.model.text_projection(network.model.text_model(input_ids=ids).pooler_output)
        ours = loaded["transformers"].texts([text])
        torch.testing.assert_close(ours, F.normalize(theirs, dim=1), rtol=0, atol=1e-5)


def test_a_long_caption_keeps_its_end_token(loaded):
    """It follows the last word that fits; without it, CLIP silently reads the state of another token."""
    network = loaded["transformers"].network
    start, end = NUM_WORDS - 2, NUM_WORDS - 1
    words = network.tokenizer(sentence(40), add_special_tokens=False).input_ids
    ids = torch.tensor([[start, *words[: CONTEXT - 2], end]])
    with torch.no_grad():
        states = network.model.text_model(input_ids=ids).last_hidden_state
        theirs = F.normalize(network.model.text_projection(states[:, -1]), dim=1)
        naive = network.model.text_model(input_ids=torch.tensor([[start, *words][:CONTEXT]])).pooler_output
        naive = F.normalize(network.model.text_projection(naive), dim=1)
    ours = loaded["transformers"].texts([sentence(40)])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert (ours @ naive.T).item() < 0.9


@pytest.mark.parametrize("library", ["transformers", "open_clip"])
def test_the_feature_of_a_split_caption_is_the_mean_over_its_chunks(loaded, library):
    features, room = loaded[library], CONTEXT - 2
    text = sentence(2 * room + 3)
    parts = [" ".join(text.split()[start : start + room]) for start in range(0, 2 * room + 3, room)]
    assert len(parts[-1].split()) == 3
    chunks = features.chunk_texts([text, "red hills"])
    torch.testing.assert_close(chunks[0], F.normalize(features.texts(parts).mean(0), dim=0), rtol=0, atol=1e-6)
    torch.testing.assert_close(chunks[1:], features.texts(["red hills"]), rtol=0, atol=1e-6)
    assert (chunks[0] @ features.texts([text])[0]).item() < 0.999


@pytest.mark.parametrize("library", ["transformers", "open_clip"])
def test_a_caption_counts_as_truncated_if_a_word_is_lost(loaded, library):
    texts = [sentence(num_words) for num_words in (0, 3, CONTEXT - 2, CONTEXT - 1, 50)]
    assert [loaded[library].num_cut([text]) for text in texts] == [0, 0, 0, 1, 1]
    assert loaded[library].num_cut(texts) == 2


def test_the_feature_of_a_text_does_not_depend_on_its_position(features):
    texts = [sentence(5, start) for start in range(40)] + [sentence(5)]
    together = features.texts(texts)
    torch.testing.assert_close(together[-1], together[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(together[17:18], features.texts(texts[17:18]), rtol=0, atol=1e-6)
    assert (together[0] @ together[17]).item() < 0.99


def test_a_single_string_and_an_empty_list_are_errors(features):
    for texts in ("red hills", []):
        with pytest.raises(ValueError, match="non-empty list of captions"):
            features.texts(texts)


# --- precision, loading, sharing ---


def test_autocast_and_fast_matrix_products_do_not_affect_the_features(features, monkeypatch):
    plain = features(pictures(2)), features.texts(["red hills"])
    monkeypatch.setattr("gendiv_lightning.features.base._LOADED", _LoadedNetworks())  # nothing is remembered
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            again = features(pictures(2)), features.texts(["red hills"])
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert all(map(torch.equal, again, plain))


@pytest.mark.parametrize("write", [write_transformers_clip, write_open_clip])
def test_weights_load_at_first_use_without_touching_the_global_generator(write, tmp_path):
    features = ClipFeatures(write(tmp_path))
    assert not list(features.parameters())
    state = torch.random.get_rng_state()
    features(pictures(1))
    assert torch.equal(state, torch.random.get_rng_state())
    assert not any(parameter.requires_grad for parameter in features.parameters())
    assert not features.network.training


def test_a_network_is_loaded_once_and_freed_after_its_last_user(names):
    one, two = (ClipFeatures(names["open_clip"]).load() for _ in range(2))
    assert one.network is two.network
    assert pickle.loads(pickle.dumps(one))(pictures(1)).equal(two(pictures(1)))


def test_a_network_without_users_is_freed(tmp_path):
    features = ClipFeatures(write_open_clip(tmp_path)).load()
    features(pictures(1))
    network = weakref.ref(features.network)
    del features
    gc.collect()
    assert network() is None


def test_features_are_computed_in_float32_even_if_the_module_was_cast(names):
    features = ClipFeatures(names["open_clip"])
    assert features.half()(pictures(1)).dtype == torch.float32


# --- names ---


@pytest.mark.parametrize(
    ("backbone", "tag", "library"),
    [
        ("openai/clip-vit-large-patch14", "clip", "transformers"),
        ("openai/clip-vit-base-patch32", "openai/clip-vit-base-patch32", "transformers"),
        ("ViT-B-32/laion2b_s34b_b79k", "ViT-B-32/laion2b_s34b_b79k", "open_clip"),
        ("hf-hub:laion/CLIP-ViT-B-32", "hf-hub:laion/CLIP-ViT-B-32", "open_clip"),
    ],
)
def test_a_name_is_resolved_before_anything_is_imported_or_loaded(backbone, tag, library):
    features = ClipFeatures(backbone)
    assert (features.tag, features.source.library) == (tag, library)
    assert features.identity() == {"backbone": backbone, "weights": None}


def test_a_folder_is_identified_by_its_name_and_its_hash(tmp_path):
    backbone = write_open_clip(tmp_path)
    before = ClipFeatures(backbone)
    identity = before.identity()
    assert before.tag == identity["backbone"] == tmp_path.name
    weights = load_file(tmp_path / "model.safetensors")
    weights["logit_scale"] += 1
    save_file(weights, tmp_path / "other.safetensors")
    (tmp_path / "other.safetensors").rename(tmp_path / "model.safetensors")
    assert ClipFeatures(backbone).identity() != identity


def test_a_folder_deleted_later_is_named_in_the_error(tmp_path):
    features = ClipFeatures(write_open_clip(tmp_path / "gone"))
    shutil.rmtree(tmp_path / "gone")
    for ask in (features.load, features.identity):
        with pytest.raises(FileNotFoundError, match="gone does not exist"):
            ask()


# --- what cannot be had, what is wrong ---


@pytest.mark.parametrize(
    "backbone", ["", "ViT-B-32", "nowhere/at/all", "local-dir:nowhere", "hf-hub:nothing", "large", "/", "a b/c"]
)
def test_an_unknown_name_is_an_error_at_construction(backbone):
    with pytest.raises(ValueError, match=r"OWNER/REPO.*local-dir:FOLDER.*gendiv list features"):
        ClipFeatures(backbone)


def test_a_folder_in_the_other_layout_is_reported_as_such(tmp_path):
    write_open_clip(tmp_path)
    with pytest.raises(ValueError, match=f"write local-dir:{tmp_path}"):
        ClipFeatures(str(tmp_path))


@pytest.mark.parametrize(
    "backbone",
    ["openai/clip-vit-large-patch14", "ViT-B-32/laion2b_s34b_b79k", "ViT-B-32-quickgelu/openai", "hf-hub:some/clip"],
)
def test_without_a_network_the_error_says_what_to_do(backbone, monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    with pytest.raises(FileNotFoundError, match=f"{backbone}.*local-dir:FOLDER"):
        ClipFeatures(backbone).load()


def test_the_error_for_unknown_open_clip_weights_lists_the_known_ones():
    with pytest.raises(ValueError, match="laion2b_s34b_b79k"):
        ClipFeatures("ViT-B-32/laion2b").load()


def test_weights_for_another_activation_function_are_an_error():
    with pytest.raises(ValueError, match="Write ViT-B-32-quickgelu/openai"):
        ClipFeatures("ViT-B-32/openai").load()


def drop_a_tensor(path):
    tensors = load_file(path)
    tensors.pop("text_projection.weight" if "text_projection.weight" in tensors else "text_projection")
    path.unlink()
    save_file(tensors, path, metadata={"format": "pt"})


def spoil(path):
    path.write_text("no weights")


@pytest.mark.parametrize("harm", [drop_a_tensor, spoil])
@pytest.mark.parametrize("write", [write_transformers_clip, write_open_clip])
def test_missing_or_damaged_weights_are_an_error(write, harm, tmp_path):
    features = ClipFeatures(write(tmp_path))
    harm(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"{tmp_path.name}.*cannot be used as a CLIP backbone"):
        features.load()


@pytest.mark.parametrize("file", ["tokenizer.json", "preprocessor_config.json"])
def test_a_folder_without_tokenizer_or_image_processor_is_an_error(file, names, tmp_path):
    shutil.copytree(names["transformers"], tmp_path / "copy")
    (tmp_path / "copy" / file).unlink()
    with pytest.raises((FileNotFoundError, ValueError), match="'copy'"):
        ClipFeatures(str(tmp_path / "copy")).load()


@pytest.mark.parametrize(("end", "message"), [(2, None), (7, f"looks for the end token 7, but .*with {NUM_WORDS - 1}")])
def test_a_text_tower_with_another_end_token_is_an_error(end, message, names, tmp_path):
    """End token 2 is accepted: in old configurations it stands for the highest id."""
    shutil.copytree(names["transformers"], tmp_path / "copy")
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    config["text_config"]["eos_token_id"] = end
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config))
    features = ClipFeatures(str(tmp_path / "copy"))
    if message is None:
        there = ClipFeatures(names["transformers"]).texts([sentence(40)])
        torch.testing.assert_close(features.texts([sentence(40)]), there, rtol=0, atol=1e-6)
    else:
        with pytest.raises(ValueError, match=message):
            features.load()


@pytest.mark.parametrize(
    "change",
    [
        {"do_resize": False},
        {"rescale_factor": 1.0},
        {"resample": 0},
        {"size": {"height": 40, "width": 32}},
        {"size": {"shortest_edge": 31}},
        {"do_center_crop": False},
    ],
)
def test_preprocessing_other_than_that_of_clip_is_an_error(change, names):
    config = json.loads((Path(names["transformers"]) / "preprocessor_config.json").read_text())
    assert preprocessing_of(config).shorter == 36
    with pytest.raises(ValueError, match="image processor"):
        preprocessing_of({**config, **change})


def test_resizing_with_padding_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="'longest'"):
        ClipFeatures(write_open_clip(tmp_path, resize_mode="longest")).load()


def test_a_tokenizer_that_does_not_truncate_at_the_end_is_an_error(tmp_path):
    backbone = write_open_clip(tmp_path, knows_english=True)
    config = json.loads((tmp_path / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"reduction_mask": "shuffle"}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="tokenizer"):
        ClipFeatures(backbone).load()
