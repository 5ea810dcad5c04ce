"""Confusion matrices, fidelity and the gain of a prompt's target, against numbers computed by hand."""

import math

import pytest
import torch

from gendiv_lightning.functional.bootstrap import bootstrap_mean, bootstrap_ratio
from gendiv_lightning.functional.confusion import confusion_matrix, fidelity, target_gain

SEEN = torch.tensor([[0.8, 0.2, 0.0], [0.4, 0.2, 0.4], [0.0, 1.0, 0.0]], dtype=torch.float64)
STATED = torch.tensor([0, 0, 1])


def test_a_row_is_the_mean_over_its_prompts():
    matrix = confusion_matrix(SEEN, STATED)
    torch.testing.assert_close(matrix[0], torch.tensor([0.6, 0.2, 0.2], dtype=torch.float64))
    torch.testing.assert_close(matrix[1], torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))
    assert matrix[2].isnan().all()  # no prompt states it


def test_fidelity_weighs_prompts_equally_not_rows():
    shares = fidelity(SEEN, STATED)
    assert shares.tolist() == [0.8, 0.4, 1.0]
    diagonal, prompts = confusion_matrix(SEEN, STATED).diagonal()[:2], torch.tensor([2, 1])
    assert shares.mean().item() == pytest.approx(((diagonal * prompts).sum() / 3).item())


def test_the_target_of_a_prompt_is_what_the_others_of_its_row_gain_most():
    before = torch.eye(4, dtype=torch.float64)[[0, 0, 0, 1]]
    after = torch.tensor([[0.5, 0.5, 0, 0], [0.6, 0.3, 0.1, 0], [0.2, 0, 0, 0.8], [0, 0, 1, 0]], dtype=torch.float64)
    gains = target_gain(before, after, torch.tensor([0, 0, 0, 1]))
    # Gains of the others: (.3, .1, .8) of values 1 to 3 for the first prompt, (.5, 0, .8) and (.8, .1, 0).
    torch.testing.assert_close(gains[:3], torch.tensor([0.0, 0.0, 0.0], dtype=torch.float64))
    assert gains[3].isnan()  # no other prompt states value 1


def test_tied_targets_share_their_gains():
    before, stated = torch.eye(3, dtype=torch.float64)[[0, 0]], torch.tensor([0, 0])
    after = torch.tensor([[0.4, 0.6, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    assert target_gain(before, after, stated).tolist() == [pytest.approx(0.3), 0.0]


def test_all_of_the_lost_mass_goes_to_one_value():
    before, stated = torch.eye(3, dtype=torch.float64)[[0, 0, 1, 1]], torch.tensor([0, 0, 1, 1])
    after = torch.tensor([[0.5, 0.5, 0], [0.9, 0.1, 0], [0, 0, 1], [0, 0.2, 0.8]], dtype=torch.float64)
    assert target_gain(before, after, stated).tolist() == pytest.approx([0.5, 0.1, 1.0, 0.8])


def _random_answers(weights, num_prompts, generator):
    """One sample per prompt that states value 0, lost with probability 0.6 to another value by `weights`."""
    num_values = len(weights) + 1
    others = torch.multinomial(torch.tensor(weights), num_prompts, replacement=True, generator=generator) + 1
    seen = torch.where(torch.rand(num_prompts, generator=generator) < 0.6, others, 0)
    return torch.eye(num_values, dtype=torch.float64)[seen]


def _estimate(after):
    before, stated = torch.zeros_like(after), torch.zeros(len(after), dtype=torch.int64)
    before[:, 0] = 1
    lost = fidelity(before, stated) - fidelity(after, stated)
    return lost, target_gain(before, after, stated)


@pytest.mark.parametrize(("weights", "truth"), [([1.0] * 5, 0.2), ([0.8, 0.05, 0.05, 0.05, 0.05], 0.8)])
def test_chance_does_not_choose_the_target(weights, truth):
    generator = torch.Generator().manual_seed(0)
    found = [_estimate(_random_answers(weights, 24, generator)) for _ in range(300)]
    shares = torch.tensor([gain.mean() / lost.mean() for lost, gain in found])
    assert shares.mean().item() == pytest.approx(truth, abs=0.02)


def test_the_intervals_of_drift_and_bleeding_cover_the_truth():
    generator, truth = torch.Generator().manual_seed(1), {"drift": 0.6, "bleeding": 0.7}
    covered = dict.fromkeys(truth, 0)
    for _ in range(200):
        lost, gain = _estimate(_random_answers([0.7, 0.1, 0.1, 0.1], 48, generator))
        intervals = {"drift": bootstrap_mean(lost), "bleeding": bootstrap_ratio(gain, lost)}
        for name, (_, low, high) in intervals.items():
            covered[name] += low <= truth[name] <= high
    # 95 % nominal; four standard errors of 200 repetitions are 6 %
    assert all(abs(count / 200 - 0.95) < 0.06 for count in covered.values()), covered


def test_without_change_there_is_no_gain():
    gains = target_gain(SEEN, SEEN, STATED)
    assert gains[:2].tolist() == [0.0, 0.0]
    assert math.isnan(gains[2])
