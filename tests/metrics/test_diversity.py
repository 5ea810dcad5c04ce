import math
import pickle
import re
import shutil
from itertools import combinations
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from skimage.metrics import structural_similarity
from torchmetrics.functional.image import structural_similarity_index_measure

from gendiv_lightning.features.pixels import pixel_features
from gendiv_lightning.functional.pairwise import extreme_pairs, group_means, split
from gendiv_lightning.metrics.diversity import LPIPS, SSIM, PixelCosine
from gendiv_lightning.records import PromptSamples
from gendiv_lightning.toy.features import TinyPerceptualNet

NAMES = {
    "lpips": "diversity/lpips[tiny]",
    "pixel_cosine": "diversity/pixel_cosine",
    "ssim": "diversity/ssim",
}

PARTS = ("within", "between", "exec", "path", "sampler_path", "prompt_path")


@pytest.fixture(scope="module")
def tiny_weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "perceptual.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(TinyPerceptualNet().state_dict(), path)
    return str(path)


@pytest.fixture(params=list(NAMES))
def make(request, tiny_weights):
    """A function that builds the metric, and the name of the metric."""

    def new():
        metrics = {"lpips": lambda: LPIPS("tiny", tiny_weights), "pixel_cosine": PixelCosine, "ssim": SSIM}
        return metrics[request.param]()

    new.name = NAMES[request.param]
    return new


def prompt(index=0, num=8, *, paraphrases=1, spread=60):
    generator = torch.Generator().manual_seed(index)
    shared = torch.randint(0, 256 - spread, (3, 16, 16), generator=generator)
    images = (shared + torch.randint(0, spread, (num, 3, 16, 16), generator=generator)).to(torch.uint8)
    return PromptSamples(images, place=index, paraphrase=torch.arange(num) % paraphrases)


def row(metric, samples):
    """Total, within and between parts of samples with unshared paths."""
    *numbers, execution, path, sampler_path, prompt_path = metric.measure(samples)
    assert all(math.isnan(number) for number in (execution, path, sampler_path, prompt_path))
    return numbers


def test_the_mean_over_all_subsamples_of_four_is_the_value_at_eight(make):
    metric, samples = make(), prompt()
    fours = [
        row(metric, PromptSamples(samples.images[list(four)]))[0]
        for four in combinations(range(len(samples.images)), 4)
    ]
    assert math.fsum(fours) / 70 == pytest.approx(row(metric, samples)[0], rel=1e-6, abs=1e-10)


def test_identical_images_have_no_diversity(make):
    image = prompt(num=1).images
    for picture in (image, torch.zeros_like(image), torch.full_like(image, 255)):
        samples = PromptSamples(picture.expand(6, -1, -1, -1), paraphrase=torch.arange(6) % 2)
        assert row(make(), samples) == pytest.approx([0, 0, 0], abs=1e-12)


def test_nearly_identical_images_have_little_diversity(make):
    images = prompt(num=1).images.repeat(4, 1, 1, 1)
    images[0, 0, 3, 3] += 1
    assert 0 < row(make(), PromptSamples(images))[0] < 0.01


def test_a_prompt_with_one_sample_is_excluded(make):
    metric = make()
    metric.update(prompt(0, num=1))
    metric.update(prompt(1, num=4))
    estimate = metric.compute()[make.name]
    assert all(math.isnan(number) for number in row(make(), prompt(0, num=1)))
    assert (estimate.num_prompts, estimate.num_samples) == (1, 4)
    assert estimate.value == pytest.approx(row(make(), prompt(1, num=4))[0])


def test_paraphrases_split_the_total(make):
    total, within, between = row(make(), prompt(num=9, paraphrases=3))
    assert total == pytest.approx(within / 3 + 2 / 3 * between, rel=1e-12)
    alone, same, nothing = row(make(), prompt(num=9))
    assert alone == same
    assert math.isnan(nothing)


