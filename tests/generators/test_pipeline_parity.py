"""aMUSEd and VQ-Diffusion against diffusers' pipelines on the same random folders: conditions, logits, whole runs.

Where the pipelines draw, they are given our noise. aMUSEd draws a token for each position by `multinomial` and adds
Gumbel noise to confidences: both are replaced by the uniforms of our two streams, nothing else. VQ-Diffusion takes the
argmax of its posterior plus Gumbel noise, which knows no path and no execution: its draw alone is replaced, by "does
the position change?" and "into what?" from the very posterior that its scheduler computes.
"""

import pytest
import torch
from diffusers import (
    AmusedPipeline,
    AmusedScheduler,
    Transformer2DModel,
    UVit2DModel,
    VQDiffusionPipeline,
    VQDiffusionScheduler,
    VQModel,
)
from diffusers.pipelines.deprecated.vq_diffusion.pipeline_vq_diffusion import LearnedClassifierFreeSamplingEmbeddings
from diffusers.schedulers import scheduling_amused, scheduling_vq_diffusion
from transformers import AutoTokenizer, CLIPTextModel, CLIPTextModelWithProjection

from gendiv_lightning.callbacks import Argmax, FreezePath, PosteriorArgmax
from gendiv_lightning.sampling.sampler import invert_cdf

TEXTS = ["a red house", "a blue sky over a green hill with a tree at left", "the moon"]
L = 36
guidances = pytest.mark.parametrize("guidance", [1.0, 2.5])


