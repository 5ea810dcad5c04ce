"""The next-scale loop conditions each scale on the previous one and samples every token with its own uniform."""

import torch

from gendiv_lightning.sampling import Noise, Observer, TokenSampler
from gendiv_lightning.sampling.next_scale import sample_next_scale

B, K, SIZES = 3, 50, (1, 4, 9)


def make_sampler(**settings):
    noises = (Noise.of(0, role, [("prompt", row) for row in range(B)]) for role in ("path", "exec"))
    return TokenSampler(*noises, K, **settings)


def test_a_scale_is_predicted_from_the_tokens_of_the_previous_scale():
    seen = []

    def predict(before, scale):
        seen.append(before)
        return torch.zeros(B, SIZES[scale], K)

    tokens = sample_next_scale(predict, make_sampler(), SIZES).tokens
    assert tokens.shape == (B, 14)
    assert [before.shape for before in seen] == [(B, 0), (B, 1), (B, 4)]
    assert torch.equal(torch.cat(seen, 1), tokens[:, :5])


class Recorder(Observer):
    def __init__(self):
        self.draws = []

    def observe(self, draw):
        self.draws.append(draw)


def test_each_scale_is_a_step_and_positions_are_numbered_over_all_scales():
    recorder = Recorder()
    sampler = make_sampler(observers=(recorder,))
    samples = sample_next_scale(lambda _, scale: torch.zeros(B, SIZES[scale], K), sampler, SIZES)
    assert [draw.step for draw in recorder.draws] == [0, 1, 2]
    for draw, positions in zip(recorder.draws, ([0], [1, 2, 3, 4], range(5, 14)), strict=True):
        assert draw.positions.tolist() == list(positions) * B
        assert draw.rows.tolist() == sorted(list(range(B)) * len(positions))
        assert torch.equal(samples.tokens[draw.rows, draw.positions], draw.tokens)
        uniforms = sampler.exec.uniform(draw.step, draw.rows, draw.positions)
        assert torch.equal(draw.tokens, (uniforms * K).long())


def test_a_row_does_not_depend_on_the_other_rows():
    generator = torch.Generator().manual_seed(0)
    tables = [torch.randn(K, size, K, generator=generator) for size in SIZES]

    def predict(before, scale):
        last = before[:, -1] if scale else torch.zeros(len(before), dtype=torch.long)
        return tables[scale][last]

    together = sample_next_scale(predict, make_sampler(), SIZES).tokens
    for row in range(B):
        noises = (Noise.of(0, role, [("prompt", row)]) for role in ("path", "exec"))
        assert torch.equal(sample_next_scale(predict, TokenSampler(*noises, K), SIZES).tokens[0], together[row])
