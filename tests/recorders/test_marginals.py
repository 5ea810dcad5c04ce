"""Sums of predictive distributions: exact for any batch size, and their entropies against known generators."""

import math
from types import SimpleNamespace

import pytest
import torch

from gendiv_lightning.callbacks import Decompose, FreezePath
from gendiv_lightning.callbacks import Paraphrase as ParaphraseProbe
from gendiv_lightning.functional.decomposition import NAMES, marginal_entropies
from gendiv_lightning.prompts.design import apply_designs
from gendiv_lightning.prompts.design import make_batch as batch_of
from gendiv_lightning.recorders import TokenMarginals
from gendiv_lightning.records import Paraphrase, Prompt, SampleDesign, TokenSamples
from gendiv_lightning.sampling import Draw, Noise, TokenSampler

L, K = 3, 5


def make_batch(probes, num_prompts=2, num_samples=8):
    paraphrases = tuple(Paraphrase(f"wording {n}", "short") for n in range(4))
    prompts = tuple(Prompt(f"p{n}", f"prompt {n}", paraphrases) for n in range(num_prompts))
    return batch_of(0, prompts, apply_designs(SampleDesign(num_samples), probes))


def marginals(batch, num_tokens=L, *, rewrites=False):
    """Build a recorder for a generator with the given number of tokens."""
    return TokenMarginals(SimpleNamespace(grid=(1, num_tokens), codebook_size=K, rewrites_tokens=rewrites), batch)


NO_SAMPLES = TokenSamples(*[torch.zeros(0, L)] * 3)  # the sums are of the draws
SAMPLER = TokenSampler(Noise.of(0, "path", []), Noise.of(0, "exec", []), K)


def distributions(num_rows):
    return torch.randn(num_rows, L, K, generator=torch.Generator().manual_seed(0)).log_softmax(-1)


def draw(log_probs, rows, position, is_mode=False):
    """A draw at one position for some rows of a micro-batch; the sampled tokens do not matter."""
    rows = torch.as_tensor(rows)
    positions = torch.full_like(rows, position)
    return Draw(0, rows, positions, torch.zeros_like(rows), log_probs, is_mode)


def record(batch, log_probs, size, *, rewrites=False, padded=0):
    """Run the loop on `size` rows at a time; if rewriting, each token is first sampled from another distribution."""
    sums = marginals(batch, rewrites=rewrites)
    for start in range(0, len(batch.rows), size):
        rows = list(range(start, min(start + size, len(batch.rows))))
        filled = rows + rows[-1:] * padded
        sums.begin(rows, padded)
        here = list(range(len(filled)))
        for position in range(L):
            if rewrites:
                sums.observe(draw(log_probs[filled].flip(2)[:, position], here, position))
            sums.observe(draw(log_probs[filled][:, position], here, position))
        sums.end(NO_SAMPLES, SAMPLER)
    return sums.results()


PLANS = {
    "unshared paths": [],
    "paraphrases": [ParaphraseProbe(2)],
    "one path": [FreezePath()],
    "crossed": [Decompose(4)],
    "crossed with paraphrases": [Decompose(4, 2)],
}
plans = pytest.mark.parametrize("probes", PLANS.values(), ids=PLANS)


@plans
def test_results_do_not_depend_on_batches_padding_or_earlier_draws(probes):
    batch = make_batch(probes)
    log_probs = distributions(len(batch.rows))
    whole = record(batch, log_probs, len(batch.rows))
    assert whole.shape == (2, len(NAMES))
    for again in (
        record(batch, log_probs, 5),
        record(batch, log_probs, 7, padded=2),
        record(batch, log_probs, 6, rewrites=True),
    ):
        torch.testing.assert_close(again, whole, atol=1e-5, rtol=0, equal_nan=True)


def entropy(probs):
    return (torch.special.entr(probs).sum(-1).mean() / math.log(2)).item()


def test_plug_in_entropies_are_those_of_the_mean_distributions_of_groups():
    batch = make_batch([Decompose(4, 2)], num_prompts=1)
    log_probs = distributions(len(batch.rows))
    groups: dict[tuple[int, int], list[torch.Tensor]] = {}
    for key, own in zip(batch.keys, log_probs.exp(), strict=True):
        groups.setdefault((key.paraphrase, key.path), []).append(own)
    means = {key: torch.stack(members).mean(0) for key, members in groups.items()}
    paraphrases = {q for q, _ in means}
    expected = [
        sum(map(entropy, means.values())) / 8,
        sum(entropy(torch.stack([m for (w, _), m in means.items() if w == q]).mean(0)) for q in paraphrases) / 2,
        entropy(torch.stack(list(means.values())).mean(0)),
    ]
    result = record(batch, log_probs, 32)[0]
    assert result[NAMES.index("exec_plugin") :].tolist() == pytest.approx(expected, abs=1e-5)


def test_parts_that_the_design_does_not_determine_are_nan():
    defined = {
        name: ~record(make_batch(probes), distributions(64)[: len(make_batch(probes).rows)], 64)[0].isnan()
        for name, probes in PLANS.items()
    }
    known = {name: {n for n, there in zip(NAMES[:3], row, strict=False) if there} for name, row in defined.items()}
    assert known == {
        "unshared paths": {"wording", "pool"},
        "paraphrases": {"wording", "pool"},
        "one path": {"exec", "wording", "pool"},
        "crossed": {"exec", "wording", "pool"},
        "crossed with paraphrases": {"exec", "wording", "pool"},
    }


