import math

import pytest
import torch

from gendiv_lightning.batch import PromptSamples
from gendiv_lightning.functional.entropy import chao_wang_jost_entropy, plugin_entropy
from gendiv_lightning.metrics.codebook import CodebookUsage

K = 50


def prompt(index, num=4, length=16):
    generator = torch.Generator().manual_seed(1000 + index)
    favourites = torch.rand(K, generator=generator) / torch.arange(1, K + 1)
    tokens = torch.multinomial(favourites, num * length, replacement=True, generator=generator).view(num, length)
    return PromptSamples(torch.zeros(num, 3, 1, 1, dtype=torch.uint8), tokens, place=index)


def measured(prompts, codebook_size=K):
    metric = CodebookUsage(codebook_size)
    for samples in prompts:
        metric.update(samples)
    return metric


def test_values_are_those_of_the_pooled_counts():
    prompts = [prompt(index) for index in range(5)]
    counts = torch.bincount(torch.cat([samples.tokens.flatten() for samples in prompts]), minlength=K)
    estimates = measured(prompts).compute()
    entropy = chao_wang_jost_entropy(counts).item()
    assert estimates["codebook/entropy_bits"].value == pytest.approx(entropy, rel=1e-12)
    assert estimates["codebook/entropy_plugin_bits"].value == pytest.approx(plugin_entropy(counts).item(), rel=1e-12)
    assert estimates["codebook/perplexity"].value == pytest.approx(2**entropy, rel=1e-12)
    assert estimates["codebook/coverage"].value == pytest.approx((counts > 0).sum().item() / K, rel=1e-12)
    assert estimates["codebook/coverage"][3:6] == (5, 20, 20)


def test_order_and_rank_do_not_matter():
    prompts = [prompt(index) for index in range(8)]
    whole, first, second = measured(prompts), measured(prompts[5::-2]), measured([*prompts[6:], *prompts[:5:2]])
    first.merge_state(second)
    assert first.compute() == whole.compute()


def test_the_interval_is_as_wide_as_the_spread_over_sets_of_prompts():
    sets = [measured([prompt(40 * place + index) for index in range(40)]).compute() for place in range(40)]
    name = "codebook/entropy_plugin_bits"
    spread = torch.tensor([estimates[name].value for estimates in sets]).std().item()
    half = sum(estimates[name].high - estimates[name].value for estimates in sets) / len(sets)
    assert half / 1.96 == pytest.approx(spread, rel=0.3)


def test_prompts_are_weighted_independently_with_mean_and_variance_one():
    from gendiv_lightning.metrics.codebook import _prompt_weights

    weights = torch.stack([_prompt_weights(index) for index in range(500)]).double()
    assert weights.mean().item() == pytest.approx(1, abs=0.02)
    assert weights.var().item() == pytest.approx(1, abs=0.03)
    centred = weights - 1
    assert (centred[1:] * centred[:-1]).mean().abs() < 0.015  # neighbours in the set
    assert (centred[:, 1:] * centred[:, :-1]).mean().abs() < 0.015  # neighbouring replicates


def test_no_prompt_is_nan_and_one_prompt_has_no_interval():
    with pytest.warns(UserWarning, match="before the ``update``"):
        empty = CodebookUsage(K).compute()
    assert all(math.isnan(estimate.value) and estimate.num_prompts == 0 for estimate in empty.values())
    estimate = measured([prompt(0)]).compute()["codebook/entropy_bits"]
    assert estimate.value > 0
    assert math.isnan(estimate.low)


def test_paths_are_counted_once():
    samples = prompt(0)._replace(paraphrase=torch.tensor([0, 0, 1, 1]), path=torch.tensor([0, 0, 0, 1]))
    assert measured([samples]).compute()["codebook/coverage"].num_paths == 3


def test_any_integer_type_of_tokens_counts_alike():
    short = [prompt(index)._replace(tokens=prompt(index).tokens.to(torch.uint8)) for index in range(3)]
    assert measured(short).compute() == measured([prompt(index) for index in range(3)]).compute()


def test_a_codebook_of_16384_fits():
    metric = measured([prompt(index) for index in range(3)], 16384)
    assert sum(getattr(metric, name).nbytes for name in ("counts", "replicates", "sizes")) < 14e6
    assert metric.compute()["codebook/coverage"].value < K / 16384 + 1e-9


def test_missing_tokens_and_tokens_outside_the_codebook_are_errors():
    with pytest.raises(ValueError, match="tokens"):
        CodebookUsage(K).update(prompt(0)._replace(tokens=None))
    with pytest.raises(ValueError, match=r"0\.\.9 .*tokenizer"):
        measured([prompt(0)], 10)
    with pytest.raises(ValueError, match="codebook_size"):
        CodebookUsage(0)
