"""The gallery shows what the code does: pages, pictures and tables are as `docs/gallery/make.py` makes them."""

import importlib.util
import io
import re

import numpy as np
import pytest
from PIL import Image
from running import ROOT

from gendiv_lightning import plugins

FOLDER = ROOT / "docs" / "gallery"
spec = importlib.util.spec_from_file_location("gallery", FOLDER / "make.py")
gallery = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gallery)


def numbers(text):
    return [float(number) for number in re.findall(r"-?\d+\.\d+", text)]


def table_of(page):
    text = (FOLDER / f"{page}.md").read_text(encoding="utf-8")
    return re.search(r"<!-- measured -->\n(.*?)\n<!-- end -->", text, flags=re.DOTALL)[1]


def test_every_registered_probe_has_a_page():
    pages = {page.replace("-", "") for page in gallery.PAGES}
    own = [name for name, plugin in plugins.registered("probes").items() if plugin.distribution == plugins.OWN]
    assert {name.lower() for name in own} <= pages


@pytest.mark.parametrize("page", gallery.PAGES)
def test_a_page_shows_its_picture_and_is_listed(page):
    assert f"(pictures/{page}.png)" in (FOLDER / f"{page}.md").read_text(encoding="utf-8")
    assert f"({page}.md)" in (FOLDER / "index.md").read_text(encoding="utf-8")
    assert len(table_of(page).splitlines()) == 2 + len(gallery.PAGES[page])


def test_the_pictures_are_small():
    sizes = [path.stat().st_size for path in (FOLDER / "pictures").iterdir()]
    assert len(sizes) == len(gallery.PAGES)
    assert sum(sizes) < 1.5e6


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", gallery.PAGES)
def test_a_picture_and_its_numbers_are_current(page):
    stored = np.asarray(Image.open(FOLDER / "pictures" / f"{page}.png").convert("RGBA")).astype(int)
    made = np.asarray(Image.open(io.BytesIO(gallery.encode(gallery.picture(page)))).convert("RGBA")).astype(int)
    assert made.shape == stored.shape
    # The last digit of a pixel depends on the machine, and with it, at an edge, which of 64 colours it gets.
    assert (abs(made - stored).max(-1) > 32).mean() < 0.01
    # An interval that ends near 0 or 1 may move by a hundredth.
    assert numbers(gallery.table(page)) == pytest.approx(numbers(table_of(page)), abs=0.02)
