"""The protocol is right for the three families: three loops of a few lines each, over one random network.

B rows, L positions, K codebook entries; token K stands for "not decided yet".
"""

import itertools
import math

import pytest
import torch

from gendiv_lightning.callbacks import Argmax, CodebookSubset, FreezePath, Temperature, TopK
from gendiv_lightning.sampling import Noise, TokenSampler, apply_probes

L, K, STEPS = 12, 8, 5
TABLE = 2 * torch.randn(L, K + 1, L, K, generator=torch.Generator().manual_seed(0))


def network(tokens):
    """Logits (B, L, K) of each position: a sum of what every position says to it."""
    return TABLE[torch.arange(L), tokens].sum(1) / L**0.5


def sample_autoregressive(sampler, tokens):
    """Yield what is decided at each step: positions (B, L) bool, tokens (B, L)."""
    for i in range(L):
        decided = torch.zeros_like(tokens, dtype=torch.bool).index_fill(1, torch.tensor(i), True)
        draw = sampler.draw_tokens(network(tokens)[:, i : i + 1], step=i)
        tokens = torch.where(decided, draw.tokens, tokens)
        yield decided, tokens


def sample_masked(sampler, tokens):
    for step in range(STEPS):
        masked = tokens == K
        draw = sampler.draw_tokens(network(tokens), step)
        count = math.ceil(L * (step + 1) / STEPS)
        stay = sampler.choose_positions(draw.confidence.masked_fill(~masked, math.inf), step, count=count)
        tokens = torch.where(stay & masked, draw.tokens, tokens)
        yield stay & masked, tokens


def sample_diffusion(sampler, tokens):
    for step in range(STEPS):
        masked = tokens == K
        log_change = torch.full(tokens.shape, -math.log(STEPS - step)).masked_fill(~masked, -math.inf)
        change = sampler.choose_positions(log_change, step)
        draw = sampler.draw_tokens(network(tokens), step)
        tokens = torch.where(change, draw.tokens, tokens)
        yield change, tokens


FAMILIES = {"autoregressive": sample_autoregressive, "masked": sample_masked, "diffusion": sample_diffusion}
NAMES = [(prompt, 0, number) for prompt in "pqr" for number in range(8)]
every_family = pytest.mark.parametrize("family", FAMILIES)


def make_sampler(path_names=NAMES, exec_names=NAMES, probes=()):
    sampler = TokenSampler(Noise.of(0, "path", path_names), Noise.of(0, "exec", exec_names), K)
    return apply_probes(sampler, probes)


def run(family, sampler):
    *_, (_, tokens) = FAMILIES[family](sampler, torch.full((len(sampler.exec.names), L), K))
    return tokens


def run_probes(family, *probes):
    return run(family, make_sampler(probes=probes))


def is_one_sample_a_prompt(tokens):
    tokens = tokens.view(3, 8, L)
    return bool((tokens == tokens[:, :1]).all())


@every_family
@pytest.mark.parametrize("probes", [(), (Argmax(),), (FreezePath(),), (Argmax(), FreezePath())])
def test_every_position_is_decided_exactly_once(family, probes):
    sampler = make_sampler(probes=probes)
    times, before = torch.zeros(len(NAMES), L), torch.full((len(NAMES), L), K)
    for decided, tokens in FAMILIES[family](sampler, before):
        assert torch.equal(tokens[~decided], before[~decided])
        times, before = times + decided, tokens
    assert (times == 1).all()
    assert ((before >= 0) & (before < K)).all()


@every_family
@pytest.mark.parametrize("probes", [(), (Argmax(),), (FreezePath(),)])
@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_sample_does_not_depend_on_its_batch(family, probes, size):
    parts = [NAMES[i : i + size] for i in range(0, len(NAMES), size)]
    tokens = torch.cat([run(family, make_sampler(part, part, probes)) for part in parts])
    assert torch.equal(tokens, run_probes(family, *probes))


@every_family
def test_a_sample_does_not_depend_on_the_order_of_rows(family):
    order = torch.randperm(len(NAMES), generator=torch.Generator().manual_seed(0))
    names = [NAMES[i] for i in order]
    assert torch.equal(run(family, make_sampler(names, names)), run_probes(family)[order])


@every_family
def test_samples_differ_when_no_probe_is_on(family):
    assert len(run_probes(family).unique(dim=0)) == len(NAMES)


@every_family
def test_argmax_on_a_frozen_path_leaves_one_sample(family):
    assert is_one_sample_a_prompt(run_probes(family, Argmax(), FreezePath()))


def test_argmax_alone_leaves_one_sample_where_there_is_no_path():
    assert is_one_sample_a_prompt(run_probes("autoregressive", Argmax()))


@pytest.mark.parametrize("family", ["masked", "diffusion"])
def test_argmax_alone_leaves_the_diversity_of_the_path(family):
    assert len(run_probes(family, Argmax()).unique(dim=0)) > 1
    assert not is_one_sample_a_prompt(run_probes(family, Argmax()))


@every_family
def test_a_frozen_path_leaves_the_diversity_of_execution(family):
    assert len(run_probes(family, FreezePath()).unique(dim=0)) == len(NAMES)


@pytest.mark.parametrize("family", ["masked", "diffusion"])
def test_a_frozen_path_decides_the_same_positions_in_diffusion(family):
    sampler = make_sampler(probes=[FreezePath()])
    schedules = [decided for decided, _ in FAMILIES[family](sampler, torch.full((len(NAMES), L), K))]
    schedule = torch.stack(schedules).view(STEPS, 3, 8, L)
    shared = bool((schedule == schedule[:, :, :1]).all())
    assert shared == (family == "diffusion")  # a masked model's confidences differ with the tokens


def test_an_autoregressive_sample_does_not_depend_on_path_noise():
    others = [("other", 0, 0)] * len(NAMES)
    assert torch.equal(run("autoregressive", make_sampler(path_names=others)), run_probes("autoregressive"))


@every_family
def test_a_crossed_design_is_a_choice_of_names(family):
    paths, executions = zip(*itertools.product(range(3), range(4)), strict=True)
    tokens = run(family, make_sampler([("p", 0, i) for i in paths], [("p", 0, j) for j in executions]))
    assert len(tokens.unique(dim=0)) == (4 if family == "autoregressive" else 12)


@every_family
def test_probes_commute(family):
    probes = [Argmax(), FreezePath(), CodebookSubset("list", tokens=[1, 2, 5, 7]), TopK(3), Temperature(0.5)]
    for chosen in (probes[1:], probes):
        expected = run_probes(family, *chosen)
        for order in itertools.islice(itertools.permutations(chosen), 0, None, 7):
            assert torch.equal(run_probes(family, *order), expected)


@every_family
@pytest.mark.parametrize("tokens", [[3], [0, 6], [1, 2, 5, 7]])
def test_no_token_falls_outside_the_subset(family, tokens):
    sampled = run_probes(family, CodebookSubset("list", tokens=tokens), TopK(2))
    assert set(sampled.flatten().tolist()) == set(tokens)
