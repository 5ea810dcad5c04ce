"""gendiv's sampling loops of aMUSEd and VQ-Diffusion compared with diffusers' pipelines, on the same random network.

    python benchmarks/families.py --family amused
    python benchmarks/families.py --family vq_diffusion --batch 1 4

Both loops call the same transformer, of the published size except for its depth (`--layers`), with the same conditions,
guidance scale and truncation. The time is that from conditions to tokens, without text encoder and tokenizer. Before
the timing, both must draw the tokens of the first step from the same distributions (1e-3).

A loop has `--steps` steps instead of 12 or 100, but is complete: from all tokens masked to none, in the proportions of
the official one. So more tokens change at each step, which makes gendiv slower, because it draws only where something
changes, but not the pipelines, which draw everywhere. Images per second are extrapolated to the official number of
steps from the measured mean step.

Notation: B images, L image tokens, K codebook entries.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import product
from types import SimpleNamespace
from typing import NamedTuple, Protocol

import torch
from ar_sampling import MIB, TOLERANCE, best_seconds
from diffusers import (
    AmusedPipeline,
    AmusedScheduler,
    Transformer2DModel,
    UVit2DModel,
    VQDiffusionPipeline,
    VQDiffusionScheduler,
    VQModel,
)
from diffusers.utils import logging
from torch import Tensor, nn

from gendiv_lightning.generators import Amused, VQDiffusion
from gendiv_lightning.generators.diffusers_base import Conditions, PipelineGenerator
from gendiv_lightning.records import NoiseKey
from gendiv_lightning.sampling import Draw, Observer
from gendiv_lightning.sampling.diffusion import NoiseSchedule
from gendiv_lightning.weights.load import DTYPES


class Setting(NamedTuple):
    """A row of the table. Guidance 1 is off, and truncation 1 keeps all tokens."""

    batch: int
    guidance: float
    truncation: float


Texts = tuple[Tensor, ...]


class Family(Protocol):
    """The differences between the two families.

    Attributes:
        official_steps: number of steps of the published loop.
        guidance: guidance scale of the published loop.
        truncations: truncation rates to measure.
        text_shapes: shapes of the network's inputs for one text.
    """

    official_steps: int
    guidance: float
    truncations: tuple[float, ...]
    text_shapes: tuple[tuple[int, ...], ...]
    network: nn.Module
    pipeline: AmusedPipeline | VQDiffusionPipeline

    def generator(self, setting: Setting) -> PipelineGenerator:
        """Gendiv's generator, without network and texts."""

    def call_pipeline(self, setting: Setting, null: Texts, texts: Texts) -> object:
        """Call diffusers' pipeline with conditions (B, ...) of empty texts and of texts."""

    def first_logits(self, model_output: Tensor) -> Tensor:
        """Logits (B, L, K) of the tokens of the first step, from the input of the pipeline's scheduler."""


class AmusedLoops:
    """aMUSEd-256."""

    official_steps, guidance, truncations = 12, 10.0, (1.0,)
    text_shapes = ((77, 768), (768,))

    def __init__(self, num_layers: int, num_steps: int) -> None:
        self.num_steps = num_steps
        self.network = UVit2DModel(num_hidden_layers=num_layers, sample_size=16)
        sharpen(self.network.mlm_layer.conv2)
        # Its weights are not used; it only defines that a token is 16 pixels wide.
        tokenizer = VQModel(block_out_channels=(1,) * 5, norm_num_groups=1)
        scheduler = AmusedScheduler(mask_token_id=self.network.config.vocab_size - 1)
        self.pipeline = AmusedPipeline(tokenizer, None, None, self.network, scheduler)

    def generator(self, setting: Setting) -> Amused:
        """A generator with the mask token that it would read from its folder."""
        generator = Amused(num_steps=self.num_steps, guidance_scale=setting.guidance)
        generator.mask = self.network.config.vocab_size - 1
        return generator

    def call_pipeline(self, setting: Setting, null: Texts, texts: Texts) -> object:
        """Call the pipeline with conditions; it returns tokens as its latents."""
        return self.pipeline(
            encoder_hidden_states=texts[0],
            prompt_embeds=texts[1],
            negative_encoder_hidden_states=null[0],
            negative_prompt_embeds=null[1],
            num_inference_steps=self.num_steps,
            guidance_scale=setting.guidance,
            output_type="latent",
        )

    def first_logits(self, model_output: Tensor) -> Tensor:
        """The guided logits of the network."""
        return model_output.flatten(2).transpose(1, 2)


