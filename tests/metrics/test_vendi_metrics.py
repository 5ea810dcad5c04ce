import math
import pickle

import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from gendiv_lightning.features.base import ImageFeatures, _LoadedNetworks
from gendiv_lightning.features.pixels import Pixels, SmallPixels, pixel_features
from gendiv_lightning.functional.vendi import vendi_score
from gendiv_lightning.metrics import Vendi, VendiSet
from gendiv_lightning.metrics import vendi as module
from gendiv_lightning.records import PromptSamples

NAME, SET = "diversity/vendi[pixels]", "diversity/vendi_set[colours]"


class Colours(ImageFeatures):
    """Pixels, centred at middle grey and projected to a few dimensions."""

    tag = "colours"

    def __init__(self, size=12, seed=0):
        super().__init__()
        self.size, self.seed = size, seed

    def identity(self):
        return {"size": self.size, "seed": self.seed}

    def read(self):
        self.is_loaded = True
        return super().read()

    def embed(self, images):
        generator = torch.Generator().manual_seed(self.seed)
        mixture = torch.randn(12, self.size, generator=generator, dtype=torch.float64)
        return (images.flatten(1).double() - 127.5) @ mixture


def prompt(index=0, num=8, spread=120):
    generator = torch.Generator().manual_seed(index)
    shared = torch.randint(0, 256 - spread, (3, 2, 2), generator=generator)
    images = (shared + torch.randint(0, spread, (num, 3, 2, 2), generator=generator)).to(torch.uint8)
    return PromptSamples(images, place=index)


def measured(metric, prompts):
    for samples in prompts:
        metric.update(samples)
    return metric


def of_the_set(prompts, q=1.0, features=None):
    return measured(VendiSet(features or Colours(), q), prompts).compute()


# --- Vendi: prompt by prompt ---


def test_the_score_of_a_run_is_the_mean_over_prompts():
    prompts = [prompt(index) for index in range(5)]
    estimate = measured(Vendi(), prompts).compute()[NAME]
    scores = [vendi_score(pixel_features(samples.images)) for samples in prompts]
    assert estimate.value == pytest.approx(sum(scores) / 5, rel=1e-6)
    assert estimate.low < estimate.value < estimate.high
    assert estimate[3:6] == (5, 40, 40)


def test_features_are_normalized():
    metric = Vendi(Colours(), 2)
    metric.load()
    assert metric.features.is_loaded
    unit = F.normalize(Colours()(prompt(num=70).images).double(), dim=1)
    score = 1 / (unit @ unit.T / 70).square().sum().item()  # order 2 needs no eigenvalues
    assert metric.measure(prompt(num=70)) == pytest.approx([score], rel=1e-9)
    assert metric.names == ("diversity/vendi[colours,q=2]",)


def test_the_method_gives_the_samples_per_prompt_and_the_identity_does_not():
    metric = Vendi()
    before = metric.identity()
    measured(metric, [prompt(0), prompt(1), prompt(2, num=1)])
    assert "at N = 8 samples a prompt" in metric.compute()[NAME].method
    metric.update(prompt(3, num=5))
    assert "at N = 5 to 8 samples a prompt" in metric.compute()[NAME].method
    assert metric.identity() == before
    assert metric.compute()[NAME].num_prompts == 3  # one sample has no score


def test_the_identity_distinguishes_orders_and_weights():
    metrics = [Vendi(), Vendi(q=2), Vendi(Colours()), Vendi(Colours(seed=1)), VendiSet(), VendiSet(Colours())]
    identities = [str(metric.identity()) for metric in metrics]
    assert len({*identities}) == len(identities)
    assert str(Vendi(Colours()).identity()) == identities[2]
    assert VendiSet(SmallPixels(3), math.inf).identity()["names"] == ["diversity/vendi_set[pixels3,q=inf]"]


def test_black_images_have_a_score_of_1():
    black = PromptSamples(torch.zeros(4, 3, 2, 2, dtype=torch.uint8))
    assert Vendi().measure(black) == pytest.approx([1])
    assert of_the_set([black], features=SmallPixels(2))["diversity/vendi_set[pixels2]"].value == pytest.approx(1)


# --- VendiSet: all samples ---


@pytest.mark.parametrize("q", [0.5, 1.0, 2.0, math.inf])
def test_the_score_of_all_samples_is_computed_from_second_moments(q):
    prompts = [prompt(index) for index in range(20)]
    features = Colours()(torch.cat([samples.images for samples in prompts]))
    (estimate,) = of_the_set(prompts, q).values()
    assert estimate.value == pytest.approx(vendi_score(features, q), rel=1e-9)
    assert estimate.low < estimate.value < estimate.high <= 12
    assert estimate[3:6] == (20, 160, 160)
    assert "N = 160" in estimate.method


def test_downscaled_pixels_are_means_of_pixels():
    images = torch.arange(96).view(2, 3, 4, 4).to(torch.uint8)
    means = images.double().view(2, 3, 2, 2, 2, 2).mean((3, 5)).flatten(1)
    torch.testing.assert_close(SmallPixels(2)(images), means.float())
    assert SmallPixels()(images).shape == (2, 432)


