"""Any diffusers pipeline with keyed noise: parity with its call, separation of path and execution, and errors."""

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import tiny_pipelines
import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from gendiv_lightning.callbacks import Argmax, CodebookSubset, FreezePath, Guidance, Temperature
from gendiv_lightning.errors import NonFiniteError, PipelineError, ProbeError, WrongWeightsError
from gendiv_lightning.generators.diffusers_pipeline import DiffusersPipeline
from gendiv_lightning.generators.keyed_pipeline import draws_step_noise, keyed_noise
from gendiv_lightning.generators.text_encodings import remembered_encodings
from gendiv_lightning.sampling.latents import LatentSampler
from gendiv_lightning.sampling.noise import Noise
from gendiv_lightning.weights.resolve import MissingWeightsError

pytestmark = pytest.mark.filterwarnings("ignore")  # deprecations in diffusers and transformers

TEXTS = ("red sky", "a picture of a green hill and two red hills")
SCHEDULERS = {
    "DDIM, eta 0": {"scheduler": "DDIMScheduler", "call_args": {"eta": 0.0}},
    "DDIM, eta 1": {"scheduler": "DDIMScheduler", "call_args": {"eta": 1.0}},
    "DDPM": {"scheduler": "DDPMScheduler"},
    "Euler": {"scheduler": "EulerDiscreteScheduler"},
    "ancestral Euler": {"scheduler": "EulerAncestralDiscreteScheduler"},
    "UniPC": {"scheduler": "UniPCMultistepScheduler"},
    "SDE-DPM-Solver++": {
        "scheduler": "DPMSolverMultistepScheduler",
        "scheduler_args": {"algorithm_type": "sde-dpmsolver++"},
    },
    "LCM": {"scheduler": "LCMScheduler"},
}
ODE = ("DDIM, eta 0", "Euler", "UniPC")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pipelines")
    for name in ("StableDiffusionPipeline", "StableDiffusion3Pipeline"):
        tiny_pipelines.build(name, folder)
    return folder


@pytest.fixture(scope="module")
def make(checkpoints):
    def make(name: str = "StableDiffusionPipeline", **settings: Any) -> DiffusersPipeline:
        settings = {"num_steps": 3, "image_size": 32, "guidance_scale": 3.0, **settings}
        return DiffusersPipeline(str(checkpoints / name), **settings)

    return make


def spread(x: torch.Tensor) -> float:
    return float((x - x[:1]).abs().max())


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_path_and_execution_noise_are_separate_and_keyed_by_sample(make, make_batch, kind) -> None:
    generator = make(**SCHEDULERS[kind])
    batch = make_batch(*TEXTS, num_samples=3)
    torch.manual_seed(1)
    baseline = generator.sample(batch).samples.latents
    torch.manual_seed(2)
    again = generator.sample(batch).samples.latents
    assert torch.equal(again, baseline)
    assert generator.adds_noise == (kind not in ODE)
    for rows in (slice(0, 3), slice(3, 6)):
        frozen = generator.sample(batch, [FreezePath()]).samples.latents[rows]
        mode = generator.sample(batch, [Argmax()]).samples.latents[rows]
        neither = generator.sample(batch, [Argmax(), FreezePath()]).samples.latents[rows]
        assert spread(baseline[rows]) > 0.1
        assert spread(mode) > 0.1
        assert (spread(frozen) > 1e-3) == (kind not in ODE)
        assert spread(neither) < 1e-5
        assert torch.equal(mode, baseline[rows]) == (kind in ODE)


@pytest.mark.parametrize("name", ["StableDiffusionPipeline", "StableDiffusion3Pipeline"])
def test_a_sample_does_not_depend_on_its_batch(make, make_batch, name) -> None:
    batch = make_batch(*TEXTS, num_samples=3)
    whole = make(name, batch_size=6).sample(batch)
    for size in (1, 2, 4):
        part = make(name, batch_size=size).sample(batch)
        torch.testing.assert_close(part.samples.latents, whole.samples.latents, rtol=1e-4, atol=1e-4)
        assert (part.images.int() - whole.images.int()).abs().max() <= 1


