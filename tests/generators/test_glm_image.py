"""GLM-Image: the plan against transformers' own `generate`, the image against diffusers' own call, and the parts."""

import json
import shutil

import pytest
import torch
from tiny_token_models import CODES
from transformers.generation import LogitsProcessorList

from gendiv_lightning.callbacks import Argmax, Branch, FreezePath, Temperature, TopK
from gendiv_lightning.errors import ConfigValueError, ProbeError, WrongWeightsError
from gendiv_lightning.generators.glm_image import PLANNER, PlanDrawing
from gendiv_lightning.prompts.design import apply_designs
from gendiv_lightning.records import NoiseKey, SampleDesign
from gendiv_lightning.sampling import Noise
from gendiv_lightning.sampling.planned import PlannedSampler

TEXT = "two green hills"
KEYS = [NoiseKey("prompt", 0, row, row) for row in range(3)]
NUM_PREVIEW, SIDE = 256, 2

pytestmark = pytest.mark.filterwarnings("ignore")  # of diffusers and transformers, about their own past


@pytest.fixture(scope="module")
def generator(make_glm_image):
    generator = make_glm_image()
    generator.load()
    return generator


@torch.inference_mode()
def plans(generator, probes=()):
    return generator.draw_plan(TEXT, generator.sampler(0, KEYS, probes))[0]


def distance(latents):
    """The largest difference between two rows, minimised over pairs of rows."""
    return min((latents[i] - latents[j]).abs().max().item() for i, j in ((0, 1), (0, 2), (1, 2)))


def test_a_plan_has_a_preview_and_the_tokens_of_the_image(generator):
    plan = plans(generator)
    assert plan.shape == (3, NUM_PREVIEW + SIDE**2) == (3, generator.num_planned)
    assert plan.max() < CODES  # no start or end of an image
    assert len(plan.unique(dim=0)) == 3


def test_the_most_probable_plan_agrees_with_greedy_decoding_in_transformers(generator):
    plan = plans(generator, [Temperature(0.0)])
    planner, inputs = getattr(generator.pipeline, PLANNER), generator._plan_inputs(TEXT)
    with torch.inference_mode():
        found = planner.generate(
            **inputs, max_new_tokens=260, do_sample=False, suppress_tokens=list(range(CODES, CODES + 8))
        )
    assert torch.equal(plan, found[:, inputs["input_ids"].shape[1] :].expand(3, -1))


def test_plan_tokens_follow_the_probabilities_of_the_planner(generator):
    keys = [NoiseKey("prompt", 0, row, row) for row in range(20)]
    sampler = generator.sampler(0, keys, [TopK(10)]).plan_sampler(torch.device("cpu"))
    drawing, inputs = PlanDrawing(sampler, 260), generator._plan_inputs(TEXT)
    with torch.inference_mode():
        output = getattr(generator.pipeline, PLANNER).generate(
            **{name: torch.cat([value] * 20) for name, value in inputs.items()},
            max_new_tokens=260,
            do_sample=False,
            logits_processor=LogitsProcessorList([drawing]),
            return_dict_in_generate=True,
            output_logits=True,
        )
    tokens = output.sequences[:, inputs["input_ids"].shape[1] :]
    assert torch.equal(tokens, drawing.grid.samples().tokens)
    logits = torch.stack(output.logits, 1)[..., :CODES]
    best = logits.topk(10).values[..., -1:]
    probs = logits.masked_fill(logits < best, -torch.inf).double().softmax(-1)
    own = probs.gather(-1, tokens[..., None])[..., 0]
    assert (own > 0).all()
    # The expected probability of a drawn token is the sum of squares.
    expected, squares = (probs**2).sum(-1), (probs**3).sum(-1)
    error = (own - expected).sum() / (squares - expected**2).sum().sqrt()
    assert abs(float(error)) < 4


def test_images_agree_with_the_pipeline_for_the_same_plan_and_latents(generator, make_batch):
    batch = make_batch(TEXT, num_samples=3)
    ours = generator.sample(batch)
    sampler = generator.sampler(batch.seed, batch.keys)
    with torch.inference_mode():
        plan, (height, width) = generator.draw_plan(TEXT, sampler)
        pipeline = generator.pipeline
        prior = [pipeline._upsample_token_ids(row, height, width) for row in plan[:, NUM_PREVIEW:]]
        images = pipeline(
            prompt=[TEXT] * 3,
            height=64,
            width=64,
            num_inference_steps=2,
            guidance_scale=2.0,
            prior_token_ids=torch.cat(prior),
            latents=sampler.initial_noise((3, 4, 8, 8)),
            output_type="pt",
        ).images
    assert torch.equal(ours.images, (255 * images).round().clamp(0, 255).to(torch.uint8))


@pytest.mark.parametrize("part", ["plan", "decoder", None])
def test_a_frozen_part_is_shared_and_the_other_is_not(generator, part):
    sampler = generator.sampler(0, KEYS, [FreezePath(part)])
    plan = plans(generator, [FreezePath(part)])
    noise = sampler.initial_noise((3, 4, 8, 8))
    assert len(plan.unique(dim=0)) == (3 if part == "decoder" else 1)
    assert len(noise.unique(dim=0)) == (3 if part == "plan" else 1)
    if part == "decoder":
        assert torch.equal(plan, plans(generator))  # as without the probe
    if part == "plan":
        assert torch.equal(noise, generator.sampler(0, KEYS).initial_noise((3, 4, 8, 8)))