class VQDiffusionLoops:
    """VQ-Diffusion's ITHQ model."""

    official_steps, guidance, truncations = 100, 5.0, (1.0, 0.86)
    text_shapes = ((77, 512),)

    def __init__(self, num_layers: int, num_steps: int) -> None:
        self.num_steps = num_steps
        self.network = Transformer2DModel(
            num_layers=num_layers,
            num_attention_heads=16,
            attention_head_dim=64,
            cross_attention_dim=512,
            attention_bias=True,
            sample_size=32,
            num_vector_embeds=4097,
            activation_fn="geglu-approximate",
            num_embeds_ada_norm=100,
            norm_type="ada_norm",
        )
        sharpen(self.network.out)
        scheduler = VQDiffusionScheduler(self.network.config.num_vector_embeds)
        self.pipeline = VQDiffusionPipeline(NoDecoder(), None, None, self.network, scheduler, None)

    def generator(self, setting: Setting) -> VQDiffusion:
        """A generator with the schedule that it would read from its folder, and the times of the pipeline."""
        generator = VQDiffusion(guidance_scale=setting.guidance, truncation_rate=setting.truncation)
        generator.schedule = NoiseSchedule(generator.codebook_size)
        generator.times = generator.schedule.times(self.num_steps, "last")
        return generator

    def call_pipeline(self, setting: Setting, null: Texts, texts: Texts) -> object:
        """Call the pipeline; it has no argument for conditions, so its text encoding is replaced."""
        states = torch.cat([null[0], texts[0]]) if setting.guidance > 1 else texts[0]
        self.pipeline._encode_prompt = lambda *_: states
        return self.pipeline(
            [""] * setting.batch,
            num_inference_steps=self.num_steps,
            guidance_scale=setting.guidance,
            truncation_rate=setting.truncation,
            output_type="numpy",
        )

    def first_logits(self, model_output: Tensor) -> Tensor:
        """The logits of the reverse transition, without the mask."""
        masked = torch.full_like(model_output[:, 0], self.network.config.num_vector_embeds - 1, dtype=torch.int64)
        time = torch.tensor(self.num_steps - 1, device=masked.device)
        return self.pipeline.scheduler.q_posterior(model_output, masked, time)[:, :-1].transpose(1, 2)


FAMILIES: dict[str, type[Family]] = {"amused": AmusedLoops, "vq_diffusion": VQDiffusionLoops}


class NoDecoder:
    """Replaces the image tokenizer at no cost."""

    config = SimpleNamespace(vq_embed_dim=1)
    quantize = SimpleNamespace(get_codebook_entry=lambda tokens, shape: tokens)

    def decode(self, tokens: Tensor, force_not_quantize: bool) -> SimpleNamespace:
        """Return black pixels."""
        return SimpleNamespace(sample=torch.zeros(len(tokens), 3, 1, 1))


def sharpen(layer: nn.Module) -> None:
    """Scale logits from the standard deviation 0.6 of new weights to about 3, as in trained networks."""
    with torch.no_grad():
        layer.weight.mul_(5)


def make_family(args: argparse.Namespace) -> Family:
    """Network and pipeline, which depend only on the arguments."""
    # diffusers deprecates these pipelines, and functions that they call.
    logging.set_verbosity_error()
    warnings.simplefilter("ignore", FutureWarning)
    torch.set_num_threads(1)  # processor time on the CPU would be the sum over threads
    torch.manual_seed(0)
    family = FAMILIES[args.family](args.layers, args.steps)
    family.network.to(args.device, DTYPES[args.dtype]).eval()
    family.pipeline.set_progress_bar_config(disable=True)
    return family


def make_loops(
    family: Family, setting: Setting, observers: tuple[Observer, ...] = ()
) -> dict[str, Callable[[], object]]:
    """Both loops on the same conditions."""
    torch.manual_seed(1)
    like = next(family.network.parameters())
    null, *texts = [
        tuple(torch.randn(1, *shape).to(like) for shape in family.text_shapes) for _ in range(1 + setting.batch)
    ]
    generator = family.generator(setting)
    generator.transformer, generator.encode_null = family.network, lambda: null
    generator.to(like.device)
    sampler = generator.sampler(0, [NoiseKey("prompt", 0, row, row) for row in range(setting.batch)])
    sampler, conditions = replace(sampler, observers=observers), Conditions(texts, list(range(setting.batch)))
    rows = [tuple(map(torch.cat, zip(*parts, strict=True))) for parts in ([null] * setting.batch, texts)]
    return {
        "gendiv": partial(generator.sample_tokens, conditions, sampler),
        "diffusers": partial(family.call_pipeline, setting, *rows),
    }


# --- measurements ---


class Stopped(Exception):
    """Ends a loop after its first draw."""


class FirstDraw(Observer):
    """Records the first draw of a loop and ends the loop."""

    def observe(self, draw: Draw) -> None:
        """Record the draw."""
        self.draw = draw
        raise Stopped


