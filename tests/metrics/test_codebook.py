import math

import pytest
import torch

from gendiv_lightning.functional.entropy import chao_wang_jost_entropy, gini, plugin_entropy
from gendiv_lightning.metrics.codebook import CodebookUsage
from gendiv_lightning.records import PromptSamples

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


def test_values_agree_with_the_pooled_counts():
    prompts = [prompt(index) for index in range(5)]
    counts = torch.bincount(torch.cat([samples.tokens.flatten() for samples in prompts]), minlength=K)
    estimates = measured(prompts).compute()
    entropy = chao_wang_jost_entropy(counts).item()
    assert estimates["codebook/entropy_bits"].value == pytest.approx(entropy, rel=1e-12)
    assert estimates["codebook/entropy_plugin_bits"].value == pytest.approx(plugin_entropy(counts).item(), rel=1e-12)
    assert estimates["codebook/perplexity"].value == pytest.approx(2**entropy, rel=1e-12)
    assert estimates["codebook/coverage"].value == pytest.approx((counts > 0).sum().item() / K, rel=1e-12)
    assert estimates["codebook/gini"].value == pytest.approx(gini(counts).item(), rel=1e-12)
    assert estimates["codebook/coverage"][3:6] == (5, 20, 20)


def test_values_of_a_prompt_agree_with_its_counts():
    prompts = [prompt(index) for index in range(5)]
    counts = [torch.bincount(samples.tokens.flatten(), minlength=K) for samples in prompts]
    estimates = measured(prompts).compute()
    entropy, entries = estimates["codebook/prompt_entropy_bits"], estimates["codebook/prompt_entries"]
    assert entropy.value == pytest.approx(chao_wang_jost_entropy(torch.stack(counts)).mean().item(), rel=1e-12)
    assert entries.value == pytest.approx(sum((c > 0).sum().item() for c in counts) / 5, rel=1e-12)
    for estimate in (entropy, entries):
        assert estimate.low < estimate.value < estimate.high
        assert estimate[3:6] == (5, 20, 20)
    columns = measured(prompts).columns()
    assert {name: column.mean().item() for name, column in columns.items()} == pytest.approx(
        {name: estimates[name].value for name in columns}
    )
    assert columns["codebook/prompt_gini"].tolist() == pytest.approx([gini(c).item() for c in counts], rel=1e-12)
    assert columns["codebook/prompt_coverage"].tolist() == [(c > 0).sum().item() / K for c in counts]
    assert columns["codebook/prompt_perplexity"].equal(columns["codebook/prompt_entropy_bits"].exp2())


# --- information: I(X; C) of categorical prompts, known in closed form ---


def of_distributions(distributions, num=8, length=250):
    """Sample the tokens of each prompt independently from its distribution over the codebook."""
    prompts = []
    for position, distribution in enumerate(distributions):
        generator = torch.Generator().manual_seed(position)
        tokens = torch.multinomial(distribution, num * length, replacement=True, generator=generator).view(num, length)
        prompts.append(PromptSamples(torch.zeros(num, 3, 1, 1, dtype=torch.uint8), tokens, place=position))
    return prompts


def information(prompts):
    return measured(prompts).compute()["codebook/information_bits"]


def test_disjoint_codebook_entries_identify_the_prompt():
    distributions = torch.eye(5).repeat_interleave(10, 1) / 10  # five prompts, ten entries each
    estimate = information(of_distributions(distributions))
    assert estimate.value == pytest.approx(math.log2(5), abs=1e-2)
    assert estimate.low <= estimate.value <= estimate.high


def test_equal_codebook_use_gives_no_information_about_the_prompt():
    estimate = information(of_distributions(torch.ones(6, K)))
    assert estimate.value == pytest.approx(0, abs=0.01)
    assert estimate.low <= estimate.value <= estimate.high


