"""The kernel decomposition of samples: ground truth, intervals, parts."""

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


class Mean(ImageFeatures):
    """The mean of each channel."""

    tag = "mean"

    def identity(self):
        return {"network": "mean"}

    def embed(self, images):
        return images.double().mean((2, 3))


def prompt(place=0, num=32, spread=60, wordings=2, paths=4):
    generator = torch.Generator().manual_seed(place)
    images = torch.randint(200 - spread, 200, (num, 3, 2, 2), generator=generator).to(torch.uint8)
    paraphrase = torch.arange(wordings).repeat_interleave(num // wordings)
    path = torch.arange(paths).repeat_interleave(num // wordings // paths).repeat(wordings)
    return PromptSamples(images, place=place, paraphrase=paraphrase, path=path)


def measured(metric, prompts):
    for samples in prompts:
        metric.update(samples)
    return metric


def test_columns_average_to_the_numbers_and_parts_add_up():
    metric = measured(KernelEntropy(Mean(), 20.0), [prompt(place) for place in range(7)])
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


def test_the_number_is_the_entropy_given_the_prompt():
    """With the prompt as an identity condition it is Conditional-RKE, but for a sample's pair with itself."""
    prompts = [prompt(place, spread=30 + 20 * place, wordings=1, paths=32) for place in range(6)]
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
def test_second_moments_give_conditional_and_information_vendi(q):
    prompts = [prompt(place, num=8 + 8 * (place % 2), wordings=1, paths=4) for place in range(6)]
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


def test_conditional_vendi_has_two_orders_and_no_samples_no_number():
    with pytest.raises(ValueError, match=r"q must be 1 \(Conditional-Vendi\) or 2"):
        ConditionalVendi(Mean(), 3)
    nothing = ConditionalVendi.compute(ConditionalVendi(Mean()))  # without torchmetrics' warning around it
    assert all(math.isnan(estimate.value) for estimate in nothing.values())


def test_what_samples_cannot_tell_is_nan():
    alone = measured(KernelEntropy(Mean()), [prompt(num=1, wordings=1, paths=1)]).compute()
    assert all(estimate.num_prompts == 0 and math.isnan(estimate.value) for estimate in alone.values())
    own = measured(KernelEntropy(Mean()), [prompt(place, wordings=1, paths=32) for place in range(3)]).compute()
    assert {name for name, estimate in own.items() if estimate.num_prompts} == {
        f"h_total/{NAME}",
        f"h_total/{NAME}/order1",
    }
    frozen = measured(KernelEntropy(Mean()), [prompt(place, wordings=1, paths=1) for place in range(3)]).compute()
    assert frozen[f"h_exec/{NAME}"].value == frozen[f"h_total/{NAME}"].value
    assert math.isnan(frozen[f"h_sampler_path/{NAME}"].value)
    distinct = PromptSamples(torch.arange(48).view(4, 3, 2, 2).to(torch.uint8))
    none = measured(KernelEntropy(Mean(), 0), [distinct]).compute()
    assert math.isnan(none["h_total/kernel[mean,bandwidth=0]"].value), "no two samples are alike"


def test_the_bandwidth_is_part_of_name_and_identity():
    names = [KernelEntropy(Mean(), bandwidth).names[0] for bandwidth in (None, 0, 0.25)]
    assert names == [f"h_total/kernel[mean{option}]" for option in ("", ",bandwidth=0", ",bandwidth=0.25")]
    assert KernelEntropy(Mean(), 0.25).identity() != KernelEntropy(Mean(), 0.5).identity()
    with pytest.raises(ValueError, match="bandwidth must be a distance"):
        make_metric("kernel_entropy[tiny,bandwidth=-1]")
    assert "identity kernel" in KernelEntropy(Mean(), 0).method


def test_postcards_drawn_uniformly_have_log_n_bits():
    """Ground-truth factors and the identity kernel: of N postcards that a caption fits, log2 N, within 1 %."""
    metric = make_metric("kernel_entropy[postcard-factors,bandwidth=0]")
    generator, shares = torch.Generator().manual_seed(0), []
    for place in range(8):
        stated = (
            {"sky": place % 6, "land": place % 10, "object": place} if place % 2 else {"object": 7, "land": place % 10}
        )
        fitting = images_of(stated)
        assert len(fitting) == len(fitting_grids(stated))
        shares.append(1 / len(fitting))
        drawn = fitting[torch.randint(len(fitting), (144,), generator=generator)]
        path = torch.arange(12).repeat_interleave(12)
        metric.update(PromptSamples(postcards.render(drawn), place=place, path=path))
    estimates = metric.compute()
    name = "kernel[postcard-factors,bandwidth=0]"
    true = -math.log2(sum(shares) / len(shares))
    assert estimates[f"h_total/{name}"].value == pytest.approx(true, rel=0.01)
    path = estimates[f"h_sampler_path/{name}"]
    assert path.low < 0 < path.high, "paths have no effect"


def images_of(stated):
    values = postcards.values_of(torch.arange(postcards.NUM_IMAGES))
    fits = torch.ones(len(values), dtype=torch.bool)
    for place, group in enumerate(postcards.GROUPS):
        fits &= (values[:, place] == stated[group]) if group in stated else True
    return fits.nonzero()[:, 0]


class Tokens(ImageFeatures):
    """Images of one row that are tokens."""

    tag = "tokens"

    def identity(self):
        return {"network": "tokens"}

    def embed(self, images):
        return images[:, 0, 0].float()


def sequences(generator):
    """(P, Q, M, K^L) probabilities of all images of each chain."""
    size, found = generator.codebook_size, []
    for chain, classes in enumerate(generator.class_of):
        within = torch.zeros(size, dtype=torch.float64)
        within[generator.columns[chain]] = generator.within[chain].flatten()
        within[classes < 0] = 0
        known = classes.clamp(min=0)
        start, step = generator.start[chain][known] * within, generator.step[chain][known][:, known] * within
        found.append(torch.einsum("a,ab,bc->abc", start, step, step).flatten())
    return torch.stack(found).view(*generator.chains.shape, -1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", ["independent", "autoregressive", "absorbing diffusion", "mixture over paths", "wordings apart"]
)
def test_analytic_generators_have_their_closed_forms(family):
    generator = AnalyticGenerator(FAMILIES[family], codebook_size=8, num_prompts=48, num_wordings=2)
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
    execution, wording, total = (-math.log2(mean.mean().item()) for mean in means)
    name = "kernel[tokens,bandwidth=0]"
    assert estimates[f"h_total/{name}"].value == pytest.approx(total, rel=0.01)
    assert estimates[f"h_exec/{name}"].value == pytest.approx(execution, rel=0.01)
    assert estimates[f"h_sampler_path/{name}"].value == pytest.approx(wording - execution, abs=0.01 * total)
    assert estimates[f"h_prompt_path/{name}"].value == pytest.approx(total - wording, abs=0.01 * total)


@pytest.mark.slow
def test_the_interval_covers_the_truth():
    """Prompts that differ in spread: k^2 has mean (1 + 4 s^2 / sigma^2)^(-D/2) for normal features of scale s."""
    covered, sigma, scales = 0, 2.0, torch.tensor([0.5, 1.0, 2.0])
    truth = -math.log2(((1 + 4 * scales.square() / sigma**2) ** -1).mean().item())
    for trial in range(200):
        generator = torch.Generator().manual_seed(trial)
        metric = KernelEntropy(Mean(), sigma)
        for place in range(24):
            scale = scales[torch.randint(3, (), generator=generator)]
            features = scale * torch.randn(8, 2, generator=generator, dtype=torch.float64)
            kernel = kernel_matrix(features, sigma).square()
            mean = (kernel.sum() - 8) / 56
            row = torch.tensor([[mean, mean, *[math.nan] * 4, 8, 1]])
            metric.add_rows(PromptSamples(torch.zeros(8, 3, 1, 1), place=place), row, 8)
        estimate = KernelEntropy.compute(metric)["h_total/kernel[mean,bandwidth=2]"]
        covered += estimate.low <= truth <= estimate.high
    assert 0.90 <= covered / 200 <= 0.98