def test_argmax_tokens_count_as_certain():
    batch = make_batch([Decompose(2)], num_prompts=1)
    sums = marginals(batch, 1)
    sums.begin(range(4), 0)
    sums.observe(draw(distributions(4)[:, 0], range(4), 0, is_mode=True))
    sums.end(NO_SAMPLES, SAMPLER)
    assert sums.results()[0].tolist() == pytest.approx([0] * 6, abs=1e-12)


# --- against exact entropies ---


def sample_sums(num_paths, weights, contexts, generator, num_paraphrases=1):
    """Simulate a generator: paths have distributions over contexts, samples a context, contexts a token distribution.

    Args:
        weights: (Q, M, C) probabilities of contexts on each of M kinds of path, which are equally likely.
        contexts: (C, K) distributions.
    """
    kinds = torch.randint(weights.shape[1], (num_paraphrases, num_paths), generator=generator)
    chosen = weights[torch.arange(num_paraphrases)[:, None], kinds]
    context = torch.multinomial(chosen.flatten(0, 1), num_paths, replacement=True, generator=generator)
    samples = contexts[context].view(num_paraphrases, num_paths, num_paths, 1, -1)
    rows = torch.stack([samples[:, :, 0::2].sum(2), samples[:, :, 1::2].sum(2)], 2)
    columns = torch.stack([samples[:, 0::2].sum(1), samples[:, 1::2].sum(1)], 2)
    return torch.stack([rows, columns])


def exact_entropies(weights, contexts):
    kinds = weights @ contexts
    return entropy(kinds), entropy(kinds.mean(1)), entropy(kinds.mean((0, 1)))


@pytest.mark.slow
@pytest.mark.parametrize("codebook_size", [8, 256])
@pytest.mark.parametrize("kind", ["no path", "path", "paraphrase"])
def test_estimates_are_close_to_the_exact_entropies_on_average(codebook_size, kind):
    generator = torch.Generator().manual_seed(1)
    contexts = torch.distributions.Dirichlet(torch.full((codebook_size,), 0.3))
    with torch.random.fork_rng():
        torch.manual_seed(2)
        contexts = contexts.sample((12,)).double()
        weights = torch.distributions.Dirichlet(torch.full((12,), 0.5)).sample((2, 6)).double()
    if kind == "no path":
        weights = weights[:1, :1].expand(2, 6, 12)
    elif kind == "path":
        weights = weights[:1].expand(2, 6, 12)
    else:
        weights = weights[:, :1].expand(2, 6, 12)
    rows = torch.stack([marginal_entropies(sample_sums(8, weights, contexts, generator, 2)) for _ in range(400)])
    mean, error = rows.mean(0), rows.std(0) / 20
    exec_, wording, pool = exact_entropies(weights, contexts)
    for result, spread, expected in zip(mean, error, (exec_, wording, pool), strict=False):
        assert result.item() == pytest.approx(expected, abs=max(3 * spread.item(), 0.02 * pool))
    steps = rows[:, 1] - rows[:, 0], rows[:, 2] - rows[:, 1]
    for step, expected in zip(steps, (wording - exec_, pool - wording), strict=True):
        tolerance = max(3 * step.std().item() / 20, 0.0 if expected == 0 else 0.02 * pool)
        assert step.mean().item() == pytest.approx(expected, abs=tolerance)
    plugin_path = (mean[4] - mean[3]).item()
    assert plugin_path > wording - exec_ + 0.05, "counting few samples finds paths where there are none"


def test_paths_that_differ_in_certainty_only_have_no_path_entropy():
    generator = torch.Generator().manual_seed(3)
    sharp = torch.eye(16).double()
    flat = sharp.mean(0).expand_as(sharp)
    # Half of the paths determine the token, the other half do not; both halves have the same mean distribution.
    weights = torch.block_diag(torch.ones(1, 16), torch.ones(1, 16))[None].expand(2, 2, 32).double() / 16
    contexts = torch.cat([sharp, flat])
    images = [torch.cat([sample_sums(4, weights, contexts, generator, 2) for _ in range(12)], -2) for _ in range(300)]
    rows = torch.stack([marginal_entropies(sums) for sums in images])
    path, plugin = rows[:, 1] - rows[:, 0], rows[:, 4] - rows[:, 3]
    assert abs(path.mean()) < 0.02, "a two-hundredth of the total, 4 bits"
    assert plugin.mean() > 0.5


def test_disjoint_paths_have_the_entropy_of_the_path_choice():
    generator = torch.Generator().manual_seed(4)
    weights = torch.eye(64).double()[None]
    contexts = torch.eye(64).double().repeat_interleave(2, 1) / 2
    rows = torch.stack([marginal_entropies(sample_sums(8, weights, contexts, generator)) for _ in range(200)])
    assert (rows[:, 0] - 1).abs().max() < 1e-6, "a token is one of two of its path's own"
