"""Seconds per image and peak memory of `DiffusersPipeline` and of the plain pipeline call with the same settings.

    python benchmarks/diffusers_pipeline.py
    python benchmarks/diffusers_pipeline.py --checkpoint stabilityai/sdxl-turbo --device cuda --size 512 --steps 4

The plain call is made in two ways: with the prompt repeated for each image, as lists of prompts usually are, and with
`num_images_per_prompt`, which encodes the text once. The three calls are timed in turn, so that all have the same load.
Without a checkpoint a random Stable Diffusion of medium size is built.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from gendiv_lightning.generators import DiffusersPipeline
from gendiv_lightning.records import NoiseKey, Prompt, PromptBatch

TEXT = "a picture of a green hill and two red hills"


def build(folder: Path) -> Path:
    """A random Stable Diffusion: 30 M parameters in the UNet, 8 layers of text encoder."""
    import diffusers
    import transformers

    from gendiv_lightning.toy.files import num_words, write_tokenizer

    write_tokenizer(folder / "words", kind="clip")
    words = num_words() + 1
    text = transformers.CLIPTextConfig(
        vocab_size=words, hidden_size=256, intermediate_size=1024, num_hidden_layers=8, num_attention_heads=8
    )
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder / "words")
    tokenizer.model_max_length = 77
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3}
    pipeline = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(**blocks, block_out_channels=[32, 32, 64], latent_channels=4),
        text_encoder=transformers.CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=diffusers.UNet2DConditionModel(
            block_out_channels=(64, 128, 256),
            layers_per_block=1,
            sample_size=32,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=256,
            attention_head_dim=8,
        ),
        scheduler=diffusers.DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder / "pipeline")
    return folder / "pipeline"


def memory(device: str) -> float:
    """Peak memory in MiB: of the device, or of the process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def measure(calls: dict[str, Callable[[], object]], repeats: int, batch: int, device: str) -> None:
    """Time the calls in turn and print seconds per image, relative to the first one, and peak memory so far."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    peaks = {}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter() if device == "cuda" else time.process_time()
            call()
            if device == "cuda":
                torch.cuda.synchronize()
            end = time.perf_counter() if device == "cuda" else time.process_time()
            peaks[name] = memory(device)
            if repeat:  # the first round warms up
                seconds[name].append((end - start) / batch)
    first = statistics.median(next(iter(seconds.values())))
    for name, times in seconds.items():
        median = statistics.median(times)
        sys.stdout.write(
            f"{name:34s} {median:8.4f} s/image  {100 * (median / first - 1):+6.1f} %  {peaks[name]:7.0f} MiB\n"
        )


def main() -> None:
    """Build or load the pipeline and measure it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = arguments.checkpoint or str(build(Path(folder)))
        generator = DiffusersPipeline(
            checkpoint,
            num_steps=arguments.steps,
            image_size=arguments.size,
            guidance_scale=arguments.guidance,
            dtype="bfloat16" if arguments.device == "cuda" else "float32",
            batch_size=arguments.batch,
        )
        generator.load()
        generator.to(arguments.device)
        pipeline = generator.pipeline
        batch = arguments.batch
        keys = tuple(NoiseKey("p", 0, sample, sample) for sample in range(batch))
        rows = PromptBatch(0, (Prompt("p", TEXT),), (0,), keys, (0,) * batch)
        shared = generator.call(TEXT, batch, arguments.guidance)
        repeated = {**shared, "prompt": [TEXT] * batch, "num_images_per_prompt": 1}
        calls = {
            "plain, prompt repeated": lambda: pipeline(**repeated),
            "plain, num_images_per_prompt": lambda: pipeline(**shared),
            "DiffusersPipeline": lambda: generator.sample(rows),
        }
        with torch.inference_mode():
            measure(calls, arguments.repeats, batch, arguments.device)


if __name__ == "__main__":
    main()
