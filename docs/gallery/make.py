"""The pictures and the tables of the gallery, from the toy models.

    python docs/gallery/make.py              # all pages, about four minutes on one core
    python docs/gallery/make.py argmax       # one page

A page has one picture: blocks of samples side by side, a row per prompt, all blocks from the same noise. Its table has
a row per block. Both are measured here, so neither is written by hand.
"""

from __future__ import annotations

import io
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

import gendiv_lightning as gd

FOLDER = Path(__file__).parent
PICTURES = FOLDER / "pictures"
NUM_PROMPTS, NUM_SAMPLES = 8, 6  # of the numbers
ROWS = 4  # prompts of a picture
EDGE, GAP = 2, 24  # pixels between samples, and between blocks
COLUMNS = {
    "LPIPS": "diversity/lpips[tiny]",
    "Vendi": "diversity/vendi[tiny]",
    "stated right": "postcards/stated_right",
    "coherence": "postcards/coherence",
}
USAGE = "toy:llamagen_usage.safetensors"


class Block(NamedTuple):
    """Samples of one setting.

    Attributes:
        label: its row in the table.
        family: of the toy models.
        probes: and designs.
        settings: of the generator.
    """

    label: str
    family: str = "llamagen"
    probes: tuple[Any, ...] = ()
    settings: tuple[tuple[str, Any], ...] = ()


def family_page(family: str, *more: Block) -> tuple[Block, ...]:
    """The blocks of a family's page."""
    return (
        Block("as it is", family),
        Block("`Argmax`", family, (gd.Argmax(),)),
        Block("`FreezePath`", family, (gd.FreezePath(),)),
        *more,
    )


def subset(select: str, **size: float) -> gd.CodebookSubset:
    """Part of the codebook of LlamaGen, by how often its entries occur."""
    return gd.CodebookSubset(select, usage=USAGE, **size)


BASE = Block("as it is")
ETA = (("call_args", {"eta": 0.0}),)
PAGES: dict[str, tuple[Block, ...]] = {
    "argmax": (BASE, Block("`Argmax`", probes=(gd.Argmax(),))),
    "posterior-argmax": (
        Block("as it is", "vq_diffusion"),
        Block("`PosteriorArgmax`", "vq_diffusion", (gd.PosteriorArgmax(),)),
    ),
    "freeze-path": (
        Block("eta 0, as it is", "latent_diffusion", settings=ETA),
        Block("eta 0, `FreezePath`", "latent_diffusion", (gd.FreezePath(),), ETA),
    ),
    "branch": tuple(Block(f"`Branch({step})`", probes=(gd.Branch(step),)) for step in (0, 5, 20)),
    "codebook-subset": (BASE, Block("`CodebookSubset`, 25 %", probes=(subset("most_frequent", ratio=0.25),))),
    "paraphrase": (BASE, Block("`Paraphrase(3)`", probes=(gd.Paraphrase(3),))),
    "decompose": (
        Block("aMUSEd", "amused", (gd.Decompose(4),)),
        Block("VQ-Diffusion", "vq_diffusion", (gd.Decompose(4),)),
        Block("latent diffusion, eta 0.5", "latent_diffusion", (gd.Decompose(4),), (("call_args", {"eta": 0.5}),)),
    ),
    "temperature": (BASE, Block("`Temperature(2)`", probes=(gd.Temperature(2.0),))),
    "top-k": (BASE, Block("`TopK(2)`", probes=(gd.TopK(2),))),
    "top-p": (BASE, Block("`TopP(0.5)`", probes=(gd.TopP(0.5),))),
    "guidance": (BASE, Block("`Guidance(4)`", probes=(gd.Guidance(4.0),))),
    "enhancement": (
        BASE,
        Block("mixed, 1 entry left out", probes=(gd.Paraphrase(3, "mixed"), subset("drop_most_frequent", size=1))),
        Block("mixed, 5 entries left out", probes=(gd.Paraphrase(3, "mixed"), subset("drop_most_frequent", size=5))),
    ),
    "llamagen": family_page("llamagen"),
    "amused": family_page("amused"),
    "vq-diffusion": family_page("vq_diffusion"),
    "latent-diffusion": family_page("latent_diffusion", Block("eta 0", "latent_diffusion", settings=ETA)),
}


