"""Sampling from notebooks and scripts: the samples of `gendiv predict`, in memory."""

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

PROMPTS_PER_BATCH = 8  # the command's default: equal micro-batches give equal last digits
SHOWN = 8  # number of prompts, and of samples per prompt, shown in a notebook


class Samples:
    """Samples of a list of prompts; iterating yields one `PromptSamples` per prompt.

    Attributes:
        prompts: the prompts, in their original order.
        codebook_size: codebook size of the generator; 0 without tokens.
        batches: the records that a run would store, each of a few prompts.
    """

    def __init__(self, batches: Sequence[SampleBatch], codebook_size: int) -> None:
        self.batches, self.codebook_size = tuple(batches), codebook_size
        self.prompts = tuple(prompt for batch in self.batches for prompt in batch.batch.prompts)

    @property
    def images(self) -> Tensor:
        """Images (B, 3, H, W) uint8, ordered by prompt."""
        return torch.cat([batch.images for batch in self.batches])

    @property
    def tokens(self) -> Tensor | None:
        """Tokens (B, L) int64, in the order of `images`; None without tokens."""
        samples = [batch.samples for batch in self.batches]
        tokens = [part.tokens for part in samples if isinstance(part, TokenSamples)]
        return torch.cat(tokens) if tokens else None

    @property
    def keys(self) -> tuple[NoiseKey, ...]:
        """The noise key of each sample, in the order of `images`."""
        return tuple(key for batch in self.batches for key in batch.batch.keys)

    def __len__(self) -> int:
        """Number of prompts."""
        return len(self.prompts)

    def __iter__(self) -> Iterator[PromptSamples]:
        """Iterate over the prompts, with all samples of each."""
        return (samples for batch in self.batches for samples in split_by_prompt(batch))

    def __getitem__(self, number: int) -> PromptSamples:
        """All samples of the prompt with this number."""
        return list(self)[number]

    def grid(self, num_prompts: int | None = None, num_samples: int | None = None) -> Image.Image:
        """An image grid with one row per prompt and one column per sample; shows all by default."""
        most = max(len(samples.images) for samples in self)
        return draw_grid(self.batches, num_prompts or len(self), num_samples or most)

    def save(self, folder: str | Path) -> None:
        """Write the images as PNG files with a `metadata.jsonl` that `gendiv measure` and `evaluate` can read.

        Raises:
            ValueError: the folder exists and is not empty.
        """
        folder = Path(folder)
        if folder.exists() and any(folder.iterdir()):
            raise OutputError(f"folder {folder} is not empty. Choose another folder or empty it first")
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
        """Show the first samples of the first prompts in a notebook."""
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
    """Convert an image (3, H, W) uint8 to a PIL image."""
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def to_prompts(prompts: str | Prompt | Sequence[str | Prompt], prompt_set: str) -> list[Prompt]:
    """Convert texts to prompts, with the ids that they have in a prompt file named `prompt_set`.

    Raises:
        ValueError: there are no prompts, one is empty, or two have the same text or id.
    """
    items = [prompts] if isinstance(prompts, str | Prompt) else list(prompts)
    numbers: dict[str, int] = {}
    result = []
    for number, item in enumerate(items):
        if not isinstance(item, str | Prompt):
            raise ConfigValueError(
                f"prompts[{number}] must be a text or a Prompt, got {type(item).__name__}. Convert it first"
            )
        prompt = item if isinstance(item, Prompt) else Prompt(prompt_id(item, prompt_set), item)
        if not prompt.text.strip():
            raise ConfigValueError(f"prompts[{number}] must not be empty. Leave it out")
        if prompt.id in numbers:
            raise ConfigValueError(
                f"prompts[{numbers[prompt.id]}] and prompts[{number}] are the same prompt, {prompt.text[:60]!r} (id "
                f"{prompt.id}; case and whitespace are ignored). Leave one out; for more images increase num_samples"
            )
        numbers[prompt.id] = number
        result.append(prompt)
    if not result:
        raise ConfigValueError("prompts must not be empty. Pass at least one text")
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
    sampler_probes = [probe for probe in probes if isinstance(probe, Probe)]
    generator.check_probes(sampler_probes)
    for probe in sampler_probes:
        probe.check_generator(generator.identity())
    numbers = range(len(chosen))
    parts = [numbers[start : start + PROMPTS_PER_BATCH] for start in numbers[::PROMPTS_PER_BATCH]]
    batches = [make_batch(seed, [chosen[index] for index in part], design, part) for part in parts]
    for warning in generator.check_prompts(sorted({text for batch in batches for text in batch.texts})):
        warnings.warn(warning, stacklevel=3)
    total = sum(len(batch.keys) for batch in batches)
    with threads_of(generator), tqdm(total=total, desc="Sampling", unit="image", delay=2) as bar:
        sampled = [generator.sample(batch, sampler_probes, recorders, progress=bar.update) for batch in batches]
    return Samples(sampled, generator.codebook_size)


@contextmanager
def threads_of(generator: Generator) -> Iterator[None]:
    """Use one thread for a toy: more threads are not faster, and its last digits would depend on the machine."""
    before = torch.get_num_threads()
    if generator.is_toy:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
