"""Every generator fulfils the contract: the three families with random weights, and all registered generators."""

import json
from functools import partial
from typing import NamedTuple

import pytest
import tiny_pipelines
import torch
from lightning import Trainer
from torch.utils.data import DataLoader

from gendiv_lightning import plugins
from gendiv_lightning.callbacks import Argmax, CodebookSubset, FreezePath, Temperature
from gendiv_lightning.generators.base import Generator
from gendiv_lightning.generators.diffusers_pipeline import DiffusersPipeline
from gendiv_lightning.generators.registry import make_generator
from gendiv_lightning.sampling import Observer
from gendiv_lightning.testing.generator_checks import CHECKS, PROMPTS, Subject, run_check


class Kind(NamedTuple):
    """A generator under test.

    Attributes:
        fixture: makes one.
        texts: prompts that it takes.
        networks: those that run in float64 here, so that no sample has to be excused at an edge draw.
        open: checks that do not apply.
    """

    fixture: str
    texts: tuple[str, ...] = PROMPTS
    networks: tuple[str, ...] = ()
    open: tuple[str, ...] = ()


CLASSES = ("3", "207", "999")
WITHOUT_LIKELIHOOD = ("likelihood_adds_up",)
OF_TOKENS = (
    *("subsets_are_respected", "subsets_intersect", "observers_see_every_token", "images_become_tokens"),
    "likelihood_adds_up",
)
PIPELINE = {"networks": ("text_encoder", "transformer"), "open": WITHOUT_LIKELIHOOD}
GENERATORS = {
    "llamagen t2i": Kind("make_t2i"),
    "llamagen c2i": Kind("make_c2i", CLASSES, networks=("gpt",)),
    "var": Kind("make_var", CLASSES, networks=("var",)),
    "amused": Kind("make_amused", **PIPELINE),
    "vq_diffusion": Kind("make_vq_diffusion", **PIPELINE),
    "meissonic": Kind("make_meissonic", **PIPELINE),
    "janus": Kind("make_janus"),
    "emu3": Kind("make_emu3"),
    "glm_image": Kind("make_glm_image", open=OF_TOKENS),
    "diffusers, DDIM": Kind("make_ode_pipeline", open=OF_TOKENS),
    "diffusers, DDPM": Kind("make_sde_pipeline", open=OF_TOKENS),
}


@pytest.fixture(scope="module")
def make_pipeline(tmp_path_factory):
    """A tiny random Stable Diffusion with the given scheduler."""
    checkpoint = tiny_pipelines.build("StableDiffusionPipeline", tmp_path_factory.mktemp("pipeline"))
    return partial(DiffusersPipeline, str(checkpoint), num_steps=2, image_size=32, guidance_scale=3.0)


@pytest.fixture(scope="module")
def make_ode_pipeline(make_pipeline):
    return partial(make_pipeline, scheduler="DDIMScheduler")


@pytest.fixture(scope="module")
def make_sde_pipeline(make_pipeline):
    return partial(make_pipeline, scheduler="DDPMScheduler")


WARNS = pytest.mark.filterwarnings("ignore")  # deprecations in diffusers and transformers
SLOW = ("glm_image",)  # 260 tokens per plan
PARAMS = [
    pytest.param(kind, id=name, marks=[*[WARNS] * (kind.open == OF_TOKENS), *[pytest.mark.slow] * (name in SLOW)])
    for name, kind in GENERATORS.items()
]


@pytest.fixture(params=PARAMS, scope="module")
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def subject(kind, request):
    make = request.getfixturevalue(kind.fixture)
    generator = make()
    generator.locate()
    generator.load()
    for network in kind.networks:
        getattr(generator, network).double()
    return Subject(generator.eval(), kind.texts, make)


def name(check):
    return check.__name__


@pytest.mark.parametrize("check", CHECKS, ids=name)
def test_a_family_fulfils_the_contract(subject, kind, check):
    outcome = run_check(check, subject)
    assert outcome.status == ("not applicable" if check.__name__ in kind.open else "pass"), outcome.detail
    assert not subject.num_edges or not kind.networks


REGISTERED = plugins.registered("generators")
EMBEDDED = [registered for registered in REGISTERED if registered.startswith("toy/")]


@WARNS
def test_every_registered_generator_is_checked(request):
    checked = {type(request.getfixturevalue(kind.fixture)()) for kind in GENERATORS.values()}
    missing = [registered for registered in REGISTERED if registered not in EMBEDDED]
    assert {plugins.load("generators", registered) for registered in missing} <= checked


@pytest.fixture(scope="module", params=EMBEDDED)
def embedded(request):
    generator = make_generator(request.param)
    generator.locate()
    generator.load()
    return Subject(generator.eval())


@WARNS
@pytest.mark.slow  # the families themselves are checked above
@pytest.mark.parametrize("check", CHECKS, ids=name)
def test_a_toy_generator_fulfils_the_contract(embedded, check):
    outcome = run_check(check, embedded)
    assert outcome.status != "fail", outcome.detail


def test_a_truncation_rate_is_part_of_the_identity(make_vq_diffusion):
    identities = []
    for settings in ({}, {"truncation_rate": 0.5}):
        generator = make_vq_diffusion(**settings)
        generator.locate()
        identities.append(json.dumps(generator.identity(), sort_keys=True))
    assert identities[0] != identities[1]


class Recorder(Observer):
    def __init__(self):
        self.draws = []

    def observe(self, draw):
        self.draws.append(draw)


def predict(generator, batch, callbacks):
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
    )
    return trainer.predict(generator, DataLoader([batch], batch_size=None, collate_fn=lambda batch: batch))


class Watch(Recorder, FreezePath):
    """An observer that can be passed to the trainer as a callback."""

    def __init__(self):
        Recorder.__init__(self)
        FreezePath.__init__(self)


TOKENS = [param for param in PARAMS if not param.marks]


@pytest.mark.parametrize("kind", TOKENS, indirect=True)
def test_predict_applies_the_probes_and_observers_of_the_trainer(subject):
    recorder, watch = Recorder(), Watch()
    generator, batch = subject.generator, subject.batch(0)
    (result,) = predict(generator, batch, [Argmax(), watch])
    expected = generator.sample(batch, [Argmax(), FreezePath()], observers=(recorder,))
    assert torch.equal(result.samples[0], expected.samples[0])
    assert len(watch.draws) == len(recorder.draws) > 0


@pytest.mark.parametrize("kind", TOKENS, indirect=True)
@pytest.mark.parametrize(
    ("probes", "message"),
    [
        ([CodebookSubset("list", tokens=[1]), CodebookSubset("list", tokens=[2])], "no codebook entry in common"),
        ([Temperature(0.5), Temperature(0.6)], "both set 'temperature'"),
        ([CodebookSubset("list", tokens=[10**6])], r"tokens must be in 0\.\."),
    ],
)
def test_invalid_probes_are_an_error_before_weights_are_loaded(kind, subject, request, probes, message):
    generator: Generator = request.getfixturevalue(kind.fixture)()
    generator.load = lambda: pytest.fail("loaded weights")
    with pytest.raises(ValueError, match=message):
        predict(generator, subject.batch(0), probes)