@pytest.mark.parametrize("probes", [[], [FreezePath()]])
def test_in_half_precision_the_network_always_runs_a_full_batch(make, make_batch, probes) -> None:
    generator, sizes = make(dtype="bfloat16", batch_size=4), []
    hook = generator.pipeline.unet.conv_in.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    batch = generator.sample(make_batch(*TEXTS, num_samples=3), probes)
    hook.remove()
    assert set(sizes) == {2 * 4}  # with guidance
    assert len(batch.images) == 6
    alone = generator.sample(make_batch(TEXTS[0], num_samples=3), probes)
    assert torch.equal(alone.samples.latents, batch.samples.latents[:3])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("StableDiffusionPipeline", SCHEDULERS["DDIM, eta 0"]),
        ("StableDiffusionPipeline", SCHEDULERS["UniPC"]),
        ("StableDiffusion3Pipeline", {}),
    ],
)
def test_with_an_ode_scheduler_images_are_bit_identical_to_the_pipelines(make, make_batch, name, settings) -> None:
    generator = make(name, **settings)
    batch = make_batch(TEXTS[0], num_samples=3)
    ours = generator.sample(batch)
    bare = generator.pipeline
    sampler = generator.sampler(batch.seed, batch.keys)
    call = generator.call(TEXTS[0], 3, 3.0)
    with torch.inference_mode():
        latents = sampler.initial_noise((3, 4, 16, 16)) * getattr(bare.scheduler, "init_noise_sigma", 1)
        images = bare(**{**call, "output_type": "np"}, latents=latents).images
    assert (ours.images.permute(0, 2, 3, 1).numpy() == (images * 255).round().astype("uint8")).all()


@pytest.mark.parametrize(("part", "what"), [("unet", "the final latents"), ("vae", "the decoder's pixels")])
def test_nan_is_an_error_and_not_a_black_image(make, make_batch, part, what) -> None:
    generator = make()
    pipeline = generator.pipeline
    last = {"unet": pipeline.unet, "vae": pipeline.vae.decoder}[part].conv_out
    last.bias.data.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match=what):
        generator.sample(make_batch(TEXTS[0]))


def test_the_pipeline_is_restored_after_sampling(make, make_batch) -> None:
    generator = make()
    generator.sample(make_batch(TEXTS[0]))
    pipeline = generator.pipeline
    assert not {"prepare_latents", "encode_prompt"} & vars(pipeline).keys()
    assert "step" not in vars(pipeline.scheduler)


TRANSITIONS = {
    "DDIM, eta 1": diffusers.DDIMScheduler(),
    "DDPM": diffusers.DDPMScheduler(),
    "ancestral Euler": diffusers.EulerAncestralDiscreteScheduler(),
    "LCM": diffusers.LCMScheduler(),
}


def formula(scheduler: SchedulerMixin, step: int) -> float:
    """Standard deviation of the noise at a step according to the paper of the scheduler."""
    time, times = int(scheduler.timesteps[step]), scheduler.timesteps.tolist()
    earlier = int(times[step + 1])
    if isinstance(scheduler, diffusers.EulerAncestralDiscreteScheduler):
        now, after = (float(sigma) for sigma in scheduler.sigmas[step : step + 2])
        return (after**2 * (now**2 - after**2) / now**2) ** 0.5
    alphas = scheduler.alphas_cumprod
    now, after = float(alphas[time]), float(alphas[earlier])
    if isinstance(scheduler, diffusers.LCMScheduler):
        return (1 - after) ** 0.5
    return ((1 - after) / (1 - now) * (1 - now / after)) ** 0.5


@pytest.mark.parametrize("kind", TRANSITIONS)
def test_transitions_have_the_mean_and_variance_of_their_scheduler(kind) -> None:
    scheduler = type(TRANSITIONS[kind]).from_config(TRANSITIONS[kind].config)
    scheduler.set_timesteps(10)
    names = [("p", 0, row) for row in range(200)]
    own = LatentSampler(Noise.of(0, "path", names), Noise.of(0, "exec", names))
    off = LatentSampler(own.path, own.exec.off())
    sample = torch.linspace(-1, 1, 4 * 8 * 8).view(1, 4, 8, 8).expand(200, 4, 8, 8)
    prediction = sample.flip(1) / 3
    pipeline = Stub(scheduler)
    extra = {"eta": 1.0} if "eta" in kind else {}

    def step(sampler: LatentSampler, scheduler: Any) -> torch.Tensor:
        with keyed_noise(pipeline, sampler):
            pipeline.prepare_latents((200, 4, 8, 8))
            scheduler.scale_model_input(sample, scheduler.timesteps[0])
            return scheduler.step(prediction, scheduler.timesteps[0], sample, **extra, return_dict=False)[0]

    drawn = step(own, scheduler)
    scheduler.set_timesteps(10)
    mean = step(off, scheduler)
    sigma = formula(scheduler, 0)
    rest = (drawn - mean).double() / sigma
    assert float(mean.std(0).max()) < 1e-6
    assert abs(float(rest.mean())) < 4 / rest.numel() ** 0.5
    assert abs(float(rest.var()) - 1) < 4 * (2 / rest.numel()) ** 0.5


