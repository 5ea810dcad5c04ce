import math

import pytest
import torch
from prdc import compute_prdc
from torch_fidelity.metric_prc import calculate_precision_recall_full

from gendiv_lightning.functional import neighbours
from gendiv_lightning.functional.neighbours import density_coverage, precision_recall


def rows(num, seed=0, shift=0.0, dimensions=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, dimensions, dtype=torch.float64, generator=generator) + shift


def whole_rows(num, seed=0):
    """Points on a small integer grid: most distances are tied, many are 0, and their squares are exact."""
    return torch.randint(0, 4, (num, 3), generator=torch.Generator().manual_seed(seed)).double()


def squares(x, y):
    return (x[:, None] - y).square().sum(2)


def by_definition(reference, features, k, k_density):
    def radii(x, k):
        return (squares(x, x) + torch.diag(torch.full((len(x),), math.inf).double())).sort(1).values[:, k - 1]

    across = squares(features, reference)
    precision = (across <= radii(reference, k)).any(1).double().mean()
    recall = (across <= radii(features, k)[:, None]).any(0).double().mean()
    inside = across <= radii(reference, k_density)
    return [precision, recall, inside.double().sum() / (k_density * len(features)), inside.any(0).double().mean()]


def ours(reference, features, k, k_density, blocks=None):
    first = precision_recall(reference, features, k, blocks)
    return torch.cat([first, density_coverage(reference, features, k_density, blocks)], 1)


@pytest.mark.parametrize("make", [rows, whole_rows])
@pytest.mark.parametrize("chunk", [neighbours._CHUNK_PAIRS, 100])
def test_values_agree_with_the_definitions_of_the_papers_for_all_rows_and_without_each_block(make, chunk, monkeypatch):
    monkeypatch.setattr(neighbours, "_CHUNK_PAIRS", chunk)
    reference, features, blocks = make(60), make(45, 1), torch.arange(45) * 7 % 6
    sets = [features, *(features[blocks != block] for block in range(6))]
    expected = torch.tensor([by_definition(reference, some, 3, 5) for some in sets])
    torch.testing.assert_close(ours(reference, features, 3, 5, blocks), expected.double(), rtol=1e-12, atol=0)
    torch.testing.assert_close(ours(reference, features, 3, 5), expected[:1].double(), rtol=1e-12, atol=0)
    assert expected.min() > 0


def test_blocks_may_be_smaller_than_the_neighbourhood():
    reference, features = rows(30), rows(9, 1)
    expected = torch.tensor([by_definition(reference, features[torch.arange(9) != out], 3, 5) for out in range(9)])
    blocks = torch.arange(9)
    torch.testing.assert_close(ours(reference, features, 3, 5, blocks)[1:], expected.double(), rtol=1e-12, atol=0)


def test_precision_and_recall_agree_with_torch_fidelity():
    reference, features = rows(80), rows(70, 1, shift=0.6)
    theirs = calculate_precision_recall_full(features, reference)
    assert precision_recall(reference, features)[0].tolist() == pytest.approx(theirs, abs=1e-6)


def test_all_four_agree_with_the_prdc_package():
    reference, features = rows(80), rows(70, 1, shift=0.6)
    for k in (3, 5):
        theirs = compute_prdc(reference.numpy(), features.numpy(), nearest_k=k)
        names = ("precision", "recall", "density", "coverage")
        assert ours(reference, features, k, k)[0].tolist() == pytest.approx([theirs[name] for name in names], abs=1e-9)


def test_a_set_covers_itself():
    for features in (rows(40), rows(40) + 1e4, rows(40).float().double() * 1e-3, whole_rows(40)):
        precision, recall, density, coverage = ours(features, features, 3, 5)[0].tolist()
        assert precision == recall == coverage == 1
        assert density >= 6 / 5 - 1e-12  # a ball contains its row and five others, or more in case of ties
    assert ours(rows(40) + 1e4, rows(40) + 1e4, 3, 5)[0, 2].item() == pytest.approx(6 / 5, rel=1e-12)


def test_sets_far_apart_have_nothing_in_common():
    assert not ours(rows(40), rows(30, 1, shift=100.0), 3, 5).any()


def test_copies_of_one_real_image_have_full_precision_and_little_recall():
    reference = rows(40)
    precision, recall, _, coverage = ours(reference, reference[7].expand(20, -1), 3, 5)[0].tolist()
    balls = squares(reference, reference).sort(1).values[:, 5]
    assert (precision, recall) == (1, 1 / 40)
    assert coverage == (squares(reference[7:8], reference) <= balls).double().mean()


def test_equal_distributions_have_density_one_on_average():
    values = torch.stack([density_coverage(rows(100, 2 * s), rows(100, 2 * s + 1))[0] for s in range(60)]).mean(0)
    assert values[0].item() == pytest.approx(1, abs=0.03)
    assert values[1].item() == pytest.approx(1 - 2.0**-5, abs=0.02)  # 1 - (m - 1)...(m - k) / ((2 m - 1)...(2 m - k))


def test_non_finite_values_are_an_error():
    broken = rows(9)
    broken[1, 1] = math.nan
    for pair in ((broken, rows(9)), (rows(9), broken)):
        for function in (precision_recall, density_coverage):
            with pytest.raises(ValueError, match="finite"):
                function(*pair)
