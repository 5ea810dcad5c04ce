"""Probes: what each one changes and rejects, and that several can be combined."""

import itertools
import json
from dataclasses import fields

import pytest
import torch

from gendiv_lightning.callbacks import (
    Argmax,
    CodebookSubset,
    Decompose,
    FreezePath,
    Guidance,
    Paraphrase,
    PosteriorArgmax,
    Temperature,
    TopK,
    TopP,
)
from gendiv_lightning.prompts.design import apply_designs, name_samples
from gendiv_lightning.records import Paraphrase as Wording
from gendiv_lightning.records import Prompt, SampleDesign
from gendiv_lightning.sampling import Noise, TokenSampler, apply_probes
from gendiv_lightning.sampling.latents import LatentSampler
from gendiv_lightning.storage.codebook_counts import read_usage, write_usage

COUNTS = torch.tensor([5, 0, 40, 5, 100, 1, 0, 30])  # by frequency: 4, 2, 7, 0, 3, 5, 1, 6


def make_sampler(codebook_size=8):
    names = [("p", 0, row) for row in range(3)]
    return TokenSampler(Noise.of(0, "path", names), Noise.of(0, "exec", names), codebook_size)


@pytest.fixture
def usage(tmp_path):
    write_usage(tmp_path / "usage.safetensors", COUNTS, {"source": "made up"})
    return str(tmp_path / "usage.safetensors")


def chosen(probe, codebook_size=8):
    return probe.allowed(codebook_size).nonzero()[:, 0].tolist()


# --- codebook subsets ---


def test_counts_and_provenance_are_read_as_written(usage, tmp_path):
    counts, provenance = read_usage(tmp_path / "usage.safetensors")
    assert torch.equal(counts, COUNTS)
    assert provenance == {"source": "made up"}


@pytest.mark.parametrize(
    ("select", "amount", "expected"),
    [
        ("most_frequent", {"size": 1}, [4]),
        ("most_frequent", {"size": 4}, [0, 2, 4, 7]),  # 0 and 3 are equally frequent: the first
        ("most_frequent", {"ratio": 0.25}, [2, 4]),
        ("most_frequent", {"ratio": 1.0}, [0, 1, 2, 3, 4, 5, 6, 7]),
        ("least_frequent", {"size": 1}, [6]),
        ("least_frequent", {"size": 3}, [1, 5, 6]),
        ("least_frequent", {"ratio": 0.5}, [1, 3, 5, 6]),
        ("drop_most_frequent", {"size": 1}, [0, 1, 2, 3, 5, 6, 7]),
        ("drop_most_frequent", {"ratio": 0.5}, [1, 3, 5, 6]),
        ("drop_most_frequent", {"size": 7}, [6]),
    ],
)
def test_selections_by_frequency(usage, select, amount, expected):
    assert chosen(CodebookSubset(select, usage=usage, **amount)) == expected


def test_ties_in_frequency_are_broken_by_the_lower_number(tmp_path):
    write_usage(tmp_path / "usage.safetensors", torch.ones(4096), {})
    probe = CodebookSubset("most_frequent", size=100, usage=str(tmp_path / "usage.safetensors"))
    assert chosen(probe, 4096) == list(range(100))


def test_most_frequent_entries_and_the_rest_partition_the_codebook(usage):
    for size in range(1, 8):
        most = CodebookSubset("most_frequent", size=size, usage=usage).allowed(8)
        assert torch.equal(most, ~CodebookSubset("drop_most_frequent", size=size, usage=usage).allowed(8))
        assert torch.equal(most, ~CodebookSubset("least_frequent", size=8 - size, usage=usage).allowed(8))


@pytest.mark.parametrize("amount", [{"size": 100}, {"ratio": 100 / 4096}])
def test_a_random_subset_has_the_requested_size_and_depends_on_its_seed(amount):
    first, again, other = (CodebookSubset("random", seed=seed, **amount).allowed(4096) for seed in (0, 0, 1))
    assert first.sum() == other.sum() == 100
    assert torch.equal(first, again)
    assert (first & other).sum() < 15  # 2.4 expected


def test_random_subsets_contain_every_entry_equally_often():
    counts = sum(CodebookSubset("random", size=4, seed=seed).allowed(16).long() for seed in range(1000))
    assert counts.sum() == 4000
    assert (counts - 250).abs().max() < 4 * (1000 * 0.25 * 0.75) ** 0.5


def test_a_list_is_used_unchanged():
    assert chosen(CodebookSubset("list", tokens=[7, 0, 3])) == [0, 3, 7]
    assert chosen(CodebookSubset("list", tokens=[0])) == [0]


def test_a_subset_is_put_on_the_sampler(usage):
    probe = CodebookSubset("most_frequent", size=2, usage=usage)
    assert apply_probes(make_sampler(), [probe]).allowed.nonzero()[:, 0].tolist() == [2, 4]