class Stub:
    """A minimal pipeline: a scheduler and a call method."""

    _execution_device = torch.device("cpu")

    def __init__(self, scheduler: Any) -> None:
        self.scheduler, self.num_encoded = scheduler, 0

    def prepare_latents(self, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape)

    def encode_prompt(self, prompt: str, embeds: torch.Tensor | None = None) -> torch.Tensor:
        self.num_encoded += 1
        return torch.full((1,), float(len(prompt)))


def rows(number: int) -> LatentSampler:
    names = [("p", 0, row) for row in range(number)]
    return LatentSampler(Noise.of(0, "path", names), Noise.of(0, "exec", names))


def test_noise_from_the_global_generator_is_an_error() -> None:
    pipeline = Stub(diffusers.DDIMScheduler())

    def call() -> None:
        with keyed_noise(pipeline, rows(2)):
            pipeline.prepare_latents((2, 3))
            torch.randn(1)

    with pytest.raises(ValueError, match="Stub draws from torch's global generator outside of"):
        call()


def test_a_draw_on_a_gpu_that_is_first_used_inside_the_call_is_found(monkeypatch) -> None:
    """CUDA is initialized before the states are read, so that they can be compared. No GPU is needed."""
    states: list[torch.Tensor] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "init", lambda: states or states.append(torch.zeros(16, dtype=torch.uint8)))
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [state.clone() for state in states])

    def call(draws: int) -> None:
        pipeline = Stub(diffusers.DDIMScheduler())
        with keyed_noise(pipeline, rows(2)):
            pipeline.prepare_latents((2, 3))
            torch.cuda.init()
            states[0] += draws

    call(0)
    with pytest.raises(ValueError, match="Stub draws from torch's global generator outside of"):
        call(1)


def test_a_pipeline_without_initial_noise_is_an_error() -> None:
    with (
        pytest.raises(ValueError, match="Stub draws no initial noise"),
        keyed_noise(Stub(diffusers.DDIMScheduler()), rows(2)),
    ):
        pass


def test_a_scheduler_whose_noise_cannot_be_keyed_is_an_error() -> None:
    class Coin(diffusers.DDIMScheduler):
        def step(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor]:
            return (torch.rand(2, 3),)

    pipeline = Stub(Coin())

    def call() -> None:
        with keyed_noise(pipeline, rows(2)):
            pipeline.prepare_latents((2, 3))
            pipeline.scheduler.step()

    with pytest.raises(ValueError, match=r"Coin\.step calls rand, whose numbers cannot be keyed"):
        call()


def test_a_text_is_encoded_once_for_all_batches_of_its_samples() -> None:
    pipeline, memory = Stub(diffusers.DDIMScheduler()), {}
    for text in ("a", "a", "bb", "bb", "bb"):
        with remembered_encodings(pipeline, memory):
            assert pipeline.encode_prompt(text) == len(text)
    assert pipeline.num_encoded == 2
    with remembered_encodings(pipeline, memory):
        pipeline.encode_prompt("bb", embeds=torch.ones(1))
    assert pipeline.num_encoded == 3


@pytest.mark.parametrize(
    ("scheduler", "call", "adds"),
    [
        (diffusers.DDIMScheduler(), {}, False),
        (diffusers.DDIMScheduler(), {"eta": 0.5}, True),
        (diffusers.DDPMScheduler(), {}, True),
        (diffusers.HeunDiscreteScheduler(), {}, False),
        (diffusers.PNDMScheduler(), {}, False),
        (diffusers.KDPM2AncestralDiscreteScheduler(), {}, True),
        (diffusers.TCDScheduler(), {"eta": 0.3}, True),
        (diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), {}, False),
        (diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), {}, True),
        (diffusers.DPMSolverMultistepScheduler(), {}, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, SchedulerMixin) else str(value),
)
def test_an_ode_sampler_is_recognised_before_weights_are_loaded(scheduler, call, adds) -> None:
    assert draws_step_noise(scheduler, 6, call) == adds


