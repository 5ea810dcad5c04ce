"""From texts to images in one call, for notebooks and scripts: the samples that `gendiv predict` gives, in memory."""

from __future__ import annotations

import base64
import html
import io
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from gendiv_lightning.console.grid import draw_grid
from gendiv_lightning.errors import ConfigValueError, OutputError
from gendiv_lightning.prompts.design import Design, apply_designs, check_design, make_batch
from gendiv_lightning.recorders import Recorder
from gendiv_lightning.records import (
    NoiseKey,
    Prompt,
    PromptSamples,
    SampleBatch,
    SampleDesign,
    TokenSamples,
    prompt_id,
    split_by_prompt,
)
from gendiv_lightning.sampling import Probe

if TYPE_CHECKING:
    from gendiv_lightning.generators.base import Generator

PROMPTS_PER_BATCH = 8  # as the command's default: equal micro-batches, equal last digits
SHOWN = 8  # prompts, and samples of each, in a notebook


class Samples:
    """Samples of some prompts: iterate over it for one `PromptSamples` per prompt.

    Attributes:
        prompts: in the order in which they were given.
        codebook_size: of the generator; 0 without tokens.
        batches: the records that a run would store, a few prompts each.
    """

    def __init__(self, batches: Sequence[SampleBatch], codebook_size: int) -> None:
        self.batches, self.codebook_size = tuple(batches), codebook_size
        self.prompts = tuple(prompt for batch in self.batches for prompt in batch.batch.prompts)

    @property
    def images(self) -> Tensor:
        """(B, 3, H, W) uint8: the samples of the first prompt, then those of the second, and so on."""
        return torch.cat([batch.images for batch in self.batches])

    @property
    def tokens(self) -> Tensor | None:
        """(B, L) int64, in the order of `images`; None without tokens."""
        samples = [batch.samples for batch in self.batches]
        tokens = [part.tokens for part in samples if isinstance(part, TokenSamples)]
        return torch.cat(tokens) if tokens else None

    @property
    def keys(self) -> tuple[NoiseKey, ...]:
        """The name of each sample, in the order of `images`."""
        return tuple(key for batch in self.batches for key in batch.batch.keys)

    def __len__(self) -> int:
        """Number of prompts."""
        return len(self.prompts)

    def __iter__(self) -> Iterator[PromptSamples]:
        """All samples of a prompt at a time."""
        return (samples for batch in self.batches for samples in split_by_prompt(batch))

    def __getitem__(self, number: int) -> PromptSamples:
        """All samples of the prompt with this number."""
        return list(self)[number]

    def grid(self, num_prompts: int | None = None, num_samples: int | None = None) -> Image.Image:
        """A picture with a row per prompt and a column per sample; all of them by default."""
        most = max(len(samples.images) for samples in self)
        return draw_grid(self.batches, num_prompts or len(self), num_samples or most)

    def save(self, folder: str | Path) -> None:
        """Write the images as PNG with a `metadata.jsonl`, which `gendiv measure` and `evaluate` read again.

        Raises:
            ValueError: the folder exists and is not empty.
        """
        folder = Path(folder)
        if folder.exists() and any(folder.iterdir()):
            raise OutputError(f"folder {folder} is not empty. Choose another one, or empty it first")
        folder.mkdir(parents=True, exist_ok=True)
        lines = []
        for number, samples in enumerate(self):
            for sample, (paraphrase, path) in enumerate(samples.groups.tolist()):
                name = f"{number:04d}-{sample:04d}.png"
                to_picture(samples.images[sample]).save(folder / name)
                row = {"file_name": name, "prompt": samples.prompt, "paraphrase": paraphrase, "path": path}
                lines.append(json.dumps(row, ensure_ascii=False) + "\n")
        (folder / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")

    def __repr__(self) -> str:
        sizes = sorted({tuple(batch.images.shape[2:]) for batch in self.batches})
        size = ", ".join(f"{width} x {height}" for height, width in sizes)
        return f"Samples({len(self.keys)} images of {size} pixels, {len(self)} prompts)"

    def _repr_html_(self) -> str:
        """The first samples of the first prompts, for a notebook."""
        parts = [f"<p>{html.escape(repr(self))}</p>"]
        for _, samples in zip(range(SHOWN), self, strict=False):
            parts.append(f"<p>{html.escape(samples.prompt)}</p><div>")
            for image in samples.images[:SHOWN]:
                buffer = io.BytesIO()
                to_picture(image).save(buffer, "PNG")
                data = base64.b64encode(buffer.getvalue()).decode()
                parts.append(f'<img width="96" src="data:image/png;base64,{data}">')
            parts.append("</div>")
        return "\n".join(parts)


def to_picture(image: Tensor) -> Image.Image:
    """An image (3, H, W) uint8 as PIL's."""
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def to_prompts(prompts: str | Prompt | Sequence[str | Prompt], prompt_set: str) -> list[Prompt]:
    """Texts as prompts, with the ids that they have in a prompt file named `prompt_set`.

    Raises:
        ValueError: there are none, one is empty, two are equal, or two share an id.
    """
    items = [prompts] if isinstance(prompts, str | Prompt) else list(prompts)
    found: dict[str, int] = {}
    result = []
    for number, item in enumerate(items):
        if not isinstance(item, str | Prompt):
            raise ConfigValueError(
                f"prompts[{number}] must be a text or a Prompt, got {type(item).__name__}. Convert it first"
            )
        prompt = item if isinstance(item, Prompt) else Prompt(prompt_id(item, prompt_set), item)
        if not prompt.text.strip():
            raise ConfigValueError(f"prompts[{number}] must not be empty. Leave it out")
        if prompt.id in found:
            raise ConfigValueError(
                f"prompts[{found[prompt.id]}] and prompts[{number}] are one prompt, {prompt.text[:60]!r} (id "
                f"{prompt.id}; case and white space do not count). Leave one out, and ask for more with num_samples"
            )
        found[prompt.id] = number
        result.append(prompt)
    if not result:
        raise ConfigValueError("prompts must not be empty. Give at least one text")
    return result


def generate(
    generator: Generator,
    prompts: str | Prompt | Sequence[str | Prompt],
    *,
    num_samples: int,
    seed: int,
    probes: Sequence[Probe | Design],
    recorders: Sequence[type[Recorder]],
    prompt_set: str,
) -> Samples:
    """See `Generator.generate`."""
    wrong = [type(probe).__name__ for probe in probes if not isinstance(probe, Probe | Design)]
    if wrong:
        raise ConfigValueError(f"probes must be probes or designs, got {wrong[0]}. `gendiv list probes` shows all")
    chosen = to_prompts(prompts, prompt_set)
    design = apply_designs(SampleDesign(num_samples), probes)
    check_design(design)
    of_sampler = [probe for probe in probes if isinstance(probe, Probe)]
    generator.check_probes(of_sampler)
    for probe in of_sampler:
        probe.check_generator(generator.identity())
    numbers = range(len(chosen))
    parts = [numbers[start : start + PROMPTS_PER_BATCH] for start in numbers[::PROMPTS_PER_BATCH]]
    batches = [make_batch(seed, [chosen[index] for index in part], design, part) for part in parts]
    for warning in generator.check_prompts(sorted({text for batch in batches for text in batch.texts})):
        warnings.warn(warning, stacklevel=3)
    total = sum(len(batch.keys) for batch in batches)
    with threads_of(generator), tqdm(total=total, desc="Sampling", unit="image", delay=2) as bar:
        sampled = [generator.sample(batch, of_sampler, recorders, progress=bar.update) for batch in batches]
    return Samples(sampled, generator.codebook_size)


@contextmanager
def threads_of(generator: Generator) -> Iterator[None]:
    """One thread for a toy: more gain nothing, and its last digits would depend on the machine."""
    before = torch.get_num_threads()
    if generator.is_toy:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
