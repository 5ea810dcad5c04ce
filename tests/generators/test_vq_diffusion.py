"""VQ-Diffusion against diffusers' `VQDiffusionPipeline`, from its saved parts; see also test_pipeline_parity.py.

The pipeline draws by one `torch.Generator`: at each step Gumbel noise for all K + 1 outcomes of all positions; the
largest sum with the log-posterior is what a position becomes. That is one draw of a categorical distribution, which
ours makes in two: does the position change (path)? Into what, given that it does (execution)? The bounds of both come
from the posterior that the pipeline's scheduler computes.
"""

import shutil
from typing import NamedTuple

import pytest
import torch
from diffusers import Transformer2DModel, VQDiffusionPipeline, VQDiffusionScheduler, VQModel
from diffusers.pipelines.deprecated.vq_diffusion.pipeline_vq_diffusion import LearnedClassifierFreeSamplingEmbeddings
from diffusers.schedulers import scheduling_vq_diffusion
from replay import (
    TEXTS,
    Bounds,
    assert_same_calls,
    assert_same_images,
    assert_uniform,
    bounds_of_tokens,
    error_of_config,
    run_on,
    to_float64,
    watched,
)
from torch import Tensor
from transformers import AutoTokenizer, CLIPTextModel

from gendiv_lightning.callbacks import Argmax, PosteriorArgmax
from gendiv_lightning.generators import VQDiffusion
from gendiv_lightning.records import NoiseKey
from gendiv_lightning.sampling.diffusion import Transition, sample_diffusion

L, K = 36, 256
LEARNED = "learned_classifier_free_sampling_embeddings"