def test_a_stochastic_flow_is_keyed_and_an_ode_flow_reports_no_execution_noise(make, make_batch) -> None:
    batch = make_batch(TEXTS[0], num_samples=3)
    ode, flow = (
        make("StableDiffusion3Pipeline"),
        make("StableDiffusion3Pipeline", scheduler_args={"stochastic_sampling": True}),
    )
    for generator, adds in ((ode, False), (flow, True)):
        generator.locate()
        assert generator.identity()["execution_noise"] is adds
        assert bool(generator.describe()["chance"]["execution"]) is adds
        assert (spread(generator.sample(batch, [FreezePath()]).samples.latents) > 1e-3) is adds


def test_the_guidance_probe_sets_the_scale_and_is_an_error_without_guidance(make, make_batch) -> None:
    batch = make_batch(TEXTS[0], num_samples=2)
    probed = make().sample(batch, [Guidance(5.0)]).samples.latents
    assert torch.equal(probed, make(guidance_scale=5.0).sample(batch).samples.latents)
    with pytest.raises(ValueError, match="Guidance probe requires a pipeline with guidance"):
        make(guidance_scale=None).sample(batch, [Guidance(5.0)])


@pytest.mark.parametrize("probe", [CodebookSubset("list", tokens=[0]), Temperature(0.5)])
def test_token_probes_are_an_error_before_loading(make, make_batch, probe) -> None:
    generator = make()
    with pytest.raises(ValueError, match=f"{type(probe).__name__} sets .* which a LatentSampler does not have"):
        generator.sampler(0, (), [probe])
    with pytest.raises(ValueError, match="it requires a generator that draws tokens"):
        generator.check_probes([probe])
    assert generator._pipeline is None


def test_the_fingerprint_contains_weights_scheduler_settings_and_versions(make) -> None:
    generator = make(**SCHEDULERS["DDIM, eta 1"])
    generator.locate()
    identity = json.loads(json.dumps(generator.identity()))
    assert identity["pipeline"] == "StableDiffusionPipeline"
    assert identity["scheduler"]["class"] == "DDIMScheduler"
    assert identity["scheduler"]["beta_schedule"] == "linear"
    assert identity["call_args"] == {"eta": 1.0}
    assert identity["diffusers"] == diffusers.__version__
    assert {len(identity[part]) for part in ("unet", "vae", "text_encoder", "tokenizer")} == {64}


def test_long_prompts_are_reported(make) -> None:
    warnings = make().check_prompts(["red sky", "red sky " * 30])
    assert len(warnings) == 1
    assert "longer than 16 tokens" in warnings[0]


def test_the_limit_of_a_prompt_is_the_one_that_the_call_sets(tmp_path) -> None:
    folder = str(tiny_pipelines.build("StableDiffusion3Pipeline", tmp_path))
    path = Path(folder, "tokenizer_3", "tokenizer_config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": 1000}))
    limits = [
        DiffusersPipeline(folder, call_args=call).text_lengths([]).limit
        for call in ({}, {"max_sequence_length": 16}, {"max_sequence_length": 512})
    ]
    assert limits == [256, 16, 512]


