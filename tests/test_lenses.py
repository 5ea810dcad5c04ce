"""Every lens on all four toy families, from one command each."""

import json

import pytest
from running import TINY

from gendiv_lightning.cli import predict as fit_free
from gendiv_lightning.cli.main import main

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
def test_all_families_with_each_other_and_at_equal_quality(runs, capsys):
    folders = [runs / family for family in FAMILIES]
    assert gendiv("compare", "--between", *folders) == 0
    assert LPIPS in capsys.readouterr().out
    sweep = ",".join(map(str, folders[:2]))
    for folder in folders:
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
