"""VAR: the pyramid of tokens, guidance that rises over scales, likelihood, and consistent sizes."""

from dataclasses import replace

import pytest
import torch

from gendiv_lightning.callbacks import Argmax, CodebookSubset
from gendiv_lightning.errors import NonFiniteError
from gendiv_lightning.generators import VAR
from gendiv_lightning.generators.var.generator import SIZES, ScalePredictor, guidance_at
from gendiv_lightning.generators.var.tokenizer import Quantizer, VAEConfig, to_uint8
from gendiv_lightning.weights.resolve import MissingWeightsError


@pytest.fixture(scope="module")
def generator(make_var):
    generator = make_var()
    generator.load()
    return generator


@pytest.fixture(scope="module")
def batch(make_batch):
    return make_batch("3", "207", num_samples=3)


def test_the_released_sizes_need_no_settings():
    generator = VAR()
    assert (generator.codebook_size, generator.grid) == (4096, (1, 680))
    assert (generator.temperature, generator.top_k, generator.top_p, generator.guidance_scale) == (1.0, 900, 0.96, 2.5)
    assert generator.vq_config.image_size == 256
    assert [(c.depth, c.dim, c.num_heads) for c in SIZES.values()] == [
        (16, 1024, 16), (20, 1280, 20), (24, 1536, 24), (30, 1920, 30)
    ]  # fmt: skip


def test_guidance_rises_linearly_to_its_scale():
    assert [guidance_at(scale, 10, 2.5) for scale in (0, 3, 9)] == [1.0, 1.5, 2.5]


def test_each_scale_has_its_own_guidance(generator):
    labels, sampler = torch.tensor([3, 207]), replace(generator.make_sampler(*noises(2)), guidance=4.0)
    plain = replace(sampler, guidance=1.0)
    with torch.inference_mode():
        guided, conditional, null = (
            ScalePredictor(generator.var, generator.vq.quantize, x, s)
            for x, s in ((labels, sampler), (labels, plain), (torch.full_like(labels, 1000), plain))
        )
        before = torch.zeros(2, 0, dtype=torch.long)
        for scale, size in enumerate(generator.var_config.sizes):
            c, u = conditional(before, scale), null(before, scale)
            torch.testing.assert_close(guided(before, scale), u + (1 + scale) * (c - u), atol=1e-4, rtol=1e-4)
            before = torch.arange(2 * size).view(2, size)


def noises(num_rows):
    from gendiv_lightning.sampling import Noise

    return [Noise.of(0, role, [("a", row) for row in range(num_rows)]) for role in ("path", "exec")]


@pytest.mark.parametrize("settings", [{}, {"guidance_scale": 1.0}, {"top_k": 40, "top_p": 0.9, "temperature": 0.8}])
def test_scored_tokens_have_the_probability_they_were_sampled_with(make_var, batch, settings):
    generator = make_var(**settings)
    generator.load()
    sampler = generator.sampler(0, batch.keys, [CodebookSubset("random", ratio=0.5)])
    with torch.inference_mode():
        conditions = generator.encode_prompts(batch.texts)
        samples = generator.sample_tokens(conditions, sampler)
        scores = generator.score_tokens(conditions, samples.tokens, sampler)
        others = generator.score_tokens(conditions.flip(0), samples.tokens, sampler)
    torch.testing.assert_close(scores, samples.log_prob, atol=1e-3, rtol=1e-4)
    assert scores.sum() > others.sum() + 1, "another class explains the images less well"


def test_with_argmax_its_tokens_have_probability_1(generator, batch):
    sampler = generator.sampler(0, batch.keys, [Argmax()])
    with torch.inference_mode():
        conditions = generator.encode_prompts(batch.texts)
        tokens = generator.sample_tokens(conditions, sampler).tokens
        assert (generator.score_tokens(conditions, tokens, sampler) == 0).all()
        tokens[0, 0] += 1
        assert generator.score_tokens(conditions, tokens, sampler)[0, 0] == -torch.inf


