"""Kernel-based entropies, compared with closed forms and with the published estimators in NumPy."""

import math

import numpy as np
import pytest
import torch

from gendiv_lightning.functional.kernel_entropy import (
    conditional_entropy,
    kernel_entropy,
    kernel_information,
    kernel_matrix,
    matched_entropies,
    mean_squared_kernel,
)
from gendiv_lightning.functional.vendi import vendi_score


def rows(num, size=5, seed=0):
    return torch.randn(num, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def published(kernel, q):
    """Entropy of order q of a kernel matrix over N, in nats, by its eigenvalues: the definition of RKE and Vendi."""
    values = np.linalg.eigvalsh(kernel.numpy() / len(kernel))
    values = values[values > 1e-14]
    return -(values * np.log(values)).sum() if q == 1 else np.log((values**q).sum()) / (1 - q)


def gaussian(x, sigma):
    return torch.tensor([[math.exp(-float((a - b) @ (a - b)) / (2 * sigma**2)) for b in x] for a in x]).double()


@pytest.mark.parametrize("q", [1.0, 2.0, 3.0])
def test_conditional_entropy_and_information_agree_with_the_published_estimators(q):
    x, text = rows(30), rows(30, 3, seed=1).repeat_interleave(2, 0)[:30]
    kernel, expected = kernel_matrix(x, 1.5), gaussian(x, 1.5)
    torch.testing.assert_close(kernel, expected, rtol=1e-6, atol=1e-8)
    condition = gaussian(text, 0.8)
    joint = published(expected * condition, q)
    bits = 1 / math.log(2)
    assert kernel_entropy(kernel, q) == pytest.approx(published(expected, q) * bits, rel=1e-6)
    assert conditional_entropy(kernel, condition, q) == pytest.approx(
        (joint - published(condition, q)) * bits, rel=1e-6
    )
    information = published(expected, q) + published(condition, q) - joint
    assert kernel_information(kernel, condition, q) == pytest.approx(information * bits, rel=1e-6)


def test_order_1_is_the_logarithm_of_the_vendi_score():
    x = rows(12)
    assert kernel_entropy(kernel_matrix(x)) == pytest.approx(math.log2(vendi_score(x)), rel=1e-9)


def test_conditional_entropy_given_groups_averages_entropies_at_order_1_and_pairs_at_order_2():
    kernel, group = kernel_matrix(rows(12), 2.0), torch.arange(12) // 4
    same = (group[:, None] == group).double()
    blocks = [kernel[group == g][:, group == g] for g in range(3)]
    assert conditional_entropy(kernel, same) == pytest.approx(sum(map(kernel_entropy, blocks)) / 3)
    pairs = torch.stack([block.square().mean() for block in blocks]).mean()
    assert conditional_entropy(kernel, same, 2) == pytest.approx(-math.log2(pairs.item()))


def test_kernels_are_1_for_equal_rows_and_tend_to_the_identity_kernel():
    x = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.5]])
    assert kernel_matrix(x, 0).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    torch.testing.assert_close(kernel_matrix(x, 1e-3), kernel_matrix(x, 0))
    cosine = kernel_matrix(x)
    assert cosine[0, 2].item() == pytest.approx(0.5 / math.hypot(1, 0.5))
    assert cosine.diagonal().tolist() == [1, 1, 1]


def test_uniform_samples_have_log_n_bits_and_gaussians_their_closed_form():
    draws = torch.randint(37, (3000, 1), generator=torch.Generator().manual_seed(0)).double()
    (mean,) = mean_squared_kernel(kernel_matrix(draws, 0)).flatten().tolist()
    assert -math.log2(mean) == pytest.approx(math.log2(37), rel=0.01)
    # x - x' is normal with variance 2, so E exp(-||x - x'||^2 / sigma^2) = (1 + 4 / sigma^2)^(-D / 2).
    size, sigma = 2, 0.5
    means = [mean_squared_kernel(kernel_matrix(part, sigma)).item() for part in rows(16_000, size).split(2000)]
    assert -math.log2(sum(means) / 8) == pytest.approx(size / 2 * math.log2(1 + 4 / sigma**2), rel=0.01)


def test_the_mean_over_pairs_does_not_depend_on_the_number_of_samples():
    kernel = kernel_matrix(rows(4096), 2.0)
    few = torch.stack([mean_squared_kernel(block)[0, 0] for block in block_diagonal(kernel, 4)])
    many = torch.stack([mean_squared_kernel(block)[0, 0] for block in block_diagonal(kernel, 64)])
    assert few.mean().item() == pytest.approx(many.mean().item(), rel=0.03)
    plugin = torch.stack([block.square().mean() for block in block_diagonal(kernel, 4)]).mean()
    assert plugin > 1.3 * many.mean()


def block_diagonal(kernel, size):
    return [kernel[i : i + size, i : i + size] for i in range(0, len(kernel), size)]


def test_means_over_pairs_exclude_pairs_of_a_sample_with_itself():
    kernel = kernel_matrix(rows(5), 1.0)
    groups = torch.tensor([0, 0, 0, 1, 1])
    means = mean_squared_kernel(kernel, groups)
    assert means[1, 1].item() == pytest.approx(kernel[3, 4].item() ** 2)
    assert means[0, 1].item() == pytest.approx(kernel[:3, 3:].square().mean().item())
    assert mean_squared_kernel(kernel[:1, :1]).isnan().all()


def crossed(num_paraphrases=2, num_paths=4):
    paraphrases = torch.arange(num_paraphrases).repeat_interleave(num_paths**2)
    return paraphrases, torch.arange(num_paths).repeat_interleave(num_paths).repeat(num_paraphrases)


def test_order_1_parts_come_from_groups_of_equal_size():
    paraphrases, paths = crossed()
    by_path = kernel_matrix(torch.stack([paraphrases, paths], 1), 0)  # a path has one image
    assert matched_entropies(by_path, paraphrases, paths) == pytest.approx((0, 2, 2))
    by_paraphrase = kernel_matrix(paraphrases[:, None], 0)
    assert matched_entropies(by_paraphrase, paraphrases, paths) == pytest.approx((0, 0, 1))
    all_differ = torch.eye(32)
    assert matched_entropies(all_differ, paraphrases, paths) == pytest.approx((2, 2, 2)), (
        "no more than the samples of a group can show"
    )


def test_order_1_without_shared_paths_uses_all_samples():
    num = torch.arange(6)
    execution, paraphrase, total = matched_entropies(torch.eye(6), torch.zeros(6, dtype=torch.int64), num)
    assert math.isnan(execution)
    assert paraphrase == total == pytest.approx(math.log2(6))
    frozen = matched_entropies(torch.eye(6), torch.zeros(6, dtype=torch.int64), torch.zeros(6, dtype=torch.int64))
    assert frozen == pytest.approx((math.log2(6),) * 3)
    assert all(map(math.isnan, matched_entropies(torch.eye(1), num[:1], num[:1])))


@pytest.mark.parametrize("bandwidth", [-1.0, math.inf, math.nan])
def test_an_invalid_bandwidth_is_an_error(bandwidth):
    with pytest.raises(ValueError, match="bandwidth must be a distance of at least 0"):
        kernel_matrix(rows(3), bandwidth)


def test_non_finite_features_are_an_error():
    with pytest.raises(ValueError, match="got 1 rows with NaN or infinity"):
        kernel_matrix(rows(3).index_fill(0, torch.tensor(1), math.nan), 1.0)
