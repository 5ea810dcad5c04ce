"""The normals of a continuous sampler: distribution, keys, branches, and the functions that draw them."""

from dataclasses import replace

import pytest
import torch

from gendiv_lightning.sampling.latents import KeyedNormals, LatentSampler, draw_normals
from gendiv_lightning.sampling.noise import Noise


def sampler(num_rows: int = 4, prompt: str = "a", seed: int = 0) -> LatentSampler:
    names = [(prompt, 0, row) for row in range(num_rows)]
    return LatentSampler(Noise.of(seed, "path", names), Noise.of(seed, "exec", names))


def test_normals_have_mean_0_variance_1_and_the_tails_of_a_normal() -> None:
    x = draw_normals(sampler(8).path, 0, (8, 50_000)).double()
    assert x.dtype == torch.float64
    assert abs(float(x.mean())) < 4 / 400_000**0.5
    assert abs(float(x.var()) - 1) < 4 * (2 / 400_000) ** 0.5
    for z, share in ((1, 0.1587), (2, 0.02275), (3, 0.00135)):
        result = float((x > z).double().mean())
        assert abs(result - share) < 4 * (share / 400_000) ** 0.5


def test_rows_steps_and_roles_have_uncorrelated_normals() -> None:
    noise = sampler(3)
    drawn = [noise.initial_noise((3, 9000)), noise.step_noise(0, (3, 9000)), noise.step_noise(1, (3, 9000))]
    correlation = torch.corrcoef(torch.cat(drawn))
    assert float((correlation - torch.eye(9)).abs().max()) < 5 / 9000**0.5


def test_a_row_has_the_same_normals_in_any_batch() -> None:
    whole, part = sampler(4), sampler(4).take([2, 0])
    torch.testing.assert_close(
        part.initial_noise((2, 4, 3, 3)), whole.initial_noise((4, 4, 3, 3))[[2, 0]], rtol=0, atol=0
    )
    torch.testing.assert_close(part.step_noise(5, (2, 7)), whole.step_noise(5, (4, 7))[[2, 0]], rtol=0, atol=0)


def test_a_second_draw_of_a_step_continues_the_first() -> None:
    both = sampler().step_noise(3, (4, 10))
    torch.testing.assert_close(sampler().step_noise(3, (4, 4), start=6), both[:, 6:], rtol=0, atol=0)


def test_without_execution_noise_every_transition_returns_its_mean() -> None:
    off = replace(sampler(), exec=sampler().exec.off())
    assert not off.step_noise(0, (4, 5)).any()
    assert off.initial_noise((4, 5)).all()


def test_a_frozen_path_gives_all_samples_of_a_paraphrase_the_same_initial_noise() -> None:
    frozen = replace(sampler(), path=sampler().path.shared())
    x = frozen.initial_noise((4, 5))
    assert torch.equal(x, x[:1].expand(4, 5))


@pytest.mark.parametrize("step", [0, 1, 3])
def test_a_branch_shares_all_noise_before_its_step_and_none_after(step: int) -> None:
    own = sampler()
    branch = replace(own, path=own.path.branch(step), exec=own.exec.branch(step)).take([0, 1, 2, 3])
    drawn = [branch.initial_noise((4, 5)), *(branch.step_noise(i, (4, 5)) for i in range(4))]
    fresh = [own.initial_noise((4, 5)), *(own.step_noise(i, (4, 5)) for i in range(4))]
    for decision, (x, y) in enumerate(zip(drawn, fresh, strict=True)):
        assert torch.equal(x, x[:1].expand(4, 5)) == (decision < step)
        assert torch.equal(x, y) == (decision >= step)


def test_noise_with_another_number_of_rows_than_the_latents_is_an_error() -> None:
    with pytest.raises(ValueError, match="noise of 4 rows cannot fill the shape"):
        sampler().initial_noise((8, 3))


def test_inside_the_context_randn_and_randn_like_are_keyed_and_other_random_functions_fail() -> None:
    asked = []

    def draw(shape: tuple[int, ...]) -> torch.Tensor:
        asked.append(shape)
        return torch.full(shape, 0.5)

    with KeyedNormals(draw, "Some.step"):
        a = torch.randn((2, 3), generator=None, device=torch.device("cpu"), dtype=torch.bfloat16, layout=torch.strided)
        b = torch.randn(2, 3)
        c = torch.randn_like(torch.zeros(2, 1, dtype=torch.float64))
        d = torch.randn(size=(1, 2))
        with pytest.raises(ValueError, match=r"Some\.step calls randint, whose numbers cannot be keyed"):
            torch.randint(0, 3, (2,))
        with pytest.raises(ValueError, match="calls normal_"):
            torch.zeros(2).normal_()
    assert [x.dtype for x in (a, b, c, d)] == [torch.bfloat16, torch.float32, torch.float64, torch.float32]
    assert asked == [(2, 3), (2, 3), (2, 1), (1, 2)]
    assert torch.randn(1).shape == (1,)
