"""The loops of the three families follow the protocol, with the same random network.

B rows, L positions, K codebook entries; token K stands for "not decided yet".
"""

import itertools

import pytest
import torch

from gendiv_lightning.callbacks import Argmax, CodebookSubset, FreezePath, PosteriorArgmax, Temperature, TopK
from gendiv_lightning.sampling import Noise, Observer, TokenGrid, TokenSampler, apply_probes
from gendiv_lightning.sampling.diffusion import NoiseSchedule, sample_diffusion
from gendiv_lightning.sampling.masked import MaskSchedule, sample_masked

L, K, STEPS = 12, 8, 5
TABLE = 2 * torch.randn(L, K + 1, L, K, generator=torch.Generator().manual_seed(0))
MASKING = MaskSchedule(STEPS)
ABSORBING = NoiseSchedule(K, 10, keep=(0.99, 0.01), mask=(0.01, 0.99))
REPLACING = NoiseSchedule(K, 10, keep=(0.99, 0.01), mask=(0.005, 0.7))


def network(tokens, time=0):
    """Logits (B, L, K) of each position: a sum of contributions of all positions."""
    return TABLE[torch.arange(L), tokens].sum(1) / L**0.5


def sample_autoregressive(sampler):
    grid, rows = TokenGrid(sampler, L, blank=K), torch.arange(len(sampler.exec.keys))
    for i in range(L):
        grid.write(sampler.draw_tokens(network(grid.tokens)[:, i], i, rows, torch.full_like(rows, i)))
    return grid.samples()


def diffuse(schedule):
    return lambda sampler: sample_diffusion(network, sampler, schedule, schedule.times(STEPS), L)


FAMILIES = {
    "autoregressive": sample_autoregressive,
    "masked": lambda sampler: sample_masked(network, sampler, MASKING, L, K),
    "absorbing diffusion": diffuse(ABSORBING),
    "replacing diffusion": diffuse(REPLACING),
}
DIFFUSIONS = ["absorbing diffusion", "replacing diffusion"]
NAMES = [(prompt, 0, number) for prompt in "pqr" for number in range(8)]
every_family = pytest.mark.parametrize("family", FAMILIES)
families_with_a_path = pytest.mark.parametrize("family", ["masked", *DIFFUSIONS])


class Decisions(Observer):
    """Collect the draws of a run and the positions (B, L) that each step decides."""

    def __init__(self):
        self.draws = []

    def observe(self, draw):
        self.draws.append(draw)

    def steps(self):
        decided = torch.zeros(len(self.draws), len(NAMES), L, dtype=torch.bool)
        for step, draw in enumerate(self.draws):
            decided[step, draw.rows, draw.positions] = True
        return decided


def make_sampler(path_names=NAMES, exec_names=NAMES, probes=(), **fields):
    sampler = TokenSampler(Noise.of(0, "path", path_names), Noise.of(0, "exec", exec_names), K, **fields)
    return apply_probes(sampler, probes)


def run(family, sampler):
    return FAMILIES[family](sampler).tokens


def run_probes(family, *probes):
    return run(family, make_sampler(probes=probes))


def is_one_sample_a_prompt(tokens):
    tokens = tokens.view(3, 8, L)
    return bool((tokens == tokens[:, :1]).all())


PROBES = [(), (Argmax(),), (FreezePath(),), (Argmax(), FreezePath()), (PosteriorArgmax(),), (TopK(1),)]


@every_family
@pytest.mark.parametrize("probes", PROBES)
def test_every_position_is_decided_and_only_replacement_decides_one_twice(family, probes):
    decisions = Decisions()
    samples = FAMILIES[family](make_sampler(probes=probes, observers=(decisions,)))
    times = decisions.steps().sum(0)
    assert (times >= 1).all()
    assert ((samples.tokens >= 0) & (samples.tokens < K)).all()
    if family != "replacing diffusion":
        assert (times == 1).all()
    elif not probes:
        assert (times > 1).any()


@every_family
def test_the_samples_are_the_last_decisions(family):
    decisions = Decisions()
    samples = FAMILIES[family](make_sampler(observers=(decisions,)))
    expected = torch.full((len(NAMES), L), K), torch.zeros(len(NAMES), L), torch.zeros(len(NAMES), L)
    for step, draw in enumerate(decisions.draws):
        assert draw.step == step
        for values, new in zip(expected, (draw.tokens, draw.entropy, draw.log_prob), strict=True):
            values[draw.rows, draw.positions] = new
    for ours, theirs in zip(samples, expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("family", DIFFUSIONS)
@pytest.mark.parametrize("probes", [(), (Argmax(),), (PosteriorArgmax(),)])
def test_a_position_that_changes_never_keeps_its_token(family, probes):
    """Whether a token is kept is decided by the path; a position that changes never gets the same token again."""
    decisions = Decisions()
    FAMILIES[family](make_sampler(probes=probes, observers=(decisions,)))
    tokens = torch.full((len(NAMES), L), K)
    for draw in decisions.draws:
        assert (tokens[draw.rows, draw.positions] != draw.tokens).all()
        tokens[draw.rows, draw.positions] = draw.tokens


@every_family
@pytest.mark.parametrize("probes", [(), (Argmax(),), (FreezePath(),), (PosteriorArgmax(),)])
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
def test_an_empty_batch_has_no_samples(family):
    assert run(family, make_sampler([], [])).shape == (0, L)


@every_family
def test_samples_differ_without_probes(family):
    assert len(run_probes(family).unique(dim=0)) == len(NAMES)


@every_family
def test_argmax_on_a_frozen_path_leaves_one_sample(family):
    assert is_one_sample_a_prompt(run_probes(family, Argmax(), FreezePath()))


@every_family
def test_without_any_noise_there_is_one_sample_only(family):
    assert len(run_probes(family, PosteriorArgmax()).unique(dim=0)) == 1  # the network is unconditional


def test_argmax_leaves_one_sample_if_there_is_no_path():
    assert is_one_sample_a_prompt(run_probes("autoregressive", Argmax()))


@families_with_a_path
def test_argmax_leaves_the_diversity_of_the_path(family):
    assert len(run_probes(family, Argmax()).unique(dim=0)) > 1
    assert not is_one_sample_a_prompt(run_probes(family, Argmax()))


@every_family
def test_a_frozen_path_leaves_the_diversity_of_execution(family):
    assert len(run_probes(family, FreezePath()).unique(dim=0)) == len(NAMES)


@families_with_a_path
def test_a_frozen_path_reveals_the_same_positions_in_diffusion(family):
    decisions = Decisions()
    FAMILIES[family](make_sampler(probes=[FreezePath()], observers=(decisions,)))
    revealed = decisions.steps().cummax(0).values.view(STEPS, 3, 8, L)
    shared = bool((revealed == revealed[:, :, :1]).all())
    assert shared == (family in DIFFUSIONS)  # the confidences of a masked model depend on the tokens


def test_an_autoregressive_sample_does_not_depend_on_path_noise():
    others = [("other", 0, 0)] * len(NAMES)
    assert torch.equal(run("autoregressive", make_sampler(path_names=others)), run_probes("autoregressive"))


@every_family
def test_a_crossed_design_is_expressed_by_sample_names(family):
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
@pytest.mark.parametrize("probes", [(TopK(2),), (TopK(2), Argmax()), (PosteriorArgmax(),)])
def test_every_token_is_in_the_subset(family, tokens, probes):
    sampled = set(run_probes(family, CodebookSubset("list", tokens=tokens), *probes).flatten().tolist())
    assert sampled <= set(tokens)
    assert sampled == set(tokens) or probes != (TopK(2),)