def test_order_and_rank_give_bit_identical_values():
    prompts = [prompt(index) for index in range(40)]
    first, second = measured(VendiSet(Colours()), prompts[34:9:-2]), measured(VendiSet(Colours()), prompts[1::2])
    first.merge_state(second)
    alone = second.compute()
    assert measured(first, [*prompts[36::2], *prompts[:10:2]]).compute() == of_the_set(prompts)
    second.reset()
    assert measured(second, prompts[1::2]).compute() == alone


@pytest.mark.parametrize("num_theirs", [0, 5])
def test_a_rank_without_prompts_takes_part(num_theirs):
    ours, theirs = VendiSet(Colours()), measured(VendiSet(Colours()), [prompt(index) for index in range(num_theirs)])
    measured(ours, [prompt(index) for index in range(num_theirs, 8)])
    whole = of_the_set([prompt(index) for index in range(8)])
    for here, there in ((ours, theirs), (theirs, ours)):
        assert across_ranks(here, there) == whole


def across_ranks(here, there):
    """Compute `here` as one of two ranks."""
    sent = []

    def gather(ours, group):
        assert (ours.dtype, ours.ndim) == (sent[0].dtype, sent[0].ndim)  # as real processes need it
        return [ours, sent.pop(0)]

    there.sync(dist_sync_fn=lambda x, group: sent.append(x) or [x], distributed_available=lambda: True)
    there.unsync()
    here.sync(dist_sync_fn=gather, distributed_available=lambda: True)
    estimates = type(here).compute(here)  # bypasses torchmetrics, which would sync again
    here.unsync()
    return estimates


def test_the_interval_is_as_wide_as_the_spread_over_sets_of_prompts():
    sets = [of_the_set([prompt(20 * s + i, 4, 200) for i in range(20)])[SET] for s in range(40)]
    spread = torch.tensor([math.log(estimate.value) for estimate in sets]).std().item()
    half = sum(math.log(estimate.high / estimate.low) / 2 for estimate in sets) / len(sets)
    assert half / stats.t.ppf(0.975, 15) == pytest.approx(spread, rel=0.25)


@pytest.mark.parametrize("period", [1, 2, 3, 4, 16, 20])
def test_alternating_kinds_of_prompts_are_spread_over_all_groups(period):
    """Prompt sets often alternate between kinds of prompts; jackknife groups must not coincide with them."""
    groups = torch.tensor([module._group(index) for index in range(0, 320 * period, period)])
    sizes = groups.bincount(minlength=module.NUM_GROUPS)
    assert sizes.min() >= 15
    assert sizes.max() <= 25


def test_prompts_of_one_kind_have_an_interval():
    prompts = [prompt(index)._replace(place=16 * index) for index in range(20)]
    estimate = of_the_set(prompts)[SET]
    assert estimate.low < estimate.value < estimate.high
    assert "jackknife over 10 groups" in estimate.method


def test_few_prompts_have_no_interval_and_no_prompts_give_nan():
    estimate = of_the_set([prompt(index) for index in range(4)])[SET]
    assert estimate.value > 1
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)
    assert "fewer than 5 prompts" in estimate.method
    assert not math.isnan(of_the_set([prompt(index) for index in range(5)])[SET].low)
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert math.isnan(VendiSet().compute()["diversity/vendi_set[pixels12]"].value)


def test_many_dimensions_have_no_interval_and_too_many_are_an_error(monkeypatch):
    prompts = [prompt(index) for index in range(20)]
    with_interval = of_the_set(prompts)[SET]
    monkeypatch.setattr(module, "MAX_WITH_INTERVAL", 11)
    without = of_the_set(prompts)[SET]
    assert without.value == with_interval.value
    assert math.isnan(without.low)
    assert "more than 11 dimensions" in without.method
    monkeypatch.setattr(module, "MAX_DIMENSIONS", 11)
    with pytest.raises(ValueError, match=r"11.*'colours'.*12"):
        of_the_set(prompts)


def test_zero_features_are_an_error(monkeypatch):
    for broken in (0.0, math.nan):
        monkeypatch.setattr("gendiv_lightning.features.base._LOADED", _LoadedNetworks())  # nothing is remembered
        monkeypatch.setattr(Colours, "embed", lambda self, images, broken=broken: torch.full((len(images), 3), broken))
        for metric in (Vendi(Colours()), VendiSet(Colours())):
            with pytest.raises(ValueError, match="features must be"):
                metric.update(prompt())


def test_images_of_another_size_are_an_error_if_they_change_the_dimensions():
    metric = measured(VendiSet(Pixels()), [prompt(0)])
    with pytest.raises(ValueError, match=r"12.*Resize"):
        metric.update(PromptSamples(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), place=1))


@pytest.mark.parametrize("make", [Vendi, VendiSet])
def test_settings_and_images_are_checked_and_state_pickles(make):
    with pytest.raises(ValueError, match="q must be in"):
        make(q=0)
    with pytest.raises(ValueError, match="uint8"):
        make().update(PromptSamples(torch.rand(2, 3, 4, 4)))
    metric = measured(make(Colours()), [prompt(index) for index in range(4)])
    assert str(pickle.loads(pickle.dumps(metric)).compute()) == str(metric.compute())