def test_several_subset_probes_are_independent(usage):
    probes = [CodebookSubset("most_frequent", size=size, usage=usage) for size in (1, 2, 3)]
    for _ in range(2):
        assert [len(chosen(probe)) for probe in probes] == [1, 2, 3]
        assert [len(chosen(CodebookSubset("random", size=3), size)) for size in (8, 16)] == [3, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"select": "list"}, "list"),
        ({"select": "list", "tokens": []}, "at least one entry"),
        ({"select": "list", "tokens": [1, 2, 1]}, "without repetitions"),
        ({"select": "list", "tokens": [1], "size": 1}, "excludes size"),
        ({"select": "list", "tokens": [1], "ratio": 0.5}, "excludes size"),
        ({"select": "list", "tokens": [1], "usage": "u"}, "usage"),
        ({"select": "random"}, "either size or ratio"),
        ({"select": "random", "size": 2, "ratio": 0.5}, "either size or ratio"),
        ({"select": "random", "size": 2, "tokens": [1]}, "excludes tokens"),
        ({"select": "random", "size": 2, "usage": "u"}, "excludes usage"),
        ({"select": "most_frequent", "size": 2}, "needs usage"),
        ({"select": "least_frequent", "ratio": 0.5}, "needs usage"),
        ({"select": "most_frequent", "usage": "u"}, "either size or ratio"),
        ({"select": "random", "size": 0}, "size must be at least 1"),
        ({"select": "random", "size": -1}, "size must be at least 1"),
        ({"select": "random", "ratio": 0.0}, r"\(0, 1\]"),
        ({"select": "random", "ratio": 1.5}, r"\(0, 1\]"),
        ({"select": "random", "ratio": float("nan")}, r"\(0, 1\]"),
    ],
)
def test_an_impossible_subset_is_rejected_in_the_constructor(arguments, message):
    with pytest.raises(ValueError, match=message):
        CodebookSubset(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"select": "list", "tokens": [1, 8]}, r"0\.\.7, got \[8\]"),
        ({"select": "list", "tokens": [-1, 1]}, r"0\.\.7, got \[-1\]"),
        ({"select": "random", "size": 9}, "at most 8"),
        ({"select": "random", "ratio": 0.01}, "no entry"),
        ({"select": "most_frequent", "ratio": 0.01, "usage": "FILE"}, "no entry"),
        ({"select": "least_frequent", "ratio": 0.01, "usage": "FILE"}, "no entry"),
        ({"select": "drop_most_frequent", "size": 8, "usage": "FILE"}, "no entry"),
        ({"select": "drop_most_frequent", "ratio": 1.0, "usage": "FILE"}, "no entry"),
        ({"select": "drop_most_frequent", "size": 9, "usage": "FILE"}, "at most 8"),
        (
            {"select": "most_frequent", "size": 1, "usage": "runs/none/usage.safetensors"},
            "no file .*gendiv validate",
        ),
        (
            {"select": "most_frequent", "size": 1, "usage": "none/usage.safetensors"},
            "no file .*gendiv validate",
        ),
    ],
)
def test_a_subset_that_does_not_fit_the_codebook_is_rejected_by_the_check(usage, arguments, message):
    arguments = {key: usage if value == "FILE" else value for key, value in arguments.items()}
    with pytest.raises(ValueError, match=message):
        CodebookSubset(**arguments).check(8)


def test_counts_of_another_codebook_are_rejected(usage):
    with pytest.raises(ValueError, match=r"8 .*16"):
        CodebookSubset("most_frequent", size=1, usage=usage).check(16)


def test_a_file_without_counts_is_refused(tmp_path):
    (tmp_path / "usage.safetensors").write_text("no safetensors")
    with pytest.raises(ValueError, match="does not contain codebook counts"):
        CodebookSubset("most_frequent", size=1, usage=str(tmp_path / "usage.safetensors")).check(8)


# --- the other settings ---


@pytest.mark.parametrize(
    ("probe", "field", "value"),
    [
        (Temperature(0.5), "temperature", 0.5),
        (TopK(5), "top_k", 5),
        (TopP(0.9), "top_p", 0.9),
        (Guidance(3.0), "guidance", 3.0),
    ],
)
def test_a_knob_sets_its_field(probe, field, value):
    assert getattr(apply_probes(make_sampler(), [probe]), field) == value


@pytest.mark.parametrize(
    ("probe", "arguments"),
    [(Temperature, [-0.1]), (TopK, [0]), (TopK, [-1]), (TopP, [-0.1]), (TopP, [1.1]), (Paraphrase, [0])],
)
def test_a_value_out_of_range_is_rejected_in_the_constructor_of_a_probe(probe, arguments):
    with pytest.raises(ValueError, match=str(arguments[0])):
        probe(*arguments)


