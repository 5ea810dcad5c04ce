"""NaN and infinity from a network stop a run, in every loop, under every kind of sampler."""

from dataclasses import replace

import pytest
import torch

from gendiv_lightning.functional.finite import NonFiniteError, check_finite
from gendiv_lightning.sampling import Noise, TokenSampler
from gendiv_lightning.sampling.autoregressive import sample_autoregressive
from gendiv_lightning.sampling.diffusion import NoiseSchedule, sample_diffusion
from gendiv_lightning.sampling.masked import MaskSchedule, sample_masked
from gendiv_lightning.sampling.next_scale import sample_next_scale
from gendiv_lightning.sampling.parallel import sample_in_parallel

B, L, K = 2, 4, 8
BAD = {"nan": torch.nan, "inf": torch.inf, "nothing": -torch.inf}


def make_sampler(**settings):
    keys = [("prompt", 0, row) for row in range(B)]
    return TokenSampler(Noise.of(0, "path", keys), Noise.of(0, "exec", keys), K, **settings)


def logits(*shape, bad=None):
    values = torch.randn(*shape, K, generator=torch.Generator().manual_seed(0))
    if bad is not None:
        row = values.flatten(0, -2)[-1]
        row[:] = -torch.inf if bad == -torch.inf else row
        row[3] = bad
    return values


LOOPS = {
    "autoregressive": lambda sampler, bad: sample_autoregressive(
        lambda tokens, step: logits(B, 1, bad=bad if step == 2 else None), sampler, L
    ),
    "parallel": lambda sampler, bad: sample_in_parallel(
        lambda tokens, start: logits(B, tokens.shape[1], bad=bad), sampler, L, window=2
    ),
    "masked": lambda sampler, bad: sample_masked(
        lambda tokens: logits(B, L, bad=bad), sampler, MaskSchedule(3, "cosine", (1.0, 0.0)), L, K
    ),
    "diffusion": lambda sampler, bad: sample_diffusion(
        lambda tokens, time: logits(B, L, bad=bad), sampler, NoiseSchedule(K, 10), [9, 6, 3, 0], L
    ),
    "next scale": lambda sampler, bad: sample_next_scale(
        lambda tokens, scale: logits(B, (1, 3)[scale], bad=bad), sampler, (1, 3)
    ),
}
SAMPLERS = {
    "baseline": lambda s: s,
    "argmax": lambda s: replace(s, exec=s.exec.off()),
    "no noise": lambda s: replace(s, path=s.path.off(), exec=s.exec.off()),
    "subset": lambda s: replace(s, allowed=torch.arange(K) < 5),
    "filters": lambda s: replace(s, top_k=5, top_p=0.9, temperature=0.5),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@pytest.mark.parametrize("change", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_logits_that_are_not_finite_are_an_error(loop, change, bad):
    with pytest.raises(NonFiniteError, match=r"logits are not finite from step \d+ .* \d+ draws .*float16"):
        loop(change(make_sampler()), bad)


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_finite_logits_pass(loop):
    assert loop(make_sampler(), None).tokens.shape == (B, L)


def test_pixels_that_are_not_finite_are_counted():
    with pytest.raises(NonFiniteError, match="pixels: 1 of 6 values"):
        check_finite(torch.tensor([0.0, 1, 2, torch.nan, 4, 5]), "the decoder's pixels")


def test_a_broken_decoder_stops_a_run(make_t2i, make_batch):
    generator = make_t2i()
    generator.load()
    next(generator.vq.decoder.parameters()).data.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="pixels"):
        generator.sample(make_batch("red sky"))