def broken(checkpoints: Path, folder: Path, change) -> str:
    target = folder / "broken"
    shutil.copytree(checkpoints / "StableDiffusionPipeline", target)
    change(target)
    return str(target)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scheduler": "DDIMSchedular"}, "scheduler: diffusers has no scheduler 'DDIMSchedular'"),
        ({"scheduler": "UNet2DModel"}, "diffusers has no scheduler 'UNet2DModel'"),
        ({"scheduler_args": {"etta": 1}}, "scheduler_args: DDIMScheduler has no argument 'etta'"),
        ({"call_args": {"etta": 1}}, "call_args: StableDiffusionPipeline has no argument 'etta'"),
        ({"call_args": {"generator": None}}, "call_args must not contain generator"),
        ({"image_size": 33}, "image_size must be a multiple of 2"),
        ({"image_size": (32, 31)}, "image_size must be a multiple of 2.*got 31"),
        ({"num_steps": 0}, "num_steps must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"pipeline": "StableDiffusionImg2ImgPipeline"}, "StableDiffusionImg2ImgPipeline is not a text-to-image"),
        ({"pipeline": "StableVideoDiffusionPipeline"}, "is not a text-to-image pipeline"),
        ({"pipeline": "os.system"}, "diffusers has no pipeline class 'os.system'"),
        ({"pipeline": "LattePipeline"}, "LattePipeline is not a text-to-image pipeline"),
        ({"pipeline": "StableCascadePriorPipeline"}, "is not a text-to-image pipeline"),
        ({"pipeline": "StableDiffusion3Pipeline"}, "StableDiffusion3Pipeline needs transformer, which .*does not have"),
        ({"scheduler": "SchedulerMixin"}, "diffusers has no scheduler 'SchedulerMixin'"),
        ({"scheduler": "VQDiffusionScheduler"}, "VQDiffusionScheduler cannot be made from .*num_vec_classes"),
        ({"call_args": {"eta": -1.0}}, r"call_args\.eta must be in \[0, 1\], got -1"),
        ({"call_args": {"guidance_rescale": float("nan")}}, r"call_args\.guidance_rescale must be a finite number"),
        ({"call_args": {"callback_on_step_end": "os.system"}}, "call_args must not contain callback_on_step_end"),
    ],
)
def test_settings_that_do_not_fit_are_an_error_before_weights_load(make, settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings).locate()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: shutil.rmtree(f / "vae"), "has no folder 'vae'"),
        (
            lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").rename(f / "unet" / "x.bin"),
            "no .safetensors",
        ),
        (lambda f: (f / "model_index.json").unlink(), "model_index.json cannot be read"),
        (
            lambda f: (f / "model_index.json").write_text('{"_class_name": ["my", "Code"]}'),
            "Custom code is not executed",
        ),
    ],
)
def test_an_incomplete_checkpoint_is_an_error(checkpoints, tmp_path, change, message) -> None:
    with pytest.raises(ValueError, match=message):
        DiffusersPipeline(broken(checkpoints, tmp_path, change)).locate()


def test_the_default_eta_of_the_pipeline_decides_whether_noise_is_added(make) -> None:
    generators = [make(scheduler="TCDScheduler", call_args=call) for call in ({}, {"eta": 0.5})]
    for generator in generators:
        generator.locate()
    assert [generator.adds_noise for generator in generators] == [False, True]  # the step's own default is 0.3


def test_a_flow_with_inverted_sigmas_can_be_checked_without_its_pipeline() -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, invert_sigmas=True)
    assert not draws_step_noise(scheduler, 3, {})


def test_the_fingerprint_is_the_same_before_and_after_sampling(make, make_batch) -> None:
    generator = make(scheduler="DPMSolverSinglestepScheduler")
    generator.locate()
    before = generator.identity()
    generator.sample(make_batch(TEXTS[0]))
    assert generator.identity() == before


def test_damaged_weights_are_an_error_with_their_folder(checkpoints, tmp_path) -> None:
    def cut(folder: Path) -> None:
        path = folder / "unet" / "diffusion_pytorch_model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])

    with pytest.raises(WrongWeightsError, match=r"broken cannot be loaded \(.*Download it again"):
        DiffusersPipeline(broken(checkpoints, tmp_path, cut)).load()


def test_an_error_inside_the_pipeline_names_it_and_its_scheduler(make, make_batch) -> None:
    generator = make(scheduler="FlowMatchEulerDiscreteScheduler")
    with pytest.raises(PipelineError, match=r"StableDiffusionPipeline fails .*init_noise_sigma.*FlowMatchEuler"):
        generator.sample(make_batch(TEXTS[0]))


def test_a_missing_folder_is_an_error(tmp_path) -> None:
    with pytest.raises(MissingWeightsError, match="there is no folder"):
        DiffusersPipeline(str(tmp_path / "nothing")).locate()


def test_guidance_of_a_model_distilled_without_it_is_an_error(tmp_path) -> None:
    folder = tiny_pipelines.build("FluxPipeline", tmp_path)
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "guidance_embeds": False}))
    with pytest.raises(ValueError, match="has no guidance input"):
        DiffusersPipeline(str(folder), guidance_scale=3.0, image_size=32).locate()
    DiffusersPipeline(str(folder), image_size=32).locate()
    settings = {"guidance_scale": 1.0, "image_size": 32}
    with pytest.raises(ProbeError, match=r"Guidance probe sets 4.0, which would have no effect"):
        DiffusersPipeline(str(folder), **settings).check_probes([Guidance(4.0)])
    DiffusersPipeline(str(folder), **settings).check_probes([Guidance(1.0)])
    DiffusersPipeline(str(folder), **settings, call_args={"negative_prompt": " "}).check_probes([Guidance(4.0)])
