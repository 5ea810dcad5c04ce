"""Rows that share all noise run once: their groups, and unchanged samples in every family."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from gendiv_lightning.callbacks import Branch, FreezePath
from gendiv_lightning.generators import base, keyed_pipeline
from gendiv_lightning.records import NoiseKey, Prompt, PromptBatch
from gendiv_lightning.sampling import LatentSampler, Noise, TokenSampler
from gendiv_lightning.sampling.branches import Branches, branches_at, run_branches
from gendiv_lightning.toy import presets

NAMES = [("a", 0, 0), ("a", 1, 1), ("a", 0, 2), ("b", 0, 0), ("a", 0, 3)]


def sampler(names: list = NAMES, step: int = 3) -> TokenSampler:
    own = TokenSampler(Noise.of(0, "path", names), Noise.of(0, "exec", names), codebook_size=4)
    return Branch(step).apply(own)


@pytest.mark.parametrize("step", [0, 2, 3])
def test_rows_of_a_prompt_and_paraphrase_form_a_group_until_the_branch(step: int) -> None:
    found = branches_at(sampler(), step)
    assert found is not None
    groups = [found.group[row].item() for row in range(5)]
    assert groups[0] == groups[2] == groups[4]
    assert len({groups[0], groups[1], groups[3]}) == 3
    assert sorted(found.first.tolist()) == [0, 1, 3]
    assert found.group[found.first].tolist() == [0, 1, 2]


def test_there_are_no_groups_after_the_branch_without_a_branch_or_with_single_rows() -> None:
    own = replace(sampler(), path=Noise.of(0, "path", NAMES), exec=Noise.of(0, "exec", NAMES))
    assert branches_at(sampler(), 4) is None
    assert branches_at(own, 0) is None
    assert branches_at(FreezePath().apply(own), 0) is None
    assert branches_at(sampler([("a", 0, 0), ("b", 0, 0)]), 0) is None


def test_a_network_runs_one_row_of_each_group_in_every_block() -> None:
    branches, seen = Branches(torch.tensor([0, 1]), torch.tensor([0, 1, 0])), []
    rows = torch.tensor([10.0, 11, 10, 20, 21, 20])
    found = run_branches(lambda x: seen.append(x.tolist()) or 2 * x, branches, rows)
    assert seen == [[10, 11, 20, 21]]
    assert torch.equal(found, 2 * rows)
    assert torch.equal(run_branches(lambda x: 2 * x, None, rows), found)


def batch() -> PromptBatch:
    """Two prompts of three samples each."""
    prompts = (Prompt("one", "red sky"), Prompt("two", "two green hills, no light"))
    keys = tuple(NoiseKey(prompt.id, 0, sample, sample) for prompt in prompts for sample in range(3))
    return PromptBatch(0, prompts, (0, 1), keys, (0, 0, 0, 1, 1, 1))


def rows_of(module: nn.Module) -> list[int]:
    """Record the number of rows of each call."""
    seen: list[int] = []
    module.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    return seen


@pytest.mark.parametrize(
    ("make", "network", "step", "expected"),
    [
        # Without guidance, and two prompts in one batch: 2 rows until the branch, 6 after it.
        (presets.amused, lambda g: g.transformer.embed, 4, [2] * 5 + [6] * 13),
        (presets.vq_diffusion, lambda g: g.transformer.latent_image_embedding, 20, [2] * 21 + [6] * 15),
        # Token 0 is predicted from the condition. The first token that differs is fed to predict the next one.
        (presets.llamagen, lambda g: g.gpt.layers[0].attention_norm, 10, [1, 1] + [2] * 10 + [6] * 25),
        # Each prompt alone: the initial noise is decision 0.
        (presets.latent_diffusion, lambda g: g.pipeline.unet.conv_in, 6, 2 * ([1] * 6 + [3] * 14)),
    ],
    ids=["masked", "discrete diffusion", "autoregressive", "latent diffusion"],
)
@pytest.mark.filterwarnings("ignore")  # deprecations in diffusers
def test_the_prefix_of_a_branch_runs_once_without_changing_samples(
    monkeypatch: pytest.MonkeyPatch, make: Callable, network: Callable, step: int, expected: list[int]
) -> None:
    generator = make(guidance_scale=1.0)
    generator.load()
    seen = rows_of(network(generator))
    shared = generator.sample(batch(), [Branch(step)])
    assert seen == expected
    for module in (base, keyed_pipeline):
        monkeypatch.setattr(module, "branches_at", lambda *_: None)
    whole = generator.sample(batch(), [Branch(step)])
    assert len(seen) - len(expected) in (len(expected), len(expected) - 2)
    if hasattr(whole.samples, "tokens"):
        assert torch.equal(shared.samples.tokens, whole.samples.tokens)
    else:
        torch.testing.assert_close(shared.samples.latents, whole.samples.latents, rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_rows_that_differ_for_another_reason_all_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline changes the initial noise after it was drawn."""
    generator = presets.latent_diffusion(guidance_scale=1.0)
    generator.load()
    seen, pipeline_class = rows_of(generator.pipeline.unet.conv_in), type(generator.pipeline)
    prepare, offset = pipeline_class.prepare_latents, torch.arange(3.0).view(3, 1, 1, 1)
    monkeypatch.setattr(pipeline_class, "prepare_latents", lambda *given, **more: prepare(*given, **more) + offset)
    generator.sample(batch(), [Branch(6)])
    assert set(seen) == {3}


def test_a_latent_sampler_has_the_same_groups() -> None:
    latents = LatentSampler(Noise.of(0, "path", NAMES), Noise.of(0, "exec", NAMES))
    found = branches_at(Branch(3).apply(latents), 3)
    assert found is not None
    assert torch.equal(found.group, branches_at(sampler(), 3).group)