def test_order_and_rank_do_not_matter(make):
    whole, first, second = make(), make(), make()
    for index in range(6):
        whole.update(prompt(index, paraphrases=2))
    for index in (4, 0, 2):
        first.update(prompt(index, paraphrases=2))
    for index in (5, 3, 1):
        second.update(prompt(index, paraphrases=2))
    first.merge_state(second)
    assert repr(first.compute()) == repr(whole.compute())
    assert list(whole.compute()) == [make.name, *(f"{make.name}/{part}" for part in PARTS)]
    estimate = whole.compute()[make.name]
    assert estimate.low < estimate.value < estimate.high
    assert (estimate.num_prompts, estimate.num_samples) == (6, 48)


def test_a_metric_pickles_with_its_state(make):
    metric = make()
    metric.update(prompt(0, paraphrases=2))
    metric.update(prompt(1, paraphrases=2))
    assert repr(pickle.loads(pickle.dumps(metric)).compute()) == repr(metric.compute())


def test_images_that_are_not_uint8_are_an_error(make):
    with pytest.raises(ValueError, match="uint8"):
        make().update(PromptSamples(torch.rand(2, 3, 16, 16)))
    with pytest.raises(ValueError, match="mixed sizes"):
        make().update(PromptSamples([torch.zeros(3, size, size, dtype=torch.uint8) for size in (16, 17)]))


def test_names_give_the_net_unless_it_is_the_default():
    assert LPIPS().names[0] == "diversity/lpips"
    assert LPIPS("vgg").names == ("diversity/lpips[vgg]", *(f"diversity/lpips[vgg]/{part}" for part in PARTS))


def test_custom_weights_are_given_in_the_method(tiny_weights):
    assert "(tiny)" in LPIPS("tiny").method
    assert re.search(r"\(tiny, weights [0-9a-f]{8}\)", LPIPS("tiny", tiny_weights).method)


def test_deleting_the_weight_file_after_loading_changes_nothing(tiny_weights, tmp_path):
    kept = LPIPS("tiny", tiny_weights)
    moved = Path(shutil.copy(tiny_weights, tmp_path / "own.safetensors"))
    gone = LPIPS("tiny", str(moved))
    gone.load()
    moved.unlink()
    assert gone.method == kept.method
    assert gone.identity() == kept.identity()


def test_ssim_agrees_with_torchmetrics_and_scikit_image():
    inner = prompt(num=4).images
    images = torch.full((4, 3, 46, 46), 90, dtype=torch.uint8)  # the frame makes border handling irrelevant
    images[:, :, 15:-15, 15:-15] = inner
    ours = row(SSIM(), PromptSamples(images))[0]
    first, second = torch.triu_indices(4, 4, 1)
    scaled = images.double() / 255
    theirs = structural_similarity_index_measure(scaled[first], scaled[second], data_range=1.0)
    settings = {"gaussian_weights": True, "use_sample_covariance": False, "data_range": 1.0, "channel_axis": 0}
    maps = [structural_similarity(a.numpy(), b.numpy(), full=True, **settings)[1] for a, b in combinations(scaled, 2)]
    assert ours == pytest.approx(1 - theirs.item(), abs=1e-5)
    assert ours == pytest.approx(1 - sum(one.mean() for one in maps) / 6, abs=1e-5)
    assert ours > 0.01


def test_pixel_cosine_is_the_mean_cosine_distance_over_pairs():
    samples = prompt(num=40)  # more than one part
    features = pixel_features(samples.images)
    expected = 1 - (features @ features.T)[tuple(torch.triu_indices(40, 40, 1))].mean().item()
    assert row(PixelCosine(), samples)[0] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("paraphrases", [1, 2])
