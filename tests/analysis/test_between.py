"""Models with each other: distances within and between, homogeneity."""

import math
import re

import pytest
import torch

from gendiv_lightning.analysis import between
from gendiv_lightning.analysis.between import compare_models, model_matrix
from gendiv_lightning.cli.main import main
from gendiv_lightning.console.comparison import format_models
from gendiv_lightning.metrics.diversity import PixelCosine
from gendiv_lightning.records import PromptSamples
from gendiv_lightning.runs.load import read_run


def gendiv(*words):
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return stopped.value.code


def samples(seed, num=6, low=0, **groups):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(low, low + 100, (num, 3, 4, 4), generator=generator).to(torch.uint8)
    return PromptSamples(images, **groups)


def pairs(a, b):
    metric = PixelCosine()
    both = metric.matrix(PromptSamples(torch.cat([a, b])))
    return both[: len(a), len(a) :]


def test_distances_are_means_over_pairs_across_and_within():
    a, b = samples(0), samples(1, num=4, low=100)
    found = model_matrix([a, b], PixelCosine())
    assert found[0, 1].item() == found[1, 0].item() == pytest.approx(pairs(a.images, b.images).mean().item(), rel=1e-6)
    own = pairs(a.images, a.images)
    assert found[0, 0].item() == pytest.approx(own.sum().item() / 30, rel=1e-6)


def test_two_samples_of_one_path_are_no_independent_draws():
    images = samples(0, num=4).images.repeat_interleave(4, 0)  # a path has one image
    path = torch.arange(4).repeat_interleave(4)
    found = model_matrix([PromptSamples(images, path=path), samples(1)], PixelCosine())
    alone = model_matrix([PromptSamples(images[::4]), samples(1)], PixelCosine())
    torch.testing.assert_close(found, alone)


def test_models_that_draw_alike_are_as_alike_as_samples_of_one():
    found = torch.stack([model_matrix([samples(2 * p), samples(2 * p + 1)], PixelCosine()) for p in range(40)]).mean(0)
    assert (found[0, 0] / found[0, 1]).item() == pytest.approx(1, abs=0.03)
    green = samples(1).images.clone()
    green[:, (0, 2)] = 0
    apart = model_matrix([samples(0), PromptSamples(green)], PixelCosine())
    assert apart.diagonal().mean() < 0.7 * apart[0, 1]


def test_images_of_two_sizes_are_an_error():
    large = PromptSamples(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"Pass --resize PIXELS"):
        model_matrix([samples(0), large], PixelCosine())


def test_runs_are_compared_by_command(study, capsys):
    folders = [study / name for name in ("baseline", "random-0.5", "argmax")]
    assert gendiv("compare", "--between", *folders, "--distance", "pixel_cosine") == 0
    printed = capsys.readouterr().out
    runs = [read_run(folder) for folder in folders]
    found = compare_models(runs, PixelCosine())
    for run, interval in zip(runs, found.within, strict=True):
        assert interval.value == pytest.approx(run.estimates["diversity/pixel_cosine"].value, rel=1e-6, abs=1e-9)
    assert [pair.models for pair in found.pairs] == [(0, 1), (0, 2), (1, 2)]
    assert f"{found.pairs[0].distance.value:.4f}" in printed
    assert "of all different models" in printed
    assert found.num_prompts == len(runs[0].prompts)
    resized = compare_models(runs[:2], PixelCosine(), side=24)
    assert resized.pairs[0].distance.value != found.pairs[0].distance.value


def test_a_prompt_without_two_samples_of_a_model_enters_no_number(study, monkeypatch):
    runs = [read_run(study / name) for name in ("baseline", "random-0.5")]
    matrices = [torch.tensor([[1.0, 2.0], [2.0, value]]) for value in (1.0, 3.0, math.nan, 1.0)]
    monkeypatch.setattr(between, "model_matrix", lambda *_: matrices[next(turn)])
    turn = iter(range(4))
    found = compare_models(runs, PixelCosine())
    assert (found.num_prompts, found.num_dropped) == (3, 1)
    assert found.within[0].value == 1
    assert "3 prompts (1 left out" in format_models(found, ("a", "b"), "distance")
    matrices, turn = [matrices[2]] * 4, iter(range(4))
    with pytest.raises(ValueError, match="two independent samples of every model"):
        compare_models(runs, PixelCosine())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["b", "b"], "expected two sides, got 3"),
        (["b", "--between", "--at-equal", "quality/x"], "Give one of them"),
        (["b", "--between", "--anyway"], "--anyway does not apply to --between"),
        (["b,,b", "--at-equal", "quality/x"], "must not be empty"),
        (["b,b", "--at-equal", "quality/x"], "is given twice"),
        (["b", "--resize", "24"], "--resize must be at least 1"),
        (["b", "--between", "--margin", "5%"], "--margin is for the comparison of two sides"),
    ],
)
def test_options_that_do_not_go_together_are_refused(study, words, message):
    folders = [re.sub(r"\bb\b", str(study / "argmax"), word) for word in words]
    assert message in gendiv("compare", study / "baseline", *folders)


def test_a_distance_that_a_run_lacks_is_named(study):
    message = gendiv("compare", "--between", study / "baseline", study / "argmax", "--distance", "lpips[vgg]")
    assert "diversity/lpips[vgg]" in message
    assert "pixel_cosine" in message
