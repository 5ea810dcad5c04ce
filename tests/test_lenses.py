"""Every lens on all four toy families, from one command each."""

import json

import pytest
from running import TINY

from gendiv_lightning.cli import predict as fit_free
from gendiv_lightning.cli.main import main
from gendiv_lightning.runs.load import read_run

pytestmark = pytest.mark.filterwarnings("ignore")  # deprecations in diffusers and transformers

FAMILIES = ("llamagen", "amused", "vq_diffusion", "latent_diffusion")
LPIPS = "diversity/lpips[tiny]"


def gendiv(*words):
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return stopped.value.code


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A decomposed run of each family with the embedded weights: 2 prompts x 2 paraphrases x 2 paths x 2 executions."""
    folder = tmp_path_factory.mktemp("families")
    metrics = json.dumps(["lpips[tiny]", "pixel_cosine", "clip_score[tiny-clip]", "codebook[tiny]"])
    for family in FAMILIES:
        words = ["--config", TINY / f"{family}_decompose.yaml", "--run_dir", folder / family, "--wandb", "disabled"]
        words += ["--data.limit", 2, "--probes.num_paths", 2, "--probes.num_paraphrases", 2]
        fit_free.main(["predict", *map(str, words), f"--measure.metrics={metrics}"])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_kernel_lens_of_any_family(runs, family, capsys):
    assert gendiv("decompose", runs / family, "--kernel", "tiny") == 0
    printed = capsys.readouterr().out
    assert "K kernel[tiny,bandwidth=" in printed
    assert "C lpips[tiny]" in printed
    assert "the metric kernel_entropy[tiny,bandwidth=" in printed
    assert "by construction" not in printed


@pytest.mark.slow
def test_an_ode_sampler_has_no_execution_by_construction(runs, capsys):
    words = ["--config", TINY / "latent_diffusion_decompose.yaml", "--run_dir", runs / "ode", "--wandb", "disabled"]
    words += ["--data.limit", 2, "--probes.num_paths", 2, "--probes.num_paraphrases", 0]
    fit_free.main(["predict", *map(str, words), '--measure.metrics=["lpips[tiny]"]', '--model.call_args={"eta": 0.0}'])
    assert gendiv("decompose", runs / "ode", "--kernel", "tiny") == 0
    printed = capsys.readouterr().out
    assert "H_exec is 0 by construction" in printed
    row = next(line for line in printed.splitlines() if line.startswith("K kernel[tiny,") and "order 1" not in line)
    assert " 0.000 [0.000, 0.000]" in row


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_common_codebook_of_any_family(runs, family, capsys):
    assert gendiv("measure", runs / family, "--metrics", "codebook[tiny]") == 0
    printed = capsys.readouterr().out
    for number in ("entropy_bits", "h_total", "h_exec", "h_path", "unseen"):
        assert f"codebook[tiny]/{number}" in printed


@pytest.mark.slow
def test_an_autoregressive_and_a_continuous_model_side_by_side_in_bits(runs, capsys):
    sides = runs / "llamagen", runs / "latent_diffusion"
    assert gendiv("compare", *sides, "--only", "codebook[tiny]") == 0
    assert "codebook[tiny]/h_total" in capsys.readouterr().out


@pytest.mark.slow
def test_finished_runs_are_compared_in_bits_by_metrics_that_they_did_not_measure(runs, capsys):
    names = "codebook[tiny],kernel_entropy[tiny,bandwidth=3.2],conditional_vendi[tiny,given=path],vendi[tiny]"
    assert gendiv("compare", runs / "llamagen", runs / "latent_diffusion", "--metrics", names) == 0
    printed = capsys.readouterr().out
    compared = {line.split()[0]: line for line in printed.splitlines() if "[" in line}
    for name in ("codebook[tiny]/h_exec", "h_exec/kernel[tiny,bandwidth=3.2]", "diversity/vendi[tiny]"):
        assert compared[name].count("[") >= 2, "a difference with its interval"
    assert "diversity/information_vendi[tiny,given=path]" in compared
    assert LPIPS not in compared
    stored = read_run(runs / "llamagen").estimates["codebook[tiny]/h_total"].value
    assert f"{stored:.4f}" in compared["codebook[tiny]/h_total"], "measured again, it is the number of the run"


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_kernels_vendi_scores_and_the_codebook_of_any_family_from_one_command(runs, family, capsys):
    """With and without the path as condition; the factors of a Vendi score multiply to that of all samples."""
    names = ["codebook[tiny]", "kernel_entropy[tiny-clip]", "vendi[tiny]", "vendi_set[tiny]", "conditional_vendi[tiny]"]
    names += ["conditional_vendi[tiny,q=2]", "conditional_vendi[tiny,given=path]"]
    assert gendiv("measure", runs / family, "--metrics", ",".join(names)) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    values = {
        words[0]: float(words[1]) for words in lines if len(words) > 4 and "[" in words[0] and words[2][0] in "[n"
    }
    whole = values["diversity/vendi_set[tiny]"]
    for given in ("", ",given=path"):
        factors = [values[f"diversity/{name}_vendi[tiny{given}]"] for name in ("conditional", "information")]
        assert factors[0] * factors[1] == pytest.approx(whole, rel=1e-3)
    assert values["h_total/kernel[tiny-clip]"] == pytest.approx(
        values["h_exec/kernel[tiny-clip]"] + values["h_path/kernel[tiny-clip]"], abs=2e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_sweep_of_a_family_is_compared_at_equal_quality(family, tmp_path, capsys):
    knob = "guidance_scale" if family == "latent_diffusion" else "temperature"
    for number in (0.8, 1.0, 1.5):
        words = ["--config", TINY / f"{family}.yaml", "--run_dir", tmp_path / f"{number}", "--wandb", "disabled"]
        words += ["--data.limit", 4, "--data.num_samples", 4, f"--model.{knob}", number]
        fit_free.main(["predict", *map(str, words), '--measure.metrics=["lpips[tiny]","clip_score[tiny-clip]"]'])
    sides = [f"{tmp_path / '0.8'},{tmp_path / '1.5'}", tmp_path / "1.0"]
    assert gendiv("compare", *sides, "--at-equal", "quality/clip_score[tiny-clip]") == 0
    printed = capsys.readouterr().out
    (row,) = (line for line in printed.splitlines() if line.startswith("1.0 "))
    assert "[" in row or "A reaches no such quality" in row
    assert "corrected for the" in printed


@pytest.mark.slow
def test_all_families_with_each_other_and_at_equal_quality(runs, capsys):
    folders = [runs / family for family in FAMILIES]
    assert gendiv("compare", "--between", *folders) == 0
    assert LPIPS in capsys.readouterr().out
    for folder in folders:
        sweep = ",".join(str(other) for other in folders if other != folder)
        assert gendiv("compare", sweep, folder, "--at-equal", "quality/clip_score[tiny-clip]") == 0
    assert f"gain in {LPIPS}" in capsys.readouterr().out


PROBES = {family: ["--probes+=Temperature", "--probes.temperature=2"] for family in FAMILIES[:3]}
PROBES["latent_diffusion"] = ["--probes+=Guidance", "--probes.guidance_scale=4"]  # it has no temperature


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_drift_of_any_family(family, tmp_path, capsys):
    metrics = ["--measure.metrics=[pixel_cosine]", "--measure.reference=null", "--wandb", "disabled"]
    for name, probe in (("plain", []), ("probe", PROBES[family])):
        words = ["--config", TINY / f"{family}.yaml", "--run_dir", tmp_path / name, "--data.limit", 4]
        fit_free.main(["predict", *map(str, [*words, "--data.num_samples", 2, *metrics, *probe])])
    capsys.readouterr()
    assert gendiv("drift", tmp_path / "plain", tmp_path / "probe") == 0
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines() if line.startswith("all attributes")]
    assert float(rows[0][2]) > 90, "the toy models show what their captions state"
    entropy = "none, since not all of these runs draw tokens" if family == "latent_diffusion" else "bits per token"
    assert f"Token entropy{':' if 'none' in entropy else ','} {entropy}" in printed
