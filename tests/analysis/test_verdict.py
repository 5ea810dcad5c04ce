"""The verdict: each kind of model is recognized, and uncertain cases are undecided."""

import pytest
import torch

from gendiv_lightning.analysis.verdict import judge


def columns(execution, argmax, subset, noise=0.02, num=40):
    generator = torch.Generator().manual_seed(0)
    return [mean + noise * torch.randn(num, generator=generator) for mean in (1.0, execution, argmax, subset)]


@pytest.mark.parametrize(
    ("numbers", "perplexity", "kind"),
    [
        ((0.98, 0.0, 0.95), 0.2, "compression-prioritised"),
        ((0.9, 0.3, 0.5), 0.8, "diversity-prioritised"),
        ((0.4, 0.8, 1.0), 0.8, "decoupled"),
        ((0.98, 0.3, 0.95), 0.8, "undecided"),
    ],
)
def test_a_clear_case_has_its_kind(numbers, perplexity, kind):
    verdict = judge(*columns(*numbers), perplexity)
    assert verdict.kind == kind
    assert verdict.certainty > 0.95
    assert verdict.shares == pytest.approx((numbers[1], numbers[2], 1 - numbers[0], perplexity), abs=0.02)


def test_a_borderline_case_is_undecided():
    verdict = judge(*columns(0.9, 0.3, 0.9, noise=0.1), 0.8)
    assert verdict.kind == "undecided"
    assert verdict.certainty < 0.9


def test_one_prompt_is_too_few():
    with pytest.raises(ValueError, match="two prompts"):
        judge(*columns(0.9, 0.3, 0.9, num=1), 0.8)