@pytest.mark.slow
def test_images_differ_by_the_part_that_is_not_frozen(generator, make_batch):
    batch = make_batch(TEXT, num_samples=3)
    num_distinct = {
        part: len(generator.sample(batch, [FreezePath(part)]).images.unique(dim=0))
        for part in ("plan", "decoder", None)
    }
    assert num_distinct == {"plan": 3, "decoder": 3, None: 1}


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 100, 260, 261])
def test_a_branch_counts_the_plan_first(generator, make_batch, step):
    batch = make_batch(TEXT, num_samples=3)
    plan = plans(generator, [Branch(step)])
    shared = plan[:, :step]
    assert (shared == shared[:1]).all()
    assert len(plan.unique(dim=0)) == (3 if step < 260 else 1)
    latents = generator.sample(batch, [Branch(step)]).samples.latents
    assert (distance(latents) > 1e-2) == (step <= 260)
    if step == 0:
        assert torch.equal(latents, generator.sample(batch).samples.latents)


def test_argmax_changes_nothing_if_the_scheduler_adds_no_noise(generator):
    assert not generator.adds_noise
    assert generator.describe()["chance"]["execution"] == ""
    assert torch.equal(plans(generator, [Argmax()]), plans(generator))


def test_decisions_are_numbered_over_plan_initial_noise_and_steps():
    names = [("p", 0, row) for row in range(2)]
    sampler = PlannedSampler(Noise.of(0, "path", names), Noise.of(0, "exec", names), 5, CODES)
    shape = (2, 7)
    late = sampler.path.branch(5), sampler.path.branch(6)
    shared = [PlannedSampler(path, sampler.exec, 5, CODES).initial_noise(shape) for path in late]
    assert torch.equal(shared[0], sampler.initial_noise(shape))  # decision 5 is the first of their own
    assert torch.equal(shared[1][0], shared[1][1])
    assert not torch.equal(sampler.step_noise(0, shape), sampler.step_noise(1, shape))
    assert (PlannedSampler(sampler.path, sampler.exec.off(), 5, CODES).step_noise(0, shape) == 0).all()


def test_freezing_a_part_of_a_path_without_parts_is_an_error(make_emu3):
    generator = make_emu3()
    for part in ("plan", "decoder"):
        with pytest.raises(ProbeError, match=rf"FreezePath\(part='{part}'\) needs a path of two parts"):
            generator.check_probes([FreezePath(part)])


def test_a_frozen_part_leaves_the_design_and_is_part_of_the_identity():
    design = SampleDesign(8)
    assert apply_designs(design, [FreezePath("plan")]) == design
    assert apply_designs(design, [FreezePath()]) != design
    assert FreezePath().identity(8) == {"probe": "FreezePath"}
    assert FreezePath("plan").identity(8) == {"probe": "FreezePath", "part": "plan"}
    assert FreezePath("plan").describe(8).isolates == "the diversity of the decoder's noise"


def test_settings_of_the_plan_default_to_those_of_the_checkpoint(make_glm_image):
    generator = make_glm_image(top_k=None, temperature=0.7)
    generator.locate()
    assert generator.plan_settings == {"temperature": 0.7, "top_k": 50, "top_p": 1.0}
    assert generator.identity()["plan"] == generator.plan_settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature must be a finite number of at least 0, got -1.0"),
        ({"top_k": -1}, "top_k must be at least 1, or 0 for all, got -1"),
        ({"top_p": 1.5}, r"top_p must be a probability in \[0, 1\], got 1.5"),
        ({"image_size": 72}, r"image_size must be a multiple of 32, .* got 72. Try 64"),
        ({"image_size": (64, 8)}, r"image_size must be a multiple of 32, .* got 8. Try 32"),
    ],
)
def test_settings_of_the_plan_out_of_range_are_an_error(make_glm_image, settings, message):
    with pytest.raises(ConfigValueError, match=message):
        make_glm_image(**settings)


def test_settings_of_the_checkpoint_out_of_range_are_an_error(make_glm_image, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(make_glm_image().checkpoint, folder)
    path = folder / PLANNER / "generation_config.json"
    path.write_text(json.dumps({"temperature": 0.9, "top_p": 75}))
    with pytest.raises(WrongWeightsError, match=r"generation_config.json: top_p must be a probability"):
        make_glm_image(checkpoint=str(folder)).locate()
    generator = make_glm_image(checkpoint=str(folder), top_p=0.75)
    generator.locate()
    assert generator.plan_settings == {"temperature": 0.9, "top_k": 0, "top_p": 0.75}


def test_a_folder_without_a_planner_is_an_error(make_glm_image, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(make_glm_image().checkpoint, folder)
    path = folder / PLANNER / "config.json"
    path.write_text(json.dumps({"model_type": "glm_image"}))
    with pytest.raises(WrongWeightsError, match="not the planner of GLM-Image"):
        make_glm_image(checkpoint=str(folder)).locate()