@pytest.fixture(scope="module")
def amused_pipeline(pipelines):
    folder = pipelines / "amused"
    pipeline = AmusedPipeline(
        VQModel.from_pretrained(folder / "vqvae"),
        AutoTokenizer.from_pretrained(folder / "tokenizer"),
        CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder"),
        UVit2DModel.from_pretrained(folder / "transformer"),
        AmusedScheduler.from_pretrained(folder / "scheduler"),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module", params=[True, False], ids=["learned null", "empty prompt"])
def learnable(request):
    return request.param


@pytest.fixture(scope="module")
def vq_diffusion_folder(pipelines, learnable, tmp_path_factory):
    if learnable:
        return pipelines / "vq_diffusion"
    folder = tmp_path_factory.mktemp("empty_prompt")
    for part in (pipelines / "vq_diffusion").iterdir():
        (folder / part.name).symlink_to(part)
    (folder / "learned_classifier_free_sampling_embeddings").unlink()
    LearnedClassifierFreeSamplingEmbeddings(learnable=False).save_pretrained(
        folder / "learned_classifier_free_sampling_embeddings"
    )
    return folder


@pytest.fixture(scope="module")
def vq_diffusion_pipeline(vq_diffusion_folder):
    folder = vq_diffusion_folder
    pipeline = VQDiffusionPipeline(
        VQModel.from_pretrained(folder / "vqvae"),
        CLIPTextModel.from_pretrained(folder / "text_encoder"),
        AutoTokenizer.from_pretrained(folder / "tokenizer"),
        Transformer2DModel.from_pretrained(folder / "transformer"),
        VQDiffusionScheduler.from_pretrained(folder / "scheduler"),
        LearnedClassifierFreeSamplingEmbeddings.from_pretrained(folder / "learned_classifier_free_sampling_embeddings"),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def both_runs(generator, batch, monkeypatch, run_pipeline, loop, probes=()):
    """Tokens, images and guided logits of each step, ours and those of the pipeline."""
    sampler = generator.sampler(batch.seed, batch.keys, probes)
    ours: list[torch.Tensor] = []
    loop_name = "sample_masked" if hasattr(loop, "sample_masked") else "sample_diffusion"
    original = getattr(loop, loop_name)

    def recording(predict, *args):
        def kept(*inputs):
            logits = predict(*inputs)
            ours.append(logits.clone())
            return logits

        return original(kept, *args)

    monkeypatch.setattr(loop, loop_name, recording)
    with torch.no_grad():
        samples = generator.sample_tokens(generator.encode_prompts(batch.texts), sampler)
        images = generator.decode_tokens(samples.tokens)
        tokens, theirs, pictures = run_pipeline(sampler)
    return (samples.tokens, ours, images), (tokens, theirs, pictures)


def run_amused(pipeline, generator, monkeypatch, guidance):
    def run(sampler):
        logits, step = [], -1
        original = AmusedScheduler.step

        def stepped(self, model_output, timestep, sample, **kwargs):
            nonlocal step
            step += 1
            logits.append(model_output.flatten(2).transpose(1, 2).clone())
            uniforms = sampler.exec.uniform_grid(step, L).flatten()
            gumbel = -(-sampler.path.uniform_grid(step, L).log()).log()
            monkeypatch.setattr(torch, "multinomial", lambda p, num, generator: invert_cdf(p, uniforms)[:, None])
            monkeypatch.setattr(scheduling_amused, "gumbel_noise", lambda probs, generator: gumbel)
            return original(self, model_output=model_output, timestep=timestep, sample=sample, **kwargs)

        monkeypatch.setattr(AmusedScheduler, "step", stepped)
        shared = {
            "num_inference_steps": generator.schedule.num_steps,
            "guidance_scale": guidance,
            "temperature": generator.schedule.temperature,
        }
        tokens = pipeline(TEXTS, output_type="latent", **shared).images.flatten(1)
        step = -1
        return tokens, logits[: generator.schedule.num_steps], pipeline(TEXTS, output_type="np", **shared).images

    return run


@guidances
@pytest.mark.parametrize("num_steps", [1, 5, 12])
def test_on_equal_noise_a_run_of_amused_agrees_with_the_pipeline(
    make_amused, amused_pipeline, make_batch, monkeypatch, guidance, num_steps
):
    from gendiv_lightning.generators import amused as loop

    generator = make_amused(guidance_scale=guidance, num_steps=num_steps)
    generator.load()
    run = run_amused(amused_pipeline, generator, monkeypatch, guidance)
    ours, theirs = both_runs(generator, make_batch(*TEXTS), monkeypatch, run, loop)
    assert len(ours[1]) == len(theirs[1]) == num_steps
    for own, their in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(own, their, atol=3e-5, rtol=1e-5)  # logits of about 10
    assert torch.equal(ours[0], theirs[0])
    close_to_pixels(ours[2], theirs[2])
    assert len(ours[0].unique()) > 10


def close_to_pixels(images, pictures):
    """Compare images (B, 3, H, W) uint8 with the pipeline's (B, H, W, 3) in [0, 1], up to rounding."""
    expected = torch.from_numpy(pictures).permute(0, 3, 1, 2) * 255
    assert (images.double() - expected.double()).abs().max() < 0.51
    assert images.double().std() > 5


def run_vq_diffusion(pipeline, generator, monkeypatch, guidance, rate, deterministic=False):
    def run(sampler):
        logits, step = [], -1
        mask = generator.codebook_size
        original = pipeline.truncate

        def truncate(log_probs, rate):
            logits.append(log_probs.transpose(1, 2).clone())
            return original(log_probs, rate)

        def stepped(self, model_output, timestep, sample, **kwargs):
            nonlocal step
            step += 1
            log_probs = model_output if timestep == 0 else self.q_posterior(model_output, sample, timestep)
            probs = log_probs.transpose(1, 2).softmax(-1)
            if timestep == 0:
                probs = torch.nn.functional.pad(probs, (0, 1))
            if deterministic:
                return scheduling_vq_diffusion.VQDiffusionSchedulerOutput(prev_sample=probs.argmax(-1))
            stay = probs.double().gather(-1, sample[..., None])
            change = 1 - stay[..., 0] > sampler.path.uniform_grid(step, L)
            others = probs.scatter(-1, sample[..., None], 0.0)[..., :mask]
            tokens = invert_cdf(others.flatten(0, 1), sampler.exec.uniform_grid(step, L).flatten()).view_as(sample)
            return scheduling_vq_diffusion.VQDiffusionSchedulerOutput(prev_sample=torch.where(change, tokens, sample))

        monkeypatch.setattr(pipeline, "truncate", truncate)
        monkeypatch.setattr(VQDiffusionScheduler, "step", stepped)
        tokens = []
        pictures = pipeline(
            TEXTS,
            num_inference_steps=generator.num_steps,
            guidance_scale=guidance,
            truncation_rate=rate,
            output_type="np",
            callback=lambda i, t, sample: tokens.append(sample),
        ).images
        return tokens[-1], logits, pictures

    return run


@guidances
@pytest.mark.parametrize(("num_steps", "rate"), [(100, 1.0), (100, 0.86), (7, 1.0)])
def test_on_equal_noise_a_run_of_vq_diffusion_agrees_with_the_pipeline(
    make_vq_diffusion, vq_diffusion_folder, vq_diffusion_pipeline, make_batch, monkeypatch, guidance, num_steps, rate
):
    from gendiv_lightning.generators import vq_diffusion as loop

    generator = make_vq_diffusion(
        checkpoint=str(vq_diffusion_folder),
        guidance_scale=guidance,
        num_steps=num_steps,
        truncation_rate=rate,
        spacing="last",
    )
    generator.load()
    run = run_vq_diffusion(vq_diffusion_pipeline, generator, monkeypatch, guidance, rate)
    ours, theirs = both_runs(generator, make_batch(*TEXTS), monkeypatch, run, loop)
    assert len(ours[1]) == len(theirs[1]) == num_steps
    for own, their in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(own.log_softmax(-1), their.log_softmax(-1), atol=1e-4, rtol=1e-5)
    assert torch.equal(ours[0], theirs[0])
    close_to_pixels(ours[2], theirs[2])
    assert len(ours[0].unique()) > 10


def test_posterior_argmax_is_the_argmax_of_the_posterior_of_the_pipeline(
    make_vq_diffusion, vq_diffusion_folder, vq_diffusion_pipeline, make_batch, monkeypatch
):
    from gendiv_lightning.generators import vq_diffusion as loop

    generator = make_vq_diffusion(checkpoint=str(vq_diffusion_folder), num_steps=30, spacing="last")
    generator.load()
    run = run_vq_diffusion(vq_diffusion_pipeline, generator, monkeypatch, 2.0, 1.0, deterministic=True)
    ours, theirs = both_runs(generator, make_batch(*TEXTS), monkeypatch, run, loop, [PosteriorArgmax()])
    assert torch.equal(ours[0], theirs[0])


def test_text_embeddings_of_amused_agree_with_the_pipeline(make_amused, amused_pipeline):
    generator = make_amused()
    generator.load()
    ids = amused_pipeline.tokenizer(
        [*TEXTS, ""], return_tensors="pt", padding="max_length", truncation=True, max_length=77
    ).input_ids
    with torch.no_grad():
        outputs = amused_pipeline.text_encoder(ids[:, : generator.tokenizer.context], output_hidden_states=True)
        for row, text in enumerate([*TEXTS, ""]):
            states, pooled = generator.encode_text(text) if text else generator.encode_null()
            torch.testing.assert_close(states[0], outputs.hidden_states[-2][row], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(pooled[0], outputs.text_embeds[row], atol=1e-5, rtol=1e-5)


def test_text_embeddings_of_vq_diffusion_agree_with_the_pipeline(
    make_vq_diffusion, vq_diffusion_folder, vq_diffusion_pipeline, learnable
):
    generator = make_vq_diffusion(checkpoint=str(vq_diffusion_folder))
    generator.load()
    assert (generator.learned is not None) == learnable
    with torch.no_grad():
        expected = vq_diffusion_pipeline._encode_prompt(TEXTS, 1, do_classifier_free_guidance=True)
        for row, text in enumerate(TEXTS):
            torch.testing.assert_close(generator.encode_null()[0][0], expected[row], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(generator.encode_text(text)[0][0], expected[3 + row], atol=1e-5, rtol=1e-5)
            norms = generator.encode_text(text)[0].norm(dim=-1)
            torch.testing.assert_close(norms, torch.ones_like(norms))


@pytest.mark.parametrize("family", ["amused", "vq_diffusion"])
def test_argmax_keeps_path_diversity_and_a_frozen_path_removes_it(family, request, make_batch):
    generator = request.getfixturevalue(f"make_{family}")(num_steps=9, guidance_scale=1.0)
    generator.load()
    batch = make_batch(TEXTS[1], num_samples=6)
    assert len(generator.sample(batch, [Argmax()]).samples.tokens.unique(dim=0)) > 1
    assert len(generator.sample(batch, [Argmax(), FreezePath()]).samples.tokens.unique(dim=0)) == 1


@pytest.mark.parametrize(
    ("family", "settings", "words"),
    [
        ("amused", {"num_steps": 0}, "num_steps"),
        ("amused", {"mask_temperature": (-1.0, 0.0)}, "mask_temperature"),
        ("amused", {"size": "amused-256"}, "8192"),
        ("amused", {"checkpoint": "nowhere"}, "nowhere"),
        ("vq_diffusion", {"num_steps": 101}, "100"),
        ("vq_diffusion", {"truncation_rate": 1.5}, "1.5"),
        ("vq_diffusion", {"size": "ithq"}, "4096"),
        ("vq_diffusion", {"guidance_scale": float("nan")}, "guidance_scale"),
    ],
)
def test_invalid_input_is_an_error_before_weights_are_loaded(family, settings, words, request, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", lambda *a, **k: pytest.fail("weights were loaded"))
    make = request.getfixturevalue(f"make_{family}")
    with pytest.raises(ValueError, match=words):
        make(**settings).locate()