def test_argmax_only_switches_off_execution_noise():
    sampler = make_sampler()
    changed = apply_probes(sampler, [Argmax()])
    assert changed.exec.is_off
    assert changed.path is sampler.path
    assert not sampler.exec.is_off


def test_freeze_path_only_shares_path_noise():
    sampler = make_sampler()
    changed = apply_probes(sampler, [FreezePath()])
    assert len(changed.path.keys.unique()) == 1
    assert changed.exec is sampler.exec


def test_paraphrase_changes_the_design():
    plan = apply_designs(SampleDesign(num_samples=8), [Argmax(), Paraphrase(2, "long")])
    assert plan == SampleDesign(8, 2, "long")


def test_other_probes_do_not_change_the_design():
    plan = SampleDesign(num_samples=8)
    assert apply_designs(plan, [Argmax(), TopK(2), CodebookSubset("list", tokens=[1])]) == plan


def test_freezepath_gives_all_samples_of_a_paraphrase_path_zero():
    assert apply_designs(SampleDesign(), [FreezePath()]).num_paths == 1
    prompt = Prompt("p", "a house", (Wording("a hut", "short"), Wording("a home", "short")))
    plan = SampleDesign(4, 2, num_paths=1)
    assert {key.path for key in name_samples(prompt, plan)} == {0}
    assert [key.sample for key in name_samples(prompt, plan)] == [0, 1, 2, 3]


# --- together ---


@pytest.mark.parametrize(
    ("probes", "field"),
    [
        ([Temperature(0.5), Temperature(0.7)], "temperature"),
        ([TopK(3), Argmax(), TopK(4)], "top_k"),
        ([TopP(0.5), TopP(0.6)], "top_p"),
        ([Guidance(2.0), Guidance(3.0)], "guidance"),
        ([Argmax(), Argmax()], "exec"),
        ([FreezePath(), FreezePath()], "path"),
    ],
)
def test_two_probes_of_one_field_are_rejected(probes, field):
    name = type(probes[0]).__name__
    with pytest.raises(ValueError, match=f"{name}.*{name}.*'{field}'"):
        apply_probes(make_sampler(), probes)


def test_two_paraphrase_designs_are_rejected():
    with pytest.raises(ValueError, match=r"Paraphrase.*Decompose"):
        apply_designs(SampleDesign(), [Paraphrase(2), Paraphrase(2)])


def test_decompose_crosses_paths_with_executions_and_paraphrases():
    prompt = Prompt("p", "a house", (Wording("a hut", "short"), Wording("a home", "short")))
    plan = apply_designs(SampleDesign(3), [Decompose(4, 2)])
    keys = name_samples(prompt, plan)
    assert len(keys) == len(set(keys)) == 32
    assert {(key.paraphrase, key.path) for key in keys} == {(q, z) for q in (1, 2) for z in range(4)}
    assert [key.sample for key in keys] == list(range(32)), "execution noise is each sample's own"


@pytest.mark.parametrize("other", [Paraphrase(2), FreezePath(), Decompose(2)])
def test_decompose_and_another_design_of_the_same_samples_are_rejected(other):
    for probes in ([Decompose(4, 2), other], [other, Decompose(4, 2)]):
        with pytest.raises(ValueError, match="Decompose"):
            apply_designs(SampleDesign(), probes)


@pytest.mark.parametrize(
    "settings", [{"num_paths": 3}, {"num_paths": 0}, {"num_paraphrases": 1}, {"num_paraphrases": 3}]
)
def test_paths_that_cannot_be_crossed_are_an_error(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}.*{next(iter(settings.values()))}"):
        Decompose(**settings)


def test_subsets_are_intersected():
    probes = [CodebookSubset("list", tokens=tokens) for tokens in ([0, 1, 2, 3], [2, 3, 4], [3, 7])]
    for order in itertools.permutations(probes):
        assert apply_probes(make_sampler(), order).allowed.nonzero()[:, 0].tolist() == [3]


def test_disjoint_subsets_are_rejected():
    with pytest.raises(ValueError, match="no codebook entry in common"):
        apply_probes(make_sampler(), [CodebookSubset("list", tokens=[0, 1]), CodebookSubset("list", tokens=[2])])


def same_sampler(first, second):
    values = [(getattr(first, field.name), getattr(second, field.name)) for field in fields(first)]
    return all(
        torch.equal(a.keys, b.keys) and a.is_off == b.is_off
        if isinstance(a, Noise)
        else torch.equal(a, b)
        if isinstance(a, torch.Tensor)
        else a == b
        for a, b in values
    )


