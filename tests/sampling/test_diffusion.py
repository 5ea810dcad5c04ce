"""Reverse diffusion, against diffusers' `VQDiffusionScheduler` and explicit transition matrices.

Notation: B rows, L positions, N selected positions, K codebook entries; token K is the mask.
"""

import itertools

import pytest
import torch
from diffusers import VQDiffusionPipeline, VQDiffusionScheduler
from scipy.stats import chisquare

from gendiv_lightning.callbacks import PosteriorArgmax
from gendiv_lightning.sampling import Noise, Observer, TokenSampler, apply_probes
from gendiv_lightning.sampling.diffusion import NoiseSchedule, Transition, sample_diffusion
from gendiv_lightning.sampling.sampler import invert_cdf

# Differences from the official schedule, which replaces only one token in a million.
SCHEDULES = {"official": {}, "replacing": {"gamma_cum_end": 0.9}, "much replacing": {"gamma_cum_end": 0.3}}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES)


def make_schedules(name, codebook_size, num_times=100):
    """Build our schedule and that of the reference."""
    ours = NoiseSchedule(codebook_size, num_times, mask=(0.000009, SCHEDULES[name].get("gamma_cum_end", 0.99999)))
    return ours, VQDiffusionScheduler(codebook_size + 1, num_times, **SCHEDULES[name])


def make_sampler(num_rows, codebook_size, probes=(), **fields):
    names = [("p", 0, row) for row in range(num_rows)]
    sampler = TokenSampler(Noise.of(0, "path", names), Noise.of(0, "exec", names), codebook_size, **fields)
    return apply_probes(sampler, probes)


