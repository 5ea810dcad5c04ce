"""The page in a browser: narrow and wide, light and dark, without the network."""

import io
import math

import pytest
from browser import CHROMIUM, Browser
from PIL import Image

from gendiv_lightning.cli.main import main

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine (Debian: apt-get install chromium)"
)

CUT_OFF = """[...document.querySelectorAll('svg.chart')].flatMap(chart => {
  const frame = chart.getBoundingClientRect();
  return [...chart.querySelectorAll('text')].filter(text => {
    const box = text.getBoundingClientRect();
    return box.left < frame.left - 2 || box.right > frame.right + 2
      || box.top < frame.top - 2 || box.bottom > frame.bottom + 2;
  }).map(text => text.textContent);
})"""
BROKEN = "[...document.images].filter(image => !image.complete || !image.naturalWidth).length"
TOO_WIDE = """[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, .rule'))
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
COLOURS = """['body', 'h1', 'figcaption', '.chart text.tick', '.chart .baseline'].map(name => {
  const style = getComputedStyle(document.querySelector(name));
  return name == 'body' ? style.backgroundColor : name.startsWith('.chart') ? style.fill : style.color;
})"""


@pytest.fixture(scope="module")
def page(study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(study), "--out", str(folder)])
    assert stopped.value.code == 0
    return folder / "index.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1200])
def test_the_page_opens_from_a_file_and_fits(browser, page, width, scheme):
    browser.open(page, width, scheme)
    assert not browser.said("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    requests = [event["request"]["url"].partition(":")[0] for event in browser.said("Network.requestWillBeSent")]
    assert set(requests) <= {"file", "data"}
    assert browser.evaluate("document.images.length") == 6
    assert browser.evaluate(BROKEN) == 0
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(TOO_WIDE) == []
    assert browser.evaluate(CUT_OFF) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_and_marks_stand_out_from_the_page(browser, page, scheme):
    browser.open(page, 1200, scheme)
    paper, *others = (luminance(colour) for colour in browser.evaluate(COLOURS))
    assert (paper > 0.5) == (scheme == "light")
    for other in others:
        dark, light = sorted((paper, other))
        assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG AA
    with Image.open(io.BytesIO(browser.screenshot())) as picture:
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 100, "the page is drawn"


def luminance(colour):
    """Relative luminance of "rgb(r, g, b)", see WCAG 2."""
    channels = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [c / 12.92 if c <= 0.04045 else math.pow((c + 0.055) / 1.055, 2.4) for c in channels]
    return sum(weight * channel for weight, channel in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