def check_agreement(family: Family, setting: Setting) -> float:
    """Total variation between the distributions of the first draws; exits if it exceeds the tolerance."""
    first, given = FirstDraw(), []
    scheduler = family.pipeline.scheduler

    def stop(model_output: Tensor, *_: object, **__: object) -> None:
        given.append(model_output)
        raise Stopped

    scheduler.step = stop
    for loop in make_loops(family, setting, (first,)).values():
        with suppress(Stopped):
            loop()
    del scheduler.step
    draw = first.draw
    expected = family.first_logits(given[0])[draw.rows, draw.positions].float().softmax(-1)
    difference = ((draw.logits.softmax(-1) - expected).abs().sum(-1) / 2).max().item()
    if difference > TOLERANCE:
        raise SystemExit(f"{setting}: the loops sample different distributions, total variation {difference:.1e}")
    return difference


class Stopwatch:
    """Measures the seconds of each call of a network by hooks, without changing the loops."""

    def __init__(self, network: nn.Module) -> None:
        self.seconds: list[float] = []
        network.register_forward_pre_hook(self.start)
        network.register_forward_hook(self.stop)

    def start(self, *_: object) -> None:
        """Start timing a call."""
        self.started = now()

    def stop(self, *_: object) -> None:
        """Stop timing the call."""
        self.seconds.append(now() - self.started)


def now() -> float:
    """Wall-clock seconds after synchronising a GPU, or processor seconds of this process on the CPU."""
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def seconds_of_a_step(family: Family, setting: Setting, repeats: int) -> tuple[float, dict[str, float]]:
    """Minimum seconds of a network call, and seconds that a step of each loop spends outside the network.

    The network's time is common to both loops, which call the same module with inputs of the same shapes.
    """
    watch, network, outside = Stopwatch(family.network), [], {}

    def run(name: str, loop: Callable[[], object]) -> None:
        watch.seconds.clear()
        start = now()
        loop()
        seconds = now() - start - sum(watch.seconds)
        outside[name] = min(outside.get(name, seconds), seconds)
        network.extend(watch.seconds)

    loops = make_loops(family, setting)
    best_seconds({name: partial(run, name, loop) for name, loop in loops.items()}, repeats)
    num_steps = len(watch.seconds)
    return min(network), {name: seconds / num_steps for name, seconds in outside.items()}


@torch.inference_mode()
def peak_memory(args: argparse.Namespace, setting: Setting, name: str) -> float:
    """MiB that one run of a loop adds to weights and conditions: allocated memory on a GPU, resident on the CPU."""
    loop = make_loops(make_family(args), setting)[name]
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loop()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loop()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit / MIB


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=list(FAMILIES), required=True)
    parser.add_argument("--layers", type=int, default=1, help="number of layers (published: 22 and 19)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="number of images; guidance doubles the rows")
    parser.add_argument("--steps", type=int, default=4, help="number of steps, at least 2 (published: 12, 100)")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32", help="dtype of weights and inputs")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--repeats", type=int, default=2, help="interleaved repetitions; the fastest counts")
    args = parser.parse_args()
    if args.steps < 2:
        parser.error("the loops are compared where tokens are still unknown after a step: --steps must be at least 2")
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    return args


@torch.inference_mode()
def main() -> None:
    """Check agreement, measure, and print the table."""
    args = arguments()
    family = make_family(args)
    # The peak of a process cannot be reset, so each memory measurement has its own process, forked after all imports.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ar_sampling", "gendiv_lightning.generators", "diffusers.pipelines"])
    where = torch.cuda.get_device_name() if args.device == "cuda" else "one CPU core"
    print(f"{args.family}, {args.layers} layers, {args.steps} steps, {args.dtype}, {where}\n")
    head = "images | guidance | truncation | network | outside: gendiv | diffusers | share: gendiv | diffusers"
    print(f"| {head} | images/s: gendiv | diffusers | ratio | peak: gendiv | diffusers |\n|" + "---|" * 13)
    differences = []
    for setting in map(Setting._make, product(args.batch, (1.0, family.guidance), family.truncations)):
        with context.Pool(1, maxtasksperchild=1) as pool:
            memory = [pool.apply(peak_memory, (args, setting, name)) for name in ("gendiv", "diffusers")]
        differences.append(check_agreement(family, setting))
        network, outside = seconds_of_a_step(family, setting, args.repeats)
        totals = [network + seconds for seconds in outside.values()]
        cells = [
            *(str(number) if number != 1 or i == 0 else "none" for i, number in enumerate(setting)),
            *(f"{seconds * 1e3:.0f} ms" for seconds in (network, *outside.values())),
            *(f"{seconds / total:.1%}" for seconds, total in zip(outside.values(), totals, strict=True)),
            *(f"{setting.batch / total / family.official_steps:.2g}" for total in totals),
            f"{totals[1] / totals[0]:.3f}",
            *(f"{peak:.0f} MiB" for peak in memory),
        ]
        print("|", " | ".join(cells), "|", flush=True)
    print(f"\nfirst draws: distributions differ by at most {max(differences):.1e} in total variation")


if __name__ == "__main__":
    main()
