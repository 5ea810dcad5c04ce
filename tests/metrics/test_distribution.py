import math
import pickle

import pytest
import torch
from jsonargparse import ArgumentParser

from gendiv_lightning.features.base import ImageFeatures, _LoadedNetworks
from gendiv_lightning.features.inception import InceptionFeatures
from gendiv_lightning.functional.frechet import frechet_distance, statistics
from gendiv_lightning.functional.kernel import kernel_distances
from gendiv_lightning.functional.neighbours import density_coverage, precision_recall
from gendiv_lightning.metrics import FID, KID, FrechetDistance, KernelDistance, PrecisionRecall
from gendiv_lightning.metrics.base import SampleMetric
from gendiv_lightning.metrics.reference import reference_statistics, write_reference
from gendiv_lightning.records import PromptSamples
from gendiv_lightning.toy.features import TinyFeatures

SIZE = 8


class Colours(ImageFeatures):
    """Six cheap features per image; counts its images."""

    num_images = 0

    @property
    def tag(self):
        return "colours"

    def identity(self):
        return {"network": "colours"}

    def embed(self, images):
        Colours.num_images += len(images)
        return torch.cat([images.float().mean((2, 3)), images.float().std((2, 3))], 1) / 10


def images(num, seed, spread=60):
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randint(0, 256 - spread, (3, 1, 1), generator=generator)
    return (shared + torch.randint(0, spread, (num, 3, SIZE, SIZE), generator=generator)).to(torch.uint8)


def prompt(index, num=4, seed=0):
    return PromptSamples(images(num, 100 * seed + index), place=index)


def pooled(prompts):
    return Colours()(torch.cat([samples.images for samples in prompts]))


@pytest.fixture(scope="module")
def real():
    return torch.cat([images(2, 5000 + index) for index in range(40)])


