"""A run of diffusers' pipeline by its own random numbers, made again by our loop.

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
    """A pipeline or a generator, its tokenizer of images as it is."""
    model.text_encoder.double()
    model.transformer.double()
    return model


class Bounds(NamedTuple):
    """Uniforms (steps, B, L) between which a decision is the same."""

    low: Tensor
    high: Tensor

    def at(self, share):
        return self.low + share * (self.high - self.low)


def bounds_of_tokens(probs, tokens):
    """Those of draws by inverse CDF: tokens (B, L) from weights (B, L, K)."""
    cdf, here = probs.double().cumsum(-1), tokens[..., None]
    high = cdf.gather(-1, here) / cdf[..., -1:]
    return Bounds((high - probs.gather(-1, here) / cdf[..., -1:])[..., 0], high[..., 0])


@dataclass(frozen=True)
class Replayed:
    """Stands for `Noise`: uniforms (steps, B, L) that are given."""

    keys: Tensor
    uniforms: Tensor
    is_off: bool = False

    def off(self):
        return replace(self, is_off=True)

    def uniform(self, step, rows, positions):
        return self.uniforms[step, rows, positions]

    def uniform_grid(self, step, num_positions):
        return self.uniforms[step]


@contextmanager
def watched(network):
    """The tensors that a network is called with, by the names of its arguments."""
    names, calls = signature(network.forward), []

    def watch(module, args, kwargs):
        given = names.bind(*args, **kwargs).arguments
        calls.append({name: x for name, x in given.items() if torch.is_tensor(x)})

    handle = network.register_forward_pre_hook(watch, with_kwargs=True)
    yield calls
    handle.remove()


def assert_same_calls(ours, theirs):
    """To 1e-5, integers exactly: the tokens before each step, the conditions with the null rows, the times."""
    assert len(ours[0]) > 1
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0, check_dtype=False)


class OurRun(NamedTuple):
    """Arguments of the network and guided logits (B, L, K) of each step, the samples, images (B, 3, H, W) uint8."""

    calls: list[dict[str, Tensor]]
    logits: list[Tensor]
    samples: TokenSamples
    images: Tensor


@torch.no_grad()
def run_on(generator, loop, batch, path, execution, probes=()):
    """Our run where the streams are the uniforms (steps, B, L) that are given."""
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
    """Ours (B, 3, H, W) uint8 and the pipeline's (B, H, W, 3) in [0, 1]: nothing but rounding lies between them."""
    expected = 255 * torch.from_numpy(pictures).permute(0, 3, 1, 2).double()
    torch.testing.assert_close(images.double(), expected, atol=0.501, rtol=0)
    assert images.double().std() > 5


def assert_uniform(bounds, where, at_least):
    """By chi-square: uniforms between bounds (steps, B, L), at the places that count, of which there must be enough."""
    shares = torch.rand(where.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    counts = bounds.at(shares)[where].histc(64, 0, 1)
    assert counts.sum() == where.sum() >= at_least
    assert chisquare(counts.numpy()).pvalue > 1e-3


def error_of_config(config, checkpoint, folder, *more):
    """The one line that an embedded config ends with when the model is not what it should be."""
    words = ("--config", str(TINY / f"{config}.yaml"), "--model.checkpoint", str(checkpoint), *more)
    message = error_of("predict", *words, "--run_dir", str(folder), "--data.limit", "1", "--wandb", "disabled")
    assert message.startswith("gendiv: error GD")
    assert len(message) < 600
    assert not folder.exists()
    return message
