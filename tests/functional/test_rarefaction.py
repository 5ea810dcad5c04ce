"""Rarefaction: exact expectations for fewer samples, compared with all subsets."""

import math
from itertools import combinations

import pytest
import torch

from gendiv_lightning.functional.rarefaction import chance_of_missing, rarefied_entries, rarefied_vendi
from gendiv_lightning.functional.vendi import vendi_score


def test_the_probability_of_missing_is_hypergeometric():
    found = chance_of_missing(torch.tensor([0, 1, 3, 6]), 6, 4)
    wanted = [math.comb(6 - c, 4) / math.comb(6, 4) for c in (0, 1, 3, 6)]
    assert found.tolist() == pytest.approx(wanted)
    assert chance_of_missing(torch.tensor([0, 2]), 5, 5).tolist() == pytest.approx([1, 0])


def test_distinct_entries_are_the_mean_over_all_subsets():
    tokens = torch.randint(12, (6, 3), generator=torch.Generator().manual_seed(0))
    subsets = [len(tokens[list(rows)].unique()) for rows in combinations(range(6), 3)]
    expected = (1 - rarefied_entries(tokens, 3, 12)).sum().item()
    assert expected == pytest.approx(sum(subsets) / len(subsets))


def test_a_rarefied_vendi_score_is_the_mean_over_subsets():
    features = torch.randn(24, 16, generator=torch.Generator().manual_seed(0))
    found = rarefied_vendi(features, 6)
    fewer = sum(vendi_score(features[i : i + 6]) for i in range(0, 24, 6)) / 4
    assert found == pytest.approx(fewer, rel=0.05)
    assert found < 0.6 * vendi_score(features)
    assert rarefied_vendi(features, 24) == vendi_score(features)
    assert rarefied_vendi(features, 6) == found
    assert math.isnan(rarefied_vendi(features, 25))
