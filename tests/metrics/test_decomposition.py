"""Entropies of tokens and sequences, and their parts, on samples with known entropies."""

import math

import pytest
import torch

from gendiv_lightning.functional.decomposition import NAMES
from gendiv_lightning.metrics import SequenceEntropy, TokenEntropy
from gendiv_lightning.metrics.decomposition import UNSEEN
from gendiv_lightning.recorders import ParaphraseLikelihood, TokenMarginals
from gendiv_lightning.records import PromptSamples

PARTS = ("h_total", "h_exec", "h_path", "h_sampler_path", "h_prompt_path")


def prompt(tokens=None, *, index=0, paraphrase=None, path=None, entropy=None, marginals=None, scores=None, num=None):
    """Samples with the given tokens (N, L) and blank images."""
    num = num or len(tokens if tokens is not None else entropy)
    return PromptSamples(
        torch.zeros(num, 3, 1, 1, dtype=torch.uint8),
        tokens,
        place=index,
        paraphrase=paraphrase,
        path=path,
        entropy=entropy,
        per_prompt={} if marginals is None else {TokenMarginals.name: torch.tensor(marginals, dtype=torch.float64)},
        per_sample={} if scores is None else {ParaphraseLikelihood.name: scores},
    )


def crossed(num, num_paraphrases=1):
    """Paraphrases and paths of a design with `num` paths of `num` samples for each paraphrase."""
    cells = [(q, z) for q in range(num_paraphrases) for z in range(num) for _ in range(num)]
    return [torch.tensor(column) for column in zip(*cells, strict=True)]


def numbers(metric, samples):
    return dict(zip(metric.names, metric.measure(samples), strict=True))


def nan(*values):
    return pytest.approx(values, nan_ok=True, abs=1e-9)


# --- tokens ---


def test_the_token_entropies_have_their_names():
    parts = [f"{part}/token{kind}" for kind in ("", "/plugin", "/counts") for part in PARTS]
    assert TokenEntropy().names == (*parts, UNSEEN)
    assert TokenEntropy.recorders == (TokenMarginals,)


@pytest.mark.parametrize("num_paraphrases", [1, 2])
def test_parts_are_differences_of_the_recorded_entropies(num_paraphrases):
    assert NAMES == ("exec", "wording", "pool", "exec_plugin", "wording_plugin", "pool_plugin")
    samples = prompt(num=4, paraphrase=torch.arange(4) % num_paraphrases, marginals=[1.0, 2.5, 4.5, 0.5, 1.5, 3.0])
    result = numbers(TokenEntropy(), samples)
    several = num_paraphrases > 1
    assert [result[f"{part}/token"] for part in PARTS] == nan(4.5, 1, 3.5, 1.5, 2 if several else math.nan)
    assert [result[f"{part}/token/plugin"] for part in PARTS] == nan(3, 0.5, 2.5, 1, 1.5 if several else math.nan)
    assert all(math.isnan(result[f"{part}/token/counts"]) for part in PARTS), "there are no tokens"
    assert math.isnan(result[UNSEEN])


def test_tokens_determined_by_the_path_have_path_entropy_only():
    paraphrase, path = crossed(4)
    result = numbers(TokenEntropy(), prompt((path % 2)[:, None].repeat(1, 5), paraphrase=paraphrase, path=path))
    assert result["h_exec/token/counts"] == pytest.approx(0, abs=1e-9)
    assert result["h_path/token/counts"] == pytest.approx(result["h_total/token/counts"])
    assert result["h_total/token/counts"] == pytest.approx(1, abs=0.1)
    assert result["h_sampler_path/token/counts"] == pytest.approx(result["h_path/token/counts"])
    assert all(math.isnan(result[f"{part}/token"]) for part in PARTS), "nothing was recorded"


def test_tokens_determined_by_the_paraphrase_have_prompt_path_entropy_only():
    paraphrase, path = crossed(4, 2)
    result = numbers(TokenEntropy(), prompt(paraphrase[:, None].repeat(1, 3), paraphrase=paraphrase, path=path))
    assert result["h_exec/token/counts"] == pytest.approx(0, abs=0.03)
    assert result["h_sampler_path/token/counts"] == pytest.approx(0, abs=0.03)
    assert result["h_prompt_path/token/counts"] == pytest.approx(1, abs=0.03)
    assert result["h_total/token/counts"] == pytest.approx(1, abs=0.03)