def test_the_matrix_of_a_prompt_has_the_measured_means(make, paraphrases):
    metric, samples = make(), prompt(num=7, paraphrases=paraphrases)
    matrix = metric.matrix(samples)
    assert matrix.shape == (7, 7)
    assert matrix.equal(matrix.T)
    assert (matrix.diagonal() == 0).all()
    measured = row(metric, samples)
    assert split(group_means(matrix, samples.paraphrase)) == pytest.approx(measured, rel=1e-9, nan_ok=True)
    assert matrix[2, 5].item() == pytest.approx(row(metric, PromptSamples(samples.images[[2, 5]]))[0], rel=1e-9)


def test_the_matrix_shows_a_copy_and_an_outlier(make):
    samples = prompt(num=6, spread=20)
    images = samples.images.clone()
    images[4] = images[1]
    images[3] = 255 - images[3].flip(2)
    nearest, farthest = extreme_pairs(make().matrix(PromptSamples(images)))
    assert nearest == (1, 4)
    assert 3 in farthest


def test_the_matrix_of_one_sample_is_zero_and_of_other_images_an_error(make):
    assert make().matrix(prompt(num=1)).tolist() == [[0]]
    with pytest.raises(ValueError, match="uint8"):
        make().matrix(PromptSamples(torch.rand(2, 3, 16, 16)))


def crossed(num_paths=3, num_paraphrases=2, seed=0):
    """Samples of `num_paths` paths with `num_paths` executions for each paraphrase; each path has its background."""
    generator = torch.Generator().manual_seed(seed)
    cells = [(q, z) for _ in range(num_paths) for z in range(num_paths) for q in range(num_paraphrases)]
    grounds = {cell: torch.randint(0, 120, (3, 16, 16), generator=generator) for cell in dict.fromkeys(cells)}
    images = torch.stack([grounds[cell] + torch.randint(0, 120, (3, 16, 16), generator=generator) for cell in cells])
    paraphrase, path = torch.tensor(cells).T
    return PromptSamples(images.to(torch.uint8), paraphrase=paraphrase, path=path)


@pytest.mark.parametrize("num_paraphrases", [1, 2])
def test_paths_split_the_distance_within_a_paraphrase(make, num_paraphrases):
    metric, samples = make(), crossed(num_paraphrases=num_paraphrases)
    total, within, between, execution, path, sampler_path, prompt_path = metric.measure(samples)
    matrix = metric.matrix(samples)
    paraphrase, cell = samples.paraphrase, samples.paraphrase * 10 + samples.path
    others = ~torch.eye(len(matrix), dtype=torch.bool)
    one_path, one_paraphrase = cell[:, None] == cell, paraphrase[:, None] == paraphrase
    assert execution == pytest.approx(matrix[one_path & others].mean().item(), rel=1e-9)
    assert within == pytest.approx(matrix[one_paraphrase & ~one_path].mean().item(), rel=1e-9)
    assert sampler_path == pytest.approx(within - execution)
    assert path == pytest.approx(total - execution)
    assert sampler_path > 0
    if num_paraphrases == 2:
        assert between == pytest.approx(matrix[~one_paraphrase].mean().item(), rel=1e-9)
        assert total == pytest.approx((within + between) / 2)
        assert prompt_path == pytest.approx(total - within)
    else:
        assert total == within
        assert math.isnan(between)
        assert math.isnan(prompt_path)


def test_a_single_path_leaves_execution_only(make):
    samples = prompt(num=6)._replace(path=torch.zeros(6, dtype=torch.int64))
    total, within, _, execution, path, sampler_path, _ = make().measure(samples)
    assert total == within == execution
    assert path == 0
    assert math.isnan(sampler_path)


def test_paths_without_an_effect_have_a_part_of_zero_on_average():
    samples = [crossed(num_paraphrases=1, seed=seed) for seed in range(200)]
    shuffled = [
        s._replace(path=s.path[torch.randperm(9, generator=torch.Generator().manual_seed(n))])
        for n, s in enumerate(samples)
    ]
    parts = torch.tensor([PixelCosine().measure(s)[5] for s in shuffled])
    assert abs(parts.mean()) < 3 * parts.std() / 200**0.5
