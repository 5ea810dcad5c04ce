"""The study of real backbones: rank correlations equal those of SciPy, and its runs come from the other studies."""

import sys
from pathlib import Path

import pytest
import torch
import yaml
from scipy.stats import kendalltau, spearmanr

STUDIES = Path(__file__).parents[2] / "docs" / "studies"


@pytest.fixture(scope="module")
def study():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(STUDIES), *sys.path])
        import real_backbones

        yield real_backbones
    for name in ("real_backbones", "first_finding"):
        sys.modules.pop(name, None)


def test_rank_correlations_with_ties_equal_those_of_scipy(study):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randint(0, 6, (2, 5, 12), generator=generator).double()
    found = study.rank_correlations(a, b)
    for row in range(len(a)):
        expected = spearmanr(a[row], b[row]).statistic, kendalltau(a[row], b[row]).statistic
        assert found[:, row].tolist() == pytest.approx(expected, abs=1e-12)


def test_the_runs_of_the_study_also_measure_official_lpips(study, tmp_path):
    files = (tmp_path / "alexnet.pth", tmp_path / "vgg16.pth", tmp_path / "inception.pth")
    for file in files:
        file.touch()
    weights = study.Weights.find(tmp_path)
    for name in study.STUDIES:
        derived = yaml.safe_load(study.derive(name, weights, tmp_path / "out").read_text())
        assert derived["metrics"][-1] == f"lpips[weights={files[0]}]"
        for generator in derived["generators"].values():
            assert Path(generator["config"]).is_file()
            assert generator.get("metrics", derived["metrics"])[-1] == derived["metrics"][-1]


def test_numbers_of_other_inception_weights_get_plain_names(study):
    assert study.plain_name("quality/fd[inception-1a2b3c4d]/infinity") == "quality/fid/infinity"
    assert study.plain_name("quality/kd[inception-1a2b3c4d]") == "quality/kid"
    assert study.plain_name("diversity/lpips[vgg]") == "diversity/lpips[vgg]"