def test_independent_tokens_have_execution_entropy_only():
    generator = torch.Generator().manual_seed(0)
    paraphrase, path = crossed(8)
    tokens = torch.randint(2, (len(path), 400), generator=generator)
    result = numbers(TokenEntropy(), prompt(tokens, paraphrase=paraphrase, path=path))
    assert result["h_total/token/counts"] == pytest.approx(1, abs=0.02)
    assert result["h_path/token/counts"] == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(
    ("tokens", "share"),
    [([[3, 3], [3, 3]], 0.0), ([[0, 1], [2, 3]], 1.0), ([[0, 1], [0, 2], [0, 3], [5, 5]], 5 / 8)],
)
def test_unseen_is_the_share_of_tokens_that_are_singletons_at_their_position(tokens, share):
    assert numbers(TokenEntropy(), prompt(torch.tensor(tokens)))[UNSEEN] == share


def test_unshared_paths_define_the_total_only():
    result = numbers(TokenEntropy(), prompt(torch.arange(16)[:, None] % 2))
    assert result["h_total/token/counts"] == pytest.approx(1, abs=0.05)
    assert math.isnan(result["h_exec/token/counts"])
    assert math.isnan(result["h_path/token/counts"])


def test_prompts_with_nan_are_excluded():
    metric = TokenEntropy()
    metric.update(prompt(num=4, index=2, marginals=[1.0, 2, 3, 1, 2, 3]))
    metric.update(prompt(torch.zeros(4, 2, dtype=torch.int64), index=0))
    metric.update(prompt(num=2, index=1))
    estimates = metric.compute()
    assert (estimates["h_exec/token"].value, estimates["h_exec/token"].num_prompts) == (1, 1)
    assert (estimates[UNSEEN].value, estimates[UNSEEN].num_prompts) == (0, 1)
    assert estimates["h_prompt_path/token"].num_prompts == 0
    assert metric.columns()[UNSEEN].isnan().tolist() == [False, True, True]


# --- sequences ---


def entropies(*sums):
    """Recorded entropies (N, 2) with the given sums, in bits per sequence."""
    return torch.tensor([[0.25 * total, 0.75 * total] for total in sums])


def test_the_entropy_of_one_paraphrase_is_the_mean_of_the_summed_draws():
    assert SequenceEntropy().measure(prompt(entropy=entropies(2, 4, 9))) == nan(5, 5, math.nan)


def test_without_a_likelihood_only_execution_is_defined():
    samples = prompt(entropy=entropies(2, 4), paraphrase=torch.tensor([0, 1]))
    assert SequenceEntropy().measure(samples) == nan(math.nan, 3, math.nan)


def test_without_entropies_nothing_is_defined():
    assert SequenceEntropy().measure(prompt(num=2)) == nan(math.nan, math.nan, math.nan)


@pytest.mark.parametrize(
    ("likelihoods", "bits"),
    [
        ([[0.0, -4000.0], [-4000.0, 0.0]], 1.0),  # each says something else
        ([[-7.0, -7.0], [-300.0, -300.0]], 0.0),  # all say the same
    ],
)
def test_disjoint_paraphrases_add_one_bit_and_equal_ones_none(likelihoods, bits):
    samples = prompt(entropy=entropies(2, 4), paraphrase=torch.tensor([0, 1]), scores=torch.tensor(likelihoods))
    assert SequenceEntropy().measure(samples) == nan(3 + bits, 3, bits)


@pytest.mark.parametrize("numbers_of", [(0, 1), (1, 0), (0, 5)])
def test_the_prompt_path_is_the_mutual_information_of_sequence_and_paraphrase(numbers_of):
    """Two sequences have probabilities 3/4 and 1/4 for one paraphrase, 1/4 and 3/4 for the other."""
    shown = [(0, 0), (0, 0), (0, 0), (0, 1), (1, 0), (1, 1), (1, 1), (1, 1)]  # (paraphrase, sequence)
    probabilities = torch.tensor([[0.75, 0.25], [0.25, 0.75]])
    scores = torch.stack([probabilities[:, sequence].log2() for _, sequence in shown])
    paraphrase = torch.tensor([numbers_of[q] for q, _ in shown])
    order = [0, 1] if numbers_of[0] < numbers_of[1] else [1, 0]  # columns are ordered by paraphrase number
    samples = prompt(entropy=entropies(*[0.0] * 8), paraphrase=paraphrase, scores=scores[:, order])
    one = -0.75 * math.log2(0.75) - 0.25 * math.log2(0.25)
    assert SequenceEntropy().measure(samples) == pytest.approx([1 - one, 0, 1 - one], abs=1e-6)
