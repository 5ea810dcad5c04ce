"""Replays a run of a diffusers pipeline, with its random numbers, in our loop.

The pipeline is watched and not changed: it draws from a `torch.Generator` of its own, in an order of its own. What it
drew says between which bounds the uniforms of our two streams must lie for our loop to decide the same, the bounds
being running sums of the pipeline's probabilities. Our loop inverts running sums of its own, so it makes the same run
only if both agree. And numbers taken evenly from between those bounds are uniform noise only if the pipeline's draws
follow these probabilities.

B rows, L positions, K codebook entries. Networks are float64: what is left of differences is not their rounding.
"""

from contextlib import contextmanager
from dataclasses import dataclass, replace
from inspect import signature
from typing import NamedTuple

import pytest
import torch
from running import TINY, error_of
from scipy.stats import chisquare
from torch import Tensor

from gendiv_lightning.records import TokenSamples
from gendiv_lightning.sampling import apply_probes

TEXTS = ["a red house", "a blue sky over a green hill with a tree at left", "a red house"]


def to_float64(model):
    """Cast a pipeline or a generator to float64, except its image tokenizer."""
    model.text_encoder.double()
    model.transformer.double()
    return model


class Bounds(NamedTuple):
    """Bounds (steps, B, L) of the uniforms that lead to the same decision."""

    low: Tensor
    high: Tensor

    def at(self, share):
        return self.low + share * (self.high - self.low)


def bounds_of_tokens(probs, tokens):
    """Bounds for inverse CDF sampling of tokens (B, L) from weights (B, L, K)."""
    cdf, here = probs.double().cumsum(-1), tokens[..., None]
    high = cdf.gather(-1, here) / cdf[..., -1:]
    return Bounds((high - probs.gather(-1, here) / cdf[..., -1:])[..., 0], high[..., 0])


@dataclass(frozen=True)
class Replayed:
    """Replaces `Noise` by given uniforms (steps, B, L)."""

    keys: Tensor
    uniforms: Tensor
    is_off: bool = False
    trunk: None = None  # no rows share noise

    def off(self):
        return replace(self, is_off=True)

    def uniform(self, step, rows, positions):
        return self.uniforms[step, rows, positions]

    def uniform_grid(self, step, num_positions):
        return self.uniforms[step]


@contextmanager
def watched(network):
    """Record the tensors with which a network is called, by argument name."""
    names, calls = signature(network.forward), []

    def watch(module, args, kwargs):
        given = names.bind(*args, **kwargs).arguments
        calls.append({name: x for name, x in given.items() if torch.is_tensor(x)})

    handle = network.register_forward_pre_hook(watch, with_kwargs=True)
    yield calls
    handle.remove()


def assert_same_calls(ours, theirs):
    """Compare tokens before each step, conditions with null rows, and timesteps: floats to 1e-5, integers exactly."""
    assert len(ours[0]) > 1
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0, check_dtype=False)


class OurRun(NamedTuple):
    """Network arguments and guided logits (B, L, K) of each step, samples, and images (B, 3, H, W) uint8."""

    calls: list[dict[str, Tensor]]
    logits: list[Tensor]
    samples: TokenSamples
    images: Tensor


@torch.no_grad()
def run_on(generator, loop, batch, path, execution, probes=()):
    """Run our loop with the given uniforms (steps, B, L)."""
    sampler, logits = generator.sampler(batch.seed, batch.keys), []
    sampler = replace(sampler, path=Replayed(sampler.path.keys, path), exec=Replayed(sampler.exec.keys, execution))

    def watched_loop(predict, *settings):
        def kept(*state):
            logits.append(predict(*state))
            return logits[-1]

        return loop(kept, *settings)

    with watched(generator.transformer) as calls, pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{type(generator).__module__}.{loop.__name__}", watched_loop)
        samples = generator.sample_tokens(generator.encode_prompts(batch.texts), apply_probes(sampler, probes))
    return OurRun(calls, logits, samples, generator.decode_tokens(samples.tokens))


def assert_same_images(images, pictures):
    """Compare our images (B, 3, H, W) uint8 with the pipeline's (B, H, W, 3) in [0, 1], up to rounding."""
    expected = 255 * torch.from_numpy(pictures).permute(0, 3, 1, 2).double()
    torch.testing.assert_close(images.double(), expected, atol=0.501, rtol=0)
    assert images.double().std() > 5


def assert_uniform(bounds, where, at_least):
    """Chi-square test that uniforms between the bounds (steps, B, L) are uniform where `where` is true."""
    shares = torch.rand(where.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    counts = bounds.at(shares)[where].histc(64, 0, 1)
    assert counts.sum() == where.sum() >= at_least
    assert chisquare(counts.numpy()).pvalue > 1e-3


def error_of_config(config, checkpoint, folder, *more):
    """Run a toy config with a wrong model and return its error message."""
    words = ("--config", str(TINY / f"{config}.yaml"), "--model.checkpoint", str(checkpoint), *more)
    message = error_of("predict", *words, "--run_dir", str(folder), "--data.limit", "1", "--wandb", "disabled")
    assert message.startswith("gendiv: error GD")
    assert len(message) < 600
    assert not folder.exists()
    return message
