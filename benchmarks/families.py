"""Our sampling loops of aMUSEd and VQ-Diffusion and diffusers' pipelines, side by side on the same random network.

    python benchmarks/families.py --family amused
    python benchmarks/families.py --family vq_diffusion --batch 1 4

Both loops call one transformer, of the published size but for its depth (`--layers`), with the same conditions, scale
of guidance and truncation. Timed is the way from conditions to tokens, without text encoder and tokenizer.
Before anything is timed both must draw the tokens of the first step from the same distributions (1e-3).

A loop has `--steps` steps instead of 12 or 100, but is whole: from all tokens unknown to all known, in the proportions
of the long one. More tokens change at each step, which costs us, who draw where something changes, and not the
pipelines, which draw everywhere. Images a second are for loops of the official length, a step taking the measured mean.

B images, L image tokens, K codebook entries.
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
    """A row of the table. Guidance 1 is none, truncation 1 keeps all."""

    batch: int
    guidance: float
    truncation: float


Texts = tuple[Tensor, ...]


class Family(Protocol):
    """What the two families differ in.

    Attributes:
        official_steps: length of the published loop.
        guidance: its scale.
        truncations: rates to show.
        text_shapes: of what the network reads of one text.
    """

    official_steps: int
    guidance: float
    truncations: tuple[float, ...]
    text_shapes: tuple[tuple[int, ...], ...]
    network: nn.Module
    pipeline: AmusedPipeline | VQDiffusionPipeline

    def generator(self, setting: Setting) -> PipelineGenerator:
        """Ours, still without network and texts."""

    def call_pipeline(self, setting: Setting, null: Texts, texts: Texts) -> object:
        """Theirs, on conditions (B, ...) of no text and of texts."""

    def first_logits(self, model_output: Tensor) -> Tensor:
        """Logits (B, L, K) of the first step's tokens, from what the pipeline gives its scheduler."""


class AmusedLoops:
    """aMUSEd-256."""

    official_steps, guidance, truncations = 12, 10.0, (1.0,)
    text_shapes = ((77, 768), (768,))

    def __init__(self, num_layers: int, num_steps: int) -> None:
        self.num_steps = num_steps
        self.network = UVit2DModel(num_hidden_layers=num_layers, sample_size=16)
        sharpen(self.network.mlm_layer.conv2)
        # No weight of it is used; it only says that a token is 16 pixels wide.
        tokenizer = VQModel(block_out_channels=(1,) * 5, norm_num_groups=1)
        scheduler = AmusedScheduler(mask_token_id=self.network.config.vocab_size - 1)
        self.pipeline = AmusedPipeline(tokenizer, None, None, self.network, scheduler)

    def generator(self, setting: Setting) -> Amused:
        """With the mask that its folder would tell."""
        generator = Amused(num_steps=self.num_steps, guidance_scale=setting.guidance)
        generator.mask = self.network.config.vocab_size - 1
        return generator

    def call_pipeline(self, setting: Setting, null: Texts, texts: Texts) -> object:
        """It takes conditions, and gives tokens if asked for latents."""
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
        """The network's own, guided."""
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
        """With the schedule that its folder would tell, and the times that the pipeline visits."""
        generator = VQDiffusion(guidance_scale=setting.guidance, truncation_rate=setting.truncation)
        generator.schedule = NoiseSchedule(generator.codebook_size)
        generator.times = generator.schedule.times(self.num_steps, "last")
        return generator

    def call_pipeline(self, setting: Setting, null: Texts, texts: Texts) -> object:
        """It has no argument for conditions, so they take the place of its text encoder's."""
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
        """The reverse transition's, but for the mask."""
        masked = torch.full_like(model_output[:, 0], self.network.config.num_vector_embeds - 1, dtype=torch.int64)
        time = torch.tensor(self.num_steps - 1, device=masked.device)
        return self.pipeline.scheduler.q_posterior(model_output, masked, time)[:, :-1].transpose(1, 2)


FAMILIES: dict[str, type[Family]] = {"amused": AmusedLoops, "vq_diffusion": VQDiffusionLoops}


class NoDecoder:
    """In place of a tokenizer of images: costs nothing."""

    config = SimpleNamespace(vq_embed_dim=1)
    quantize = SimpleNamespace(get_codebook_entry=lambda tokens, shape: tokens)

    def decode(self, tokens: Tensor, force_not_quantize: bool) -> SimpleNamespace:
        """Black pixels."""
        return SimpleNamespace(sample=torch.zeros(len(tokens), 3, 1, 1))


def sharpen(layer: nn.Module) -> None:
    """Bring logits from the standard deviation 0.6 of fresh weights to about 3, as trained networks have them."""
    with torch.no_grad():
        layer.weight.mul_(5)


def make_family(args: argparse.Namespace) -> Family:
    """Network and pipeline, which depend on the arguments alone."""
    # diffusers calls these pipelines, and what they do themselves, deprecated.
    logging.set_verbosity_error()
    warnings.simplefilter("ignore", FutureWarning)
    torch.set_num_threads(1)  # On the CPU processor time counts, in which several threads would add up.
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


# --- what is measured ---


class Stopped(Exception):
    """A loop was ended after what was wanted of it."""


class FirstDraw(Observer):
    """Keeps the first draw of a loop, and ends it."""

    def observe(self, draw: Draw) -> None:
        """Called once."""
        self.draw = draw
        raise Stopped


def check_agreement(family: Family, setting: Setting) -> float:
    """Total variation between the distributions of both first draws; ends with an error unless they are the same."""
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
        raise SystemExit(f"{setting}: the loops do not sample the same: distributions differ by {difference:.1e}")
    return difference


class Stopwatch:
    """Seconds of each call of a network, taken by hooks: neither loop knows of it."""

    def __init__(self, network: nn.Module) -> None:
        self.seconds: list[float] = []
        network.register_forward_pre_hook(self.start)
        network.register_forward_hook(self.stop)

    def start(self, *_: object) -> None:
        """Of a call."""
        self.started = now()

    def stop(self, *_: object) -> None:
        """Of the same call."""
        self.seconds.append(now() - self.started)


def now() -> float:
    """Seconds: on a GPU once it has done all that it was asked, else of this process alone, whatever others run."""
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def seconds_of_a_step(family: Family, setting: Setting, repeats: int) -> tuple[float, dict[str, float]]:
    """Least seconds of the network, over all calls, and those that a step of each loop spends outside of it.

    The network's count for both loops: it is the same module on inputs of the same shapes.
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
    """MiB that one run of a loop adds to weights and conditions: allocated on a GPU, resident on the CPU."""
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
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=list(FAMILIES), required=True)
    parser.add_argument("--layers", type=int, default=1, help="of the transformer (published: 22 and 19)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="images; guidance doubles the rows")
    parser.add_argument("--steps", type=int, default=4, help="of the loop, at least 2 (published: 12 and 100)")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32", help="of weights and conditions")
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
    """Check, measure, print."""
    args = arguments()
    family = make_family(args)
    # A process never forgets its peak, so each run that is weighed gets its own, from a parent that has imported all.
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
            *(str(number) if number != 1 or place == 0 else "none" for place, number in enumerate(setting)),
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
