"""Tokens of captions are counted once, and the counts of large sets are cached on disk."""

import pytest

from gendiv_lightning.text import lengths
from gendiv_lightning.text.cleaning import clean_caption
from gendiv_lightning.text.lengths import CaptionCounter

TEXTS = ["a square", "A square above  a circle.", "free download", "", "a square"]


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GENDIV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(lengths, "WORTH_KEEPING", 2)


@pytest.fixture
def make_counter(weights):
    """A counter and the lists of captions on which its tokenizer was called."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(weights / "t5")

    def make():
        calls = []

        def load():
            return lambda texts, **options: calls.append(texts) or tokenizer(texts, **options)

        return CaptionCounter(weights / "t5", load, clean_caption), calls

    return make


def test_counts_agree_with_the_tokenizer_on_cleaned_captions(make_counter):
    counter, calls = make_counter()
    assert counter.count(TEXTS) == [3, 7, 1, 1, 3]
    assert counter.count(TEXTS[::-1]) == [3, 1, 1, 7, 3]
    assert counter.count([]) == []
    assert calls == [["a square", "a square above a circle.", "", ""]]


def test_counts_are_reused_by_another_process(make_counter):
    (first, _), (second, calls) = make_counter(), make_counter()
    assert first.count(TEXTS) == second.count(TEXTS)
    assert calls == []
    second.count([*TEXTS, "a circle", "another circle"])
    assert calls == [["a circle", "another circle"]]


@pytest.mark.parametrize("harm", [lambda data: data[:-1], lambda data: data[:-2] + b"\1\0", lambda data: b""])
def test_damaged_counts_are_counted_again(make_counter, tmp_path, harm):
    expected = make_counter()[0].count(TEXTS)
    (path,) = (tmp_path / "cache" / "token_counts").iterdir()
    path.write_bytes(harm(path.read_bytes()))
    counter, calls = make_counter()
    if path.stat().st_size:
        with pytest.warns(match="is damaged: the captions are counted again"):
            assert counter.count(TEXTS) == expected
    else:
        assert counter.count(TEXTS) == expected
    assert len(calls) == 1
    assert make_counter()[0].count(TEXTS) == expected
