"""The page in a browser: narrow and wide, light and dark, by keyboard, without the network and without its script."""

import io
import math

import pytest
from browser import CHROMIUM, Browser
from PIL import Image

from gendiv_lightning.cli.main import main
from gendiv_lightning.report.context import make_study
from gendiv_lightning.report.summary import write_report
from gendiv_lightning.report.write import write_files
from gendiv_lightning.runs.load import families_of, find_runs

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
COLOURS = """['body', 'h1', 'figcaption', '.chart text.tick', '.chart .baseline', 'nav a', 'th button', '.numbers',
    '.kicker'].map(name => {
  const style = getComputedStyle(document.querySelector(name));
  return name == 'body' ? style.backgroundColor : name.startsWith('.chart') ? style.fill : style.color;
})"""


UNNAMED = """[...document.querySelectorAll('button, a, img, svg, select, nav, dialog, [role=region], [tabindex="0"]')]
  .filter(e => !(e.ariaLabel || e.alt || e.textContent.trim() || e.closest('label')?.textContent.trim()))
  .map(e => e.outerHTML.slice(0, 80))"""
COLUMN = "[...document.querySelectorAll('#profile-1 tbody tr')].map(row => row.cells[1].dataset.value)"
FOCUSED = "document.activeElement.textContent.trim() || document.activeElement.ariaLabel"


@pytest.fixture(scope="module")
def page(study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(study), "--out", str(folder)])
    assert stopped.value.code == 0
    return folder / "index.html"


@pytest.fixture(scope="module")
def beside(study, tmp_path_factory):
    """The page with its samples in a folder beside it."""
    folder = tmp_path_factory.mktemp("beside")
    return write_files(write_report(make_study(families_of(find_runs([study])[0]), 2)), folder, largest=1000)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1400])
def test_the_page_opens_from_a_file_and_fits(browser, page, width, scheme):
    browser.open(page, width, scheme)
    assert not browser.said("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    requests = [event["request"]["url"].partition(":")[0] for event in browser.said("Network.requestWillBeSent")]
    assert set(requests) <= {"file", "data"}
    assert browser.evaluate("document.images.length") == 22, "6 rows of typical prompts, 4 settings of 4 prompts"
    assert browser.evaluate(BROKEN) == 0
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(TOO_WIDE) == []
    assert browser.evaluate(CUT_OFF) == []
    assert browser.evaluate(UNNAMED) == []
    assert browser.evaluate("getComputedStyle(document.querySelector('nav')).position == 'sticky'") == (width == 1400)


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


def test_a_click_sorts_a_table_by_its_numbers_and_the_third_restores_it(browser, page):
    browser.open(page, 1400, "light")
    before = browser.evaluate(COLUMN)
    click = "const sort = document.querySelector('#profile-1 thead').rows[0].cells[1]; sort.firstChild.click();"
    for order, expected in (
        ("ascending", sorted(before, key=float)),
        ("descending", sorted(before, key=float, reverse=True)),
        ("none", before),
    ):
        assert browser.evaluate(f"(() => {{ {click} return sort.ariaSort }})()") == order
        assert browser.evaluate(COLUMN) == expected
    empty_last = "document.querySelector('#profile-1 thead').rows[0].cells[2].firstChild.click()"
    browser.evaluate(empty_last)
    assert browser.evaluate("document.querySelector('#profile-1 tbody').rows[3].cells[2].textContent") == ""


def test_a_picture_enlarges_by_keyboard_and_escape_returns_to_it(browser, page):
    browser.open(page, 800, "dark")
    browser.evaluate("document.querySelector('.panels .enlarge').focus()")
    opener = browser.evaluate("document.activeElement.ariaLabel")
    assert opener.startswith("Enlarge: ")
    browser.press("Enter", "\r")
    assert browser.evaluate("document.querySelector('dialog').open")
    assert browser.evaluate(FOCUSED) == "Close"
    first = browser.evaluate("document.querySelector('.stage').firstChild.ariaLabel")
    browser.press("ArrowRight")
    assert browser.evaluate("document.querySelector('.stage').firstChild.ariaLabel") != first
    width = "document.querySelector('.stage > *').getBoundingClientRect().width"
    assert browser.evaluate(f"{width} > 700")
    browser.press("Escape")
    assert not browser.evaluate("document.querySelector('dialog').open")
    assert browser.evaluate("document.activeElement.ariaLabel") == opener


def test_every_prompt_is_browsed_under_all_settings_or_one(browser, page):
    browser.open(page, 1400, "light")
    shown = "[...document.querySelectorAll('.browse .row')].filter(row => row.offsetParent).length"
    summary = "[...document.querySelectorAll('.browse summary')].find(e => e.offsetParent).textContent"
    assert browser.evaluate(shown) == 4, "settings of one prompt"
    first = browser.evaluate(summary)
    browser.evaluate("[...document.querySelectorAll('.tools button')].find(e => e.textContent == 'Next').click()")
    assert browser.evaluate(summary) != first
    browser.evaluate(
        "(() => { const choice = document.querySelectorAll('.tools select')[1]; choice.value = 'argmax';"
        "choice.dispatchEvent(new Event('change')) })()"
    )
    assert browser.evaluate(shown) == 1


def test_the_keyboard_reaches_the_sections_first(browser, page):
    browser.open(page, 800, "light")
    browser.press("Tab")
    assert browser.evaluate(FOCUSED) == "Skip to the sections"
    browser.press("Enter", "\r")
    assert browser.evaluate("document.activeElement.id") == "main"


def test_without_its_script_the_page_has_everything_and_no_dead_control(browser, page):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page, 800, "light")
        document = browser.call("DOM.getDocument", depth=1)["root"]["nodeId"]

        def count(selector):
            return len(browser.call("DOM.querySelectorAll", nodeId=document, selector=selector)["nodeIds"])

        assert count("button, select, dialog") == 0
        assert count(".browse > details") == 4
        assert count(".browse img") == 16
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_samples_beside_the_page_are_loaded_from_their_folder(browser, beside, study):
    assert len(list((beside.parent / "samples").glob("*.webp"))) == 8
    browser.open(beside, 800, "light")
    browser.evaluate("[...document.images].forEach(image => { image.loading = 'eager' })")
    browser.evaluate("Promise.all([...document.images].map(image => image.decode()))", wait=True)
    assert browser.evaluate(BROKEN) == 0
    smaller = write_report(make_study(families_of(find_runs([study])[0]), 1))
    write_files(smaller, beside.parent, largest=1000)
    assert len(list((beside.parent / "samples").glob("*.webp"))) == 4, "those of the former page are gone"


def test_print_hides_what_needs_a_click(browser, page):
    browser.open(page, 800, "light")
    browser.call("Emulation.setEmulatedMedia", media="print")
    try:
        for name in ("nav", ".tools", ".skip"):
            assert browser.evaluate(f"getComputedStyle(document.querySelector('{name}')).display") == "none"
    finally:
        browser.call("Emulation.setEmulatedMedia", media="")


def luminance(colour):
    """Relative luminance of "rgb(r, g, b)", see WCAG 2."""
    channels = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [c / 12.92 if c <= 0.04045 else math.pow((c + 0.055) / 1.055, 2.4) for c in channels]
    return sum(weight * channel for weight, channel in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
