"""The uniforms are those of SplitMix64 and depend on names only."""

import hashlib

import pytest
import torch
from scipy.stats import chi2_contingency, chisquare, kstest

from gendiv_lightning.sampling import Noise

WORD = 1 << 64
GAMMA = 0x9E3779B97F4A7C15
MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


class SplitMix64:
    """The generator as published by Steele, Lea & Flood: a state that grows by a constant, in Python integers."""

    def __init__(self, seed):
        self.state = seed % WORD

    def next(self):
        self.state = (self.state + GAMMA) % WORD
        z = self.state
        z = (z ^ (z >> 30)) * MULTIPLIERS[0] % WORD
        z = (z ^ (z >> 27)) * MULTIPLIERS[1] % WORD
        return z ^ (z >> 31)


def seed_whose_first_number_is(z):
    """Invert the finalizer of SplitMix64."""
    for shift, multiplier in ((31, MULTIPLIERS[1]), (27, MULTIPLIERS[0]), (30, 1)):
        z ^= (z >> shift) ^ (z >> 2 * shift)
        z = z * pow(multiplier, -1, WORD) % WORD
    return (z - GAMMA) % WORD


def noise_of_keys(*keys):
    signed = [key - WORD if key >= WORD // 2 else key for key in keys]
    return Noise(0, "exec", tuple((key,) for key in keys), torch.tensor(signed))


def names(num, prompt="p"):
    return [(prompt, 0, sample) for sample in range(num)]


def test_the_reference_implementation_gives_the_published_numbers():
    generator = SplitMix64(1234567)
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [generator.next() for _ in published] == published


@pytest.mark.parametrize("key", [0, 1, 1234567, WORD - 1, WORD // 2, 0xDEADBEEFCAFEF00D])
def test_a_row_is_the_splitmix64_sequence_of_its_key(key):
    generator = SplitMix64(key)
    expected = [((generator.next() >> 12) + 0.5) * 2.0**-52 for _ in range(50)]
    assert noise_of_keys(key).uniform_grid(0, 50)[0].tolist() == expected


@pytest.mark.parametrize("step", [1, 2, 99, 65535, (1 << 31) - 1])
def test_each_step_starts_2_to_the_32_numbers_after_the_previous_one(step):
    generator = SplitMix64(42 + (step << 32) * GAMMA)
    expected = [((generator.next() >> 12) + 0.5) * 2.0**-52 for _ in range(5)]
    assert noise_of_keys(42).uniform_grid(step, 5)[0].tolist() == expected


@pytest.mark.parametrize(("bits", "uniform"), [(0, 2.0**-53), (WORD - 1, 1 - 2.0**-53)])
def test_the_smallest_and_largest_number_lie_inside_the_open_interval(bits, uniform):
    seed = seed_whose_first_number_is(bits)
    assert SplitMix64(seed).next() == bits
    assert noise_of_keys(seed).uniform_grid(0, 1).item() == uniform
    assert 0 < uniform < 1


def test_keys_are_the_sha256_of_seed_role_and_name():
    digest = hashlib.sha256(repr((7, "path", "p", 0, 3)).encode()).digest()
    assert Noise.of(7, "path", [("p", 0, 3)]).keys.item() == int.from_bytes(digest[:8], "little", signed=True)


def test_numbers_do_not_change_between_versions():
    uniforms = Noise.of(0, "exec", [("a", 0, 0)]).uniform_grid(3, 2)[0].tolist()
    assert uniforms == [0.27076609507306026, 0.816907710847777]


def test_equal_names_get_equal_numbers_in_any_batch_and_order():
    rows = names(24)
    whole = Noise.of(0, "exec", rows).uniform_grid(5, 7)
    for size in (1, 3, 8):
        parts = [Noise.of(0, "exec", rows[i : i + size]).uniform_grid(5, 7) for i in range(0, 24, size)]
        assert torch.equal(torch.cat(parts), whole)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0)).tolist()
    assert torch.equal(Noise.of(0, "exec", [rows[i] for i in order]).uniform_grid(5, 7), whole[order])


def test_the_number_of_a_position_does_not_depend_on_how_many_are_requested():
    noise = Noise.of(0, "exec", names(4))
    assert torch.equal(noise.uniform_grid(2, 100)[:, :9], noise.uniform_grid(2, 9))


@pytest.mark.parametrize("step", [0, 3, (1 << 31) - 1])
def test_selected_positions_have_the_numbers_of_the_grid_in_any_order_and_repeatedly(step):
    noise, generator = Noise.of(0, "exec", names(4)), torch.Generator().manual_seed(0)
    rows, positions = (torch.randint(high, (50,), generator=generator) for high in (4, 30))
    uniforms = noise.uniform(step, rows, positions)
    assert (uniforms.shape, uniforms.dtype) == ((50,), torch.float64)
    assert torch.equal(uniforms, noise.uniform_grid(step, 30)[rows, positions])


def test_no_positions_give_no_numbers():
    nowhere = torch.empty(0, dtype=torch.int64)
    assert Noise.of(0, "exec", names(4)).uniform(0, nowhere, nowhere).shape == (0,)


def test_every_part_of_a_name_and_seed_role_and_step_changes_the_numbers():
    base = ("p", 0, 0)
    variants = [
        Noise.of(0, "exec", [base]).uniform_grid(0, 4),
        Noise.of(0, "exec", [base]).uniform_grid(1, 4),
        Noise.of(1, "exec", [base]).uniform_grid(0, 4),
        Noise.of(0, "path", [base]).uniform_grid(0, 4),
        *(Noise.of(0, "exec", [name]).uniform_grid(0, 4) for name in [("q", 0, 0), ("p", 1, 0), ("p", 0, 1), ("p", 0)]),
        *(Noise.of(0, "exec", [name]).uniform_grid(0, 4) for name in [("p", 10, 0), ("p", 1, 100), ("p", "0", 0)]),
    ]
    assert torch.cat(variants).unique().numel() == 4 * len(variants)


LAYOUTS = {"positions": (10, 1, 10_000), "steps": (10, 2000, 5), "keys": (100_000, 1, 1)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_hundred_thousand_numbers_are_uniform(layout):
    num_rows, num_steps, num_positions = LAYOUTS[layout]
    noise = Noise.of(0, "exec", names(num_rows))
    uniforms = torch.cat([noise.uniform_grid(step, num_positions) for step in range(num_steps)]).flatten().numpy()
    assert len(uniforms) == 100_000
    assert kstest(uniforms, "uniform").pvalue > 1e-3
    fine = (uniforms * 2.0**30 % 256).astype(int)  # low bits, which a test on the whole number would not detect
    assert chisquare(torch.from_numpy(fine).bincount(minlength=256).numpy()).pvalue > 1e-3


def neighbours():
    noise, num = Noise.of(0, "exec", names(1000)), 100
    numbers = noise.uniform_grid(0, num)
    return {
        "roles": (numbers, Noise.of(0, "path", names(1000)).uniform_grid(0, num)),
        "seeds": (numbers, Noise.of(1, "exec", names(1000)).uniform_grid(0, num)),
        "steps": (numbers, noise.uniform_grid(1, num)),
        "positions": (numbers[:, :-1], numbers[:, 1:]),
        "keys": (numbers[:-1], numbers[1:]),
        "prompts": (numbers, Noise.of(0, "exec", names(1000, "q")).uniform_grid(0, num)),
    }


@pytest.mark.parametrize("kind", ["roles", "seeds", "steps", "positions", "keys", "prompts"])
def test_numbers_of_neighbouring_names_are_independent(kind):
    x, y = (part.flatten() for part in neighbours()[kind])
    correlation = torch.corrcoef(torch.stack([x, y]))[0, 1].item()
    assert abs(correlation) < 3.3 / len(x) ** 0.5  # three standard deviations; the keys are fixed
    cells = ((x * 8).long() * 8 + (y * 8).long()).bincount(minlength=64).view(8, 8)
    assert chi2_contingency(cells.numpy()).pvalue > 1e-3


def test_shared_noise_ignores_the_last_part_of_the_name():
    shared = Noise.of(0, "path", [*names(3, "p"), *names(2, "q")]).shared().uniform_grid(0, 4)
    assert torch.equal(shared[0].expand(3, -1), shared[:3])
    assert torch.equal(shared[3], shared[4])
    assert not torch.equal(shared[0], shared[3])


def test_paraphrases_of_a_prompt_do_not_share_noise():
    shared = Noise.of(0, "path", [("p", paraphrase, path) for paraphrase in range(2) for path in range(2)]).shared()
    assert torch.equal(shared.keys[0::2], shared.keys[1::2])
    assert len(shared.keys.unique()) == 2


def test_shared_noise_does_not_depend_on_the_batch():
    rows = names(6)
    assert torch.equal(Noise.of(0, "path", rows[4:]).shared().keys, Noise.of(0, "path", rows).shared().keys[4:])


def test_noise_that_is_off_gives_no_numbers_and_stays_off_when_shared():
    off = Noise.of(0, "exec", names(2)).off()
    for noise in (off, off.shared()):
        with pytest.raises(AssertionError, match="exec noise is off"):
            noise.uniform_grid(0, 1)
        with pytest.raises(AssertionError, match="exec noise is off"):
            noise.uniform(0, torch.tensor([1]), torch.tensor([0]))
    assert torch.equal(off.keys, Noise.of(0, "exec", names(2)).keys)


def test_an_empty_batch_has_noise():
    assert Noise.of(0, "exec", []).shared().uniform_grid(0, 5).shape == (0, 5)
