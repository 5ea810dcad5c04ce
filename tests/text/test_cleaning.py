"""Caption cleaning, character for character against the output of the official LlamaGen code."""

import json
import random
import time
from pathlib import Path

import ftfy
import pytest
from bs4.builder import ParserRejectedMarkup

from gendiv_lightning.text import cleaning as caption_cleaning
from gendiv_lightning.text.cleaning import clean_caption, clean_once

PAIRS = json.loads((Path(__file__).parents[1] / "golden/llamagen/text.json").read_text(encoding="utf-8"))["items"]

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair["raw"][:30])
def test_captions_are_cleaned_as_by_the_official_code(pair):
    assert clean_once(pair["raw"]) == pair["once"]
    assert clean_caption(pair["raw"]) == pair["cleaned"]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair["raw"][:30])
def test_cleaning_a_cleaned_caption_changes_nothing(pair):
    assert clean_caption(pair["cleaned"]) == pair["cleaned"]


def test_cleaning_removes_one_mark_at_each_end_so_it_is_not_idempotent_on_them():
    assert clean_once("-_-x") == "_-x"
    assert clean_caption("-_-x") == "-x"
    assert clean_caption("-x") == "x"


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("a shipping container", "a container"),
        ("C++ & C#", "c c"),
        ("free download", ""),
        ("a 10x20 board", "a board"),
        ("a 10х20 or 10×20 board", "a or board"),
        ("a droid 3d2a1b in sand", "a droid in sand"),
        ("the letter epsilon", "the letter ilon"),
    ],
)
def test_words_that_look_like_web_page_boilerplate_are_removed(raw, cleaned):
    assert clean_caption(raw) == cleaned


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("ＡＢＣ", "abc"),
        ("kana かな, hangul 한글, no 漢字", "kana かな, hangul 한글, no"),
        ("fÃ©lin", "fã lin"),  # lower-casing precedes the repair of the encoding, which then fails
        ("a minus−sign, a dash—here", "a minus−sign, a dash-here"),
    ],
)
def test_scripts_and_encodings_are_handled_as_in_training(raw, cleaned):
    assert clean_caption(raw) == cleaned


@pytest.mark.parametrize("blank", ["", " ", "\n\t ", "\u00a0\u2003", "%20", "++", "<br>", "()[]{}", "..."])
def test_captions_without_words_become_empty(blank):
    assert clean_caption(blank) == ""


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("<p>a</p>b", "ab"),
        ("<p>a</p> <b>dog</b>", "a dog"),
        ('<a href="cat.html" title="x">a cat</a>', "a cat"),
        ("a <!-- hidden --> cat", "a cat"),
        ("salt &amp; pepper", "salt pepper"),
        ("caf&eacute; &#65;", "café a"),
        ("3 < 4", "3 < 4"),
        ("two <person>s", "two persons"),
    ],
)
def test_html_is_reduced_to_its_text(raw, cleaned):
    assert clean_caption(raw) == cleaned


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("http://x.com/a/b?c=d a cat", "?c=d a cat"),
        ("a cat (www.cats.co/b-c)", "a cat"),
        ("a cat www:/x", "a cat x"),
        ("tom@cats.com waves", "tom waves"),
        ("cats.com@home", "cats. com"),
        ("a cat.dog-ahttp://b", "a cat. dog-ahttp: b"),
        ("a cat-http://b", "a cat-b"),
    ],
)
def test_web_addresses_are_removed(raw, cleaned):
    assert clean_caption(raw) == cleaned


def test_text_that_looks_like_a_file_or_url_raises_no_parser_warning():
    assert clean_caption("cats.html") == "cats. html"
    assert clean_caption("http:x") == ""


def test_html_that_the_parser_rejects_is_quoted_in_the_error(monkeypatch):
    def reject(*_, **__):
        raise ParserRejectedMarkup("unknown section")  # newer Python versions parse everything

    monkeypatch.setattr(caption_cleaning, "BeautifulSoup", reject)
    with pytest.raises(ValueError, match=r"'a <!\[< cat'.*'<!\['"):
        clean_caption("a <![< cat")


HOSTILE = {
    "dots": "a." * 50_000,
    "hyphens": "a-" * 50_000,
    "schemes": "http" * 25_000,
    "addresses": "x.com/@" * 14_000,
    "one tail": "a.com" + "-" * 100_000 + "@",
    "one word": "a" * 100_000,
    "one number": "1" * 100_000 + "z",
    "size": "10x" + "1" * 100_000 + "é",
    "code": "1a1a" + "1" * 100_000 + "é",
    "codes": "a1" * 50_000,
    "white space": "a" + " " * 100_000 + "b",
    "page": "page" + " " * 100_000 + "x",
    "shipping": "worldwide" + " " * 100_000 + "x",
    "quotes": "a'" * 50_000,
    "percents": "%" * 100_000,
    "entities": "&" * 100_000,
    "tags": "<b>" * 33_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_text_of_100000_characters_is_cleaned_within_two_seconds(text):
    start = time.process_time()
    clean_caption(text)
    assert time.process_time() - start < 2


FRAGMENTS = """
a the red ball, cat. it's well-known 12345 123456 page 5 shipping download epsilon a.png - -- --- . , : ;
http://x.com www.foo.org @nick #12 "quoted" ''two'' `tick` “curly” ‘q’ — … C++ 10x20 1:23 10.0.0.1 & &amp; &lt;
<b>bold</b> <person> %20 + 3d2a1b 漢字 かな Ã© ’ a_b_c_d_e foo,bar foo.bar click for me %09 %0A %1B[0m %7F %C2%A0
"""


def test_shortcuts_for_speed_change_no_caption(monkeypatch):
    generator = random.Random(0)
    texts = [
        generator.choice([" ", " ", "  ", ""]).join(generator.choices(FRAGMENTS.split(), k=generator.randint(1, 8)))
        for _ in range(2000)
    ]
    quick = [clean_caption(text) for text in texts]
    assert sum(caption_cleaning._is_clean(text.lower()) for text in texts) > 20
    monkeypatch.setattr(caption_cleaning, "_is_clean", lambda text: False)
    monkeypatch.setattr(caption_cleaning, "_fix_encoding", ftfy.fix_text)
    for name in ("_ADDRESSES", "_MARKS", "_SHOP_PAGES", "_ENDS"):
        rules = getattr(caption_cleaning, name)
        monkeypatch.setattr(caption_cleaning, name, tuple((*rule[:2], frozenset()) for rule in rules))
    assert quick == [clean_caption(text) for text in texts]


def test_plain_captions_take_microseconds():
    texts = [f"a red ball beside the old house, number {n}." for n in range(2000)]
    start = time.process_time()
    assert [clean_caption(text) for text in texts] == texts
    assert time.process_time() - start < 0.2