def test_a_scale_depends_on_earlier_scales_only(generator):
    tokens = torch.arange(30)[None] * 7 % 300
    labels, quantizer, starts = torch.tensor([5]), generator.vq.quantize, generator.var_config.starts

    def logits(tokens):
        codes = [quantizer.at_scale(total, i) for i, total in enumerate(quantizer.totals(tokens)[:-1], 1)]
        return generator.var(labels, codes)

    with torch.inference_mode():
        for scale in range(4):
            changed = tokens.clone()
            changed[:, starts[scale] :] = 11
            moved = (logits(changed) - logits(tokens)).abs().amax(-1)[0]
            assert (moved[: starts[scale + 1]] == 0).all()
            assert scale == 3 or (moved[starts[scale + 1] :] > 0).all()


def test_every_scale_brings_the_sum_closer_to_the_latents():
    torch.manual_seed(0)
    quantizer = Quantizer(VAEConfig(code_dim=4, codebook_size=500, sides=(1, 2, 4, 8)))
    with torch.inference_mode():
        quantizer.embedding.weight.mul_(torch.linspace(0.02, 1, 500)[:, None])
        for smoothing in quantizer.quant_resi.qresi_ls:
            smoothing.weight.zero_()
            smoothing.weight[range(4), range(4), 1, 1] = 1.0  # nothing is smoothed
            smoothing.bias.zero_()
        latents = torch.randn(2, 4, 8, 8)
        tokens = quantizer.encode(latents)
        errors = [float((latents - total).square().mean()) for total in quantizer.totals(tokens)]
    assert tokens.shape == (2, 1 + 4 + 16 + 64)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.3 * float(latents.square().mean())


def test_scales_share_four_convolutions():
    quantizer = Quantizer(VAEConfig(code_dim=1, codebook_size=1))
    assert [quantizer.smoothing(scale) for scale in range(10)] == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]


def test_pixels_are_rounded_down():
    assert to_uint8(torch.tensor([-1.0, 0.0, 0.999, 1.0])).tolist() == [0, 127, 254, 255]


def test_bfloat16_sampling_works(make_var, batch):
    generator = make_var(dtype="bfloat16")
    generator.load()
    assert generator.var.head.weight.dtype == torch.bfloat16
    assert generator.vq.decoder.conv_in.weight.dtype == torch.float32
    samples = generator.sample(batch).samples
    assert not torch.stack(samples[1:]).isnan().any()
    assert len(samples.tokens.unique(dim=0)) == len(batch.keys)


# --- settings, prompts and files ---


@pytest.mark.parametrize("text", ["a dog", "", "1000", "-1", "1.0"])
def test_a_prompt_that_is_not_a_class_is_an_error(make_var, text):
    with pytest.raises(ValueError, match="class numbers from 0 to 999, got"):
        make_var().check_prompts(["3", text])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": "d17"}, "size.*d16.*'d17'"),
        ({"vq": "VQ-16"}, "vq.*ch160v4096z32.*'VQ-16'"),
        ({"size": "d20"}, "var_checkpoint.*d16.*d20"),
        ({"top_p": 2.0}, "top_p"),
    ],
)
def test_invalid_settings_are_an_error(settings, words):
    with pytest.raises(ValueError, match=words):
        VAR(**settings)


def test_nan_pixels_are_an_error(make_var):
    generator = make_var()
    generator.load()
    generator.vq.decoder.conv_out.bias.data.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="the decoder's pixels"):
        generator.decode_tokens(torch.zeros(1, 30, dtype=torch.int64))


def test_a_transformer_of_another_tokenizer_is_an_error(make_var):
    with pytest.raises(ValueError, match=r"size and vq must agree on codebook_size, got 300 .* and 4096"):
        make_var(vq="ch160v4096z32")


@pytest.mark.parametrize("key", ["var_checkpoint", "vq_checkpoint"])
def test_the_error_for_missing_weights_names_the_setting(make_var, key):
    generator = make_var(**{key: "owner/repo:file.pth"})
    with pytest.raises(MissingWeightsError, match=rf"{key}: "):
        generator.locate()


def test_the_error_for_a_wrong_file_lists_its_keys(make_var):
    generator = make_var()
    generator.var_checkpoint = generator.vq_checkpoint
    with pytest.raises(ValueError, match=r"missing \(.*unexpected \("):
        generator.load()
