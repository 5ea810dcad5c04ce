"""kernel decomposition of samples: ground truth, intervals, and parts."""

import math

import pytest
import torch

from gendiv_lightning.callbacks import Decompose
from gendiv_lightning.features.base import ImageFeatures
from gendiv_lightning.functional.kernel_entropy import conditional_entropy, kernel_information, kernel_matrix
from gendiv_lightning.metrics import ConditionalVendi, KernelEntropy, VendiSet
from gendiv_lightning.metrics.registry import make_metric
from gendiv_lightning.records import PromptSamples
from gendiv_lightning.toy import postcards
from gendiv_lightning.toy.analytic import FAMILIES, AnalyticGenerator
from gendiv_lightning.toy.calibration import sample_crossed
from gendiv_lightning.toy.perfect import fitting_grids

NAME = "kernel[mean]"
CONDITIONS = ("path", "prompt")


class Mean(ImageFeatures):
    """The mean of each channel."""

    tag = "mean"

    def identity(self):
        return {"network": "mean"}

    def embed(self, images):
        return images.double().mean((2, 3))


def prompt(index=0, num=32, spread=60, paraphrases=2, paths=4):
    generator = torch.Generator().manual_seed(index)
    images = torch.randint(200 - spread, 200, (num, 3, 2, 2), generator=generator).to(torch.uint8)
    paraphrase = torch.arange(paraphrases).repeat_interleave(num // paraphrases)
    path = torch.arange(paths).repeat_interleave(num // paraphrases // paths).repeat(paraphrases)
    return PromptSamples(images, place=index, paraphrase=paraphrase, path=path)


def measured(metric, prompts):
    for samples in prompts:
        metric.update(samples)
    return metric


def test_columns_average_to_the_estimates_and_parts_add_up():
    metric = measured(KernelEntropy(Mean(), 20.0), [prompt(index) for index in range(7)])
    estimates, columns = metric.compute(), metric.columns()
    assert estimates.keys() == columns.keys() == {*metric.names}
    for name, estimate in estimates.items():
        assert columns[name].mean().item() == pytest.approx(estimate.value, abs=1e-12)
        assert estimate.low < estimate.value < estimate.high
    name = "kernel[mean,bandwidth=20]"
    for end in ("", "/order1"):
        total, execution, path, sampler, texts = (
            estimates[f"{part}/{name}{end}"].value
            for part in ("h_total", "h_exec", "h_path", "h_sampler_path", "h_prompt_path")
        )
        assert total == pytest.approx(execution + path)
        assert path == pytest.approx(sampler + texts)


def test_the_estimate_is_the_entropy_given_the_prompt():
    """It is Conditional-RKE given the identity of the prompt, without the pairs of a sample with itself."""
    prompts = [prompt(index, spread=30 + 20 * index, paraphrases=1, paths=32) for index in range(6)]
    features = torch.cat([Mean()(samples.images) for samples in prompts])
    kernel, owner = kernel_matrix(features, 20.0), torch.arange(6).repeat_interleave(32)
    same = (owner[:, None] == owner).double()
    plugin = 2 ** -conditional_entropy(kernel, same, 2)
    unbiased = (plugin - 1 / 32) * 32 / 31
    estimates = measured(KernelEntropy(Mean(), 20.0), prompts).compute()
    assert estimates["h_total/kernel[mean,bandwidth=20]"].value == pytest.approx(-math.log2(unbiased), rel=1e-6)
    entropy = conditional_entropy(kernel, same)
    assert estimates["h_total/kernel[mean,bandwidth=20]/order1"].value == pytest.approx(entropy, rel=1e-6)


@pytest.mark.parametrize("q", [1, 2])
def test_conditional_and_information_vendi_are_computed_from_second_moments(q):
    prompts = [prompt(index, num=8 + 8 * (index % 2), paraphrases=1, paths=4) for index in range(6)]
    metric = measured(ConditionalVendi(Mean(), q), prompts)
    features = torch.cat([Mean()(samples.images) for samples in prompts])
    owner = torch.cat([torch.full((len(samples.images),), samples.place) for samples in prompts])
    kernel, same = kernel_matrix(features), (owner[:, None] == owner).double()
    conditional, information = metric.compute().values()
    assert math.log2(conditional.value) == pytest.approx(conditional_entropy(kernel, same, q), abs=1e-6)
    assert math.log2(information.value) == pytest.approx(kernel_information(kernel, same, q), abs=1e-6)
    (whole,) = measured(VendiSet(Mean(), q), prompts).compute().values()
    assert conditional.value * information.value == pytest.approx(whole.value, rel=1e-9)
    assert conditional.low < conditional.value < conditional.high
    assert "jackknife" in conditional.method


@pytest.mark.parametrize("q", [1, 2])
def test_conditional_vendi_may_be_given_the_path(q):
    """A path is that of one prompt and paraphrase; a prompt's images split into what the path fixes and the rest."""
    prompts = [prompt(index, num=16, paraphrases=2, paths=2 + 2 * (index % 2)) for index in range(6)]
    metric = measured(ConditionalVendi(Mean(), q, "path"), prompts)
    features = torch.cat([Mean()(samples.images) for samples in prompts])
    own = [torch.cat([torch.full((16, 1), samples.place), samples.groups], 1) for samples in prompts]
    cell = torch.cat(own).unique(dim=0, return_inverse=True)[1]
    kernel, same = kernel_matrix(features), (cell[:, None] == cell).double()
    conditional, information = metric.compute().values()
    assert math.log2(conditional.value) == pytest.approx(conditional_entropy(kernel, same, q), abs=1e-6)
    assert math.log2(information.value) == pytest.approx(kernel_information(kernel, same, q), abs=1e-6)
    assert [name.split("[")[1] for name in metric.names] == [f"mean{',q=2' if q == 2 else ''},given=path]"] * 2
    assert metric.identity() != ConditionalVendi(Mean(), q).identity()
    assert "given the path" in conditional.method


def test_without_two_samples_of_a_condition_conditional_vendi_is_nan():
    unshared = [prompt(index, paraphrases=1, paths=32) for index in range(6)]
    by_path, by_prompt = (measured(ConditionalVendi(Mean(), given=given), unshared).compute() for given in CONDITIONS)
    assert all(math.isnan(estimate.value) and estimate.num_prompts == 0 for estimate in by_path.values())
    assert all(math.isfinite(estimate.value) for estimate in by_prompt.values())
    with pytest.raises(ValueError, match="given must be prompt or path, got 'seed'"):
        ConditionalVendi(Mean(), given="seed")


@pytest.mark.parametrize("given", CONDITIONS)
@pytest.mark.parametrize("q", [1, 2])
def test_conditional_vendi_does_not_depend_on_order_or_rank(q, given):
    prompts = [prompt(index, num=8 + 4 * (index % 3), paraphrases=1, paths=2) for index in range(40)]
    whole = measured(ConditionalVendi(Mean(), q, given), prompts).compute()
    backwards = measured(ConditionalVendi(Mean(), q, given), prompts[::-1])
    first, second = (measured(ConditionalVendi(Mean(), q, given), prompts[start::2]) for start in (1, 0))
    first.merge_state(second)
    assert whole == backwards.compute() == first.compute()


@pytest.mark.parametrize(("q", "more", "is_bounded"), [(1, 0, True), (1, 24, True), (2, 0, True), (2, 24, False)])
def test_information_is_bounded_by_one_group_only_where_the_theory_says_so(q, more, is_bounded):
    """Prompts of one distribution; with order 2 and sizes that differ, I(X; T) may be negative."""
    prompts = [
        prompt(index, num=8 + more * (index % 2), spread=20 + 150 * (index % 2), paraphrases=1, paths=4)
        for index in range(12)
    ]
    _, information = measured(ConditionalVendi(Mean(), q), prompts).compute().values()
    assert (information.low >= min(1.0, information.value)) == is_bounded


def test_conditional_vendi_supports_orders_1_and_2_and_is_nan_without_samples():
    with pytest.raises(ValueError, match=r"q must be 1 \(Conditional-Vendi\) or 2"):
        ConditionalVendi(Mean(), 3)
    empty = ConditionalVendi.compute(ConditionalVendi(Mean()))  # bypasses the warning of torchmetrics
    assert all(math.isnan(estimate.value) for estimate in empty.values())


def test_parts_that_the_samples_do_not_determine_are_nan():
    alone = measured(KernelEntropy(Mean()), [prompt(num=1, paraphrases=1, paths=1)]).compute()
    assert all(estimate.num_prompts == 0 and math.isnan(estimate.value) for estimate in alone.values())
    unshared = measured(KernelEntropy(Mean()), [prompt(index, paraphrases=1, paths=32) for index in range(3)]).compute()
    assert {name for name, estimate in unshared.items() if estimate.num_prompts} == {
        f"h_total/{NAME}",
        f"h_total/{NAME}/order1",
    }
    frozen = measured(KernelEntropy(Mean()), [prompt(index, paraphrases=1, paths=1) for index in range(3)]).compute()
    assert frozen[f"h_exec/{NAME}"].value == frozen[f"h_total/{NAME}"].value
    assert math.isnan(frozen[f"h_sampler_path/{NAME}"].value)
    distinct = PromptSamples(torch.arange(48).view(4, 3, 2, 2).to(torch.uint8))
    none = measured(KernelEntropy(Mean(), 0), [distinct]).compute()
    assert math.isnan(none["h_total/kernel[mean,bandwidth=0]"].value), "no two samples are equal"


def test_parts_are_differences_over_the_same_prompts():
    """Prompts without shared paths have an H_total, but do not enter the difference from H_exec."""
    shared = [prompt(index) for index in range(4)]
    alone = [prompt(index, spread=5, paraphrases=1, paths=32) for index in range(4, 8)]
    mixed, own = (measured(KernelEntropy(Mean(), 20.0), prompts).compute() for prompts in ([*shared, *alone], shared))
    name = "kernel[mean,bandwidth=20]"
    for part in ("h_exec", "h_path", "h_sampler_path", "h_prompt_path"):
        assert mixed[f"{part}/{name}"][:4] == own[f"{part}/{name}"][:4]
    assert mixed[f"h_total/{name}"].num_prompts == 8


def test_the_bandwidth_is_part_of_name_and_identity():
    names = [KernelEntropy(Mean(), bandwidth).names[0] for bandwidth in (None, 0, 0.25)]
    assert names == [f"h_total/kernel[mean{option}]" for option in ("", ",bandwidth=0", ",bandwidth=0.25")]
    assert KernelEntropy(Mean(), 0.25).identity() != KernelEntropy(Mean(), 0.5).identity()
    with pytest.raises(ValueError, match="bandwidth must be a distance"):
        make_metric("kernel_entropy[tiny,bandwidth=-1]")
    assert "identity kernel" in KernelEntropy(Mean(), 0).method


def test_uniformly_sampled_postcards_have_log_n_bits():
    """With the identity kernel on exact factors, N postcards that fit a caption have log2 N bits, within 1 %."""
    metric = make_metric("kernel_entropy[postcard-factors,bandwidth=0]")
    generator, shares = torch.Generator().manual_seed(0), []
    for index in range(8):
        stated = (
            {"sky": index % 6, "land": index % 10, "object": index} if index % 2 else {"object": 7, "land": index % 10}
        )
        fitting = images_of(stated)
        assert len(fitting) == len(fitting_grids(stated))
        shares.append(1 / len(fitting))
        drawn = fitting[torch.randint(len(fitting), (144,), generator=generator)]
        path = torch.arange(12).repeat_interleave(12)
        metric.update(PromptSamples(postcards.render(drawn), place=index, path=path))
    estimates = metric.compute()
    name = "kernel[postcard-factors,bandwidth=0]"
    true = -math.log2(sum(shares) / len(shares))
    assert estimates[f"h_total/{name}"].value == pytest.approx(true, rel=0.01)
    path = estimates[f"h_sampler_path/{name}"]
    assert path.low < 0 < path.high, "paths have no effect"


def images_of(stated):
    values = postcards.values_of(torch.arange(postcards.NUM_IMAGES))
    fits = torch.ones(len(values), dtype=torch.bool)
    for column, group in enumerate(postcards.GROUPS):
        fits &= (values[:, column] == stated[group]) if group in stated else True
    return fits.nonzero()[:, 0]


class Tokens(ImageFeatures):
    """Tokens, stored as images with one row."""

    tag = "tokens"

    def identity(self):
        return {"network": "tokens"}

    def embed(self, images):
        return images[:, 0, 0].float()


def sequences(generator):
    """Probabilities (P, Q, M, K^L) of all images of each chain."""
    size, probs = generator.codebook_size, []
    for chain, classes in enumerate(generator.class_of):
        within = torch.zeros(size, dtype=torch.float64)
        within[generator.columns[chain]] = generator.within[chain].flatten()
        within[classes < 0] = 0
        known = classes.clamp(min=0)
        start, step = generator.start[chain][known] * within, generator.step[chain][known][:, known] * within
        probs.append(torch.einsum("a,ab,bc->abc", start, step, step).flatten())
    return torch.stack(probs).view(*generator.chains.shape, -1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", ["independent", "autoregressive", "absorbing diffusion", "mixture over paths", "paraphrases apart"]
)
def test_estimates_for_analytic_generators_agree_with_closed_forms(family):
    generator = AnalyticGenerator(FAMILIES[family], codebook_size=8, num_prompts=48, num_paraphrases=2)
    prompts = sample_crossed(generator, Decompose(num_paths=16, num_paraphrases=2))
    metric = KernelEntropy(Tokens(), 0)
    for samples in prompts:
        images = samples.tokens[:, None, None].expand(-1, 3, 1, -1).to(torch.uint8)
        metric.update(samples._replace(images=images.contiguous()))
    estimates = metric.compute()
    probs = sequences(generator)  # (P, Q, M, images)
    means = [
        probs.square().sum(-1).mean((1, 2)),
        probs.mean(2).square().sum(-1).mean(1),
        probs.mean((1, 2)).square().sum(-1),
    ]
    execution, paraphrase, total = (-math.log2(mean.mean().item()) for mean in means)
    name = "kernel[tokens,bandwidth=0]"
    assert estimates[f"h_total/{name}"].value == pytest.approx(total, rel=0.01)
    assert estimates[f"h_exec/{name}"].value == pytest.approx(execution, rel=0.01)
    assert estimates[f"h_sampler_path/{name}"].value == pytest.approx(paraphrase - execution, abs=0.01 * total)
    assert estimates[f"h_prompt_path/{name}"].value == pytest.approx(total - paraphrase, abs=0.01 * total)


@pytest.mark.slow
def test_the_interval_covers_the_closed_form():
    """Prompts differ in spread: k^2 has mean (1 + 4 s^2 / sigma^2)^(-D/2) for normal features of scale s."""
    covered, sigma, scales = 0, 2.0, torch.tensor([0.5, 1.0, 2.0])
    expected = -math.log2(((1 + 4 * scales.square() / sigma**2) ** -1).mean().item())
    for trial in range(200):
        generator = torch.Generator().manual_seed(trial)
        metric = KernelEntropy(Mean(), sigma)
        for index in range(24):
            scale = scales[torch.randint(3, (), generator=generator)]
            features = scale * torch.randn(8, 2, generator=generator, dtype=torch.float64)
            kernel = kernel_matrix(features, sigma).square()
            mean = (kernel.sum() - 8) / 56
            row = torch.tensor([[mean, mean, *[math.nan] * 4, 8, 1]])
            metric.add_rows(PromptSamples(torch.zeros(8, 3, 1, 1), place=index), row, 8)
        estimate = KernelEntropy.compute(metric)["h_total/kernel[mean,bandwidth=2]"]
        covered += estimate.low <= expected <= estimate.high
    assert 0.90 <= covered / 200 <= 0.98