@cache
def generator(family: str, settings: str) -> gd.Generator:
    """A toy model; `settings` is the text of its settings, by which it is found again."""
    return gd.load(f"toy/{family}", **dict(eval(settings)))


@cache
def prompts() -> list[gd.Prompt]:
    """The first prompts of Postcards."""
    return gd.read_prompts("toy:postcards.jsonl", limit=NUM_PROMPTS)


_SAMPLED: dict[str, gd.Samples] = {}


def sample(block: Block) -> gd.Samples:
    """The samples of a block; each setting is sampled once."""
    names = [str(probe.identity(256)) for probe in block.probes]
    key = f"{block.family} {block.settings} {names}"
    if key not in _SAMPLED:
        model = generator(block.family, repr(block.settings))
        _SAMPLED[key] = model.generate(prompts(), num_samples=NUM_SAMPLES, probes=list(block.probes))
    return _SAMPLED[key]


def rows(block: Block, num_columns: int) -> list[list[np.ndarray]]:
    """The samples that a picture shows: a row per prompt, or a row per path of the first prompt under `Decompose`."""
    samples = sample(block)
    if any(isinstance(probe, gd.Decompose) for probe in block.probes):
        first = samples[1]
        paths = first.groups[:, 1]
        return [[_pixels(image) for image in first.images[paths == path]] for path in paths.unique()]
    return [[_pixels(image) for image in samples[n].images[:num_columns]] for n in range(ROWS)]


def _pixels(image: Any) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()


def picture(page: str) -> Image.Image:
    """The blocks of a page side by side, on a transparent ground."""
    blocks = PAGES[page]
    grids = [rows(block, NUM_SAMPLES if len(blocks) == 2 else 4) for block in blocks]
    size = grids[0][0][0].shape[0] + EDGE
    width = sum(len(grid[0]) * size for grid in grids) + GAP * (len(grids) - 1)
    canvas = Image.new("RGBA", (width, max(map(len, grids)) * size))
    left = 0
    for grid in grids:
        for y, row in enumerate(grid):
            for x, pixels in enumerate(row):
                canvas.paste(Image.fromarray(pixels), (left + x * size, y * size))
        left += len(grid[0]) * size + GAP
    return canvas


def table(page: str) -> str:
    """The numbers of a page's blocks, with 95 % intervals over prompts."""
    lines = ["| setting | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for block in PAGES[page]:
        numbers = gd.evaluate(sample(block), ["lpips[tiny]", "vendi[tiny]", "postcard_truth"])
        cells = [f"{e.value:.2f} [{e.low:.2f}, {e.high:.2f}]" for e in (numbers[name] for name in COLUMNS.values())]
        lines.append(f"| {block.label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def with_table(text: str, measured: str) -> str:
    """A page's text with its table between the two marks."""
    found, count = re.subn(
        r"(<!-- measured -->\n).*?(\n<!-- end -->)", lambda m: m[1] + measured + m[2], text, flags=re.DOTALL
    )
    if count != 1:
        raise ValueError(f"a page must have one table between marks, got {count}. Add the marks")
    return found


def encode(image: Image.Image) -> bytes:
    """As PNG of 64 colours: postcards have flat areas, and a picture takes about 20 kB."""
    file = io.BytesIO()
    colours = image.quantize(64, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    colours.save(file, "PNG", optimize=True)
    return file.getvalue()


def main(names: list[str]) -> None:
    """Write pictures and tables."""
    PICTURES.mkdir(exist_ok=True)
    for name in names or PAGES:
        (PICTURES / f"{name}.png").write_bytes(encode(picture(name)))
        page = FOLDER / f"{name}.md"
        page.write_text(with_table(page.read_text(encoding="utf-8"), table(name)), encoding="utf-8")
        sys.stdout.write(f"{name}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
