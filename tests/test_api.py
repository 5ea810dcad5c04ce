"""The public API: five lines in a notebook give the same samples and numbers as the command."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from running import ROOT, metrics_of, samples_of

import gendiv_lightning as gd
from gendiv_lightning.cli import predict as command
from gendiv_lightning.records import PromptSamples
from gendiv_lightning.runs.folder import RunFolder

TEXTS = ["the sun at the left", "two green hills", "the pink sky"]


@pytest.fixture(scope="module")
def generator():
    return gd.load("toy/llamagen")


@pytest.fixture(scope="module")
def samples(generator):
    return generator.generate(TEXTS, num_samples=3, seed=5)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The same run by the command, from a prompt file that is named prompts.txt."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "prompts.txt").write_text("\n".join(TEXTS))
    command.main(
        [
            *("predict", "--config", str(ROOT / "configs/tiny/llamagen.yaml"), "--run_dir", str(folder / "run")),
            *("--data.path", str(folder / "prompts.txt"), "--data.num_samples", "3", "--data.seed", "5"),
            *(
                "--wandb",
                "disabled",
                "--trainer.enable_progress_bar",
                "false",
                "--measure.metrics",
                "[ssim,'lpips[tiny]']",
            ),
            *("--measure.reference", "null"),
        ]
    )
    return RunFolder(folder / "run")


def test_importing_the_package_imports_nothing_heavy():
    code = "import gendiv_lightning, sys; gendiv_lightning.__all__; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "lightning", "yaml", "PIL"} & set(result)


def test_all_public_names_exist_and_are_documented():
    for name in gd.__all__:
        assert getattr(gd, name).__doc__, name
    assert set(gd.__all__) <= set(dir(gd))
    with pytest.raises(AttributeError, match="Argmin"):
        _ = gd.Argmin


def test_type_checkers_see_the_lazily_loaded_names():
    import ast

    (block,) = [
        node for node in ast.parse((ROOT / "gendiv_lightning/__init__.py").read_text()).body if isinstance(node, ast.If)
    ]
    typed = {alias.name: node.module for node in block.body for alias in node.names}
    assert typed.keys() == set(gd.__all__)
    assert {name: f"gendiv_lightning.{module}" for name, module in gd._MODULE_OF.items()} == typed


@pytest.mark.run
def test_samples_equal_those_of_the_command(samples, run):
    stored = samples_of(run)
    assert stored.keys() == set(samples.keys)
    for key, tokens, image in zip(samples.keys, samples.tokens, samples.images, strict=True):
        assert stored[key] == (tuple(tokens.tolist()), image.numpy().tobytes())


@pytest.mark.run
def test_numbers_equal_those_of_the_command(samples, run):
    there = metrics_of(run)
    for source in (samples, run.path):
        result = gd.evaluate(source, ["ssim", "lpips[tiny]"])
        assert result.to_dict() == {name: there[name] for name in result}


def test_measuring_a_saved_folder_equals_measuring_a_mapping(samples, tmp_path):
    expected = gd.evaluate(samples, "ssim,vendi")["diversity/ssim"]
    samples.save(tmp_path / "images")
    images = {one.prompt: one.images for one in samples}
    arrays = {prompt: stack.permute(0, 2, 3, 1).numpy() for prompt, stack in images.items()}
    pictures = {prompt: [Image.fromarray(image) for image in stack] for prompt, stack in arrays.items()}
    for source in (str(tmp_path / "images"), images, arrays, pictures):
        assert gd.evaluate(source, ["ssim"])["diversity/ssim"] == expected
    with pytest.raises(ValueError, match="not empty"):
        samples.save(tmp_path / "images")


def test_estimates_print_as_a_table_with_intervals_and_methods(samples):
    result = gd.evaluate(samples, ["ssim"])
    assert "95 % interval" in str(result)
    assert result["diversity/ssim"].method in str(result)
    assert result["diversity/ssim"].method in result._repr_html_()
    assert dict(result)["diversity/ssim"].num_prompts == 3


def test_samples_are_iterated_prompt_by_prompt(samples):
    assert len(samples) == 3
    assert [one.prompt for one in samples] == TEXTS
    assert all(isinstance(one, PromptSamples) and len(one.images) == 3 for one in samples)
    assert torch.equal(samples[1].images, samples.images[3:6])
    assert samples.grid().size[0] > 3 * 48
    assert samples.grid(num_prompts=1).size[1] < samples.grid().size[1]


def test_prompts_are_escaped_in_a_notebook(generator):
    shown = generator.generate(["<script>alert(1)</script> sky"], num_samples=1)._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert "data:image/png;base64," in shown


def test_probes_and_designs_go_into_one_list(generator):
    prompts = gd.read_prompts("toy:postcards.jsonl", limit=2)
    samples = generator.generate(prompts, num_samples=4, probes=[gd.Paraphrase(2), gd.Argmax()])
    assert sorted({key.paraphrase for key in samples.keys}) == [1, 2]
    for one in samples:
        first, second = (one.tokens[one.paraphrase == number] for number in (1, 2))
        assert torch.equal(first[0], first[1])
        assert torch.equal(second[0], second[1])


def test_a_recorder_gives_a_metric_what_it_needs(generator):
    from gendiv_lightning.recorders import TokenMarginals

    samples = generator.generate(TEXTS[:1], num_samples=4, recorders=[TokenMarginals])
    assert gd.evaluate(samples, ["token_entropy"])["h_total/token"].value > 0


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "prompts must not be empty"),
        (["a", " "], r"prompts\[1\] must not be empty"),
        (["a hill", "A  hill"], r"prompts\[0\] and prompts\[1\] are the same prompt"),
        ([3], r"prompts\[0\].*int"),
    ],
)
def test_invalid_prompts_are_rejected(generator, prompts, message):
    with pytest.raises(ValueError, match=message):
        generator.generate(prompts)


def test_objects_that_are_not_probes_are_rejected(generator):
    with pytest.raises(ValueError, match=r"probes.*str.*gendiv list probes"):
        generator.generate("a hill", probes=["Argmax"])


def test_contradicting_probes_are_rejected(generator):
    with pytest.raises(ValueError, match="temperature"):
        generator.generate("a hill", probes=[gd.Temperature(0.5), gd.Temperature(0.6)])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 3, 8, 8), "uint8.*float32"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), r"\(3, H, W\)"),
        (np.zeros((0, 8, 8, 3), np.uint8), "must not be empty"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)], "the same size"),
    ],
)
def test_invalid_images_are_rejected(images, message):
    with pytest.raises(ValueError, match=message):
        gd.evaluate({"a hill": images}, ["ssim"])


def test_the_error_for_a_list_of_images_explains_how_to_name_its_prompt():
    with pytest.raises(ValueError, match=r'list.*"the prompt": images'):
        gd.evaluate([Image.new("RGB", (8, 8))], ["ssim"])


def test_a_metric_of_tokens_rejects_images():
    with pytest.raises(ValueError, match="'token_entropy' requires tokens"):
        gd.evaluate({"a hill": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}, ["token_entropy"])


def test_metrics_that_no_prompt_defines_are_an_error():
    with pytest.raises(ValueError, match=r"ssim.*two images"):
        gd.evaluate({"a hill": torch.zeros(1, 3, 16, 16, dtype=torch.uint8)}, ["ssim"])


@pytest.mark.parametrize(("page", "num_blocks"), [("README.md", 1), ("docs/how-to/python.md", 5)])
def test_the_python_code_of_a_page_runs(page, num_blocks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == num_blocks
    names = {}
    for block in blocks:
        exec(compile(block, page, "exec"), names)
    assert len(names["samples"].keys) == 16