def test_probes_commute_and_each_one_keeps_its_effect():
    probes = [Argmax(), FreezePath(), CodebookSubset("list", tokens=[1, 2]), TopK(1), TopP(0.9), Guidance(3.0)]
    expected = apply_probes(make_sampler(), probes)
    assert (expected.exec.is_off, expected.top_k, expected.top_p, expected.guidance) == (True, 1, 0.9, 3.0)
    assert expected.allowed.sum() == 2
    assert len(expected.path.keys.unique()) == 1
    for order in itertools.permutations(probes):
        assert same_sampler(apply_probes(make_sampler(), order), expected)


# --- identity ---


def make_probes(usage):
    return [
        Argmax(),
        FreezePath(),
        Paraphrase(2),
        Paraphrase(4),
        Paraphrase(2, "long"),
        Temperature(0.5),
        Temperature(0.6),
        TopK(5),
        TopK(6),
        TopP(0.5),
        TopP(0.6),
        Guidance(2.0),
        Guidance(3.0),
        CodebookSubset("list", tokens=[1, 2]),
        CodebookSubset("list", tokens=[1, 3]),
        CodebookSubset("random", size=3, seed=0),
        CodebookSubset("random", size=3, seed=1),
        CodebookSubset("most_frequent", size=3, usage=usage),
        CodebookSubset("most_frequent", size=4, usage=usage),
        CodebookSubset("drop_most_frequent", size=3, usage=usage),
    ]


def test_identities_are_equal_exactly_for_equal_probes(usage):
    first, again = ([json.dumps(p.identity(8), sort_keys=True) for p in make_probes(usage)] for _ in range(2))
    assert first == again
    assert len(set(first)) == len(first)


def test_an_identity_does_not_change_when_the_probe_is_used():
    for probe in (Argmax(), TopK(3), CodebookSubset("list", tokens=[1])):
        before = probe.identity(8)
        probe.check(8)
        apply_probes(make_sampler(), [probe])
        assert probe.identity(8) == before


def test_the_identity_of_a_subset_is_its_selection_not_the_path_of_the_counts(usage, tmp_path):
    write_usage(tmp_path / "doubled.safetensors", 2 * COUNTS, {})
    write_usage(tmp_path / "others.safetensors", COUNTS.flip(0), {})
    identities = [
        CodebookSubset("most_frequent", size=3, usage=str(file)).identity(8)
        for file in (usage, tmp_path / "doubled.safetensors", tmp_path / "others.safetensors")
    ]
    assert identities[0] == identities[1] != identities[2]
    by_ratio = CodebookSubset("most_frequent", ratio=3 / 8, usage=usage).identity(8)
    assert by_ratio == identities[0]


@pytest.mark.parametrize("name", ["vq_checkpoint", "vqvae", "checkpoint"])
def test_counts_of_another_tokenizer_are_rejected(tmp_path, name):
    path = tmp_path / "usage.safetensors"
    write_usage(path, torch.arange(8), {"generator": {name: "a" * 64}})
    probe = CodebookSubset("most_frequent", size=2, usage=str(path))
    probe.check_generator({name: "a" * 64})
    with pytest.raises(ValueError, match=r"another tokenizer.*sha256 aaaaaaaaaaaa.*not sha256 bbbbbbbbbbbb"):
        probe.check_generator({name: "b" * 64})
    with pytest.raises(ValueError, match=r"another tokenizer.*not unknown"):
        probe.check_generator({"generator": "without a tokenizer"})
    Argmax().check_generator({name: "b" * 64})


def test_counts_of_a_generator_without_a_known_tokenizer_are_rejected_by_others(tmp_path):
    path = tmp_path / "usage.safetensors"
    write_usage(path, torch.arange(8), {"generator": {"generator": "without a tokenizer"}})
    probe = CodebookSubset("most_frequent", size=2, usage=str(path))
    with pytest.raises(ValueError, match=r"another tokenizer.*unknown, not sha256"):
        probe.check_generator({"vqvae": "b" * 64})


@pytest.mark.parametrize("counts", [torch.ones(4, 1, dtype=torch.int64), torch.ones(4) / 2, torch.tensor([1, -1])])
def test_invalid_counts_are_rejected(tmp_path, counts):
    from safetensors.torch import save_file

    save_file({"counts": counts}, tmp_path / "usage.safetensors")
    with pytest.raises(ValueError, match="does not contain codebook counts"):
        read_usage(tmp_path / "usage.safetensors")


def test_posterior_argmax_is_rejected_if_the_path_is_the_initial_noise():
    noise = Noise.of(0, "path", [("p", 0, 0)])
    with pytest.raises(ValueError, match=r"PosteriorArgmax.*LatentSampler"):
        apply_probes(LatentSampler(noise, noise), [PosteriorArgmax()])
