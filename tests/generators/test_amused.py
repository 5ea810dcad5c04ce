"""aMUSEd against diffusers' `AmusedPipeline`, loaded from the same saved pipeline; see also test_pipeline_parity.py.

The pipeline draws by one `torch.Generator`: at each step a token for all positions (`multinomial`), then Gumbel noise
for the confidences, except at the last step. Ours draws tokens from execution noise and Gumbel noise from path noise;
the order between the two is lost, and no token is drawn for a position that is known, where the pipeline draws one and
forgets it.
"""

import shutil
from typing import NamedTuple

import pytest
import torch
from diffusers import AmusedPipeline, AmusedScheduler, UVit2DModel, VQModel
from diffusers.schedulers import scheduling_amused
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
from transformers import AutoTokenizer, CLIPTextModelWithProjection

from gendiv_lightning.callbacks import Argmax
from gendiv_lightning.generators import Amused
from gendiv_lightning.sampling.masked import sample_masked

L, K = 36, 256


@pytest.fixture(scope="module")
def folder(pipelines, tmp_path_factory):
    """A pipeline saved by diffusers."""
    parts, folder = pipelines / "amused", tmp_path_factory.mktemp("amused")
    AmusedPipeline(
        VQModel.from_pretrained(parts / "vqvae"),
        AutoTokenizer.from_pretrained(parts / "tokenizer"),
        CLIPTextModelWithProjection.from_pretrained(parts / "text_encoder"),
        UVit2DModel.from_pretrained(parts / "transformer"),
        AmusedScheduler.from_pretrained(parts / "scheduler"),
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pipeline(folder):
    pipeline = AmusedPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return to_float64(pipeline)


@pytest.fixture
def make(make_amused, folder):
    def make(**settings):
        generator = make_amused(checkpoint=str(folder), **settings)
        generator.load()
        return to_float64(generator)

    return make


class PipelineRun(NamedTuple):
    """A run of the pipeline; steps first, then B and L.

    Attributes:
        calls: arguments of the network.
        logits: (steps, B, L, K), guided.
        unknown: bool, before each step.
        execution: bounds of the uniforms that draw its tokens.
        path: uniforms of its Gumbel noise.
        left: how many tokens of a row each step leaves unknown; the same in all rows.
        tokens: (B, L), at the end.
        pictures: (B, H, W, 3) in [0, 1].
    """

    calls: list[dict[str, Tensor]]
    logits: Tensor
    unknown: Tensor
    execution: Bounds
    path: Tensor
    left: list[int]
    tokens: Tensor
    pictures: object


def run_pipeline(pipeline, texts, num_steps, guidance, **settings):
    logits, before, drawn, after, gumbel = [], [], [], [], []
    step, noise = AmusedScheduler.step, scheduling_amused.gumbel_noise

    def watched_step(scheduler, model_output, timestep, sample, generator):
        result = step(scheduler, model_output, timestep, sample, generator=generator)
        logits.append(model_output.flatten(2).transpose(1, 2))
        for kept, grid in zip(
            (before, drawn, after), (sample, result.pred_original_sample, result.prev_sample), strict=True
        ):
            kept.append(grid.flatten(1))
        return result

    def watched_noise(probs, generator):
        gumbel.append(noise(probs, generator))
        return gumbel[-1]

    with watched(pipeline.transformer) as calls, pytest.MonkeyPatch.context() as patch:
        patch.setattr(AmusedScheduler, "step", watched_step)
        patch.setattr(scheduling_amused, "gumbel_noise", watched_noise)
        pictures = pipeline(
            texts,
            num_inference_steps=num_steps,
            guidance_scale=guidance,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
            **settings,
        ).images
    left = [sorted(set((grid == K).sum(1).tolist())) for grid in after]
    assert all(len(counts) == 1 for counts in left)
    last = torch.zeros_like(torch.stack(gumbel[:1] or [logits[0][..., 0]])[0])  # keeps all, so samples none
    return PipelineRun(
        calls,
        torch.stack(logits),
        torch.stack(before) == K,
        bounds_of_tokens(torch.stack(logits).softmax(-1), torch.stack(drawn)),
        torch.stack([*gumbel, last]).neg().exp().neg().exp(),
        [count for (count,) in left],
        after[-1],
        pictures,
    )


RUNS = {
    "official": {"num_steps": 12, "guidance_scale": 10.0},
    "unguided": {"num_steps": 12, "guidance_scale": 1.0},
    "one step": {"num_steps": 1, "guidance_scale": 2.0},
    "linear": {"num_steps": 7, "guidance_scale": 2.5, "mask_schedule": "linear", "mask_temperature": (4.5, 1.0)},
    "micro-conditions": {"num_steps": 5, "guidance_scale": 3.0, "crop": (3, 17), "aesthetic_score": 2.0},
}


@pytest.mark.parametrize("probes", [[], [Argmax()]], ids=["", "argmax"])
@pytest.mark.parametrize("run", RUNS)
def test_a_run_agrees_with_the_pipeline_on_the_same_draws(make, pipeline, make_batch, monkeypatch, run, probes):
    """Compares conditions, logits, counts, states, tokens and images; `Argmax` with an argmax in the pipeline."""
    generator = make(**RUNS[run])
    if probes:
        monkeypatch.setattr(torch, "multinomial", lambda probs, num, generator: probs.argmax(-1, keepdim=True))
    monkeypatch.setattr(pipeline, "scheduler", AmusedScheduler(K, generator.schedule.kind))
    theirs = run_pipeline(
        pipeline,
        TEXTS,
        generator.schedule.num_steps,
        generator.guidance_scale,
        temperature=generator.schedule.temperature,
        micro_conditioning_aesthetic_score=RUNS[run].get("aesthetic_score", 6),
        micro_conditioning_crop_coord=RUNS[run].get("crop", (0, 0)),
    )
    ours = run_on(generator, sample_masked, make_batch(*TEXTS), theirs.path, theirs.execution.at(0.5), probes)
    assert_same_calls(ours.calls, theirs.calls)
    torch.testing.assert_close(torch.stack(ours.logits), theirs.logits, atol=1e-5, rtol=0, check_dtype=False)
    assert theirs.left == generator.schedule.num_unknown(L)
    assert torch.equal(ours.samples.tokens, theirs.tokens)
    assert_same_images(ours.images, theirs.pictures)
    some_path = generator.schedule.num_steps > 1
    assert torch.equal(theirs.tokens[0], theirs.tokens[-1]) == bool(probes and not some_path)  # one text, two samples


@pytest.mark.parametrize("other", [{"crop": (30, 0)}, {"crop": (0, 30)}, {"aesthetic_score": 2.0}], ids=str)
def test_every_micro_condition_changes_the_logits(make, make_batch, other):
    """Otherwise the agreement with the pipeline would be meaningless."""
    batch = make_batch(*TEXTS[:2])
    assert not torch.equal(make(**other).sample(batch).samples.tokens, make().sample(batch).samples.tokens)


def test_the_draws_of_the_pipeline_are_uniform_in_execution_noise(pipeline):
    """Tested on 20,000 tokens from as many distributions, in the states of a run of 12 steps."""
    run = run_pipeline(pipeline, TEXTS * 24, 12, 1.0)
    assert_uniform(run.execution, run.unknown, 20_000)


BAD_INPUT = [
    (["--model.num_steps", "0"], "num_steps must be at least 1, got 0"),
    (["--model.mask_schedule", "square"], "square"),
    (["--model.mask_temperature", "[2,-1]"], "mask_temperature must be two numbers of at least 0, got (2.0, -1.0)"),
    (["--model.guidance_scale", ".inf"], "guidance_scale must be a finite number, got inf"),
    (["--model.top_p", "1.2"], "top_p must be a probability in [0, 1], got 1.2"),
    (["--model.size", "amused-512"], "does not match the settings: num_vq_embeddings 256, not 8192"),
]


@pytest.fixture
def _nothing_runs(monkeypatch):
    monkeypatch.setattr(Amused, "load", lambda self: pytest.fail("a model is loaded"))


@pytest.mark.usefixtures("_nothing_runs")
@pytest.mark.parametrize(("more", "words"), BAD_INPUT, ids=lambda given: given[0])
def test_the_error_for_invalid_settings_is_one_line(folder, tmp_path, more, words):
    assert words in error_of_config("amused", folder, tmp_path / "run", *more)


@pytest.mark.usefixtures("_nothing_runs")
def test_the_error_for_a_wrong_folder_is_one_line(pipelines, folder, tmp_path):
    def error(checkpoint):
        return error_of_config("amused", checkpoint, tmp_path / "run")

    assert "transformer does not match the settings: codebook_size None" in error(pipelines / "vq_diffusion")
    assert "missing: vqvae" in error(shutil.copytree(folder, tmp_path / "cut", ignore=shutil.ignore_patterns("vqvae")))
    assert "missing: text_encoder, tokenizer, transformer, scheduler, vqvae" in error(tmp_path)
    assert "/nowhere" in error("/nowhere")


@pytest.mark.usefixtures("_nothing_runs")
@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("text_encoder/model.safetensors", "text_encoder contains no weight file"),
        ("transformer/diffusion_pytorch_model.safetensors", "transformer contains no weight file"),
        ("tokenizer/tokenizer.json", "tokenizer does not contain the caption tokenizer"),
        ("text_encoder/config.json", "config.json cannot be read"),
        ("scheduler/scheduler_config.json", "has no 'mask_token_id'"),
    ],
)
def test_the_error_for_a_missing_file_is_one_line(folder, tmp_path, file, words):
    """A missing scheduler gives the same error as that of another pipeline."""
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / file).unlink()
    if file.startswith("scheduler"):
        (broken / file).write_text('{"num_vec_classes": 257}')
    assert words in error_of_config("amused", broken, tmp_path / "run")
