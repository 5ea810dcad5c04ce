"""The generator checks: each violation of the contract is found by the matching check."""

from dataclasses import replace

import pytest
import torch

from gendiv_lightning.generators.base import Chance, Generator
from gendiv_lightning.records import LatentSamples
from gendiv_lightning.sampling import Sampler
from gendiv_lightning.testing import generator_checks
from gendiv_lightning.testing.generator_checks import CHECKS, Subject, run_checks
from gendiv_lightning.testing.template_generator import TemplateModel


def outcomes(generator_class):
    generator = generator_class()
    generator.locate()
    generator.load()
    return {outcome.name: outcome for outcome in run_checks(Subject(generator, make=generator_class))}


def failed(generator_class):
    return {name for name, outcome in outcomes(generator_class).items() if outcome.status == "fail"}


def test_the_template_passes_all_applicable_checks():
    result = outcomes(TemplateModel)
    assert {name for name, outcome in result.items() if outcome.status != "pass"} == {"likelihood adds up"}
    assert result["likelihood adds up"].detail == "has_likelihood is false"
    assert len(result) == len(CHECKS)
    assert all(outcome.meaning.endswith(".") for outcome in result.values())


class HasChanceOfItsOwn(TemplateModel):
    def sample_tokens(self, conditions, sampler):
        return super().sample_tokens(conditions + torch.rand_like(conditions), sampler)


class LooksAtItsBatch(TemplateModel):
    def encode_prompts(self, texts):
        conditions = super().encode_prompts(texts)
        return conditions + 0.5 * conditions.mean(0) + len(texts)


class LooksAtItsRow(TemplateModel):
    def sample_tokens(self, conditions, sampler):
        slopes = torch.linspace(-1, 1, conditions.shape[1]) * torch.arange(len(conditions))[:, None]
        return super().sample_tokens(conditions + slopes, sampler)


class IgnoresItsPrompt(TemplateModel):
    def encode_prompts(self, texts):
        return torch.zeros(len(texts), self.codebook_size)


class IgnoresSubsets(TemplateModel):
    def sample_tokens(self, conditions, sampler):
        return super().sample_tokens(conditions, replace(sampler, allowed=None))


class ThrowsDiceUnderArgmax(TemplateModel):
    def sample_tokens(self, conditions, sampler):
        return super().sample_tokens(conditions, replace(sampler, exec=replace(sampler.exec, is_off=False)))


class HidesItsDraws(TemplateModel):
    def sample_tokens(self, conditions, sampler):
        return super().sample_tokens(conditions, replace(sampler, observers=()))


class SeesThePath(TemplateModel):
    chance = Chance(path="", execution="which token")

    def sample_tokens(self, conditions, sampler):
        return super().sample_tokens(conditions + 2 * sampler.path.uniform_grid(0, conditions.shape[1]), sampler)


class PromisesAPath(TemplateModel):
    chance = Chance(path="the order", execution="which token")


class DecodesTogether(TemplateModel):
    def decode_tokens(self, tokens):
        images = super().decode_tokens(tokens).float()
        return (images - images.mean(0) + 100).clamp(0, 255).to(torch.uint8)


class HasAWrongLikelihood(TemplateModel):
    has_likelihood = True

    def score_tokens(self, conditions, tokens, sampler):
        return torch.full(tokens.shape, -1.0)


class HasAnUnstableIdentity(TemplateModel):
    calls = 0

    def identity(self):
        HasAnUnstableIdentity.calls += 1
        return {**super().identity(), "calls": self.calls}


class ForgetsASetting(TemplateModel):
    def identity(self):
        return {name: value for name, value in super().identity().items() if name != "top_k"}


class EncodesAnySize(TemplateModel):
    def encode_images(self, images):
        return torch.zeros(len(images), 16, dtype=torch.int64)


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (HasChanceOfItsOwn, "sampling repeats"),
        (LooksAtItsBatch, "runs resume"),
        (LooksAtItsRow, "row order does not matter"),
        (IgnoresItsPrompt, "prompts matter"),
        (IgnoresSubsets, "subsets are respected"),
        (ThrowsDiceUnderArgmax, "argmax is deterministic"),
        (HidesItsDraws, "observers see every token"),
        (SeesThePath, "chance is as described"),
        (PromisesAPath, "chance is as described"),
        (DecodesTogether, "decoding is per image"),
        (HasAWrongLikelihood, "likelihood adds up"),
        (HasAnUnstableIdentity, "identity is stable"),
        (ForgetsASetting, "identity is stable"),
        (EncodesAnySize, "images become tokens"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_generator_that_breaks_the_contract_fails_the_matching_check(broken, check):
    assert check in failed(broken)


class Rounds(TemplateModel):
    """Exaggerated float32 rounding: the logits depend slightly on the number of rows."""

    def encode_prompts(self, texts):
        return super().encode_prompts(texts) * (1 + 0.002 * len(texts))


def test_samples_changed_by_rounding_are_tolerated_and_counted(monkeypatch):
    assert "runs resume" in failed(Rounds)
    monkeypatch.setattr(generator_checks, "EDGE", 0.02)
    monkeypatch.setattr(generator_checks, "STATISTICS", 0.2)
    result = outcomes(Rounds)["runs resume"]
    assert result.status == "pass"
    assert "edge draw" in result.detail


class Latent(Generator[torch.Tensor, LatentSamples]):
    """A generator without tokens: its initial latent is the path and its only randomness."""

    family, title = "latent", "Latent"
    chance = Chance(path="the initial noise", execution="")

    def __init__(self):
        super().__init__(guidance_scale=1.0, dtype="float32", batch_size=5)

    def locate(self):
        pass

    def load(self):
        pass

    def identity(self):
        return {"generator": self.family}

    def check_prompts(self, texts):
        return []

    def text_lengths(self, texts):
        return None

    def make_sampler(self, path, execution):
        return Sampler(path, execution, guidance=self.guidance_scale)

    def encode_prompts(self, texts):
        return torch.tensor([[float(len(text))] for text in texts])

    def run_loop(self, conditions, sampler):
        path = sampler.path
        noise = torch.full((len(conditions), 12), 0.5) if path.is_off else path.uniform_grid(0, 12).float()
        latents = (noise + conditions / 50).unflatten(1, (3, 2, 2))
        return LatentSamples(latents, (latents * 100).clamp(0, 255).to(torch.uint8))

    def decode(self, samples):
        return samples.images


def test_checks_of_tokens_do_not_apply_to_latents():
    result = outcomes(Latent)
    assert not {name for name, outcome in result.items() if outcome.status == "fail"}
    assert {name for name, outcome in result.items() if outcome.status == "not applicable"} == {
        *("subsets are respected", "subsets intersect", "observers see every token", "images become tokens"),
        *("likelihood adds up", "guidance switches off"),
    }


def test_an_error_in_a_generator_is_reported_as_a_failure():
    class Raises(TemplateModel):
        def sample_tokens(self, conditions, sampler):
            raise IndexError("position 16")

    assert outcomes(Raises)["sampling repeats"].detail == "IndexError: position 16"
