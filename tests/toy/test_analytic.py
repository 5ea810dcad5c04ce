"""Analytic generators: closed forms against sums over all images, and decoding orders against each other."""

import math

import pytest
import torch

from gendiv_lightning.callbacks import Decompose
from gendiv_lightning.toy.analytic import FAMILIES, NUM_TOKENS, AnalyticGenerator
from gendiv_lightning.toy.calibration import sample_crossed

SCORED = ["independent", "autoregressive", "paraphrases that start apart", "paraphrases apart"]


def bits(probs, *dims):
    return torch.special.entr(probs).sum(dims) / math.log(2)


@pytest.mark.parametrize("family", SCORED)
def test_closed_forms_equal_sums_over_all_images(family):
    generator = AnalyticGenerator(FAMILIES[family], 8, num_prompts=2, num_paraphrases=3, seed=5)
    images = torch.cartesian_prod(*[torch.arange(8)] * NUM_TOKENS)
    exact = generator.ground_truth()
    for prompt in range(2):
        conditions = [torch.tensor([[prompt, paraphrase]]).expand(len(images), 2) for paraphrase in range(3)]
        probs = torch.stack([generator.score_tokens(c, images, None).sum(1).exp2() for c in conditions])
        torch.testing.assert_close(probs.sum(1), torch.ones(3).double())
        grids = probs.view(3, *[8] * NUM_TOKENS)
        singles = [grids.sum([n + 1 for n in range(NUM_TOKENS) if n != index]) for index in range(NUM_TOKENS)]
        tokens = torch.stack(singles, 1)  # (paraphrases, L, 8)
        expected = {
            "h_total/token": bits(tokens.mean(0), -1).mean(),
            "h_exec/token": bits(tokens, -1).mean(),
            "h_prompt_path/token": (bits(tokens.mean(0), -1) - bits(tokens, -1)).mean(),
            "h_sampler_path/token": torch.tensor(0.0),
            "h_exec/sequence": bits(probs, 1).mean(),
            "h_prompt_path/sequence": bits(probs.mean(0), 0) - bits(probs, 1).mean(),
        }
        for name, value in expected.items():
            if not exact[name].isnan().any():
                assert exact[name][prompt].item() == pytest.approx(value.item(), abs=1e-9), name
    assert family == "paraphrases apart" or not exact["h_prompt_path/sequence"].isnan().any()


def test_the_probability_of_an_image_does_not_depend_on_the_decoding_order():
    shuffled = AnalyticGenerator(FAMILIES["absorbing diffusion"], 64, num_prompts=2, seed=3)
    raster = AnalyticGenerator(FAMILIES["autoregressive"], 64, num_prompts=2, seed=3)
    for prompt, samples in enumerate(sample_crossed(shuffled, Decompose(4, 4))):
        conditions = torch.stack([torch.full((64,), prompt), samples.paraphrase - 1], 1)
        other = raster.score_tokens(conditions, samples.tokens, None).sum(1)
        assert other.isfinite().all()
        entropies = samples.entropy.sum(1)
        assert entropies.std() > 0.1, "orders that differ know different things"
        drawn = shuffled.ground_truth()["h_exec/sequence"][prompt].item()
        assert entropies.mean().item() == pytest.approx(drawn, abs=4 * entropies.std().item() / 8)
        assert -other.mean().item() == pytest.approx(drawn, abs=4 * other.std().item() / 8)


def test_paths_and_paraphrases_only_matter_in_families_that_use_them():
    exact = {name: AnalyticGenerator(family, 64, 4).ground_truth() for name, family in FAMILIES.items()}
    chosen = {
        part: {name for name, values in exact.items() if (values[f"h_{part}_path/token"] > 1e-9).all()}
        for part in ("sampler", "prompt")
    }
    starts = {"paths that start apart", "sharp diffusion that starts apart"}
    assert chosen["sampler"] == {"mixture over paths", "paths x paraphrases", *starts}
    assert chosen["prompt"] == {"paraphrases that start apart", "paraphrases apart", "paths x paraphrases"}
