"""Captions above the rows of a picture: one line, truncated to its width, in time independent of their length."""

import time

import pytest
from PIL import Image, ImageDraw, ImageFont

from gendiv_lightning.console.grid import fit

WIDTH = 400
FONT = ImageFont.load_default(12)


@pytest.fixture
def draw():
    return ImageDraw.Draw(Image.new("RGB", (WIDTH, 20)))


def test_a_short_caption_is_kept_on_one_line(draw):
    assert fit("a red\n  ball", draw, FONT, WIDTH) == "a red ball"


def test_a_long_caption_is_truncated_at_the_last_letter_that_fits(draw):
    text = "a red ball on green grass by night " * 10
    cut = fit(text, draw, FONT, WIDTH)
    assert text.startswith(cut[:-1])
    assert cut[-1] == "…"
    assert draw.textlength(cut, FONT) <= WIDTH < draw.textlength(f"{text[: len(cut)]}…", FONT)


@pytest.mark.parametrize("letter", ["a", "i", "W", "漢", "👩‍👩‍👧", "e\u0301", "\u200b", "ب", "\0"])
def test_a_million_characters_take_no_longer_than_a_line(draw, letter):
    start = time.process_time()
    cut = fit(letter * 1_000_000, draw, FONT, WIDTH)
    draw.text((0, 0), cut, "black", font=FONT)
    assert time.process_time() - start < 0.5
    assert len(cut) <= WIDTH + 1


def test_control_characters_are_escaped(draw):
    assert fit("a red\0 \x1b[0mball", draw, FONT, WIDTH) == r"a red\x00 \x1b[0mball"


def test_a_width_of_zero_leaves_the_ellipsis(draw):
    assert fit("a red ball", draw, FONT, 0) == "…"