def assemble(folder):
    """Load part by part: `VQDiffusionPipeline.from_pretrained` no longer finds the class of the null embedding.

    The scheduler's tables are not rounded to float32, by which its posterior is off by 1.3e-5; ours is by 7e-7.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        scheduler = VQDiffusionScheduler.from_pretrained(folder / "scheduler")
    return VQDiffusionPipeline(
        VQModel.from_pretrained(folder / "vqvae"),
        CLIPTextModel.from_pretrained(folder / "text_encoder"),
        AutoTokenizer.from_pretrained(folder / "tokenizer"),
        Transformer2DModel.from_pretrained(folder / "transformer"),
        scheduler,
        LearnedClassifierFreeSamplingEmbeddings.from_pretrained(folder / LEARNED),
    )


@pytest.fixture(scope="module")
def folders(pipelines, tmp_path_factory):
    """Pipelines saved by diffusers, with a learned null embedding or with that of the empty prompt."""
    folders = {is_learned: tmp_path_factory.mktemp("vq_diffusion") for is_learned in (True, False)}
    pipeline = assemble(pipelines / "vq_diffusion")
    pipeline.save_pretrained(folders[True])
    pipeline.register_modules(**{LEARNED: LearnedClassifierFreeSamplingEmbeddings(learnable=False)})
    pipeline.save_pretrained(folders[False])
    return folders


@pytest.fixture
def make_pair(folders, make_vq_diffusion):
    """The pipeline and our generator from the same folder."""

    def make(is_learned=True, **settings):
        generator = make_vq_diffusion(checkpoint=str(folders[is_learned]), spacing="last", **settings)
        generator.load()
        pipeline = assemble(folders[is_learned])
        pipeline.set_progress_bar_config(disable=True)
        return to_float64(pipeline), to_float64(generator)

    return make


class PipelineRun(NamedTuple):
    """A run of the pipeline; steps first, then B and L.

    Attributes:
        calls: arguments of the network.
        logits: (steps, B, L, K), guided and truncated; what is truncated is below -69.
        tokens: (steps + 1, B, L), before each step and at the end.
        posterior: (steps, B, L, K + 1), probabilities.
        changes: bool, positions that change.
        path: bounds of the uniforms that decide whether they do.
        execution: bounds of those that decide what they become; they decide nothing where there is no change.
        pictures: (B, H, W, 3) in [0, 1].
    """

    calls: list[dict[str, Tensor]]
    logits: Tensor
    tokens: Tensor
    posterior: Tensor
    changes: Tensor
    path: Bounds
    execution: Bounds
    pictures: object


def run_pipeline(pipeline, texts, num_steps, guidance, rate=1.0):
    logits, posterior, tokens = [], [], [torch.full((len(texts), L), K)]
    step, q_posterior = VQDiffusionScheduler.step, VQDiffusionScheduler.q_posterior

    def watched_posterior(scheduler, log_probs, sample, timestep):
        posterior.append(q_posterior(scheduler, log_probs, sample, timestep))
        return posterior[-1]

    def watched_step(scheduler, model_output, timestep, sample, generator):
        logits.append(model_output.transpose(1, 2))
        result = step(scheduler, model_output, timestep, sample, generator=generator)
        tokens.append(result.prev_sample)
        return result

    with watched(pipeline.transformer) as calls, pytest.MonkeyPatch.context() as patch:
        patch.setattr(VQDiffusionScheduler, "step", watched_step)
        patch.setattr(VQDiffusionScheduler, "q_posterior", watched_posterior)
        pictures = pipeline(
            texts,
            num_inference_steps=num_steps,
            guidance_scale=guidance,
            truncation_rate=rate,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
        ).images
    # At timestep 0 the image itself is sampled, without masked positions.
    posterior.append(torch.nn.functional.pad(logits[-1].transpose(1, 2), (0, 0, 0, 1), value=-torch.inf))
    probs, states = torch.stack(posterior).softmax(2).transpose(2, 3), torch.stack(tokens)
    before, after = states[:-1, ..., None], states[1:]
    changes = before[..., 0] != after
    change, zero = 1 - probs.gather(-1, before)[..., 0], torch.zeros(after.shape, dtype=torch.float64)
    path = Bounds(torch.where(changes, zero, change), torch.where(changes, change, 1.0))
    others = probs.scatter(-1, before, 0.0)[..., :K]
    execution = bounds_of_tokens(others, torch.where(changes, after, 0))
    return PipelineRun(calls, torch.stack(logits), states, probs, changes, path, execution, pictures)


RUNS = {
    "official": {"num_steps": 100, "guidance_scale": 5.0},
    "truncated": {"num_steps": 30, "guidance_scale": 2.5, "truncation_rate": 0.86, "is_learned": False},
    "unguided": {"num_steps": 12, "guidance_scale": 1.0, "truncation_rate": 0.7},
    "one step": {"num_steps": 1, "guidance_scale": 3.0, "is_learned": False},
}


@pytest.mark.parametrize("run", RUNS)
def test_a_run_agrees_with_the_pipeline_on_the_same_draws(make_pair, make_batch, run):
    """Compares conditions, timesteps, logits after guidance and truncation, posteriors, states, tokens and images."""
    pipeline, generator = make_pair(**RUNS[run])
    theirs = run_pipeline(pipeline, TEXTS, generator.num_steps, generator.guidance_scale, generator.top_p)
    # As close as possible to the bound between change and no change.
    path = torch.where(theirs.changes, theirs.path.at(0.999), theirs.path.at(0.001))
    ours = run_on(generator, sample_diffusion, make_batch(*TEXTS), path, theirs.execution.at(0.5))
    assert_same_calls(ours.calls, theirs.calls)
    sampler = generator.sampler(0, ())
    logits = sampler.filter_logits(torch.stack(ours.logits))
    kept = theirs.logits > -69
    if sampler.top_p < 1:
        assert torch.equal(logits.isfinite(), kept)
        assert 0.01 < kept.double().mean() < 0.9
    expected = theirs.logits.masked_fill(~kept, -torch.inf).log_softmax(-1)
    torch.testing.assert_close(logits.log_softmax(-1)[kept], expected[kept], atol=1e-5, rtol=0, check_dtype=False)
    for call, own, before, posterior in zip(theirs.calls, logits, theirs.tokens, theirs.posterior, strict=False):
        time = int(call["timestep"])
        move = Transition(generator.schedule, time, time - 1)
        probs = move.posterior(own.softmax(-1).flatten(0, 1), before.flatten()).view_as(posterior)
        torch.testing.assert_close(probs, posterior, atol=1e-5, rtol=0, check_dtype=False)
    assert torch.equal(ours.samples.tokens, theirs.tokens[-1])
    assert_same_images(ours.images, theirs.pictures)
    assert not torch.equal(ours.samples.tokens[0], ours.samples.tokens[-1])  # one text, two samples
    replaced = (theirs.changes & (theirs.tokens[:-1] != K))[:-1].sum()
    assert (replaced > 0) == (generator.num_steps > 1)


def test_conditions_are_normalized_and_a_learned_null_embedding_is_unchanged(make_pair, make_batch):
    """Every run asserts that the pipeline gets the same conditions."""
    pipeline, generator = make_pair(num_steps=1)
    batch, any_number = make_batch(*TEXTS), torch.full((1, len(TEXTS), L), 0.5, dtype=torch.float64)
    states = run_on(generator, sample_diffusion, batch, any_number, any_number).calls[0]["encoder_hidden_states"]
    null, conditional = states.chunk(2)
    torch.testing.assert_close(conditional.norm(dim=-1), torch.ones(conditional.shape[:2], dtype=torch.float64))
    learned = getattr(pipeline, LEARNED).embeddings.detach()
    assert (null == learned).all()
    assert (learned.norm(dim=-1) - 1).abs().max() > 0.1


def test_the_null_condition_follows_the_device(make_vq_diffusion):
    generator = make_vq_diffusion()
    generator.load()
    generator.learned = None  # so that the null condition is the empty text
    sampler = generator.sampler(0, [NoiseKey("prompt", 0, 0, 0)])
    for device in ("cpu", "meta"):
        (states,) = generator.to(device).condition_rows(generator.encode_prompts(["red sky"]), sampler)
        assert states.shape[0] == 2
        assert states.device.type == device


def test_the_draws_of_the_pipeline_are_uniform_in_path_and_execution_noise(make_pair):
    """Tested on 20,000 decisions whether a position changes and 4,000 tokens of changing positions."""
    run = run_pipeline(make_pair()[0], TEXTS * 38, 5, 1.0)
    assert_uniform(run.path, torch.ones_like(run.changes), 20_000)
    assert_uniform(run.execution, run.changes, 4_000)


def test_posterior_argmax_is_the_pipeline_without_noise_unlike_argmax(make_pair, make_batch, monkeypatch):
    """The literal argmax keeps all positions masked for nearly all steps, so `Argmax` is defined differently."""
    monkeypatch.setattr(scheduling_vq_diffusion, "gumbel_noised", lambda log_probs, generator: log_probs)
    pipeline, generator = make_pair(num_steps=40)
    theirs = run_pipeline(pipeline, TEXTS, 40, generator.guidance_scale)
    noise = torch.rand(2, 40, len(TEXTS), L, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    literal = run_on(generator, sample_diffusion, make_batch(*TEXTS), *noise, [PosteriorArgmax()])
    assert_same_calls(literal.calls, theirs.calls)
    assert torch.equal(literal.samples.tokens, theirs.tokens[-1])
    assert_same_images(literal.images, theirs.pictures)
    ours = run_on(generator, sample_diffusion, make_batch(*TEXTS), *noise, [Argmax()])

    def num_masked(run):
        return [(call["hidden_states"][: len(TEXTS)] == K).double().mean() for call in run.calls]

    assert min(num_masked(literal)[:-3]) == 1
    assert 0.4 < num_masked(ours)[20] < 0.6
    assert torch.equal(literal.samples.tokens[0], literal.samples.tokens[-1])
    assert not torch.equal(ours.samples.tokens[0], ours.samples.tokens[-1])


BAD_INPUT = [
    (["--model.num_steps", "0"], "num_steps must be at least 1, got 0"),
    (["--model.num_steps", "101"], "num_steps must be in 1..100, the times of the network, got 101"),
    (["--model.spacing", "odd"], "odd"),
    (["--model.truncation_rate", "1.01"], "[0, 1], got 1.01"),
    (["--model.truncation_rate", "-0.1"], "[0, 1], got -0.1"),
    (["--model.guidance_scale", ".inf"], "guidance_scale must be a finite number, got inf"),
    (["--model.temperature", "-1"], "temperature must be a finite number of at least 0, got -1.0"),
    (["--model.size", "ithq"], "does not match the settings: num_vq_embeddings 256, not 4096"),
]


@pytest.fixture
def _nothing_runs(monkeypatch):
    monkeypatch.setattr(VQDiffusion, "load", lambda self: pytest.fail("a model is loaded"))


@pytest.mark.usefixtures("_nothing_runs")
@pytest.mark.parametrize(("more", "words"), BAD_INPUT, ids=lambda given: given[-1])
def test_the_error_for_invalid_settings_is_one_line(pipelines, tmp_path, more, words):
    assert words in error_of_config("vq_diffusion", pipelines / "vq_diffusion", tmp_path / "run", *more)


@pytest.mark.usefixtures("_nothing_runs")
def test_the_error_for_a_wrong_folder_is_one_line(pipelines, tmp_path):
    def error(checkpoint):
        return error_of_config("vq_diffusion", checkpoint, tmp_path / "run")

    without = shutil.ignore_patterns("scheduler")
    assert f"missing: {LEARNED}" in error(pipelines / "amused")
    cut = shutil.copytree(pipelines / "vq_diffusion", tmp_path / "cut", ignore=without)
    assert "missing: scheduler" in error(cut)
    shutil.copytree(pipelines / "amused" / "scheduler", cut / "scheduler")
    assert "scheduler does not match the settings: num_vec_classes None, not 257" in error(cut)
    assert "/nowhere" in error("/nowhere")