@pytest.fixture(scope="module")
def reference(real, tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "reference.safetensors"
    write_reference(path, reference_statistics(real.split(32), Colours(), "noise"))
    return str(path)


@pytest.fixture(params=[FrechetDistance, KernelDistance, PrecisionRecall])
def make(request, reference):
    return lambda: request.param(reference, Colours())


def measured(metric, prompts):
    for samples in prompts:
        metric.update(samples)
    return metric


def same(a, b):
    """Whether estimates are equal, where NaN equals NaN."""
    return repr(a) == repr(b)


def test_values_are_those_of_the_pooled_features(reference, real):
    prompts = [prompt(index) for index in range(12)]
    features, exact = pooled(prompts), Colours()(real)
    fd = measured(FrechetDistance(reference, Colours()), prompts).compute()["quality/fd[colours]"]
    assert fd.value == pytest.approx(frechet_distance(statistics(exact), statistics(features)), rel=1e-6)
    assert fd[3:6] == (12, 48, 48)
    assert 0 <= fd.low < fd.value < fd.high
    assert "N = 48 beside 80 of noise" in fd.method
    assert "jackknife over 12 blocks" in fd.method
    kd = measured(KernelDistance(reference, Colours()), prompts).compute()["quality/kd[colours]"]
    assert kd.value == pytest.approx(kernel_distances(exact, features)[0].item(), rel=1e-9)
    estimates = measured(PrecisionRecall(reference, Colours()), prompts).compute()
    four = [*precision_recall(exact, features, 3)[0].tolist(), *density_coverage(exact, features, 5)[0].tolist()]
    assert [estimate.value for estimate in estimates.values()] == pytest.approx(four, rel=1e-12)
    names = [f"quality/{name}[colours]" for name in ("precision", "recall", "density", "coverage")]
    assert list(estimates) == names


def test_order_and_rank_do_not_matter(make):
    prompts = [prompt(index, num=2 + index % 3) for index in range(9)]
    whole, first, second = measured(make(), prompts), measured(make(), prompts[7::-2]), measured(make(), prompts[::-2])
    first.merge_state(second)
    assert same(first.compute(), whole.compute())


def test_a_rank_without_prompts_takes_part(make):
    full, empty = measured(make(), [prompt(index) for index in range(6)]), make()
    expected = full.compute()
    full._computed = None
    names = ["rows", "order", "sizes"]
    theirs = iter([torch.cat(getattr(full, name)) for name in names])
    empty.sync(dist_sync_fn=lambda ours, group: [ours, next(theirs)], distributed_available=lambda: True)
    assert same(type(empty).compute(empty), expected)
    empty.unsync()
    assert all(len(torch.cat(getattr(empty, name))) == 0 for name in names)


def test_a_set_compared_with_itself(real, reference):
    prompts = [PromptSamples(part, place=index) for index, part in enumerate(real.split(2))]
    assert measured(FrechetDistance(reference, Colours()), prompts).compute()["quality/fd[colours]"].value < 1e-6
    values = [e.value for e in measured(PrecisionRecall(reference, Colours()), prompts).compute().values()]
    assert values == pytest.approx([1, 1, 6 / 5, 1])


def test_one_network_runs_once_for_all_metrics(reference):
    metrics = [metric(reference, Colours()) for metric in (FrechetDistance, KernelDistance, PrecisionRecall)]
    before = Colours.num_images
    for index in range(3):
        samples = prompt(index)
        for metric in metrics:
            metric.update(samples)
    assert Colours.num_images - before == 12
    with torch.inference_mode():
        samples = PromptSamples(prompt(3).images + 0, place=3)
        for metric in metrics:
            metric.update(samples)
    assert Colours.num_images - before == 16
    assert all(torch.equal(torch.cat(metric.rows), torch.cat(metrics[0].rows)) for metric in metrics)


def test_images_changed_in_place_are_measured_again(reference):
    metric, samples = FrechetDistance(reference, Colours()), prompt(0)
    metric.update(samples)
    samples.images[:] = 255 - samples.images
    metric.update(samples._replace(place=1))
    assert torch.equal(metric.rows[1], Colours()(samples.images))
    assert not torch.equal(*metric.rows)


def test_the_interval_is_as_wide_as_the_spread_over_sets_of_prompts(reference):
    generator = torch.Generator().manual_seed(0)
    runs = []
    for _ in range(20):
        shared = torch.randint(0, 196, (40, 1, 3, 1, 1), generator=generator)
        sets = (shared + torch.randint(0, 60, (40, 2, 3, SIZE, SIZE), generator=generator)).to(torch.uint8)
        metrics = [metric(reference, Colours()) for metric in (FrechetDistance, KernelDistance, PrecisionRecall)]
        for index, pictures in enumerate(sets):
            samples = PromptSamples(pictures, place=index)
            for metric in metrics:
                metric.update(samples)
        runs.append({name: estimate for metric in metrics for name, estimate in metric.compute().items()})
    # Recall and coverage are not smooth functions of the samples, so their intervals are too wide.
    most = {"quality/recall[colours]": 2.5, "quality/coverage[colours]": 2.0}
    for name in runs[0]:
        spread = torch.tensor([run[name].value for run in runs]).std().item()
        half = sum(run[name].high - run[name].low for run in runs) / len(runs) / 2
        assert 0.65 < half / 2.093 / spread < most.get(name, 1.5), name


def test_few_prompts_have_no_interval_and_few_samples_give_nan(make):
    for estimate in measured(make(), [prompt(index) for index in range(4)]).compute().values():
        assert math.isnan(estimate.low)
        assert "no interval" in estimate.method
    estimates = measured(make(), [prompt(0, num=1)]).compute()
    assert all(math.isnan(e.value) and "there are 1" in e.method and e[3:6] == (1, 1, 1) for e in estimates.values())
    with pytest.warns(UserWarning, match="before the ``update``"):
        empty = make().compute()
    assert all(math.isnan(estimate.value) and estimate.num_samples == 0 for estimate in empty.values())


def test_a_reference_of_another_network_is_an_error_before_weights_are_read(reference, monkeypatch):
    monkeypatch.setattr(InceptionFeatures, "read", lambda self: pytest.fail("the network was loaded"))
    for metric in (FID, KID, PrecisionRecall):
        with pytest.raises(ValueError, match=r"resize.*None.*'clean'"):
            metric(reference).load()
    with pytest.raises(ValueError, match=r"reference.*'nowhere'"):
        FrechetDistance("nowhere", Colours()).load()


def test_statistics_without_features_suffice_for_the_frechet_distance_only(real, tmp_path):
    path = tmp_path / "statistics"
    write_reference(path, reference_statistics([real], Colours(), "noise", keep_features=False))
    measured(FrechetDistance(str(path), Colours()), [prompt(0), prompt(1)]).compute()
    for metric in (KernelDistance, PrecisionRecall):
        with pytest.raises(ValueError, match="--keep-features"):
            metric(str(path), Colours()).load()


def test_a_reference_of_fewer_images_than_neighbours_is_an_error(reference):
    with pytest.raises(ValueError, match=r"80 .*81"):
        PrecisionRecall(reference, Colours(), k_density=80).load()
    with pytest.raises(ValueError, match=r"1.* got 0"):
        PrecisionRecall(reference, Colours(), k=0)


def test_non_finite_features_are_an_error(make, monkeypatch):
    monkeypatch.setattr("gendiv_lightning.features.base._LOADED", _LoadedNetworks())  # nothing is remembered
    monkeypatch.setattr(Colours, "embed", lambda self, images: torch.full((len(images), 6), math.nan))
    with pytest.raises(ValueError, match="finite"):
        make().update(prompt(0))
    with pytest.raises(ValueError, match="uint8"):
        make().update(PromptSamples(torch.rand(2, 3, SIZE, SIZE)))


def test_a_metric_pickles_with_its_state(make):
    metric = measured(make(), [prompt(index) for index in range(6)])
    assert same(pickle.loads(pickle.dumps(metric)).compute(), metric.compute())


def test_only_metrics_on_the_2015_weights_have_plain_names(reference):
    assert FID(reference).names == ("quality/fid", "quality/fid/infinity")
    assert KID(reference).names == ("quality/kid",)
    names = ("quality/precision", "quality/recall", "quality/density", "quality/coverage")
    assert PrecisionRecall(reference).names == names
    assert FrechetDistance(reference, TinyFeatures()).names[0] == "quality/fd[tiny]"


def test_everything_that_changes_a_value_is_in_the_identity(reference, real, tmp_path):
    plain = PrecisionRecall(reference).identity()
    assert PrecisionRecall(reference, k=4).identity() != plain
    assert PrecisionRecall(reference, InceptionFeatures(resize="torch-fidelity")).identity() != plain
    write_reference(tmp_path / "other", reference_statistics([real[:20]], Colours(), "less noise"))
    assert PrecisionRecall(str(tmp_path / "other")).identity() != plain
    assert PrecisionRecall(reference).identity() == plain


def test_the_metrics_can_be_built_from_a_config(reference):
    config = {
        "class_path": "gendiv_lightning.metrics.FrechetDistance",
        "init_args": {
            "reference": reference,
            "features": {"class_path": "gendiv_lightning.toy.features.TinyFeatures"},
        },
    }
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--metrics", type=list[SampleMetric])
    parsed = parser.parse_object({"metrics": [config]})
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes  # the name before 4.49
    assert instantiate(parsed).metrics[0].names[0] == "quality/fd[tiny]"
