import pytest
from scipy import stats

from gendiv_lightning.functional.student import student_quantile


@pytest.mark.parametrize("probability", [0.8, 0.95, 0.975])
@pytest.mark.parametrize(
    ("degrees", "tolerance"), [(1, 1e-10), (2, 1e-10), (3, 3e-3), (5, 3e-4), (15, 1e-5), (300, 1e-9)]
)
def test_quantiles_agree_with_scipy(probability, degrees, tolerance):
    expected = stats.t.ppf(probability, degrees)
    assert student_quantile(probability, degrees) == pytest.approx(expected, rel=tolerance)