def test_the_information_of_overlapping_prompts_is_the_difference_of_entropies():
    distributions = torch.rand(40, K, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 4
    distributions /= distributions.sum(1, keepdim=True)
    expected = plugin_entropy(distributions.mean(0)) - plugin_entropy(distributions).mean()
    estimate = information(of_distributions(distributions))
    assert estimate.value == pytest.approx(expected.item(), abs=0.01)
    assert estimate.low < expected < estimate.high


def test_a_prompt_is_weighted_by_its_number_of_tokens():
    first, second = of_distributions(torch.eye(2).repeat_interleave(torch.tensor([40, 10]), 1))
    quarter = information([first, second._replace(images=second.images[:2], tokens=second.tokens[:2])])
    assert quarter.value == pytest.approx(-0.8 * math.log2(0.8) - 0.2 * math.log2(0.2), abs=0.02)


def test_the_interval_of_the_information_is_as_wide_as_its_spread_over_sets_of_prompts():
    generator = torch.Generator().manual_seed(0)
    sets = []
    for _ in range(25):
        # Half of the prompts use one entry, the others all: H(C) hardly varies, but H(C|X) does.
        distributions = torch.eye(8)[torch.randint(8, (20,), generator=generator)]
        distributions[torch.rand(20, generator=generator) < 0.5] = 1 / 8
        sets.append(information(of_distributions(distributions, length=50)))
    spread = torch.tensor([estimate.value for estimate in sets]).std().item()
    half = sum(estimate.high - estimate.value for estimate in sets) / len(sets)
    assert half / 1.96 == pytest.approx(spread, rel=0.3)


def test_the_interval_contains_an_estimate_below_zero():
    from gendiv_lightning.metrics.codebook import _estimate

    estimate = _estimate(-0.01, torch.tensor([-0.02, 0.0, 0.02]), 3.0, [3, 3, 3], "")
    assert estimate.low == estimate.value == -0.01
    assert 0 < estimate.high < 0.1


def test_too_few_tokens_per_prompt_give_nan_and_a_warning():
    estimate = information(of_distributions(torch.ones(6, K), num=1, length=20))
    assert math.isnan(estimate.value)
    assert math.isnan(estimate.low)
    assert "too few tokens a prompt" in estimate.method
    assert "draw more samples" in estimate.method
    assert estimate.num_prompts == 6


def test_the_information_of_a_single_prompt_is_nan():
    assert information(of_distributions(torch.ones(1, K))).value == pytest.approx(0, abs=1e-12)


def test_order_and_rank_do_not_matter():
    prompts = [prompt(index, num=16) for index in range(8)]
    whole, first, second = measured(prompts), measured(prompts[5::-2]), measured([*prompts[6:], *prompts[:5:2]])
    first.merge_state(second)
    assert first.compute() == whole.compute()
    assert not math.isnan(whole.compute()["codebook/information_bits"].value)


@pytest.mark.parametrize("num_theirs", [0, 3])
def test_a_rank_without_prompts_takes_part(num_theirs):
    prompts = of_distributions(torch.eye(8).repeat_interleave(6, 1), length=20)
    here, there = measured(prompts[num_theirs:]), measured(prompts[:num_theirs])
    sent = []

    def gather(ours, group):
        assert (ours.dtype, ours.ndim) == (sent[0].dtype, sent[0].ndim)  # as real processes need it
        return [ours, sent.pop(0)]

    there.sync(dist_sync_fn=lambda x, group: sent.append(x) or [x], distributed_available=lambda: True)
    here.sync(dist_sync_fn=gather, distributed_available=lambda: True)
    assert type(here).compute(here) == measured(prompts).compute()  # bypasses torchmetrics, which would sync again


def test_the_interval_is_as_wide_as_the_spread_over_sets_of_prompts():
    sets = [measured([prompt(40 * position + index) for index in range(40)]).compute() for position in range(40)]
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


def test_tokens_of_any_integer_type_are_counted_alike():
    short = [prompt(index)._replace(tokens=prompt(index).tokens.to(torch.uint8)) for index in range(3)]
    assert measured(short).compute() == measured([prompt(index) for index in range(3)]).compute()


def test_a_codebook_of_16384_fits():
    metric = measured([prompt(index) for index in range(3)], 16384)
    assert sum(getattr(metric, name).nbytes for name in ("counts", "replicates", "totals")) < 14e6
    assert metric.compute()["codebook/coverage"].value < K / 16384 + 1e-9


def test_missing_tokens_and_tokens_outside_the_codebook_are_errors():
    with pytest.raises(ValueError, match="tokens"):
        CodebookUsage(K).update(prompt(0)._replace(tokens=None))
    with pytest.raises(ValueError, match=r"0\.\.9 .*tokenizer"):
        measured([prompt(0)], 10)
    with pytest.raises(ValueError, match="codebook_size"):
        CodebookUsage(0)
