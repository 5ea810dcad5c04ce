"""Draw a grid of samples: one row per prompt, one column per sample, each prompt above its row."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from gendiv_lightning.console.text import printable
from gendiv_lightning.records import SampleBatch, split_by_prompt

_MARGIN, _PADDING, _CAPTION, _CELL = 8, 2, 18, 96


def draw_grid(batches: Sequence[SampleBatch], num_prompts: int, num_samples: int) -> Image.Image:
    """The first samples of the first prompts; images are enlarged to 96 pixels, or kept if they are larger."""
    prompts = [samples for batch in batches for samples in split_by_prompt(batch)]
    prompts = sorted(prompts, key=lambda samples: samples.place)[:num_prompts]
    num_columns = min(num_samples, max((len(samples.images) for samples in prompts), default=1))
    cell = max([_CELL, *(samples.images.shape[-1] for samples in prompts)])
    width = 2 * _MARGIN + num_columns * (cell + _PADDING)
    row_height = _CAPTION + cell + _PADDING
    grid = Image.new("RGB", (width, 2 * _MARGIN + len(prompts) * row_height), "white")
    draw, font = ImageDraw.Draw(grid), ImageFont.load_default(12)
    for row, samples in enumerate(prompts):
        top = _MARGIN + row * row_height
        draw.text((_MARGIN, top), fit(samples.prompt, draw, font, width - 2 * _MARGIN), "black", font=font)
        for column, image in enumerate(samples.images[:num_columns]):
            picture = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((cell, cell), Image.Resampling.NEAREST)
            grid.paste(picture, (_MARGIN + column * (cell + _PADDING), top + _CAPTION))
    return grid


def fit(text: str, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """A text in one line, truncated to a width in pixels.

    At most as many characters as pixels are laid out, since layout takes more than linear time.
    """
    line = " ".join(text.split())
    short = printable(line[:width])[:width]
    if len(line) <= width and draw.textlength(short, font) <= width:
        return short
    longest = bisect_right(range(1, len(short) + 1), 0, key=lambda n: draw.textlength(f"{short[:n]}…", font) > width)
    return f"{short[:longest]}…"
