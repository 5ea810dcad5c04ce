"""The contract that every pipeline of diffusers must fulfil. `python tests/pipeline_contract.py` writes the table."""

from __future__ import annotations

import inspect
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import tiny_pipelines
import torch

from gendiv_lightning.callbacks import Argmax, Branch, FreezePath
from gendiv_lightning.generators.diffusers_pipeline import DiffusersPipeline, makes_images
from gendiv_lightning.records import NoiseKey, Prompt, PromptBatch

TABLE = Path(__file__).parents[1] / "docs" / "reference" / "pipelines.md"
TEXTS = ("red sky", "a picture of a green hill")


class Row(NamedTuple):
    """Results of the contract for one class.

    Attributes:
        pipeline: its name.
        scheduler: class that the checkpoint names.
        guidance: argument of the call that carries it.
        execution: whether the scheduler adds noise.
        rows: how two samples compare with the same two in a batch of four: "equal" or "to rounding".
    """

    pipeline: str
    scheduler: str
    guidance: str
    execution: str
    rows: str


def check(name: str, folder: Path) -> Row:
    """Build a random pipeline of a class and check samples, noise and batches.

    Raises:
        AssertionError: it breaks the contract.
    """
    checkpoint = str(tiny_pipelines.build(name, folder))
    generator = DiffusersPipeline(checkpoint, num_steps=2, image_size=_size(name), batch_size=4, call_args=_call(name))
    generator.locate()
    if generator._guidance_name is not None:
        more = {"negative_prompt": " "} if generator._guidance_name == "true_cfg_scale" else {}
        generator = DiffusersPipeline(
            checkpoint,
            num_steps=2,
            image_size=_size(name),
            batch_size=4,
            call_args={**_call(name), **more},
            guidance_scale=3.0,
        )
        generator.locate()
    batch = _batch(*TEXTS)
    torch.manual_seed(1)
    whole = generator.sample(batch)
    torch.manual_seed(2)
    assert torch.equal(generator.sample(batch).samples.latents, whole.samples.latents), "depends on the global seed"
    assert whole.images.shape[:2] == (8, 3)
    assert whole.images.dtype == torch.uint8
    assert whole.samples.latents.isfinite().all()
    assert _spread(whole.samples.latents[:4]) > 1e-3, "samples of a prompt do not differ"
    frozen = generator.sample(batch, [FreezePath()]).samples.latents[:4]
    assert (_spread(frozen) > 1e-4) == generator.adds_noise, "execution noise is not what the scheduler says"
    neither = generator.sample(batch, [FreezePath(), Argmax()]).samples.latents[:4]
    assert _spread(neither) < 1e-4, "something else than the two noises differs between samples"
    generator.batch_size = 2
    halves = generator.sample(batch)
    torch.testing.assert_close(halves.samples.latents, whole.samples.latents, rtol=1e-3, atol=1e-3)
    same = torch.equal(halves.samples.latents, whole.samples.latents)
    generator.batch_size = 4
    branched = generator.sample(batch, [Branch(1)]).samples.latents
    assert (_spread(branched[:4]) > 1e-4) == generator.adds_noise, "a branch shares too much or too little noise"
    generator.batch_size = 1  # so that no rows share noise
    alone = generator.sample(batch, [Branch(1)]).samples.latents
    torch.testing.assert_close(branched, alone, rtol=1e-3, atol=1e-3)
    return Row(
        name,
        type(generator._scheduler).__name__,
        generator._guidance_name or "none",
        "yes" if generator.adds_noise else "none by construction",
        "equal" if same else "to rounding",
    )


def _batch(*texts: str) -> PromptBatch:
    prompts = tuple(Prompt(text, text) for text in texts)
    keys = tuple(NoiseKey(text, 0, sample, sample) for text in texts for sample in range(4))
    return PromptBatch(
        0, prompts, tuple(range(len(texts))), keys, tuple(n for n in range(len(texts)) for _ in range(4))
    )


def _parameters(name: str) -> Any:
    return inspect.signature(getattr(diffusers, name).__call__).parameters


def _size(name: str) -> int | None:
    return 32 if "height" in _parameters(name) else None


def _call(name: str) -> dict[str, Any]:
    return {"use_resolution_binning": False} if "use_resolution_binning" in _parameters(name) else {}


def _spread(latents: torch.Tensor) -> float:
    return float((latents - latents[:1]).abs().max())


def other_pipelines() -> list[str]:
    """Text-to-image classes of diffusers that have no builder."""
    found = []
    for name in sorted(name for name in dir(diffusers) if name.endswith("Pipeline")):
        cls = getattr(diffusers, name)
        if name in tiny_pipelines.BUILDERS or "deprecated" in cls.__module__ or not callable(cls):
            continue
        names = inspect.signature(cls.__call__).parameters
        required = [n for n, p in names.items() if p.default is p.empty and n not in ("self", "args", "kwargs")]
        others = {"num_frames", "image", "mask_image", "control_image", "video", "num_images_per_prompt"}
        if makes_images(cls) and not set(required) - {"prompt"} and others & names.keys() == {"num_images_per_prompt"}:
            found.append(name)
    return found


def table(rows: list[Row], untested: list[str]) -> str:
    """The page of the documentation."""
    lines = [
        "# Pipelines of diffusers",
        "",
        f"Small random pipelines of {len(rows)} classes pass the contract of generators, with diffusers "
        f"{diffusers.__version__}:",
        "",
        "- samples do not depend on the global seed, and only to rounding on the batch size;",
        "- with path and execution noise frozen, all samples of a prompt are equal;",
        "- the scheduler adds noise exactly where the dry run of its steps says so.",
        "",
        "The last column compares two samples with the same two in a batch of four (CPU, float32).",
        "",
        "| pipeline | scheduler | guidance | execution noise | batch of 2 or 4 |",
        "|---|---|---|---|---|",
        *(f"| `{r.pipeline}` | `{r.scheduler}` | {r.guidance} | {r.execution} | {r.rows} |" for r in rows),
        "",
        "Another scheduler of the same kind can replace the checkpoint's own (`--model.scheduler`); one that the",
        "pipeline cannot use is an error.",
        "",
        "These classes have the same interface and no test. Run `gendiv check-generator` before you use one: for",
        "example `StableDiffusionPanoramaPipeline` mixes the rows of a batch, which the command reports.",
        "",
        *(f"- `{name}`" for name in untested),
        "",
        "This page is written by `python tests/pipeline_contract.py`.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Check all classes and write the table."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[1:] or tiny_pipelines.BUILDERS:
            rows.append(check(name, Path(folder)))
            sys.stdout.write(f"{' | '.join(rows[-1])}\n")
            sys.stdout.flush()
    if len(rows) == len(tiny_pipelines.BUILDERS):
        TABLE.write_text(table(rows, other_pipelines()))


if __name__ == "__main__":
    main()