def random_logits(*shape, seed=0, scale=3.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def subset(*tokens, codebook_size):
    return torch.zeros(codebook_size, dtype=torch.bool).index_fill(0, torch.tensor(tokens), True)


def random_places(num, codebook_size, allowed=None):
    """Predictions (N, K) and tokens (N,): half are masked, a quarter are the predicted ones, a quarter are random."""
    probs = make_sampler(1, codebook_size, allowed=allowed).filter_logits(random_logits(num, codebook_size)).softmax(-1)
    entries = torch.arange(codebook_size) if allowed is None else allowed.nonzero()[:, 0]
    tokens = entries[torch.randint(len(entries), (num,), generator=torch.Generator().manual_seed(0))]
    tokens[::4] = probs[::4].argmax(-1)
    tokens[1::2] = codebook_size
    return probs, tokens


# --- schedule ---


@every_schedule
@pytest.mark.parametrize("num_times", [2, 10, 100])
@pytest.mark.parametrize("codebook_size", [5, 4096])
def test_rates_agree_with_the_reference(schedule, num_times, codebook_size):
    ours, reference = make_schedules(schedule, codebook_size, num_times)
    for time in range(num_times):
        for rates, logs in (
            (ours.between(time - 1, time), (reference.log_at, reference.log_bt, reference.log_ct)),
            (ours.cumulative(time), (reference.log_cumprod_at, reference.log_cumprod_bt, reference.log_cumprod_ct)),
        ):
            expected = torch.stack([log[time] for log in logs])
            torch.testing.assert_close(torch.tensor(rates).log(), expected, rtol=1e-6, atol=1e-7)


def matrix(rates, codebook_size):
    """Transition matrix (K + 1, K + 1) from the token of a row to that of a column, the mask last."""
    probs = torch.full((codebook_size + 1,) * 2, rates.replace, dtype=torch.float64)
    probs += rates.keep * torch.eye(codebook_size + 1, dtype=torch.float64)
    probs[:, -1] = rates.mask
    probs[-1] = 0.0
    probs[-1, -1] = 1.0
    return probs


@every_schedule
def test_transitions_compose_over_any_timesteps(schedule):
    ours, _ = make_schedules(schedule, 5, 20)
    for first, second, third in itertools.combinations([-1, 0, 1, 7, 12, 18, 19], 3):
        steps = matrix(ours.between(first, second), 5) @ matrix(ours.between(second, third), 5)
        whole = matrix(ours.between(first, third), 5)
        torch.testing.assert_close(whole.sum(1), torch.ones(6, dtype=torch.float64))
        torch.testing.assert_close(steps, whole, rtol=1e-9, atol=1e-15)


def test_evenly_spaced_timesteps_cover_all_timesteps():
    schedule = NoiseSchedule(8)
    assert schedule.times(100) == list(range(99, -1, -1))
    assert schedule.times(10) == list(range(99, 0, -10))
    assert schedule.times(3) == [99, 66, 32]
    assert schedule.times(1) == [99]
    for num_steps in range(1, 101):
        times = torch.tensor(schedule.times(num_steps))
        assert (len(times), times[0]) == (num_steps, 99)
        gaps = -torch.cat([times, torch.tensor([-1])]).diff()
        assert gaps.min() >= 1
        assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("num_steps", [1, 7, 100])
def test_trailing_timesteps_agree_with_the_reference(num_steps):
    schedule, reference = make_schedules("official", 8)
    reference.set_timesteps(num_steps)
    assert schedule.times(num_steps, "last") == reference.timesteps.tolist()


@pytest.mark.parametrize("spacing", ["even", "last"])
@pytest.mark.parametrize("num_steps", [-1, 0, 101])
def test_more_steps_than_the_network_was_trained_for_are_an_error(num_steps, spacing):
    with pytest.raises(ValueError, match=rf"num_steps .*1\.\.100.*got {num_steps}"):
        NoiseSchedule(8).times(num_steps, spacing)


# --- one transition ---


def reference_posterior(reference, probs, tokens, time):
    """One step of the reference: from predictions (N, K) and tokens (N,) to probabilities (N, K + 1)."""
    if time == 0:
        return torch.nn.functional.pad(probs, (0, 1))
    log_probs = probs.log().clamp(-70)  # as in diffusers' pipeline, after truncation
    return reference.q_posterior(log_probs.T[None], tokens[None], time)[0].T.softmax(-1)


def truncated(probs, rate=0.8):
    return make_sampler(1, probs.shape[1], top_p=rate).filter_logits(probs.log()).softmax(-1)


def certain(probs):
    return torch.zeros_like(probs).scatter(1, probs.argmax(-1, keepdim=True), 1.0)


PREDICTIONS = {"full": lambda probs: probs, "truncated": truncated, "certain": certain}


@every_schedule
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("time", [1, 2, 17, 50, 98, 99])
def test_the_reverse_transition_agrees_with_the_reference(schedule, prediction, time):
    ours, reference = make_schedules(schedule, 32)
    probs, tokens = random_places(200, 32)
    probs = PREDICTIONS[prediction](probs)
    posterior = Transition(ours, time, time - 1).posterior(probs, tokens)
    torch.testing.assert_close(posterior, reference_posterior(reference, probs, tokens, time), rtol=0, atol=1e-5)


@every_schedule
def test_the_reverse_transition_over_a_large_codebook_agrees_with_the_reference(schedule):
    ours, reference = make_schedules(schedule, 4096)
    probs, tokens = random_places(20, 4096)
    for time in (1, 50, 99):
        posterior = Transition(ours, time, time - 1).posterior(probs, tokens)
        torch.testing.assert_close(posterior, reference_posterior(reference, probs, tokens, time), rtol=0, atol=1e-5)


@every_schedule
@pytest.mark.parametrize("time", [0, 9, 99])
def test_the_last_step_samples_from_the_prediction(schedule, time):
    ours, _ = make_schedules(schedule, 32)
    probs, tokens = random_places(200, 32)
    posterior = Transition(ours, time, -1).posterior(probs, tokens)
    torch.testing.assert_close(posterior[:, :-1], probs, rtol=1e-5, atol=1e-6)
    assert (posterior[:, -1] == 0).all()


def exact_posterior(schedule, time, earlier, probs, tokens):
    """Posterior by Bayes' rule on transition matrices, in float64."""
    size = schedule.codebook_size
    to_earlier, to_time = matrix(schedule.cumulative(earlier), size)[:-1], matrix(schedule.cumulative(time), size)[:-1]
    between = matrix(schedule.between(earlier, time), size)
    given_start = to_earlier[:, :, None] * between / to_time[:, None, :]  # x_0, x_s, x_t
    return torch.einsum("nk,ksn->ns", probs.double(), given_start[:, :, tokens])


PAIRS = [(99, 98), (99, 49), (60, 20), (30, 0), (1, 0), (50, -1), (0, -1)]


@every_schedule
@pytest.mark.parametrize(("time", "earlier"), PAIRS)
def test_timesteps_may_be_skipped(schedule, time, earlier):
    ours, _ = make_schedules(schedule, 5)
    probs, tokens = random_places(200, 5)
    posterior = Transition(ours, time, earlier).posterior(probs.double(), tokens)
    torch.testing.assert_close(
        posterior, exact_posterior(ours, time, earlier, probs, tokens), rtol=1e-5, atol=1e-7, check_dtype=False
    )


@every_schedule
def test_two_steps_equal_one_longer_step_when_the_image_is_known(schedule):
    ours, _ = make_schedules(schedule, 5)
    start, tokens = torch.cartesian_prod(torch.arange(5), torch.arange(6)).T
    probs, states = torch.eye(5, dtype=torch.float64), torch.arange(6)
    both = Transition(ours, 80, 30).posterior(probs[start], tokens)
    first = Transition(ours, 80, 55).posterior(probs[start], tokens)
    second = Transition(ours, 55, 30).posterior(probs.repeat_interleave(6, 0), states.repeat(5)).view(5, 6, 6)
    torch.testing.assert_close(torch.einsum("nu,nus->ns", first, second[start]), both, rtol=1e-5, atol=1e-9)


SUBSETS = [None, subset(0, 2, 3, 4, codebook_size=5), subset(1, 2, codebook_size=5), subset(4, codebook_size=5)]
every_subset = pytest.mark.parametrize("allowed", SUBSETS)


@every_schedule
@every_subset
@pytest.mark.parametrize(("time", "earlier"), PAIRS)
def test_path_and_execution_together_are_the_whole_transition(schedule, allowed, time, earlier):
    ours, _ = make_schedules(schedule, 5)
    probs, tokens = random_places(200, 5, allowed)
    move = Transition(ours, time, earlier, allowed)
    stay = move.stay(probs.gather(1, tokens.clamp(max=4)[:, None])[:, 0])
    stay = torch.where(tokens == 5, move.stay_masked, stay)[:, None]
    weights = move.change_weights(probs, tokens)
    given_change = weights / weights.sum(1, keepdim=True).clamp(min=1e-30)
    whole = torch.nn.functional.pad((1 - stay) * given_change, (0, 1)).scatter_add(1, tokens[:, None], stay)
    torch.testing.assert_close(whole, move.posterior(probs, tokens), rtol=0, atol=2e-6)
    torch.testing.assert_close(whole.sum(1), torch.ones(200))


@every_schedule
@every_subset
@pytest.mark.parametrize(("time", "earlier"), PAIRS)
def test_a_subset_gives_the_transition_conditioned_on_the_subset(schedule, allowed, time, earlier):
    ours, _ = make_schedules(schedule, 5)
    probs, tokens = random_places(200, 5, allowed)
    posterior = Transition(ours, time, earlier, allowed).posterior(probs, tokens)
    expected = exact_posterior(ours, time, earlier, probs, tokens)
    if allowed is not None:
        expected[:, :-1] *= allowed
        assert (posterior[:, :-1][:, ~allowed] == 0).all()
    expected = (expected / expected.sum(1, keepdim=True)).float()
    torch.testing.assert_close(posterior, expected, rtol=0, atol=2e-6)


ABSORBING = list(itertools.product([5, 10, 100], [0.9, 0.95, 0.99]))


@pytest.mark.parametrize(("num_times", "keep"), ABSORBING)
def test_without_replacement_a_token_is_kept_for_any_prediction(num_times, keep):
    schedule = NoiseSchedule(5, num_times, keep=(keep, 1 - keep), mask=(1 - keep, keep))
    probs, own = torch.tensor([[0.0, 0.3, 0.7, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0, 0.0]]), torch.tensor([0.0, 0.3, 1.0])
    tokens = torch.tensor([0, 1, 2, 3])
    for time in range(num_times):
        for earlier in {time - 1, time // 2 - 1}:
            move = Transition(schedule, time, earlier)
            assert (move.stay(own) == 1).all()
            for prediction in probs:
                posterior = move.posterior(prediction.expand(4, -1), tokens)
                assert torch.equal(posterior, torch.eye(6)[tokens])


@pytest.mark.parametrize(("num_times", "keep"), ABSORBING)
def test_without_replacement_a_masked_position_takes_the_prediction(num_times, keep):
    schedule = NoiseSchedule(5, num_times, keep=(keep, 1 - keep), mask=(1 - keep, keep))
    probs, masked = random_logits(20, 5).softmax(-1), torch.full((20,), 5)
    for time in range(1, num_times):
        move = Transition(schedule, time, time - 1)
        stay_masked = schedule.cumulative(time - 1).mask / schedule.cumulative(time).mask
        assert move.stay_masked == pytest.approx(stay_masked)
        weights = move.change_weights(probs, masked)
        torch.testing.assert_close(weights / weights.sum(1, keepdim=True), probs)


@every_schedule
@pytest.mark.parametrize("size", [1, 2, 4096])
def test_certain_predictions_over_a_large_codebook_give_no_nan(schedule, size):
    """Predictions of exactly 0 and 1, for tokens that agree with them and tokens that do not."""
    ours, _ = make_schedules(schedule, 4096)
    allowed = None if size == 4096 else torch.arange(4096) < size
    tokens, entries = torch.tensor([0, 0, size - 1, 4096]), torch.tensor([0, size - 1, 0, size - 1])
    probs = torch.zeros(4, 4096).scatter(1, entries[:, None], 1.0)
    for time, earlier in PAIRS:
        move = Transition(ours, time, earlier, allowed)
        stay = move.stay(probs.gather(1, tokens.clamp(max=4095)[:, None])[:, 0])
        assert ((stay >= 0) & (stay <= 1)).all()
        assert 0 <= move.stay_masked <= 1
        weights = move.change_weights(probs, tokens)
        assert (weights >= 0).all()
        assert weights[:3].gather(1, tokens[:3, None]).sum() == 0
        # A position that can change has at least one token to change to.
        assert (weights.sum(1)[:3][stay[:3] < 1] > 0).all()
        assert weights[3].sum() > 0
        posterior = move.posterior(probs, tokens)
        torch.testing.assert_close(posterior.sum(1), torch.ones(4))


# --- truncation ---


@pytest.mark.parametrize("rate", [0.5, 0.86, 0.99])
@pytest.mark.parametrize(("codebook_size", "rounding"), [(8, 0), (256, 0), (4096, 1)])
def test_top_p_agrees_with_the_truncation_of_the_reference(rate, codebook_size, rounding):
    """In float32, cumulative sums over thousands of entries may cross the rate one entry earlier or later."""
    log_probs = random_logits(100, codebook_size).log_softmax(-1)
    kept = make_sampler(1, codebook_size, top_p=rate).filter_logits(log_probs).isfinite()
    expected = VQDiffusionPipeline.truncate(None, log_probs.T[None], rate)[0].T.isfinite()
    assert (kept != expected).sum(1).max() <= rounding
    assert 1 < kept.sum(1).float().mean() < codebook_size


# --- loop ---

K, L, ROWS = 8, 12, 16
TABLE = 2 * torch.randn(L, K + 1, L, K, generator=torch.Generator().manual_seed(0))


def network(tokens, time):
    """Log-probabilities (B, L, K) as a function of all tokens and the timestep."""
    logits = TABLE[torch.arange(L), tokens].sum(1) / L**0.5 + TABLE[0, 0, time % L]
    return logits.log_softmax(-1)


def our_states(sampler, schedule, times):
    """Tokens (B, L) before each step, and at the end."""
    states = []

    def predict(tokens, time):
        states.append(tokens.clone())
        return network(tokens, time)

    states.append(sample_diffusion(predict, sampler, schedule, times, L).tokens)
    return states


ALL = torch.ones(K, dtype=torch.bool)


def loop_by_hand(transition, times, decide, rate=1.0, allowed=ALL):
    """The same states if `decide` picks the next tokens from the whole reverse transition (N, K + 1) of each step."""
    states = [torch.full((ROWS, L), K)]
    for step, (time, earlier) in enumerate(zip(times, [*times[1:], -1], strict=True)):
        log_probs = network(states[-1], time).masked_fill(~allowed, -torch.inf).log_softmax(-1)
        log_probs = VQDiffusionPipeline.truncate(None, log_probs.transpose(1, 2), rate).transpose(1, 2)
        tokens = states[-1].flatten()
        probs = transition(log_probs.softmax(-1).flatten(0, 1), tokens, time, earlier)
        probs[:, :-1] *= allowed
        states.append(decide(probs / probs.sum(1, keepdim=True), tokens, step).view(ROWS, L))
    return states


def num_replaced(states):
    return sum(((before != after) & (before != K)).sum().item() for before, after in itertools.pairwise(states))


# The reference supports trailing timesteps only; transitions that skip timesteps are compared with matrices.
RUNS = [
    ("official", 100, 100, "last"),
    ("replacing", 100, 100, "last"),
    ("much replacing", 20, 20, "last"),
    ("much replacing", 100, 9, "last"),
    ("official", 100, 10, "even"),
    ("replacing", 100, 16, "even"),
    ("much replacing", 20, 6, "even"),
]
every_run = pytest.mark.parametrize(("schedule", "num_times", "num_steps", "spacing"), RUNS)


def make_run(schedule, num_times, num_steps, spacing):
    """Our schedule, the timesteps, and the expected transition."""
    ours, reference = make_schedules(schedule, K, num_times)

    def transition(probs, tokens, time, earlier):
        if spacing == "even":
            return exact_posterior(ours, time, earlier, probs, tokens)
        return reference_posterior(reference, probs, tokens, time)

    return ours, ours.times(num_steps, spacing), transition


@every_run
def test_without_noise_every_state_is_the_argmax_of_the_transition(schedule, num_times, num_steps, spacing):
    ours, times, transition = make_run(schedule, num_times, num_steps, spacing)
    states = our_states(make_sampler(ROWS, K, [PosteriorArgmax()]), ours, times)
    expected = loop_by_hand(transition, times, lambda probs, tokens, step: probs.argmax(-1))
    assert torch.equal(torch.stack(states), torch.stack(expected))
    assert num_replaced(states) > 0


@every_run
@pytest.mark.parametrize(("rate", "allowed"), [(1.0, ALL), (0.86, ALL), (0.86, subset(1, 4, 6, codebook_size=K))])
def test_on_equal_noise_every_state_agrees_with_the_transition(schedule, num_times, num_steps, spacing, rate, allowed):
    ours, times, transition = make_run(schedule, num_times, num_steps, spacing)
    sampler = make_sampler(ROWS, K, top_p=rate, allowed=allowed)

    def decide(probs, tokens, step):
        """Path noise decides whether a position changes, execution noise what it changes to."""
        here = tokens[:, None]
        change = 1 - probs.double().gather(1, here)[:, 0] > sampler.path.uniform_grid(step, L).flatten()
        others = probs.scatter(1, here, 0.0)[:, :-1]
        return torch.where(change, invert_cdf(others, sampler.exec.uniform_grid(step, L).flatten()), tokens)

    states, expected = our_states(sampler, ours, times), loop_by_hand(transition, times, decide, rate, allowed)
    assert torch.equal(torch.stack(states), torch.stack(expected))
    assert num_replaced(states) > 0


@every_run
def test_a_draw_records_the_distribution_it_was_sampled_from(schedule, num_times, num_steps, spacing):
    """It is the transition given a change, not the prediction of the image."""
    ours, times, transition = make_run(schedule, num_times, num_steps, spacing)
    draws = []

    class Recorder(Observer):
        def observe(self, draw):
            draws.append(draw)

    states = our_states(make_sampler(ROWS, K, observers=(Recorder(),)), ours, times)
    for draw, before, time, earlier in zip(draws, states, times, [*times[1:], -1], strict=False):
        indices = draw.rows, draw.positions
        probs = transition(network(before, time)[indices].exp(), before[indices], time, earlier)
        others = probs.scatter(1, before[indices][:, None], 0.0)[:, :-1]
        expected = (others / others.sum(1, keepdim=True)).float()
        torch.testing.assert_close(draw.log_probs.exp(), expected, rtol=0, atol=1e-5)


@every_schedule
@pytest.mark.parametrize("settings", [{}, {"top_k": 1}, {"top_p": 0.0}, {"allowed": subset(7, 99, codebook_size=4096)}])
def test_certain_predictions_over_a_large_codebook_give_samples(schedule, settings):
    """Any next prediction is allowed, even one that rules out the current tokens."""
    ours, _ = make_schedules(schedule, 4096)
    predictions = random_logits(10, 4, 6, 4096, scale=300.0)
    for probes in ([], [PosteriorArgmax()]):
        sampler = make_sampler(4, 4096, probes, **settings)
        samples = sample_diffusion(lambda tokens, time: predictions[time // 10], sampler, ours, ours.times(10), 6)
        assert (samples.tokens < 4096).all()
        assert sampler.allowed is None or sampler.allowed[samples.tokens].all()
        assert samples.entropy.isfinite().all()
        assert samples.log_prob.isfinite().all()


@pytest.mark.parametrize("rate", [1.0, 0.7])
def test_twenty_thousand_chains_follow_the_reference(rate):
    """Compares the frequencies of each step from each state, masked or not; no noise is shared with the reference."""
    num, size, num_times = 20_000, 5, 6
    ours, reference = make_schedules("much replacing", size, num_times)
    logits, states = random_logits(num_times, size, scale=1.0), []
    sampler = make_sampler(num, size, top_p=rate)

    def predict(tokens, time):
        states.append(tokens[:, 0].clone())
        return logits[time].expand(num, 1, size)

    states.append(sample_diffusion(predict, sampler, ours, ours.times(num_times), 1).tokens[:, 0])
    pvalues = []
    for time, before, after in zip(ours.times(num_times), states, states[1:], strict=False):
        probs = sampler.filter_logits(logits[time]).softmax(-1).expand(size + 1, size)
        posterior = reference_posterior(reference, probs, torch.arange(size + 1), time).double()
        for token in before.unique().tolist():
            counts = after[before == token].bincount(minlength=size + 1)
            expected = counts.sum() * posterior[token] / posterior[token].sum()
            possible = expected > 1e-6
            assert counts[~possible].sum() == 0
            if len(counts[possible]) > 1:
                pvalues.append(chisquare(counts[possible].numpy(), expected[possible].numpy()).pvalue)
    assert len(pvalues) > 20
    assert min(pvalues) > 1e-3 / len(pvalues)
