"""Captions are encoded once, one at a time, and cached on disk."""

import shutil

import pytest
import torch
from transformers import AutoTokenizer, T5EncoderModel

from gendiv_lightning.text.t5 import CaptionFeatures

CPU = torch.device("cpu")
TEXTS = [
    "a red circle above a blue square",
    "a square",
    "",
    "a large yellow triangle on a green ground with a dark border",
]


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GENDIV_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def make_features(weights):
    def make(max_tokens=64, dtype=torch.float32, folder=weights / "t5"):
        return CaptionFeatures(folder, max_tokens, dtype)

    return make


@pytest.fixture
def calls(monkeypatch):
    """Numbers of tokens of the captions that the encoder was run on."""
    seen, forward = [], T5EncoderModel.forward

    def count(self, input_ids, **kwargs):
        seen.append(input_ids.shape[1])
        return forward(self, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(T5EncoderModel, "forward", count)
    return seen


def test_features_are_the_last_hidden_states_of_the_encoder(make_features, weights):
    tokenizer, encoder = AutoTokenizer.from_pretrained(weights / "t5"), T5EncoderModel.from_pretrained(weights / "t5")
    with torch.inference_mode():
        expected = [encoder(**tokenizer(text, return_tensors="pt")).last_hidden_state[0] for text in TEXTS]
    for features, states in zip(make_features().encode(TEXTS, CPU), expected, strict=True):
        torch.testing.assert_close(features, states, atol=1e-6, rtol=0)


def test_features_have_one_row_per_token_and_the_empty_caption_has_one(make_features):
    features = make_features()
    assert [len(f) for f in features.encode(TEXTS, CPU)] == features.lengths(TEXTS).lengths
    assert features.lengths(["", "a square"]).lengths == [1, 3]
    assert features.lengths([]).lengths == []


def test_a_caption_is_encoded_once(make_features, calls):
    features = make_features()
    first = features.encode([TEXTS[0]] * 8, CPU)
    assert calls == [8]
    again = make_features().encode([TEXTS[0], TEXTS[1], TEXTS[0]], CPU)
    assert calls == [8, 3]
    assert all(torch.equal(f, first[0]) for f in [*first, again[0], again[2]])


def test_captions_with_equal_cleaned_text_are_encoded_once(make_features, calls):
    features = make_features().encode(["a square", "  A SQUARE ", "a <b>square</b>"], CPU)
    assert len(calls) == 1
    assert all(torch.equal(f, features[0]) for f in features)


def test_a_cached_caption_does_not_load_the_encoder(make_features, monkeypatch):
    expected = make_features().encode(TEXTS, CPU)
    monkeypatch.setattr(T5EncoderModel, "from_pretrained", lambda *_, **__: pytest.fail("loaded the encoder"))
    for cached, computed in zip(make_features().encode(TEXTS, CPU), expected, strict=True):
        assert torch.equal(cached, computed)
        assert cached.dtype == torch.float32


def test_counting_tokens_loads_the_tokenizer_only(make_features, monkeypatch):
    monkeypatch.setattr(T5EncoderModel, "from_pretrained", lambda *_, **__: pytest.fail("loaded the encoder"))
    assert make_features().lengths(["a square"]).lengths == [3]


def test_the_cache_distinguishes_encoders_dtypes_and_lengths(make_features, weights, tmp_path, calls):
    shutil.copytree(weights / "t5", tmp_path / "same")
    shutil.copytree(weights / "t5", tmp_path / "other")
    T5EncoderModel.from_pretrained(weights / "t5").half().float().save_pretrained(tmp_path / "other")
    for index, (settings, num_runs) in enumerate(
        [
            ({}, 1),
            ({"folder": tmp_path / "same"}, 1),  # only the content matters
            ({"folder": tmp_path / "other"}, 2),
            ({"dtype": torch.bfloat16}, 3),
            ({"max_tokens": 5}, 4),
        ]
    ):
        make_features(**settings).encode(TEXTS[:1], CPU)
        assert len(calls) == num_runs, index


def test_bfloat16_features_survive_the_cache_unchanged(make_features):
    computed, cached = (make_features(dtype=torch.bfloat16).encode(TEXTS, CPU) for _ in range(2))
    for a, b in zip(computed, cached, strict=True):
        assert a.dtype == b.dtype == torch.bfloat16
        assert torch.equal(a, b)


def test_features_do_not_depend_on_the_other_captions_of_a_batch(make_features, monkeypatch, tmp_path):
    together = make_features().encode(TEXTS, CPU)
    for index, text in enumerate(TEXTS):
        monkeypatch.setenv("GENDIV_CACHE", str(tmp_path / f"cache{index}"))
        assert torch.equal(make_features().encode([text], CPU)[0], together[index])


def test_a_long_caption_is_truncated_but_keeps_its_end_token(make_features, weights):
    tokenizer, encoder = AutoTokenizer.from_pretrained(weights / "t5"), T5EncoderModel.from_pretrained(weights / "t5")
    features = make_features(max_tokens=5)
    assert features.lengths(TEXTS).lengths == [8, 3, 1, 13]  # counted before truncation, so that it can be reported
    assert [len(f) for f in features.encode(TEXTS, CPU)] == [5, 3, 1, 5]
    ids = tokenizer("a red circle above").input_ids
    assert len(ids) == 5
    assert ids[-1] == tokenizer.eos_token_id
    with torch.inference_mode():
        expected = encoder(input_ids=torch.tensor([ids])).last_hidden_state[0]
    torch.testing.assert_close(features.encode(TEXTS, CPU)[0], expected, atol=1e-6, rtol=0)


def test_an_interrupted_write_leaves_no_cache_entry(make_features, monkeypatch, tmp_path):
    def interrupted(tensors, path, metadata):
        path.write_bytes(b"half of")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("gendiv_lightning.storage.feature_cache.save_file", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make_features().encode(["a square"], CPU)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    assert len(make_features().encode(["a square"], CPU)[0]) == 3
