"""Token ids of captions for CLIP, as in the pipelines of diffusers, except that truncation keeps the end token."""

import json

import pytest
from transformers import AutoTokenizer, CLIPTokenizer

from gendiv_lightning.text.clip import ClipTokenizer
from gendiv_lightning.toy.files import write_tokenizer

CONTEXT = 77
# With start and end token, the first fills the context exactly and the second does not fit.
FULL, LONG = " ".join(["red"] * 75), " ".join(["red"] * 75 + ["sky"] * 5)
TEXTS = ["", "sky", "Red sky, a tree on the left", "what is not in the grammar", FULL, LONG]


def write_words(folder):
    """The tokenizer of the toy models: words, padded with a separate token."""
    write_tokenizer(folder, kind="clip")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": CONTEXT}))


def write_bytes(folder):
    """The official format: byte pairs (here single letters and a few merges), padded with the end token."""
    letters = "abcdefghijklmnopqrstuvwxyz,"
    merges = [("r", "e"), ("re", "d</w>"), ("s", "k"), ("sk", "y</w>")]
    entries = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    words = {entry: i for i, entry in enumerate([*entries, "<|startoftext|>", "<|endoftext|>"])}
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]))
    names = {"bos": "<|startoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>", "pad": "<|endoftext|>"}
    config = {f"{name}_token": token for name, token in names.items()}
    config |= {"tokenizer_class": "CLIPTokenizer", "model_max_length": CONTEXT}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


KINDS = {"words": (write_words, AutoTokenizer), "bytes": (write_bytes, CLIPTokenizer)}


@pytest.fixture(params=KINDS, scope="module")
def pair(request, tmp_path_factory):
    """Our tokenizer and that of the reference, from the same folder."""
    folder = tmp_path_factory.mktemp("tokenizers") / request.param
    write, reference_class = KINDS[request.param]
    write(folder)
    return ClipTokenizer(folder, CONTEXT), reference_class.from_pretrained(folder)


@pytest.mark.parametrize("text", TEXTS)
def test_ids_agree_with_the_pipelines(pair, text):
    ours, reference = pair
    expected = reference(
        text, padding="max_length", truncation=True, max_length=reference.model_max_length, return_tensors="pt"
    )
    assert ours(text).tolist() == expected.input_ids.tolist()
    assert ours(text).shape == (1, CONTEXT)


def test_a_caption_is_enclosed_in_start_and_end_tokens_and_padded(pair):
    ours, reference = pair
    ids = ours("red sky")[0].tolist()
    assert ids[0] == reference.bos_token_id
    assert reference.convert_ids_to_tokens(ids[1:3]) in (["red", "sky"], ["red</w>", "sky</w>"])
    assert ids[3] == reference.eos_token_id
    assert set(ids[4:]) == {reference.pad_token_id}


def test_a_truncated_caption_keeps_its_end_token(pair):
    """The pipeline of VQ-Diffusion cuts off the end token, although every caption in training had one."""
    ours, reference = pair
    ids, uncut = ours(LONG)[0].tolist(), reference(LONG, verbose=False).input_ids
    assert len(uncut) == 82
    assert ids == [*uncut[: CONTEXT - 1], reference.eos_token_id]
    assert ours(LONG).equal(ours(FULL))


def test_truncated_captions_are_counted(pair):
    ours, _ = pair
    assert ours.lengths([]).warnings() == ours.lengths([FULL, "", "sky"]).warnings() == []
    result = ours.lengths(["sky", LONG, FULL, f"red {FULL}"])
    assert result.facts() == {"texts": 4, "cut": 2, "longest": 82}
    (line,) = result.warnings()
    assert line == f"2 of 4 texts are longer than 77 tokens and are truncated; the first: {LONG!r}"


def test_nothing_is_loaded_before_it_is_used(tmp_path):
    ClipTokenizer(tmp_path / "nothing", CONTEXT)
